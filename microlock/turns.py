"""Turns of the calls on one object: one at a time, whichever threads they come from."""

from __future__ import annotations

import enum
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from microlock.flag import Flag


class Turn(enum.Enum):
    """What became of asking for a turn."""

    TAKEN = "it is the caller's"
    BUSY = "another call was not done in time"
    STANDING = "another call stands in the queue of the lock"


class Turns:
    """A mutex whose owner may say that it takes long, and then nobody waits for it."""

    def __init__(self) -> None:
        # Reentrant, and entered by itself: a signal's handler may come in the middle of each.
        self._lock = threading.RLock()
        # Under the lock:
        self._owner: int | None = None  # the thread whose turn it is
        self._standing = False  # the owner waits in the queue of the lock
        self._changed = Flag()  # cleared by who is about to wait for either

    @property
    def mine(self) -> bool:
        """Whether it is the turn of this thread: of a call that a signal has interrupted."""
        return self._owner == threading.get_ident()

    def take(self, timeout: float, *, patient: bool = False) -> Turn:
        """Waits for a turn, `timeout` seconds at most; not at all while the owner of this one
        stands in the queue, unless `patient`."""
        end = monotonic() + timeout
        while True:
            with self._lock:
                if self._owner is None:
                    self._owner = threading.get_ident()
                    return Turn.TAKEN
                if self._standing and not patient:
                    return Turn.STANDING
                self._changed.clear()
            left = end - monotonic()
            if left <= 0:
                return Turn.BUSY
            self._changed.wait(left)

    def give(self) -> None:
        """Ends the turn of this thread, if it is its turn."""
        with self._lock:
            if self.mine:
                self._owner = None
                self._changed.set()

    @contextmanager
    def stand(self) -> Iterator[None]:
        """For the owner, while it waits in the queue."""
        with self._lock:
            self._standing = True
            self._changed.set()
        try:
            yield
        finally:
            self._standing = False
