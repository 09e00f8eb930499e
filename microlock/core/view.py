"""What one watch has told so far: who holds the lock, and up to which revision that is known."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from microlock.core.port import Event, Found
from microlock.core.queue import Change, Holder, Queue, Standing, changes


class View:
    """Turns a read and the events after it into changes of the lock, each told once."""

    __slots__ = ("_lock", "_outdated", "_queue", "_replays", "next_revision")

    def __init__(self, lock: bytes) -> None:
        self._lock = lock
        # Where to watch on from. None <=> nothing is known, or not the changes since: the watch
        # starts from now, and `rebase` gets what is read after that.
        self.next_revision: int | None = None
        self._queue: Queue | None = None  # None <=> nothing was ever known
        self._replays = False  # somebody listens already, though nothing is known
        self._outdated = False  # what is known is of a history that etcd has not any more

    @property
    def holder(self) -> Holder | None:
        """Who held the lock when it was last known."""
        return self._queue.holder if self._queue and not self._outdated else None

    @property
    def held(self) -> Iterable[bytes]:
        """The entries of those who hold the lock, as far as known."""
        return self._queue.held if self._queue else ()

    def standing(self, entry: bytes, token: int) -> Standing:
        """Where the entry stands that was put at revision `token`, as far as the view has come."""
        if self._queue is None or self.next_revision is None or self.next_revision <= token:
            return Standing.UNKNOWN
        return self._queue.standing(entry, token)

    def rebase(self, found: Found) -> list[Change]:
        """Takes what was read. Returns what must have changed while nobody watched.

        To those who listened while nothing was known, the state is told as a change: it may be
        one, and they may wait for it.
        """
        before, self._queue = self._queue, Queue(self._lock, found.keys)
        self.next_revision = found.revision + 1
        replays, self._replays = self._replays, False
        outdated, self._outdated = self._outdated, False
        now = _holders(self._queue)
        if before is None:
            told = changes((), now) or [Change(False, None)]
            return told if replays else []
        then = _holders(before)
        if outdated and then != now:  # the same token may be another's
            return changes(then, ()) + changes((), now)
        return changes(then, now)

    def replay(self) -> None:
        """Somebody listens from now on: if nothing is known yet, what is read is told."""
        self._replays = self._queue is None

    def apply(self, events: Iterable[Event]) -> list[Change]:
        """Takes events in their order. What was read or told already is passed over."""
        told: list[Change] = []
        queue = self._queue
        if queue is None or self.next_revision is None:
            return told  # the read that is on its way will know
        for revision, together in groupby(events, key=lambda event: event.revision):
            if revision < self.next_revision:
                continue
            told += queue.apply(tuple(together))
            self.next_revision = revision + 1
        return told

    def forget(self, *, outdated: bool = False) -> None:
        """The changes since `next_revision` are not available.

        `outdated`: what was told is of another history, whose revisions and tokens mean nothing
        any more.
        """
        self.next_revision = None
        self._outdated |= outdated


def _holders(queue: Queue) -> list[Holder]:
    return list(queue.held.values())
