"""The entries of one lock: who holds it, who waits, what changed.

The oldest entry, the one with the lowest create_revision, holds the lock; the rest wait, in
order. That is all the protocol there is. Where more are admitted, the next ones hold it too.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from microlock.core.admission import admitted, lock_with, role_in, split
from microlock.core.keys import is_entry, lock_of
from microlock.core.port import KeyValue

_MAX_SHOWN = 120


@dataclass(frozen=True, slots=True)
class Holder:
    """A node's place in the queue of a lock: it holds the lock, or waits.

    Attributes:
        node_id: who it is; None for a client that stores no name, as Go's and etcdctl do.
        token: the fencing token: etcd's revision at which the place was taken. It rises from
            each holder to the next.
        lease_id: the etcd lease the place is bound to.
        value: of its entry: the node id, or what a leader proclaims.
        role: "reader" or "writer", where there are such.
    """

    node_id: str | None
    token: int
    lease_id: int
    value: bytes = field(default=b"", compare=False, repr=False)
    role: str | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, kv: KeyValue, lock: bytes = b"") -> Holder:
        """`lock`: what it is an entry of."""
        node_id = kv.value.decode(errors="backslashreplace") or None
        role = role_in(lock, kv.name) if b"\0" in lock else None
        return cls(node_id, kv.create_revision, kv.lease_id, kv.value, role)

    def __str__(self) -> str:
        if self.node_id is None:
            return f"an unnamed client (lease {self.lease_id:x})"
        return in_one_line(self.node_id)


@dataclass(frozen=True, slots=True)
class LockStatus:
    """Who holds a lock and who waits for it, as etcd has it at one revision.

    Attributes:
        name: the key, after the prefix of the manager.
        kind: "readers/writers", or "queue" for all others: a mutex, a semaphore, an election, or
            one key of several have the same entries.
        holders: in order. Of a queue it is the first, whether it has other keys to wait for or not;
            those that hold a semaphore beside it are the first of `waiters`: nobody but who takes
            it knows how many.
        waiters: in order.
    """

    name: str
    kind: str
    holders: tuple[Holder, ...]
    waiters: tuple[Holder, ...]


@dataclass(frozen=True, slots=True)
class Leader:
    """Who leads, by what it proclaims.

    Attributes:
        value: what it proclaims: its node id, unless it says something else.
        token: the fencing token of its hold; of each leader higher than of those before.
    """

    value: bytes
    token: int

    def __str__(self) -> str:
        """The value as text; what is no UTF-8 is escaped."""
        return self.value.decode(errors="backslashreplace")


def in_one_line(text: str) -> str:
    """What others wrote, for messages and logs: no control characters, and not too long."""
    shown = text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in shown
    )


def entries(lock: bytes, keys: Iterable[KeyValue]) -> tuple[KeyValue, ...]:
    """The entries of the lock among these keys, oldest first."""
    # Without a lease it is a user's own key.
    found = [kv for kv in keys if kv.lease_id and is_entry(lock, kv.name)]
    return tuple(sorted(found, key=lambda kv: (kv.create_revision, kv.name)))


def places(lock: bytes, keys: Iterable[KeyValue]) -> list[tuple[bytes, Holder]]:
    """As `entries`: their names, and whose they are."""
    return [(kv.name, Holder.of(kv, lock)) for kv in entries(lock, keys)]


def holding(lock: bytes, queue: Iterable[KeyValue]) -> list[KeyValue]:
    """Those of all entries of the lock, given oldest first, that hold it."""
    by_name = {kv.name: kv for kv in queue}
    return [by_name[name] for name in admitted(lock, by_name)]


def statuses(keys: Iterable[KeyValue]) -> list[LockStatus]:
    """Of all locks that these keys are entries of, by their names."""
    of_locks: dict[bytes, list[KeyValue]] = {}
    for kv in keys:
        prefix = lock_of(kv.name)
        if prefix and kv.lease_id:
            of_locks.setdefault(lock_with(prefix), []).append(kv)
    found = [_status(lock, kvs) for lock, kvs in of_locks.items()]
    return sorted(found, key=lambda each: (each.name, each.kind))


def _status(lock: bytes, keys: Iterable[KeyValue]) -> LockStatus:
    queue = entries(lock, keys)
    prefix, admissions = split(lock)
    held = len(holding(lock, queue))
    places = tuple([Holder.of(kv, lock) for kv in queue])
    kind = "readers/writers" if len(admissions) > 1 else "queue"
    name = prefix[:-1].decode(errors="backslashreplace")
    return LockStatus(name, kind, places[:held], places[held:])


class Standing(enum.Enum):
    """Where an entry stands in the queue of its lock."""

    UNKNOWN = "nothing is known of the queue since the entry was put"
    WAITS = "older entries keep it out"
    FIRST = "it is admitted, and holds the lock"
    GONE = "it is not there any more"


class Queue:
    """The entries of one lock, kept up to date from a read and the changes after it."""

    __slots__ = ("_entries", "_lock")

    def __init__(self, lock: bytes, keys: Iterable[KeyValue] = ()) -> None:
        self._lock = lock
        # Oldest first: what is put later is younger, and what is put again keeps its place.
        self._entries = dict(places(lock, keys))

    @property
    def holder(self) -> Holder | None:
        """The first who holds it."""
        return next(iter(self._entries.values()), None)

    @property
    def held(self) -> dict[bytes, Holder]:
        """Who holds it, by their entries, in order."""
        return {name: self._entries[name] for name in admitted(self._lock, self._entries)}

    def standing(self, entry: bytes, token: int) -> Standing:
        """Where the entry stands that was created at revision `token`."""
        place = self._entries.get(entry)
        if place is None or place.token != token:
            return Standing.GONE
        holds = entry in admitted(self._lock, self._entries)
        return Standing.FIRST if holds else Standing.WAITS

    def put(self, kv: KeyValue) -> None:
        known = self._entries.get(kv.name)
        if known and (known.token != kv.create_revision or not kv.lease_id):
            self.delete(kv.name)
        youngest = next(reversed(self._entries.values()), None)
        self._entries.update(places(self._lock, [kv]))
        # It had lost its lease for a while, and gets its place back.
        if not known and youngest and youngest.token > kv.create_revision:
            self._entries = dict(sorted(self._entries.items(), key=lambda place: place[1].token))

    def delete(self, name: bytes) -> None:
        self._entries.pop(name, None)


@dataclass(frozen=True, slots=True)
class Change:
    """The lock was taken (`locked`) or given back, by `holder`; None: it says something else.

    `holder` is None for a lock that was found free, where nobody knows who had it.
    """

    locked: bool | None
    holder: Holder | None


def changes(before: Sequence[Holder], after: Sequence[Holder]) -> list[Change]:
    """What a watcher is told: a hand-over is two changes, a renewal or an extension none."""
    had, has = {each.token: each for each in before}, {each.token for each in after}
    freed = [Change(False, each) for each in before if each.token not in has]
    taken = [
        Change(None if each.token in had else True, each)
        for each in after
        if each.token not in had or each.value != had[each.token].value
    ]
    return freed + taken
