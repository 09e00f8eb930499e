"""Turns of the calls on one object: one at a time, whichever threads they come from."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """A mutex whose owner may say that it takes long, and then nobody waits for it.

    Attributes:
        owner: the thread whose turn it is.
        standing: the owner waits in the queue of the lock.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.owner: int | None = None
        self.standing = False

    def take(self, timeout: float, *, patient: bool = False) -> bool:
        """Waits for a turn, `timeout` seconds at most; not at all while the owner of this one
        stands in the queue, unless `patient`. Returns whether it was given."""
        with self._changed:
            self._changed.wait_for(
                lambda: self.owner is None or (self.standing and not patient), max(0.0, timeout)
            )
            if self.owner is not None:
                return False
            self.owner = threading.get_ident()
            return True

    def give(self) -> None:
        with self._changed:
            self.owner = None
            self._changed.notify_all()

    @contextmanager
    def stand(self) -> Iterator[None]:
        """For the owner, while it waits in the queue."""
        with self._changed:
            self.standing = True
            self._changed.notify_all()
        try:
            yield
        finally:
            self.standing = False
