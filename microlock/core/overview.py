"""The queues of all locks under a prefix, as far as one watch knows them.

It takes the place of `core.view` for a name that `watch_name` makes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from microlock.core.admission import lock_with
from microlock.core.keys import lock_of
from microlock.core.port import Event, Found, KeyValue

# After a prefix and NUL: no rule of `core.admission` begins so.
_ALL = b"\0*"


def watch_name(prefix: bytes, number: int) -> bytes:
    """The name for a watch of all locks whose keys begin with this prefix.

    `number`: a new one for each watch, so that each gets the whole state at its start.
    """
    return b"%s%s%d" % (prefix, _ALL, number)


def is_overview(name: bytes) -> bool:
    """Whether this names a watch of all locks under a prefix."""
    return _ALL in name


@dataclass(frozen=True, slots=True)
class Queued:
    """All entries of one lock as of a revision, in any order. Without entries the lock is free.

    Attributes:
        lock: the name of the lock without the prefix; see `core.admission`.
        entries: their names are without the prefix.
    """

    lock: bytes
    revision: int
    entries: tuple[KeyValue, ...]


class Overview:
    """Turns a read and the events after it into the queues that have changed."""

    __slots__ = ("_locks", "_prefix", "next_revision")

    held = ()  # this watch is never asked about one entry

    def __init__(self, name: bytes) -> None:
        self._prefix = name.partition(_ALL)[0]
        # None <=> nothing is known, or changes are missing; as in `View`.
        self.next_revision: int | None = None
        self._locks: dict[bytes, dict[bytes, KeyValue]] = {}

    def rebase(self, found: Found) -> list[Queued]:
        """Takes the result of a read. Returns the queues that differ from before."""
        before, self._locks = self._locks, {}
        for kv in found.keys:
            self._take(kv.name, kv)
        self.next_revision = found.revision + 1
        changed = [
            lock for lock in {**before, **self._locks} if before.get(lock) != self._locks.get(lock)
        ]
        return self._queues(changed, found.revision)

    def apply(self, events: Iterable[Event]) -> list[Queued]:
        """Takes events in their order, and skips those that are known. Returns changed queues."""
        if self.next_revision is None:
            return []  # the read that is on its way will include them
        news = [each for each in events if each.revision >= self.next_revision]
        if not news:
            return []
        self.next_revision = news[-1].revision + 1
        locks = [self._take(each.name, each.kv) for each in news]
        return self._queues(dict.fromkeys(filter(None, locks)), news[-1].revision)

    def _take(self, name: bytes, kv: KeyValue | None) -> bytes | None:
        """Notes an entry, or its deletion. Returns its lock; None if this is not an entry."""
        name = name[len(self._prefix) :]
        prefix = lock_of(name)
        if prefix is None:
            return None
        lock = lock_with(prefix)
        if kv and kv.lease_id:
            named = KeyValue(name, kv.value, kv.create_revision, kv.lease_id)
            self._locks.setdefault(lock, {})[name] = named
        elif entries := self._locks.get(lock):
            entries.pop(name, None)
            if not entries:
                del self._locks[lock]
        return lock

    def _queues(self, locks: Iterable[bytes], revision: int) -> list[Queued]:
        return [Queued(lock, revision, tuple(self._locks.get(lock, {}).values())) for lock in locks]

    def replay(self) -> None:
        """Nothing to do: the first read is always reported."""

    def forget(self, *, outdated: bool = False) -> None:
        """The changes since `next_revision` are not available."""
        self.next_revision = None
