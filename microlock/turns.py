"""Turns of the calls on one object: one at a time, whichever threads they come from."""

from __future__ import annotations

import enum
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turn(enum.Enum):
    """What became of asking for a turn."""

    TAKEN = "it is the caller's"
    BUSY = "another call was not done in time"
    STANDING = "another call stands in the queue of the lock"


class Turns:
    """A mutex whose owner may say that it takes long, and then nobody waits for it."""

    def __init__(self) -> None:
        # Entered by itself: an interrupt within Condition.__enter__ would leave it locked.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._owner: int | None = None  # the thread whose turn it is
        self._standing = False  # the owner waits in the queue of the lock

    @property
    def mine(self) -> bool:
        """Whether it is the turn of this thread: of a call that a signal has interrupted."""
        return self._owner == threading.get_ident()

    def take(self, timeout: float, *, patient: bool = False) -> Turn:
        """Waits for a turn, `timeout` seconds at most; not at all while the owner of this one
        stands in the queue, unless `patient`."""
        with self._lock:
            self._changed.wait_for(
                lambda: self._owner is None or (self._standing and not patient), max(0.0, timeout)
            )
            if self._owner is not None:
                return Turn.STANDING if self._standing else Turn.BUSY
            self._owner = threading.get_ident()
            return Turn.TAKEN

    def give(self) -> None:
        """Ends the turn of this thread, if it is its turn."""
        with self._lock:
            if self.mine:
                self._owner = None
                self._changed.notify_all()

    @contextmanager
    def stand(self) -> Iterator[None]:
        """For the owner, while it waits in the queue."""
        with self._lock:
            self._standing = True
            self._changed.notify_all()
        try:
            yield
        finally:
            self._standing = False
