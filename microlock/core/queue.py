"""The entries of one lock: its holders, its waiters, and what changed.

The oldest entry, the one with the lowest create_revision, holds the lock; the rest wait, in order.
That is the whole protocol. Kinds of locks that admit more holders admit the next entries too.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from microlock.core.admission import admitted, lock_with, role_in, split
from microlock.core.keys import is_entry, lock_of
from microlock.core.port import Event, KeyValue

_MAX_SHOWN = 120


@dataclass(frozen=True, slots=True)
class Holder:
    """One entry in the queue of a lock: a holder, or a waiter.

    Attributes:
        node_id: the node; None for a client that stores no node id, as Go's and etcdctl.
        token: the fencing token: etcd's revision when the entry was put. It rises with each holder.
        lease_id: the etcd lease of the entry.
        value: the value of the entry: the node id, or the value that a leader proclaims.
        role: "reader" or "writer"; None for other kinds of locks.
    """

    node_id: str | None
    token: int
    lease_id: int
    value: bytes = field(default=b"", compare=False, repr=False)
    role: str | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, kv: KeyValue, lock: bytes = b"") -> Holder:
        """`lock`: the lock that the entry belongs to."""
        node_id = kv.value.decode(errors="backslashreplace") or None
        role = role_in(lock, kv.name) if b"\0" in lock else None
        return cls(node_id, kv.create_revision, kv.lease_id, kv.value, role)

    def __str__(self) -> str:
        if self.node_id is None:
            return f"an unnamed client (lease {self.lease_id:x})"
        return in_one_line(self.node_id)


@dataclass(frozen=True, slots=True)
class LockStatus:
    """The holders and waiters of a lock, as of one revision of etcd.

    Attributes:
        name: the key without the prefix of the manager.
        kind: "readers/writers", or "queue" for all other kinds: a mutex, a semaphore, an election
            and one key of a `MultiLock` have the same entries.
        holders: in order. A "queue" lists its first entry alone, since etcd does not store the
            limit of a semaphore: its other holders come first in `waiters`. The first entry may be
            of a `MultiLock` that still waits for other keys.
        waiters: in order.
    """

    name: str
    kind: str
    holders: tuple[Holder, ...]
    waiters: tuple[Holder, ...]


@dataclass(frozen=True, slots=True)
class Leader:
    """The leader of an election.

    Attributes:
        value: the value that it proclaims; by default its node id.
        token: the fencing token of its hold; it rises with each leader.
    """

    value: bytes
    token: int

    def __str__(self) -> str:
        """The value as text; bytes that are not UTF-8 are escaped."""
        return self.value.decode(errors="backslashreplace")


def in_one_line(text: str) -> str:
    """A text of other clients, for messages and logs: without control characters, not too long."""
    shown = text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in shown
    )


def entries(lock: bytes, keys: Iterable[KeyValue]) -> tuple[KeyValue, ...]:
    """The entries of the lock among these keys, oldest first."""
    # A key without a lease is a user's own.
    found = [kv for kv in keys if kv.lease_id and is_entry(lock, kv.name)]
    return tuple(sorted(found, key=lambda kv: (kv.create_revision, kv.name)))


def places(lock: bytes, keys: Iterable[KeyValue]) -> list[tuple[bytes, Holder]]:
    """As `entries`: the names of the entries, each with its `Holder`."""
    return [(kv.name, Holder.of(kv, lock)) for kv in entries(lock, keys)]


def holding(lock: bytes, queue: Iterable[KeyValue]) -> list[KeyValue]:
    """The entries that hold the lock, of all its entries, given oldest first."""
    by_name = {kv.name: kv for kv in queue}
    return [by_name[name] for name in admitted(lock, by_name)]


def statuses(keys: Iterable[KeyValue]) -> list[LockStatus]:
    """The status of each lock that has entries among these keys, ordered by name."""
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
    """The place of an entry in the queue of its lock."""

    UNKNOWN = "nothing is known about the queue since the entry was put"
    WAITS = "older entries are before it"
    FIRST = "it is admitted, and holds the lock"
    GONE = "it does not exist any more"


@dataclass(frozen=True, slots=True)
class Change:
    """`holder` took the lock (`locked`), gave it back, or proclaims a new value (None).

    `holder` is None if the lock was found free, and its last holder is unknown.
    """

    locked: bool | None
    holder: Holder | None


class Queue:
    """The entries of one lock, kept up to date from a read and the changes after it."""

    __slots__ = ("_admissions", "_held", "_lock", "_older", "_start", "_waiting")

    def __init__(self, lock: bytes, keys: Iterable[KeyValue] = ()) -> None:
        self._lock = lock
        prefix, self._admissions = split(lock)
        self._start = len(prefix)
        self._fill(dict(places(lock, keys)))

    def _fill(self, entries: dict[bytes, Holder]) -> None:
        # Both are ordered, oldest first: a later entry is younger, and one that is put again keeps
        # its place. All holders are older than all waiters: an entry behind a waiter is not
        # admitted.
        self._held: dict[bytes, Holder] = {}
        self._waiting = entries
        self._older = [0] * len(self._admissions)  # the number of holders that rival each kind
        self._admit()

    @property
    def holder(self) -> Holder | None:
        """The first holder."""
        return next(iter(self._held.values()), None)

    @property
    def held(self) -> Mapping[bytes, Holder]:
        """The holders by their entries, in order."""
        return self._held

    def standing(self, entry: bytes, token: int) -> Standing:
        """The standing of the entry that was created at revision `token`."""
        place = self._held.get(entry)
        holds = place is not None
        place = place or self._waiting.get(entry)
        if place is None or place.token != token:
            return Standing.GONE
        return Standing.FIRST if holds else Standing.WAITS

    def apply(self, events: Sequence[Event]) -> list[Change]:
        """Takes the events of one revision. Returns the changes."""
        if len(events) == 1:  # the usual case; below, all holders are compared
            return self._apply(events[0])
        before = list(self._held.values())
        for event in events:
            self._apply(event)
        return changes(before, list(self._held.values()))

    def _apply(self, event: Event) -> list[Change]:
        return self.delete(event.name) if event.kv is None else self.put(event.kv)

    def put(self, kv: KeyValue) -> list[Change]:
        """An entry is put, or put again. Returns the changes."""
        told: list[Change] = []
        known = self._held.get(kv.name) or self._waiting.get(kv.name)
        if known and (known.token != kv.create_revision or not kv.lease_id):
            told, known = self.delete(kv.name), None
        for name, place in places(self._lock, [kv]):
            if name in self._held:
                self._held[name] = place
                changed = known and known.value != place.value
                return [Change(None, place)] if changed else []
            if known or self._is_youngest(place):
                self._waiting[name] = place
                return told + self._admit()
            # It had no lease for a while, and now gets its place back.
            before, there = list(self._held.values()), {**self._held, **self._waiting, name: place}
            self._fill(dict(sorted(there.items(), key=lambda place: place[1].token)))
            return told + changes(before, list(self._held.values()))
        return told

    def delete(self, name: bytes) -> list[Change]:
        """An entry is deleted. Returns the changes."""
        gone = self._held.pop(name, None)
        if gone is None:
            if self._waiting.pop(name, None) is None:
                return []
            return self._admit()
        self._count(name, -1)
        return [Change(False, gone), *self._admit()]

    def _is_youngest(self, place: Holder) -> bool:
        there = self._waiting or self._held
        youngest = next(reversed(there.values()), None)
        return youngest is None or youngest.token <= place.token

    def _admit(self) -> list[Change]:
        """Moves the next waiters to the holders, as far as they are admitted."""
        taken: list[Change] = []
        while self._waiting:
            name = next(iter(self._waiting))
            if not self._admits(name):
                break
            self._held[name] = self._waiting.pop(name)
            self._count(name, 1)
            taken.append(Change(True, self._held[name]))
        return taken

    def _admits(self, name: bytes) -> bool:
        return any(
            older < each.limit and name.startswith(each.part, self._start)
            for older, each in zip(self._older, self._admissions, strict=True)
        )

    def _count(self, name: bytes, more: int) -> None:
        for number, each in enumerate(self._admissions):
            if name.startswith(each.rivals, self._start):
                self._older[number] += more


def changes(before: Sequence[Holder], after: Sequence[Holder]) -> list[Change]:
    """The changes from one list of holders to the other: a hand-over is two, a renewal or an
    extension none."""
    had, has = {each.token: each for each in before}, {each.token for each in after}
    freed = [Change(False, each) for each in before if each.token not in has]
    taken = [
        Change(None if each.token in had else True, each)
        for each in after
        if each.token not in had or each.value != had[each.token].value
    ]
    return freed + taken
