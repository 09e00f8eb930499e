"""A small etcd in memory, with a clock of its own: what a flow asks for, answered at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from microlock.errors import EtcdError, LeaseNotFoundError
from microlock.keys import entries_prefix, entry_name
from microlock.requests import (
    CreatedAt,
    Delete,
    Empty,
    Event,
    Found,
    Get,
    Grant,
    KeepAlive,
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
from microlock.tenure import Names

FOO = Names.of("foo", "alpha")
# Ids of leases that no flow under test makes.
FOREIGN = range(0xF00, 0x1000)


@dataclass
class _Granted:
    ttl: int
    end: float


class Store:
    """What etcd holds.

    Attributes:
        now: its clock, in seconds; it moves by `pass_time` and by `latency` on each way.
        floor: the shortest ttl that it grants.
        history: every change so far, in order.
        others: the entries that other clients have put, and have not given up themselves.
        lease_ids: for the flows under test; none is given twice.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.latency = 0.01
        self.floor = 2
        self.revision = 1
        self.keys: dict[bytes, KeyValue] = {}
        self.leases: dict[int, _Granted] = {}
        self.history: list[Event] = []
        self.others: dict[bytes, KeyValue] = {}
        self.lease_ids = iter(range(1, FOREIGN.start))
        self._foreign = iter(FOREIGN)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for lease_id in [each for each, lease in self.leases.items() if lease.end <= self.now]:
            for name in self._end(lease_id):
                self.others.pop(name, None)

    def ask(self, request: Request) -> Any:
        """One request with one answer, as `microlock.requests` describes them."""
        sent = self.now
        self.pass_time(self.latency)
        reply = self.apply(request)
        self.pass_time(self.latency)
        return timed(reply, sent, self.now)

    def apply(self, request: Request) -> Any:
        """What it does to the store, without the time it takes to get here."""
        match request:
            case KeepAlive(lease_id):
                return self._keep_alive(lease_id)
            case Grant(lease_id, ttl):
                if lease_id in self.leases:
                    raise EtcdError("lease already exists")
                ttl = max(self.floor, ttl)
                self.leases[lease_id] = _Granted(ttl, self.now + ttl)
                return Lifetime(ttl, self.now, self.now)
            case Revoke(lease_id):
                self._end(lease_id)
                return None
            case Txn():
                return self._txn(request)
            case Read() | Get():
                return Found(self.revision, self._range(request))
        raise AssertionError(f"nothing that etcd is asked: {request!r}")

    # What others do.

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

    # How it works.

    def _txn(self, txn: Txn) -> Outcome:
        succeeded = all(self._holds(guard) for guard in txn.guards)
        before, keys = dict(self.keys), ()
        changed: list[Event] = []
        revision = self.revision + 1
        for each in txn.then if succeeded else txn.otherwise:
            match each:
                case Put(name, value, lease_id):
                    if lease_id not in self.leases:
                        self.keys = before
                        raise LeaseNotFoundError(f"no lease {lease_id:x}")
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
        return Outcome(succeeded, self.revision, keys, self.now)

    def _holds(self, guard: Empty | CreatedAt | UnderLease) -> bool:
        match guard:
            case Empty(prefix):
                return not self._range(Read(prefix))
            case CreatedAt(name, revision):
                return name in self.keys and self.keys[name].create_revision == revision
            case UnderLease(name, lease_id):
                return name in self.keys and self.keys[name].lease_id == lease_id

    def _range(self, request: Read | Get) -> tuple[KeyValue, ...]:
        if isinstance(request, Get):
            return (self.keys[request.name],) if request.name in self.keys else ()
        found = [kv for kv in self.keys.values() if kv.name.startswith(request.prefix)]
        found.sort(key=lambda kv: kv.create_revision)
        return tuple(found[: request.limit or None])

    def _keep_alive(self, lease_id: int) -> Lifetime:
        lease = self.leases.get(lease_id)
        if lease is None:
            return Lifetime(0, self.now, self.now)
        lease.end = self.now + lease.ttl
        return Lifetime(lease.ttl, self.now, self.now)

    def _end(self, lease_id: int) -> list[bytes]:
        """Deletes the keys of a lease with it. Returns their names."""
        self.leases.pop(lease_id, None)
        names = [kv.name for kv in self.keys.values() if kv.lease_id == lease_id]
        self._txn(Txn((), tuple(map(Delete, names))))
        return names


def timed(reply: Any, sent: float, at: float) -> Any:
    """The reply with the times of the one who asked."""
    match reply:
        case Lifetime():
            return replace(reply, sent=sent, at=at)
        case Outcome():
            return replace(reply, at=at)
        case Iterable():
            return tuple(timed(each, sent, at) for each in reply)
    return reply
