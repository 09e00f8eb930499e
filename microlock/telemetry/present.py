"""The present holds and waits, as known from events."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from weakref import WeakSet, ref

from opentelemetry import trace

from microlock.core.hold import State
from microlock.face import Face


@dataclass
class Held:
    """A hold, as known from its events. `since` is None if its begin was not seen."""

    token: int | None
    since: float | None = None
    began_ns: int = 0
    span: trace.Span | None = None

    def end(self) -> None:
        """Ends its span now."""
        if self.span:
            self.span.end()


class Present:
    """The holds and the waits of some locks. Any thread may ask."""

    def __init__(self) -> None:
        # Filled during garbage collection, where no mutex may be taken.
        self._dropped: list[ref[Face]] = []
        self._mutex = threading.RLock()
        # Under the mutex:
        self._holds: dict[ref[Face], Held] = {}
        self._waits: WeakSet[Face] = WeakSet()

    # Waits.

    def joined(self, lock: Face) -> None:
        with self._mutex:
            self._waits.add(lock)

    def gave_up(self, lock: Face) -> bool:
        """A call did not get this lock. Returns whether the lock was in the queue."""
        with self._mutex:
            there = lock in self._waits
            if not _queued(lock):  # otherwise it was another thread that gave up
                self._waits.discard(lock)
        return there

    def waits(self) -> list[Face]:
        with self._mutex:
            locks = list(self._waits)
        return [lock for lock in locks if _queued(lock)]

    # Holds.

    def began(self, lock: Face, hold: Held) -> None:
        """A hold begins, and the wait for it is over.

        An earlier hold ends too, if its outcome was in doubt, so that no event reported its end.
        """
        with self._mutex:
            self._waits.discard(lock)
            before = self._holds.pop(ref(lock), None)
            self._holds[ref(lock, self._dropped.append)] = hold
        if before:
            before.end()

    def hold(self, lock: Face, token: int | None) -> Held:
        """The hold of a lock. A hold that is not known yet, since it began earlier or was taken
        over from the node, is known from now on."""
        with self._mutex:
            return self._holds.setdefault(ref(lock, self._dropped.append), Held(token))

    def ended(self, lock: Face, token: int | None) -> Held | None:
        """The hold with this token is over. Returns it, if it was known."""
        with self._mutex:
            hold = self._holds.get(ref(lock))
            if hold is None or token != hold.token:
                return None
            return self._holds.pop(ref(lock))

    def end_dropped(self) -> None:
        """Ends the holds of dropped locks, which are given back."""
        while self._dropped:
            with self._mutex:
                hold = self._holds.pop(self._dropped.pop(), None)
            if hold:
                hold.end()

    def end(self) -> None:
        """Ends all holds."""
        with self._mutex:
            holds, self._holds = list(self._holds.values()), {}
        for hold in holds:
            hold.end()

    def holds(self) -> list[tuple[Face, State]]:
        with self._mutex:
            locks = [each() for each in self._holds]
        # A hold may have ended without an event: the client is closed, or its outcome is in doubt.
        states = [(lock, lock.state) for lock in locks if lock]
        return [each for each in states if each[1] in (State.HELD, State.SUSPENDED)]


def _queued(lock: Face) -> bool:
    """A task whose loop is gone leaves the queue without an event."""
    return lock._status.wait is not None
