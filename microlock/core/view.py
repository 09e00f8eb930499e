"""The queue of a lock as one watch knows it, and up to which revision."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from microlock.core.port import Event, Found
from microlock.core.queue import Change, Holder, Queue, Standing, changes


class View:
    """Turns a read and the events after it into changes of the lock, each reported once."""

    __slots__ = ("_lock", "_outdated", "_queue", "_replays", "next_revision")

    def __init__(self, lock: bytes) -> None:
        self._lock = lock
        # The watch goes on from here. None <=> nothing is known, or changes are missing: the watch
        # then starts from now, and `rebase` gets the read that follows.
        self.next_revision: int | None = None
        self._queue: Queue | None = None  # None <=> nothing was ever known
        self._replays = False  # there was a listener before anything was known
        self._outdated = False  # etcd no longer has the history that the queue is from

    @property
    def holder(self) -> Holder | None:
        """The last known holder of the lock."""
        return self._queue.holder if self._queue and not self._outdated else None

    @property
    def held(self) -> Iterable[bytes]:
        """The entries that hold the lock, as far as known."""
        return self._queue.held if self._queue else ()

    def standing(self, entry: bytes, token: int) -> Standing:
        """The standing of the entry that was put at revision `token`, as far as known."""
        if self._queue is None or self.next_revision is None or self.next_revision <= token:
            return Standing.UNKNOWN
        return self._queue.standing(entry, token)

    def rebase(self, found: Found) -> list[Change]:
        """Takes the result of a read. Returns the changes that no watch has seen.

        If there was a listener while nothing was known, the state counts as a change: it may be the
        one that the listener waits for.
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
        if outdated and then != now:  # another holder may have the same token
            return changes(then, ()) + changes((), now)
        return changes(then, now)

    def replay(self) -> None:
        """There is a listener now: if nothing is known yet, the first read counts as a change."""
        self._replays = self._queue is None

    def apply(self, events: Iterable[Event]) -> list[Change]:
        """Takes events in their order, and skips those that are known. Returns the changes."""
        told: list[Change] = []
        queue = self._queue
        if queue is None or self.next_revision is None:
            return told  # the read that is on its way will include them
        for revision, together in groupby(events, key=lambda event: event.revision):
            if revision < self.next_revision:
                continue
            told += queue.apply(tuple(together))
            self.next_revision = revision + 1
        return told

    def forget(self, *, outdated: bool = False) -> None:
        """The changes since `next_revision` are not available.

        `outdated`: etcd now has another history, in which known revisions and tokens mean nothing.
        """
        self.next_revision = None
        self._outdated |= outdated


def _holders(queue: Queue) -> list[Holder]:
    return list(queue.held.values())
