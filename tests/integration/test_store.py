"""The store in memory answers as etcd does: the same requests to both, one after the other."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import Etcd
from ctl import Etcdctl
from store import CompactedError, Memory
from watching import eventually

from microlock import EtcdClient, connect
from microlock.core.keys import range_end
from microlock.core.port import (
    CreatedAt,
    Delete,
    Empty,
    Event,
    Get,
    Grant,
    KeepAlive,
    KeepAlives,
    Lifetime,
    Outcome,
    Put,
    Read,
    Request,
    Revoke,
    Txn,
    UnderLease,
)
from microlock.errors import StoreError
from microlock.etcd import messages
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.client import Budget

LONG = 60  # seconds; no test takes so long
SEEDS = range(5)
REQUESTS = 300  # of each seed
NAMES = [b"foo/1", b"foo/2", b"foo/3", b"foo/bar/1", b"foo/bar/2", b"fop"]
PREFIXES = [*[b"f", b"foo/", b"foo/bar/", b"fop", b"g"] * 9, b""]
LEASES = range(1, 6)


class Pair:
    """The store and an etcd of its own, where nothing happened before."""

    def __init__(self, client: EtcdClient) -> None:
        self.client = client
        floor = self.ask_etcd(Grant(LEASES.stop, 0)).ttl
        self.store = Memory(floor=floor)
        self.store.apply(Grant(LEASES.stop, 0))

    def ask_etcd(self, request: Request) -> Any:
        return self.client.perform(request, Budget.of(10))

    def both(self, request: Request) -> Any:
        """What both answer. Fails if they don't agree."""
        said, meant = _said(self.ask_etcd, request), _said(self.store.apply, request)
        assert said == meant, f"to {request}"
        return meant

    def history(self, since: int, prefix: bytes = b"f") -> list[Event]:
        """What a watch of etcd tells of the changes since a revision, up to the last one.

        Raises CompactedError if that is how the watch ends.
        """
        told: list[Event] = []
        stream, _ = self.client.open_watch()
        try:
            create = pb.WatchCreateRequest(
                key=prefix, range_end=range_end(prefix), start_revision=since, watch_id=1
            )
            stream.send(pb.WatchRequest(create_request=create))
            while not told or told[-1].revision < self.store.revision:
                reply = stream.receive()
                if reply.canceled:
                    raise CompactedError(reply.compact_revision)
                told += map(messages.event, reply.events)
        finally:
            stream.close()
        return told


def _said(ask: Callable[[Request], Any], request: Request) -> Any:
    """The answer, or the error; without the time."""
    try:
        return _timeless(ask(request))
    except StoreError as error:
        text = str(error).rpartition("etcdserver: ")[2]
        return type(error), text, error.may_have_happened


def _timeless(answer: Any) -> Any:
    match answer:
        case Lifetime(ttl):
            return ttl
        case Outcome(succeeded, revision, keys, _, repeated):
            return succeeded, revision, keys, repeated
        case dict():
            return {name: _timeless(each) for name, each in answer.items()}
    return answer


@pytest.fixture
def etcd(own_etcd: Callable[..., Etcd]) -> Etcd:
    return own_etcd(fast=True)


@pytest.fixture
def pair(etcd: Etcd) -> Iterator[Pair]:
    with connect(etcd.endpoint) as client:
        yield Pair(client)


class Asker:
    """Makes up requests: mostly about what is there, sometimes about what is not."""

    def __init__(self, store: Memory, seed: int) -> None:
        self._store = store
        self._random = random.Random(seed)

    def request(self) -> Request:
        kinds: dict[Callable[[], Request], int] = {
            self._grant: 5,
            self._keep_alive: 1,
            self._keep_alives: 1,
            self._revoke: 1,
            self._read: 3,
            self._get: 2,
            self._txn: 14,
        }
        (kind,) = self._random.choices([*kinds], [*kinds.values()])
        return kind()

    def _grant(self) -> Grant:
        return Grant(self._lease(), self._one_of([LONG] * 6 + [-1, 0, 1, 10**10]))

    def _keep_alive(self) -> KeepAlive:
        return KeepAlive(self._lease())

    def _keep_alives(self) -> KeepAlives:
        return KeepAlives(tuple(self._random.sample(LEASES, self._random.randint(1, 3))))

    def _revoke(self) -> Revoke:
        return Revoke(self._lease())

    def _read(self) -> Read:
        return Read(
            self._one_of(PREFIXES), self._one_of([0, 1, 2, 16]), newest=self._one_of([False, True])
        )

    def _get(self) -> Get:
        return Get(self._one_of([*NAMES * 9, b""]))

    def _txn(self) -> Txn:
        return Txn(
            tuple(self._guard() for _ in range(self._one_of([0, 0, 0, 1, 1, 2]))),
            tuple(self._write() for _ in range(self._one_of([1, 1, 1, 2, 2, 3, 0]))),
            tuple(self._look() for _ in range(self._one_of([0, 1, 2]))),
        )

    def _guard(self) -> Empty | CreatedAt | UnderLease:
        name = self._one_of(NAMES)
        there = self._store.keys.get(name)
        guards = [
            Empty(self._one_of(PREFIXES)),
            CreatedAt(name, there.create_revision if there else 0),
            CreatedAt(name, self._one_of([0, 1, self._store.revision])),
            UnderLease(name, there.lease_id if there else 0),
            UnderLease(name, self._one_of([0, *LEASES])),
        ]
        return self._one_of(guards)

    def _write(self) -> Put | Delete | Read:
        name = self._one_of(NAMES)
        put = Put(name, b"%d" % self._random.randrange(100), self._one_of([0, *LEASES]))
        return self._one_of([put, put, put, Delete(name), Delete(name), self._read()])

    def _look(self) -> Read | Get:
        return self._one_of([self._read(), self._get()])

    def _lease(self) -> int:
        return self._one_of(LEASES)

    def _one_of(self, some: Any) -> Any:
        return self._random.choice(some)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_store_answers_every_request_as_etcd_does(pair, seed):
    asker = Asker(pair.store, seed)
    for _ in range(REQUESTS):
        pair.both(asker.request())
    assert pair.store.revision > REQUESTS / 6


@pytest.mark.parametrize("seed", SEEDS)
def test_the_store_tells_of_the_changes_that_a_watch_tells_of(pair, seed):
    asker = Asker(pair.store, seed)
    for _ in range(REQUESTS // 3):
        pair.both(asker.request())
    pair.both(Txn((), (Put(b"foo/last", b"", 0),)))
    for since in (2, pair.store.revision // 2):
        assert pair.history(since) == list(pair.store.events(b"f", since))


def test_the_keys_of_a_lease_go_together(pair):
    pair.both(Grant(1, LONG))
    for name in (b"foo/3", b"foo/1", b"foo/2"):
        pair.both(Txn((), (Put(name, b"", 1),)))
    pair.both(Revoke(1))
    assert pair.history(2) == list(pair.store.events(b"f", 2))
    assert len({event.revision for event in pair.history(2) if event.kv is None}) == 1


def test_the_store_refuses_a_transaction_as_etcd_does(pair):
    pair.both(Grant(1, LONG))
    first, second = Put(b"foo/1", b"", 1), Put(b"foo/2", b"", 1)
    homeless = Put(b"foo/3", b"", 99)
    never = (CreatedAt(b"foo/1", 99),)
    for txn in [
        Txn((), (first, homeless)),
        Txn(never, (homeless,)),
        Txn(never, (first, first)),
        Txn((), (first, Delete(b"foo/1"))),
        Txn((), (Delete(b"foo/1"), first)),
        Txn((), (Delete(b"foo/1"), Delete(b"foo/1"))),
        Txn((), (first, second, Delete(b"foo/3"), Read(b"foo/"))),
        Txn((), (Delete(b"foo/2"), Read(b"foo/"), Delete(b"foo/2"))),
        Txn((), (Put(b"", b"", 0),)),
        Txn((Empty(b""),), ()),
        Txn((), tuple(Put(b"%d" % n, b"", 0) for n in range(128))),
        Txn((), tuple(Put(b"%d" % n, b"", 0) for n in range(129))),
        Txn((), ()),
    ]:
        pair.both(txn)


def test_the_store_ends_a_lease_as_etcd_does(pair):
    """By the clock of the test; etcd looks for leases that ended twice a second."""
    for lease_id, ttl in ((1, 1), (2, 1), (3, LONG)):
        pair.both(Grant(lease_id, ttl))
    for lease_id in (1, 2, 3):
        pair.both(Txn((), (Put(b"foo/%d" % lease_id, b"", lease_id),)))
    pair.both(Txn((), (Put(b"foo/2", b"", 3),)))  # it has moved
    pair.store.pass_time(1)
    gone = Get(b"foo/1")
    assert not pair.store.apply(gone).keys
    assert eventually(lambda: not pair.ask_etcd(gone).keys, within=5)
    for request in (KeepAlive(1), Read(b"foo/"), Txn((), (Put(b"foo/1", b"", 1),))):
        pair.both(request)
    assert pair.history(2) == list(pair.store.events(b"f", 2))


def test_the_store_forgets_as_etcd_does(pair, etcd):
    etcdctl = Etcdctl(etcd.endpoint)
    for number in range(6):
        pair.both(Txn((), (Put(b"foo/1", b"%d" % number, 0),)))
    etcdctl("compact", "4")
    pair.store.compact(4)
    pair.both(Read(b"foo/"))
    assert pair.history(4) == list(pair.store.events(b"f", 4))
    with pytest.raises(CompactedError) as told:
        pair.history(3)
    with pytest.raises(CompactedError) as meant:
        pair.store.events(b"f", 3)
    assert told.value.revision == meant.value.revision
