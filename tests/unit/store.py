"""A small etcd in memory, with a clock of its own: what a flow asks for, answered at once.

That it answers as etcd does is held by tests/integration/test_store.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from microlock.core.keys import MAX_TTL, Names, entries_prefix, entry_name
from microlock.core.port import (
    Enter,
    Entered,
    Event,
    Found,
    Get,
    Grant,
    Holders,
    Join,
    Joined,
    KeepAlive,
    KeepAlives,
    KeyValue,
    Leave,
    Left,
    Lifetime,
    Move,
    Moved,
    Read,
    Request,
    Revoke,
)
from microlock.core.queue import entries, oldest
from microlock.errors import LeaseNotFoundError, StoreError
from microlock.etcd.messages import OLDEST

# Requests that change entries, those of them that may put one, and what is answered.
CHANGES = Enter | Join | Leave | Move
PUTS = Enter | Join | Move
CHANGED = Entered | Joined | Left | Moved

FOO = Names.of("foo", "alpha")
# Ids of leases that no flow under test makes.
FOREIGN = range(0xF00, 0x1000)


@dataclass(frozen=True)
class Granted:
    """A lease as etcd has it: when it ends if nothing renews it."""

    ttl: int
    end: float


class CompactedError(StoreError):
    """What happened at that revision is forgotten.

    Attributes:
        revision: what happened from there on is known.
    """

    def __init__(self, revision: int) -> None:
        super().__init__(
            "etcdserver: mvcc: required revision has been compacted", may_have_happened=False
        )
        self.revision = revision


class Memory:
    """What etcd holds. It has no thread and no randomness; time is told to it.

    Attributes:
        now: its clock, in seconds; it moves by `pass_time` alone.
        floor: the shortest ttl that it grants.
        revision: of the last change.
        keys, leases: by their names and ids.
        history: every change since the last compaction, in order.
        compacted: what happened before this revision is forgotten.
    """

    def __init__(self, *, floor: int = 2, now: float = 1000.0) -> None:
        self.now = now
        self.floor = floor
        self.revision = 1
        self.keys: dict[bytes, KeyValue] = {}
        self.leases: dict[int, Granted] = {}
        self.history: list[Event] = []
        self.compacted = 0

    def pass_time(self, seconds: float) -> None:
        """Leases end on the way; those that etcd would end together it ends one after the other,
        each at a revision of its own."""
        self.now += seconds
        ended = [each for each, lease in self.leases.items() if lease.end <= self.now]
        for lease_id in sorted(ended, key=lambda each: self.leases[each].end):
            self._end(lease_id)

    def apply(self, request: Request) -> Any:
        """What it answers, as `microlock.core.port` describes it; at once, so `sent` and `at` are
        now. Raises as etcd does."""
        match request:
            case KeepAlive(lease_id):
                return self._keep_alive(lease_id)
            case KeepAlives(lease_ids):
                return {lease_id: self._keep_alive(lease_id) for lease_id in lease_ids}
            case Grant(lease_id, ttl):
                return self._grant(lease_id, ttl)
            case Revoke(lease_id):
                self._end(lease_id)
                return None
            case Enter():
                return self._enter(request)
            case Join():
                return self._join(request)
            case Leave():
                return self._leave(request)
            case Move():
                return self._move(request)
            case Read(lock, limit):
                seen = self._range(lock)[: max(limit, OLDEST) if limit else None]
                return Found(self.revision, entries(lock, seen)[: limit or None])
            case Get(entry):
                return Found(self.revision, tuple(self._at(entry)))
            case Holders(prefix):
                first = oldest(self._range(prefix))
                held = (kv for lock, kv in first.items() if lock[:-1].startswith(prefix))
                return Found(self.revision, tuple(held))
        raise AssertionError(f"nothing that etcd is asked: {request!r}")

    def put(self, name: bytes, value: bytes, lease_id: int = 0) -> None:
        """Somebody puts a key, whatever is there."""
        self.change(puts=[(name, value, lease_id)])

    def delete(self, name: bytes) -> None:
        self.change([name])

    def change(
        self, deletes: Iterable[bytes] = (), puts: Iterable[tuple[bytes, bytes, int]] = ()
    ) -> None:
        """Somebody changes keys, all at the same revision: name, value, and lease."""
        puts = tuple(puts)
        if any(lease_id and lease_id not in self.leases for _, _, lease_id in puts):
            raise LeaseNotFoundError("etcdserver: requested lease not found")
        revision = self.revision + 1
        changed = [Event(revision, name, None) for name in deletes if self.keys.pop(name, None)]
        for name, value, lease_id in puts:
            old = self.keys.get(name)
            kv = KeyValue(name, value, old.create_revision if old else revision, lease_id)
            self.keys[name] = kv
            changed.append(Event(revision, name, kv))
        if changed:
            self.revision = revision
            self.history += changed

    def events(self, prefix: bytes, since: int) -> tuple[Event, ...]:
        """What a watch of the keys with this prefix has told by now, that started at a revision.

        Raises CompactedError, as etcd ends such a watch.
        """
        if since < self.compacted:
            raise CompactedError(self.compacted)
        return tuple(
            event
            for event in self.history
            if event.revision >= since and event.name.startswith(prefix)
        )

    def compact(self, revision: int) -> None:
        """Forgets what happened before this revision. Raises as etcd does."""
        if revision <= self.compacted:
            raise CompactedError(self.compacted)
        if revision > self.revision:
            raise StoreError("etcdserver: mvcc: required revision is a future revision")
        self.compacted = revision
        self.history = [event for event in self.history if event.revision >= revision]

    def _grant(self, lease_id: int, ttl: int) -> Lifetime:
        if ttl > MAX_TTL:
            raise StoreError("etcdserver: too large lease TTL")
        if lease_id in self.leases:
            raise StoreError("etcdserver: lease already exists")
        ttl = max(self.floor, ttl)
        self.leases[lease_id or self._free_id()] = Granted(ttl, self.now + ttl)
        return Lifetime(ttl, self.now, self.now)

    def _free_id(self) -> int:
        return max(self.leases, default=0) + 1

    def _keep_alive(self, lease_id: int) -> Lifetime:
        lease = self.leases.get(lease_id)
        if lease is None:
            return Lifetime(0, self.now, self.now)
        self.leases[lease_id] = replace(lease, end=self.now + lease.ttl)
        return Lifetime(lease.ttl, self.now, self.now)

    def _end(self, lease_id: int) -> None:
        """Deletes the keys of a lease with it, at one revision."""
        if self.leases.pop(lease_id, None):
            self.change(sorted(kv.name for kv in self.keys.values() if kv.lease_id == lease_id))

    def _enter(self, request: Enter) -> Entered:
        there = self._range(request.lock)
        if not there:
            self.put(request.entry, request.value, request.lease_id)
            return Entered(self.revision, None, self.now)
        queue = entries(request.lock, there[:OLDEST])
        for kv in queue:
            if kv.name == request.entry:
                return Entered(kv.create_revision, None, self.now)
        return Entered(None, queue[0] if queue else None, self.now)

    def _join(self, request: Join) -> Joined:
        known = self.keys.get(request.entry)
        if known is None:
            self.put(request.entry, request.value, request.lease_id)
        there = self._range(request.lock)
        mine = self.keys[request.entry]
        if not mine.lease_id:
            return Joined(None, (), self.now)
        if known is None:
            there.sort(key=lambda kv: kv.create_revision, reverse=True)
            first, newest = there[-1], there[: request.near + 1]
            if first not in newest and not entries(request.lock, [first]):
                return Joined(mine.create_revision, None, self.now)
            there = newest if first in newest else [first, *newest]
        queue = entries(request.lock, there)
        before = tuple(kv for kv in queue if kv.create_revision < mine.create_revision)
        return Joined(mine.create_revision, before, self.now)

    def _leave(self, request: Leave) -> Left:
        mine = [kv for kv in self._at(request.entry) if kv.create_revision == request.token]
        self.change(kv.name for kv in mine)
        return Left(bool(mine), self.now)

    def _move(self, request: Move) -> Moved:
        for kv in self._at(request.entry):
            if (kv.create_revision, kv.lease_id) != (request.token, request.lease_id):
                return Moved(False, kv, self.now)
            self.put(kv.name, request.value, request.next_lease_id)
            return Moved(True, None, self.now)
        return Moved(False, None, self.now)

    def _at(self, name: bytes) -> list[KeyValue]:
        return [self.keys[name]] if name in self.keys else []

    def _range(self, prefix: bytes) -> list[KeyValue]:
        """The keys with this prefix, oldest first."""
        found = [kv for kv in self.keys.values() if kv.name.startswith(prefix)]
        return sorted(found, key=lambda kv: (kv.create_revision, kv.name))


class Store(Memory):
    """An etcd that others use, too.

    Attributes:
        latency: what each way takes, in seconds.
        others: the entries that other clients have put, and have not given up themselves.
        lease_ids: for the flows under test; none is given twice.
    """

    def __init__(self) -> None:
        super().__init__()
        self.latency = 0.01
        self.others: dict[bytes, KeyValue] = {}
        self.lease_ids = iter(range(1, FOREIGN.start))
        self._foreign = iter(FOREIGN)

    def pass_time(self, seconds: float) -> None:
        before = self.keys.keys() & self.others.keys()
        super().pass_time(seconds)
        for name in before - self.keys.keys():
            del self.others[name]

    def ask(self, request: Request) -> Any:
        """One request with one answer, which both take their time."""
        sent = self.now
        self.pass_time(self.latency)
        reply = self.apply(request)
        self.pass_time(self.latency)
        return timed(reply, sent, self.now)

    def enter(self, node_id: str, key: str = "foo", ttl: int = 60) -> bytes:
        """Another client puts an entry; an empty node id is what Go and etcdctl store."""
        lease_id = next(self._foreign)
        name = entry_name(entries_prefix(key.encode()), lease_id)
        self.apply(Grant(lease_id, ttl))
        self.put(name, node_id.encode(), lease_id)
        self.others[name] = self.keys[name]
        return name

    def remove(self, name: bytes) -> None:
        self.delete(name)
        self.others.pop(name, None)

    def entries(self, value: bytes = FOO.value) -> list[KeyValue]:
        """The keys with this value, oldest first."""
        found = [kv for kv in self.keys.values() if kv.value == value]
        return sorted(found, key=lambda kv: kv.create_revision)

    def ours(self) -> list[int]:
        """The leases that flows have made."""
        return [each for each in self.leases if each not in FOREIGN]


def timed(reply: Any, sent: float, at: float) -> Any:
    """The reply with the times of the one who asked."""
    match reply:
        case Lifetime():
            return replace(reply, sent=sent, at=at)
        case Entered() | Joined() | Left() | Moved():
            return replace(reply, at=at)
        case Mapping():
            return {name: timed(each, sent, at) for name, each in reply.items()}
    return reply
