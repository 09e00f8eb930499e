"""An event that a signal's handler may set while its own thread is about to wait for it.

What a call of a user does may be interrupted by a handler that makes another call, on the same
thread: so every lock that a call takes is reentrant, and here there is none.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from math import inf
from queue import Empty
from typing import Protocol

from microlock.engine.clock import REAL, Clock

# Python runs the handler of a signal that came to another thread, or just before the wait, when
# the main thread is back from it.
_NAP = 0.5
_DAY = 86_400.0


class Waiter(Protocol):
    """Whoever waits for an event."""

    def put(self, item: None) -> None:
        """Wakes it, or soon; from any thread, more than once too."""


class ReentrantEvent:
    """As `threading.Event`, whose lock is not reentrant: a handler that runs in the middle of
    `wait()` and calls `set()`, on the same thread, would wait for itself for ever.

    Attributes:
        waiting: who is woken when it is set; whoever adds itself looks at `is_set()` then.
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
        """Waits until it is set, `timeout` seconds at most by the clock. Returns whether it is."""
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
