"""The store in memory answers as etcd does: the same requests to both, one after the other.

`DIFFERENTIAL=100000` asks so much in all, in `make test` it is less.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from queue import SimpleQueue
from typing import Any

import pytest
from conftest import Etcd
from ctl import Etcdctl
from watching import DEADLINE, eventually

from microlock import EtcdClient, connect
from microlock.core.admission import (
    MUTEX,
    READER,
    WRITER,
    Admission,
    lock_name,
    rivals_name,
    semaphore,
)
from microlock.core.keys import entry_name, range_end
from microlock.core.port import (
    Enter,
    Event,
    Found,
    Get,
    Grant,
    Join,
    KeepAlive,
    KeepAlives,
    Leave,
    Lifetime,
    Move,
    Read,
    ReadAll,
    Request,
    Revoke,
    Transaction,
)
from microlock.core.retry import Budget
from microlock.engine import clock
from microlock.errors import StoreError
from microlock.etcd import messages
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.watching import WATCH, watch_reply
from microlock.memory.state import CompactedError, State

LONG = 3600  # seconds; no test takes so long
SEEDS = range(5)
REQUESTS = int(os.environ.get("DIFFERENTIAL", "1500")) // len(SEEDS)  # of each seed
LOCKS = [b"foo/", b"foo/", b"foo/bar/", b"fop/"]
# Besides entries of these locks: what is none, whatever its lease.
OTHERS = [b"foo/", b"foo/none", b"foo/bar/none", b"fop"]
OWN = [b"foo0", b"fop0", b"report"]  # keys of a user
PREFIXES = [b"", b"f", b"foo", b"foo/", b"foo/b", b"fop", b"g"]
LEASES = range(1, 6)


@dataclass(frozen=True)
class Change:
    """What somebody else does to keys, in one transaction: puts are of a name, a value, and a
    lease."""

    deletes: tuple[bytes, ...] = ()
    puts: tuple[tuple[bytes, bytes, int], ...] = ()


Asked = Request | Transaction | Change


class Pair:
    """The store and an etcd of its own, where nothing happened before."""

    def __init__(self, client: EtcdClient) -> None:
        self.client = client
        floor = self.ask_etcd(Grant(LEASES.stop, 0)).ttl
        self.store = State(floor=floor)
        self.store.apply(Grant(LEASES.stop, 0))

    def ask_etcd(self, request: Asked) -> Any:
        if isinstance(request, Request | Transaction):
            return self.client.perform(request, Budget.of(clock.now(), 10))
        parts = [{"request_delete_range": {"key": name}} for name in request.deletes]
        for name, value, lease_id in request.puts:
            parts.append({"request_put": {"key": name, "value": value, "lease": lease_id}})
        (wire,) = self.client.store._wires.values()  # type: ignore[attr-defined]
        wire.call(*messages.txn((), parts), timeout=10, metadata=())
        return None

    def ask_store(self, request: Asked) -> Any:
        if isinstance(request, Request | Transaction):
            return self.store.apply(request)
        deletes = ((name, None, 0) for name in request.deletes)
        return self.store.change(*deletes, *request.puts)

    def both(self, request: Asked) -> Any:
        """What both answer. Fails if they don't agree."""
        said, meant = _said(self.ask_etcd, request), _said(self.ask_store, request)
        assert said == meant, f"to {request}"
        return meant

    def history(self, since: int, prefix: bytes = b"f") -> list[Event]:
        """What a watch of etcd tells of the changes since a revision, up to the last one.

        Raises CompactedError if that is how the watch ends.
        """
        told: list[Event] = []
        replies: SimpleQueue[Any] = SimpleQueue()
        (wire,) = self.client.store._wires.values()  # type: ignore[attr-defined]
        stream = wire.stream(WATCH, pb.WatchResponse, replies.put, timeout=None, metadata=())
        try:
            create = pb.WatchCreateRequest(
                key=prefix, range_end=range_end(prefix), start_revision=since, watch_id=1
            )
            stream.send(pb.WatchRequest(create_request=create))
            while not told or told[-1].revision < self.store.revision:
                reply = replies.get(timeout=DEADLINE)
                if reply.canceled:
                    raise CompactedError(reply.compact_revision)
                told += getattr(watch_reply(reply), "events", ())
        finally:
            stream.close()
        return told


def _said(ask: Callable[[Asked], Any], request: Asked) -> Any:
    """The answer, or the error; without the time, and what is in any order sorted."""
    try:
        answer = _timeless(ask(request))
    except StoreError as error:
        text = re.sub("^.*(etcdserver|memory): ", "", str(error))
        return type(error), text, error.may_have_happened
    if isinstance(request, ReadAll):
        answer = replace(answer, keys=tuple(sorted(answer.keys, key=lambda kv: kv.name)))
    return answer


def _timeless(answer: Any) -> Any:
    match answer:
        case Lifetime(ttl):
            return ttl
        case dict():
            return {name: _timeless(each) for name, each in answer.items()}
        case None | int() | Found():
            return answer
    return replace(answer, at=0.0)


@pytest.fixture
def etcd(own_etcd: Callable[..., Etcd]) -> Etcd:
    return own_etcd(fast=True)


@pytest.fixture
def pair(etcd: Etcd) -> Iterator[Pair]:
    with connect(etcd.endpoint) as client:
        yield Pair(client)


def _nested(one: bytes, other: bytes) -> bool:
    return one.startswith(other) or other.startswith(one)


class Asker:
    """Makes up requests: mostly about what is there, sometimes about what is not."""

    def __init__(self, store: State, seed: int) -> None:
        self._store = store
        self._random = random.Random(seed)
        self._brief = count(LEASES.stop + 1)

    def request(self) -> Asked:
        kinds: dict[Callable[[], Asked], int] = {
            self._grant: 5,
            self._keep_alive: 1,
            self._keep_alives: 1,
            self._revoke: 1,
            self._read: 3,
            self._get: 2,
            self._read_all: 3,
            self._enter: 4,
            self._join: 6,
            self._leave: 4,
            self._move: 4,
            self._transaction: 3,
            self.change: 4,
        }
        (kind,) = self._random.choices([*kinds], [*kinds.values()])
        return kind()

    def _grant(self) -> Grant:
        if self._random.randrange(4):
            return Grant(self._lease(), self._one_of([LONG] * 6 + [10**10]))
        # It ends while the test runs: nothing more is asked of it.
        return Grant(next(self._brief), self._one_of([-1, 0, 1]))

    def _keep_alive(self) -> KeepAlive:
        return KeepAlive(self._lease())

    def _keep_alives(self) -> KeepAlives:
        return KeepAlives(tuple(self._random.sample(LEASES, self._random.randint(1, 3))))

    def _revoke(self) -> Revoke:
        return Revoke(self._lease())

    def _read(self) -> Read:
        admission = self._one_of([MUTEX, MUTEX, semaphore(3), READER])
        return Read(lock_name(self._one_of(LOCKS), admission), self._one_of([0, 1, 2, 20]))

    def _get(self) -> Get:
        return Get(self._name(), self._beside())

    def _read_all(self) -> ReadAll:
        return ReadAll(self._one_of(PREFIXES))

    def _enter(self) -> Enter:
        lock, entry, admission, lease_id = self._asked()
        since = self._one_of([0, 0, self._store.revision, self._store.revision - 2])
        others = self._others(lock, lease_id) if admission is MUTEX else ()
        limit = admission.limit
        return Enter(lock, entry, self._value(), lease_id, limit, max(0, since), others)

    def _join(self) -> Join:
        lock, entry, admission, lease_id = self._asked()
        others = self._others(lock, lease_id) if admission is MUTEX else ()
        near = self._one_of([0, 1, 2, 4])
        return Join(lock, entry, self._value(), lease_id, near, others)

    def _others(self, lock: bytes, lease_id: int) -> tuple[tuple[bytes, bytes], ...]:
        """Another lock, none of the two within the other: what is put in one has no order there."""
        other = self._one_of([each for each in LOCKS if not _nested(each, lock)] or [None])
        taken = other and self._one_of([False, True])
        return ((other, entry_name(other, lease_id)),) if taken else ()

    def _asked(self) -> tuple[bytes, bytes, Admission, int]:
        """Whose rivals, which entry, how it is admitted, under which lease."""
        prefix, lease_id = self._one_of(LOCKS), self._lease()
        admission = self._one_of([MUTEX, MUTEX, semaphore(3), READER, WRITER])
        entry = entry_name(prefix + admission.part, lease_id)
        return rivals_name(prefix, admission), entry, admission, lease_id

    def _leave(self) -> Leave:
        name, token, _ = self._entry()
        return Leave(name, token, tuple(each for each in self._beside() if each != name))

    def _move(self) -> Move:
        name, token, lease_id = self._entry()
        others = tuple(each for each in self._beside() if each != name)
        return Move(name, self._value(), token, lease_id, self._lease(), others)

    def _beside(self) -> tuple[bytes, ...]:
        """An entry that may have been put with another."""
        return (self._entry()[0],) if self._random.random() < 0.3 else ()

    def _transaction(self) -> Transaction:
        """Mostly one that etcd takes: of what is one's own, and no key twice."""
        name, token, _ = self._entry()
        names = [self._one_of(OWN) for _ in range(self._random.randint(0, 3))]
        puts = {name: self._value() for name in names}
        deletes = [name for name in OWN if name not in puts or not self._random.randrange(20)]
        return Transaction(name, token, tuple(puts.items()), tuple(deletes[: len(names)]))

    def change(self) -> Change:
        # In an order that the seed decides, which that of a set is not.
        names = [*dict.fromkeys(self._name() for _ in range(self._random.randint(1, 3)))]
        # One put: what one transaction puts has the same age, among which etcd knows no order.
        number = self._random.randint(len(names) - 1, len(names))
        lease_ids = [0, 0, *(each for each in LEASES if each in self._store.leases)]
        puts = ((name, self._value(), self._one_of(lease_ids)) for name in names[number:])
        return Change(tuple(names[:number]), tuple(puts))

    def _name(self) -> bytes:
        there = [*self._store.keys] or OTHERS
        entry = entry_name(self._one_of(LOCKS), self._lease())
        return self._one_of([self._one_of(there), entry, self._one_of(OTHERS)])

    def _entry(self) -> tuple[bytes, int, int]:
        """A name, a token, and a lease: mostly as they are."""
        name = self._name()
        kv = self._store.keys.get(name)
        token, lease_id = (kv.create_revision, kv.lease_id) if kv else (1, 0)
        token = self._one_of([*[token] * 4, 1, self._store.revision])
        return name, token, self._one_of([*[lease_id] * 4, 0, *LEASES])

    def _value(self) -> bytes:
        return b"%d" % self._random.randrange(100)

    def _lease(self) -> int:
        return self._one_of(LEASES)

    def _one_of(self, some: Any) -> Any:
        return self._random.choice(some)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_store_answers_every_request_as_etcd_does(pair, seed):
    asker = Asker(pair.store, seed)
    for _ in range(REQUESTS):
        pair.both(asker.request())
    assert pair.store.revision > REQUESTS / 10


@pytest.mark.parametrize("seed", SEEDS)
def test_the_store_tells_of_the_changes_that_a_watch_tells_of(pair, seed):
    asker = Asker(pair.store, seed)
    for _ in range(REQUESTS // 3):
        pair.both(asker.request())
    pair.both(Change(puts=((b"foo/last", b"", 0),)))
    for since in (2, pair.store.revision // 2):
        assert pair.history(since) == list(pair.store.events(b"f", since))


def test_the_keys_of_a_lease_go_together(pair):
    pair.both(Grant(1, LONG))
    for name in (b"foo/3", b"foo/1", b"foo/2"):
        pair.both(Change(puts=((name, b"", 1),)))
    pair.both(Revoke(1))
    assert pair.history(2) == list(pair.store.events(b"f", 2))
    assert len({event.revision for event in pair.history(2) if event.kv is None}) == 1


def test_the_store_sees_as_much_of_many_nested_names_as_etcd_does(pair):
    pair.both(Grant(1, LONG))
    pair.both(Grant(2, LONG))
    for number in range(messages.OLDEST + 1):
        pair.both(Change(puts=((b"foo/%d/1" % number, b"", 1),)))
        pair.both(Read(b"foo/", 1))
        pair.both(Enter(b"foo/", b"foo/2", b"", 2))
        pair.both(Join(b"foo/", b"foo/2", b"", 2, near=2))
        pair.both(Join(b"foo/", b"foo/2", b"", 2, near=2))
        pair.both(Read(b"foo/", 1))
        pair.both(Change(deletes=(b"foo/2",)))


def test_the_store_puts_nothing_under_a_lease_that_is_not_there_as_etcd_does(pair):
    pair.both(Grant(1, LONG))
    pair.both(Enter(b"foo/", b"foo/9", b"", 9))
    pair.both(Join(b"foo/", b"foo/9", b"", 9, near=2))
    pair.both(Enter(b"foo/", b"foo/1", b"", 1))
    pair.both(Enter(b"foo/", b"foo/9", b"", 9))
    pair.both(Move(b"foo/1", b"", pair.store.revision, 1, 9))


def test_the_store_ends_a_lease_as_etcd_does(pair):
    """By the clock of the test; etcd looks for leases that ended twice a second."""
    for lease_id, ttl in ((1, 1), (2, 1), (3, LONG)):
        pair.both(Grant(lease_id, ttl))
    for lease_id in (1, 2, 3):
        pair.both(Change(puts=((b"foo/%d" % lease_id, b"", lease_id),)))
    pair.both(Change(puts=((b"foo/2", b"", 3),)))  # it has moved
    pair.store.pass_time(1)
    gone = Get(b"foo/1")
    assert not pair.store.apply(gone).keys
    assert eventually(lambda: not pair.ask_etcd(gone).keys, within=5)
    for request in (KeepAlive(1), Read(b"foo/"), Join(b"foo/", b"foo/1", b"", 1, near=0)):
        pair.both(request)
    assert pair.history(2) == list(pair.store.events(b"f", 2))


def test_the_store_forgets_as_etcd_does(pair, etcd):
    etcdctl = Etcdctl(etcd.endpoint)
    for number in range(6):
        pair.both(Change(puts=((b"foo/1", b"%d" % number, 0),)))
    etcdctl("compact", "4")
    pair.store.compact(4)
    pair.both(Read(b"foo/"))
    assert pair.history(4) == list(pair.store.events(b"f", 4))
    with pytest.raises(CompactedError) as told:
        pair.history(3)
    with pytest.raises(CompactedError) as meant:
        pair.store.events(b"f", 3)
    assert told.value.revision == meant.value.revision
