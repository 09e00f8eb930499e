"""The content of an etcd, and its answers. No thread, mutex or clock: the time is an argument.

tests/integration/test_differential.py checks that it answers as etcd does.

Ctrl-C, or a signal handler that makes a request itself, may interrupt a request on any line. So a
request first decides what to change, without changing anything. Then all changes happen in one call
to C, where no interrupt comes. If something else has changed meanwhile, the request decides again.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from microlock.core.keys import MAX_TTL, lock_of, range_end, range_of
from microlock.core.port import (
    Enter,
    Entered,
    Event,
    Found,
    Get,
    Grant,
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
    ReadAll,
    Request,
    Revoke,
    TimeToLive,
    Transaction,
)
from microlock.core.queue import entries
from microlock.errors import LeaseNotFoundError, StoreError

# As on etcd, so many keys of a lock's range are read to find its oldest entry. So entries behind
# older nested names are missed here too.
OLDEST = 16
# etcd's default of --max-txn-ops.
MAX_OPERATIONS = 128
# The number of changes that are kept, for watches that begin in the past.
REMEMBERED = 10_000

Steps = list[partial[Any]]
# A name, its new value (None: delete it), and the lease.
Change = tuple[bytes, bytes | None, int]


@dataclass(frozen=True, slots=True)
class Granted:
    """A lease: when it ends unless it is renewed, and its keys."""

    ttl: int
    end: float
    names: frozenset[bytes] = frozenset()


class CompactedError(StoreError):
    """The requested revision is compacted.

    Attributes:
        revision: the first revision that is still known.
    """

    def __init__(self, revision: int) -> None:
        super().__init__("memory: mvcc: required revision has been compacted")
        self.revision = revision


class State:
    """The content of an etcd.

    Attributes:
        now: its clock, in seconds; only `pass_time` and `go_to` move it.
        floor: the shortest ttl that it grants.
        keys, leases: by name, and by id.
        history: the last changes in order, those of one revision together.
    """

    def __init__(self, *, floor: int = 2, now: float = 1000.0) -> None:
        self.now = now
        self.floor = floor
        self.keys: dict[bytes, KeyValue] = {}
        self.leases: dict[int, Granted] = {}
        self.history: deque[tuple[Event, ...]] = deque(maxlen=REMEMBERED)
        self._names: list[bytes] = []  # the names of all keys, sorted
        self._numbers = {"revision": 1, "compacted": 0}
        self._version = {0}  # one number; every change replaces it
        self._quiet_until = math.inf  # no lease ends before this time

    @property
    def revision(self) -> int:
        """The revision of the last change."""
        return self._numbers["revision"]

    @property
    def compacted(self) -> int:
        """Changes before this revision are forgotten."""
        full = len(self.history) == REMEMBERED
        return max(self._numbers["compacted"], self.history[0][0].revision if full else 0)

    @property
    def next_end(self) -> float:
        """When the next lease may end; maybe too early, never too late."""
        return self._quiet_until

    def copy(self) -> State:
        """An independent copy."""
        other = State(floor=self.floor, now=self.now)
        other.restore(self)
        other._quiet_until = self._quiet_until
        return other

    def restore(self, other: State) -> None:
        """Takes the content and the revision of the other one, as from a backup.

        Each lease has the time left that it had there.
        """
        later = self.now - other.now
        self.leases = dict(other.leases)
        if later:
            self.leases = {
                id: replace(lease, end=lease.end + later) for id, lease in other.leases.items()
            }
        self.keys, self._names = dict(other.keys), list(other._names)
        self.history, self._numbers = other.history.copy(), dict(other._numbers)
        self._version = {max(self._version) + 1}
        self._quiet_until = -math.inf

    # Time.

    def pass_time(self, seconds: float) -> None:
        self.go_to(self.now + seconds)

    def go_to(self, now: float) -> None:
        """Ends the leases that are due by then, one after the other, each at its own revision, even
        if etcd would end them together."""
        self.now = now
        while now >= self._quiet_until:
            version = max(self._version)
            ends = sorted([(lease.end, id) for id, lease in self.leases.items()], key=_end)
            ended = [lease_id for end, lease_id in ends if end <= now]
            for lease_id in ended:
                self.apply(Revoke(lease_id))
            if not ended:
                self._quiet_until = ends[0][0] if ends else math.inf
                if version not in self._version:  # a lease that ends earlier may have been added
                    self._quiet_until = -math.inf

    # Requests.

    def apply(self, request: Request | Transaction) -> Any:
        """The reply to a request, as in `microlock.core.port`; `sent` and `at` are now. Raises as
        etcd does."""
        return self._at_once(lambda: self._decide(request))

    def put(self, name: bytes, value: bytes, lease_id: int = 0) -> None:
        """Puts a key, whether it exists or not."""
        self.change((name, value, lease_id))

    def delete(self, name: bytes) -> None:
        self.change((name, None, 0))

    def change(self, *changes: Change) -> None:
        """Changes keys, all with different names, at one revision."""
        self._at_once(lambda: (None, self._changes(*changes)))

    def compact(self, revision: int) -> None:
        """Forgets the changes before this revision. Raises as etcd does."""
        if revision <= self.compacted:
            raise CompactedError(self.compacted)
        if revision > self.revision:
            raise StoreError("memory: mvcc: required revision is a future revision")
        kept = [each for each in self.history if each[0].revision >= revision]
        self._numbers["compacted"] = revision
        self.history = deque(kept, maxlen=REMEMBERED)

    def events(self, name: bytes, since: int) -> tuple[Event, ...]:
        """The events of a watch of this prefix, from a revision until now.

        Raises CompactedError, where etcd would end such a watch.
        """
        if since < self.compacted:
            raise CompactedError(self.compacted)
        told = [event for each in self.since(since) for event in each]
        return tuple([event for event in told if event.name.startswith(name)])

    def since(self, revision: int) -> list[tuple[Event, ...]]:
        """The changes from this revision on, as far as they are kept."""
        found: list[tuple[Event, ...]] = []
        for each in reversed(self.history):
            if each[0].revision < revision:
                break
            found.append(each)
        return found[::-1]

    def _at_once(self, decide: Callable[[], tuple[Any, Steps]]) -> Any:
        while True:
            version = max(self._version)
            try:
                reply, steps = decide()
                if steps:
                    # The first step fails if something else has changed meanwhile.
                    first = [partial(self._version.remove, version)]
                    _all_of([*first, partial(self._version.add, version + 1), *steps])
                    return reply
                if version in self._version:
                    return reply
            except Exception:  # any: what it read may have changed in the middle
                if version in self._version:
                    raise

    def _decide(self, request: Request | Transaction) -> tuple[Any, Steps]:
        """The reply, and the steps that make the change."""
        match request:
            case Enter():
                return self._enter(request)
            case Leave():
                return self._leave(request)
            case KeepAlive(lease_id):
                return self._keep_alive(lease_id)
            case KeepAlives(lease_ids):
                kept = {lease_id: self._keep_alive(lease_id) for lease_id in lease_ids}
                steps = [step for _, steps in kept.values() for step in steps]
                return {lease_id: lifetime for lease_id, (lifetime, _) in kept.items()}, steps
            case Grant(lease_id, ttl):
                return self._grant(lease_id, ttl)
            case Revoke(lease_id):
                return lease_id in self.leases, self._end(lease_id)
            case Join():
                return self._join(request)
            case Move():
                return self._move(request)
            case Read(lock, limit):
                seen = self._range(lock)[: max(limit, OLDEST) if limit else None]
                return Found(self.revision, entries(lock, seen)[: limit or None]), []
            case Get(entry, others):
                there = [kv for name in (entry, *others) for kv in self._at(name)]
                return Found(self.revision, tuple(there)), []
            case ReadAll(prefix):
                named = (kv for kv in self._range(prefix) if lock_of(kv.name[len(prefix) :]))
                return Found(self.revision, tuple([kv for kv in named if kv.lease_id])), []
            case TimeToLive(lease_id, names):
                lease = self.leases.get(lease_id)
                left = int(lease.end - self.now) if lease else -1
                living = tuple(sorted(lease.names)) if lease and names else ()
                return Lifetime(left, self.now, self.now, living), []
            case Transaction():
                return self._transaction(request)
        raise AssertionError(f"nothing that etcd is asked: {request!r}")

    def _grant(self, lease_id: int, ttl: int) -> tuple[Lifetime, Steps]:
        if ttl > MAX_TTL:
            raise StoreError("memory: too large lease TTL")
        if lease_id in self.leases:
            raise StoreError("memory: lease already exists")
        ttl = max(self.floor, ttl)
        lease = Granted(ttl, self.now + ttl)
        self._quiet_until = min(self._quiet_until, lease.end)
        made = lease_id or max(self.leases, default=0) + 1
        return Lifetime(ttl, self.now, self.now), [partial(self.leases.update, {made: lease})]

    def _keep_alive(self, lease_id: int) -> tuple[Lifetime, Steps]:
        lease = self.leases.get(lease_id)
        if lease is None:
            return Lifetime(0, self.now, self.now), []
        renewed = Granted(lease.ttl, self.now + lease.ttl, lease.names)
        kept: Steps = [partial(self.leases.update, {lease_id: renewed})]
        return Lifetime(lease.ttl, self.now, self.now), kept

    def _end(self, lease_id: int) -> Steps:
        """Deletes the keys of a lease with it, at one revision."""
        lease = self.leases.get(lease_id)
        if lease is None:
            return []
        gone = self._changes(*((name, None, 0) for name in sorted(lease.names)))
        return [*gone, partial(self.leases.pop, lease_id, None)]

    def _enter(self, request: Enter) -> tuple[Entered, Steps]:
        many, all_seen, free = max(request.limit, OLDEST), True, True
        before: list[KeyValue] = []
        for lock, entry in _all(request):
            there, mine = self._range(lock), self.keys.get(entry)
            if mine and mine.lease_id and (mine in there[:many] or mine not in there):
                return Entered(mine.create_revision, (), self.now), []
            free &= mine is None and all(kv.create_revision <= request.since for kv in there)
            all_seen &= len(there) < many
            before += entries(lock, there[:many])
        if free:
            return Entered(self.revision + 1, (), self.now), self._put_all(request)
        since = self.revision if all_seen else None
        return Entered(None, _by_age(before), self.now, since=since), []

    def _join(self, request: Join) -> tuple[Joined, Steps]:
        there = [self.keys.get(entry) for _, entry in _all(request)]
        if any(there):
            return self._joined_before(request, there), []
        token, put = self.revision + 1, self._put_all(request)
        before: list[KeyValue] = []
        for lock, entry in _all(request):
            found = self._range(lock)
            many = request.near + (not entry.startswith(range_of(lock)))
            beyond, newest = len(found) > many, found[max(0, len(found) - many) :]
            if beyond and not entries(lock, found[:1]):
                # A nested name is the oldest, and there may be older entries that were not read.
                return Joined(token, None, self.now), put
            before += entries(lock, [*found[:1], *newest] if beyond else newest)
        return Joined(token, _by_age(before), self.now), put

    def _joined_before(self, request: Join, there: Sequence[KeyValue | None]) -> Joined:
        """What is answered if something has the name of an entry."""
        before: list[KeyValue] = []
        token = 0
        for (lock, _), mine in zip(_all(request), there, strict=True):
            if mine is None or not mine.lease_id:
                return Joined(None, (), self.now)
            token = mine.create_revision
            before += entries(lock, self._range(lock))
        older = [kv for kv in before if kv.create_revision < token]
        return Joined(token, _by_age(older), self.now)

    def _put_all(self, request: Enter | Join) -> Steps:
        puts = [(entry, request.value, request.lease_id) for _, entry in _all(request)]
        return self._changes(*puts)

    def _leave(self, request: Leave) -> tuple[Left, Steps]:
        names = request.entry, *request.others
        there = [self.keys.get(name) for name in names]
        if all(kv and kv.create_revision == request.token for kv in there):
            return Left(True, self.now), self._changes(*((name, None, 0) for name in names))
        return Left(False, self.now), []

    def _move(self, request: Move) -> tuple[Moved, Steps]:
        names = request.entry, *request.others
        there = [kv for name in names for kv in self._at(name)]
        if len(there) < len(names):
            return Moved(False, None, self.now), []
        if {(kv.create_revision, kv.lease_id) for kv in there} != {
            (request.token, request.lease_id)
        }:
            return Moved(False, there[0], self.now), []
        puts = [(name, request.value, request.next_lease_id) for name in names]
        return Moved(True, None, self.now), self._changes(*puts)

    def _transaction(self, request: Transaction) -> tuple[int | None, Steps]:
        if len(request.puts) + len(request.deletes) > MAX_OPERATIONS:
            raise StoreError("memory: too many operations in txn request")
        if {name for name, _ in request.puts} & {*request.deletes}:
            raise StoreError("memory: duplicate key given in txn request")
        guards = [self.keys.get(name) for name in (request.entry, *request.others)]
        if not all(kv and kv.create_revision == request.revision for kv in guards):
            return None, []
        puts = [(name, value, 0) for name, value in request.puts]
        steps = self._changes(*puts, *((name, None, 0) for name in dict.fromkeys(request.deletes)))
        return self.revision + bool(steps), steps

    # Changing and reading.

    def _changes(self, *changes: Change) -> Steps:
        """All at one revision."""
        revision, keys, names = self.revision + 1, self.keys, self._names
        leases, events = _Leases(self.leases), []
        steps: Steps = []
        for name, value, lease_id in changes:
            old = keys.get(name)
            if old:
                leases.detach(name, old.lease_id)
            if value is not None:
                leases.attach(name, lease_id)
                kv = KeyValue(name, value, old.create_revision if old else revision, lease_id)
                events.append(Event(revision, name, kv))
                steps.append(partial(keys.__setitem__, name, kv))
                if old is None:
                    steps.append(partial(insort, names, name))
            elif old:
                events.append(Event(revision, name, None))
                steps.append(partial(keys.pop, name))
        if not events:
            return []
        steps.append(partial(self.leases.update, leases.changed))
        steps.append(partial(self.history.append, tuple(events)))
        steps.append(partial(self._numbers.__setitem__, "revision", revision))
        if gone := [bisect_left(names, event.name) for event in events if event.kv is None]:
            # The last one first, and before names are added, so that the other indexes stay valid.
            steps[:0] = [partial(names.pop, place) for place in sorted(gone, reverse=True)]
        return steps

    def _at(self, name: bytes) -> list[KeyValue]:
        return [self.keys[name]] if name in self.keys else []

    def _range(self, lock: bytes) -> list[KeyValue]:
        """The keys with the prefix of this lock, oldest first."""
        names, keys, prefix = self._names, self.keys, range_of(lock)
        first = bisect_left(names, prefix)
        last = bisect_left(names, range_end(prefix), first) if prefix else len(names)
        found = [keys[name] for name in names[first:last]]
        if len(found) > 1:
            found.sort(key=_age)
        return found


class _Leases:
    """The changes of leases in one change of keys."""

    def __init__(self, leases: dict[int, Granted]) -> None:
        self._leases = leases
        self.changed: dict[int, Granted] = {}

    def detach(self, name: bytes, lease_id: int) -> None:
        if lease := self._of(lease_id):
            self.changed[lease_id] = Granted(lease.ttl, lease.end, lease.names - {name})

    def attach(self, name: bytes, lease_id: int) -> None:
        lease = self._of(lease_id)
        if lease:
            self.changed[lease_id] = Granted(lease.ttl, lease.end, lease.names | {name})
        elif lease_id:
            raise LeaseNotFoundError("memory: requested lease not found")

    def _of(self, lease_id: int) -> Granted | None:
        return self.changed.get(lease_id) or self._leases.get(lease_id)


def _end(lease: tuple[float, int]) -> float:
    return lease[0]


def _all(request: Enter | Join) -> tuple[tuple[bytes, bytes], ...]:
    """The locks that it is about, and the entries there."""
    return (request.lock, request.entry), *request.others


def _by_age(found: list[KeyValue]) -> tuple[KeyValue, ...]:
    return tuple(sorted(found, key=lambda kv: kv.create_revision))


def _age(kv: KeyValue) -> tuple[int, bytes]:
    return kv.create_revision, kv.name


def _all_of(steps: Steps) -> None:
    """Runs the steps. All of this is C code, so no interrupt comes in between."""
    deque(map(partial.__call__, steps), maxlen=0)
