"""An event that a signal handler may set, even while its own thread is about to wait for it.

A signal handler may interrupt a call and make another call on the same thread. So every mutex that
a call takes is reentrant, and this event has none.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from math import inf
from queue import Empty
from typing import Protocol

from microlock.engine.clock import REAL, Clock

# Waits are short, because Python runs a signal handler only after the wait if the signal came just
# before it, or to another thread.
_NAP = 0.5
_DAY = 86_400.0


class Waiter(Protocol):
    """Waits for an event."""

    def put(self, item: None) -> None:
        """Wakes it, now or soon. Any thread may call this, also several times."""


class ReentrantEvent:
    """A `threading.Event` without a mutex. With the mutex of `threading.Event`, a signal handler
    that calls `set()` in the middle of `wait()`, on the same thread, would wait for itself for
    ever.

    Attributes:
        waiting: woken when the event is set. A waiter that adds itself has to check `is_set()`
        then.
    """

    __slots__ = ("_set", "waiting")

    def __init__(self) -> None:
        self._set = False
        self.waiting: list[Waiter] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        for each in tuple(self.waiting):
            each.put(None)

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None, clock: Clock = REAL) -> bool:
        """Waits until it is set, at most `timeout` seconds of the clock. Returns `is_set()`."""
        woken = clock.inbox()
        self.waiting.append(woken)
        end = inf if timeout is None else clock.now() + timeout
        longest = _NAP if threading.current_thread() is threading.main_thread() else _DAY
        if clock.turned:
            longest = inf
        try:
            while not self._set:  # whoever sets it after this look wakes us
                left = end - clock.now()
                if left <= 0:
                    break
                with suppress(Empty):
                    woken.get(timeout=min(left, longest))
        finally:
            self.waiting.remove(woken)
        return self._set
