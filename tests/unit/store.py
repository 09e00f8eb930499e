"""A small etcd in memory, with a clock of its own: what a flow asks for, answered at once.

That it answers as etcd does is held by tests/integration/test_store.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from microlock.core.keys import MAX_TTL, Names, entries_prefix, entry_name
from microlock.core.port import (
    CreatedAt,
    Delete,
    Empty,
    Event,
    Found,
    Get,
    Grant,
    KeepAlive,
    KeepAlives,
    KeyValue,
    Lifetime,
    Outcome,
    Put,
    Read,
    Request,
    Revoke,
    Txn,
    UnderLease,
)
from microlock.errors import LeaseNotFoundError, StoreError

FOO = Names.of("foo", "alpha")
# Ids of leases that no flow under test makes.
FOREIGN = range(0xF00, 0x1000)
# etcd's --max-txn-ops
MAX_OPERATIONS = 128


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
            case Txn():
                return self._txn(request)
            case Read() | Get():
                return Found(self.revision, self._range(request))
        raise AssertionError(f"nothing that etcd is asked: {request!r}")

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
            names = sorted(kv.name for kv in self.keys.values() if kv.lease_id == lease_id)
            self._change([Delete(name) for name in names])

    def _txn(self, txn: Txn) -> Outcome:
        _check_txn(txn)
        succeeded = all(map(self._holds, txn.guards))
        operations = txn.then if succeeded else txn.otherwise
        for each in operations:
            if isinstance(each, Put) and each.lease_id and each.lease_id not in self.leases:
                raise LeaseNotFoundError("etcdserver: requested lease not found")
        keys = self._change(operations)
        return Outcome(succeeded, self.revision, keys, self.now)

    def _change(self, operations: Iterable[Put | Delete | Read | Get]) -> tuple[KeyValue, ...]:
        """Does one after the other, all at the same revision. Returns what the reads found."""
        keys: tuple[KeyValue, ...] = ()
        changed: list[Event] = []
        revision = self.revision + 1
        for each in operations:
            match each:
                case Put(name, value, lease_id):
                    old = self.keys.get(name)
                    kv = KeyValue(name, value, old.create_revision if old else revision, lease_id)
                    self.keys[name] = kv
                    changed.append(Event(revision, name, kv))
                case Delete(name):
                    if self.keys.pop(name, None):
                        changed.append(Event(revision, name, None))
                case _:
                    keys += self._range(each)
        if changed:
            self.revision = revision
            self.history += changed
        return keys

    def _holds(self, guard: Empty | CreatedAt | UnderLease) -> bool:
        # To a comparison a key that is not there was created at 0, under the lease 0.
        match guard:
            case Empty(prefix):
                return not any(name.startswith(prefix) for name in self.keys)
            case CreatedAt(name, revision):
                kv = self.keys.get(name)
                return revision == (kv.create_revision if kv else 0)
            case UnderLease(name, lease_id):
                kv = self.keys.get(name)
                return lease_id == (kv.lease_id if kv else 0)

    def _range(self, request: Read | Get) -> tuple[KeyValue, ...]:
        if isinstance(request, Get):
            _check_name(request)
            return (self.keys[request.name],) if request.name in self.keys else ()
        found = [kv for kv in self.keys.values() if kv.name.startswith(request.prefix)]
        found.sort(key=lambda kv: (kv.create_revision, kv.name))
        if request.newest:
            found.sort(key=lambda kv: kv.create_revision, reverse=True)
        return tuple(found[: request.limit or None])


def _check_txn(txn: Txn) -> None:
    """Refuses what etcd does not even begin, whichever part of it would be done."""
    parts = (txn.guards, txn.then, txn.otherwise)
    if any(len(part) > MAX_OPERATIONS for part in parts):
        raise StoreError("etcdserver: too many operations in txn request")
    for part in parts:
        for each in part:
            _check_name(each)
    puts = [each.name for each in txn.then if isinstance(each, Put)]
    deletes = {each.name for each in txn.then if isinstance(each, Delete)}
    if len(set(puts)) < len(puts) or deletes.intersection(puts):
        raise StoreError("etcdserver: duplicate key given in txn request")


def _check_name(operation: object) -> None:
    match operation:
        case Get(b"") | Put(b"") | Delete(b"") | Empty(b"") | CreatedAt(b"") | UnderLease(b""):
            raise StoreError("etcdserver: key is not provided")


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
        self.apply(Txn((), (Put(name, node_id.encode(), lease_id),)))
        self.others[name] = self.keys[name]
        return name

    def remove(self, name: bytes) -> None:
        self.apply(Txn((), (Delete(name),)))
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
        case Outcome():
            return replace(reply, at=at)
        case Mapping():
            return {name: timed(each, sent, at) for name, each in reply.items()}
    return reply
