"""The thread that ends leases in time for watches. Requests end due leases themselves."""

from __future__ import annotations

import logging
import math
import threading
from queue import Empty
from typing import TYPE_CHECKING

from microlock.engine.threads import Daemon

if TYPE_CHECKING:
    from microlock.memory.store import Memory

# The longest sleep: a sleep stands still while the machine is suspended, and leases don't.
_NAP = 5.0

log = logging.getLogger("microlock")


class Expiry:
    """Ends the leases of a store in time, while there are leases and watches."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._clock = memory.clock
        self._inbox = memory.clock.inbox()
        # Changed under the lock of the store:
        self._thread: threading.Thread | None = None
        self._sleeps_until = 0.0

    def plan(self) -> None:
        """Call it after a lease or a watch may have been added, not under the lock."""
        at = self._memory.state.next_end
        if self._thread:
            if at < self._sleeps_until or not self._memory.watched:
                self._inbox.put(None)
        elif at < math.inf and self._memory.watched:
            self._start()

    def _start(self) -> None:
        with self._memory.lock:
            if self._thread:
                return
            thread = self._thread = Daemon("microlock-leases", self._run)
        # Without the lock: a new thread may collect garbage before it says that it runs.
        try:
            self._clock.start(thread)
        except RuntimeError:  # too many threads, or the interpreter exits
            self._thread = None
            log.exception(
                "no thread can be started: watches of %s see expired leases late",
                self._memory.address,
            )

    def _run(self) -> None:
        while (patience := self._patience()) is not None:
            try:
                self._inbox.get(timeout=patience)
            except Empty:
                self._memory.change(lambda _: None)  # ends due leases

    def _patience(self) -> float | None:
        """Seconds to sleep; None: there is nothing to do any more."""
        with self._memory.lock:
            at = self._sleeps_until = self._memory.state.next_end
            if at == math.inf or not self._memory.watched:
                self._thread = None
                return None
        left = max(0.0, at - self._clock.now())
        return left if self._clock.turned else min(left, _NAP)
