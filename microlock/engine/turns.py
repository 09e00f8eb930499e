"""Turns of the calls on one object: one at a time, whichever threads they come from."""

from __future__ import annotations

import enum
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from weakref import ref

from microlock.engine.reentrant_event import ReentrantEvent


class Turn(enum.Enum):
    """What became of asking for a turn."""

    TAKEN = "it is the caller's"
    BUSY = "another call was not done in time"
    STANDING = "another call stands in the queue of the lock"


class _Call:
    """One that has its turn, or waits for it."""

    __slots__ = ("__weakref__", "patient", "thread", "woken")

    def __init__(self, *, patient: bool) -> None:
        self.thread = threading.get_ident()
        self.patient = patient
        self.woken = (
            ReentrantEvent()
        )  # set when it is its turn, or the owner begins to stand in the queue


class Turns:
    """A mutex that is given in the order of asking, and whose owner may say that it takes long:
    then nobody waits for it."""

    def __init__(self) -> None:
        # Reentrant, and entered by itself: a signal's handler may come in the middle of each.
        self._lock = threading.RLock()
        # Under the lock:
        self._owner: _Call | None = None  # None  =>  nobody waits
        self._standing = False  # the owner waits in the queue of the lock
        # Held weakly: a call that a second interrupt has ended in its clean-up is passed over.
        self._waiting: list[ref[_Call]] = []

    @property
    def owner(self) -> object:
        """Whose turn it is; None if it is nobody's."""
        return self._owner

    @property
    def mine(self) -> bool:
        """Whether it is the turn of this thread: of a call that a signal has interrupted."""
        owner = self._owner
        return owner is not None and owner.thread == threading.get_ident()

    def take(self, timeout: float, *, patient: bool = False) -> Turn:
        """Waits for a turn, `timeout` seconds at most; not at all while the owner of this one
        stands in the queue, unless `patient`."""
        call = _Call(patient=patient)
        with self._lock:
            if self._owner is None:
                self._owner = call
                return Turn.TAKEN
            self._waiting.append(ref(call))
        end = monotonic() + timeout
        try:
            while True:
                with self._lock:
                    if self._owner is call:
                        return Turn.TAKEN
                    if self._standing and not patient:
                        return Turn.STANDING
                    left = end - monotonic()
                    if left <= 0:
                        return Turn.BUSY
                    call.woken.clear()
                call.woken.wait(left)
        finally:
            with self._lock:
                self._waiting = [each for each in self._waiting if each() is not call]

    def give(self, owner: object = None) -> None:
        """Ends the turn of this thread, if it is its turn; of this owner alone, if one is given."""
        with self._lock:
            if not self.mine or owner not in (None, self._owner):
                return
            self._owner = None
            while self._waiting and not self._owner:
                self._owner = self._waiting.pop(0)()
            if self._owner:
                self._owner.woken.set()

    @contextmanager
    def stand(self) -> Iterator[None]:
        """For the owner, while it waits in the queue."""
        with self._lock:
            self._standing = True
            for each in self._waiting:
                if (call := each()) and not call.patient:
                    call.woken.set()
        try:
            yield
        finally:
            self._standing = False
