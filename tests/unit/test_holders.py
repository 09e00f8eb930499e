"""Who holds each lock of many: read from etcd without the values of all keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from shared_etcd import Store

from microlock.core.port import Grant
from microlock.engine.drive import finished
from microlock.etcd import messages
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.holders import MAX_OPERATIONS, holders


class Etcd:
    """The reads of etcd's API, of what a store holds.

    Attributes:
        asked: the requests, in their order.
        between: what happens before the second one.
    """

    def __init__(self, store: Store, between: Callable[[], object] = lambda: None) -> None:
        self.store = store
        self.asked: list[Any] = []
        self.between = between

    def __call__(self, method: str, message: Any, kind: type[Any]) -> Any:
        if len(self.asked) == 1:
            self.between()
        self.asked.append(message)
        if method == messages.RANGE:
            return self._range(message)
        assert not message.compare
        each = [self._range(part.request_range) for part in message.success]
        return pb.TxnResponse(succeeded=True, responses=[{"response_range": r} for r in each])

    def _range(self, request: Any) -> Any:
        start, end = request.key, request.range_end or request.key + b"\0"
        kvs = [
            pb.KeyValue(
                key=kv.name,
                value=b"" if request.keys_only else kv.value,
                create_revision=kv.create_revision,
                lease=kv.lease_id,
            )
            for _, kv in sorted(self.store.keys.items())
            if start <= kv.name and (kv.name < end or end == b"\0")
        ]
        return pb.RangeResponse(header={"revision": self.store.revision}, kvs=kvs)


@pytest.fixture
def store() -> Store:
    return Store()


def held(etcd: Etcd, prefix: bytes = b"") -> dict[bytes, bytes]:
    """The nodes that hold, by the entry."""

    async def ask(*asked: Any) -> Any:
        return etcd(*asked)

    return {kv.name: kv.value for kv in finished(holders, prefix, ask).keys}


def test_the_oldest_entry_of_each_lock_is_told_with_its_value(store):
    foo, bar = store.enter("alpha"), store.enter("beta", key="foo/bar")
    store.enter("gamma")
    assert held(Etcd(store)) == {foo: b"alpha", bar: b"beta"}


def test_no_lock_costs_one_read(store):
    etcd = Etcd(store)
    assert held(etcd) == {}
    assert len(etcd.asked) == 1


def test_values_are_read_of_the_oldest_entries_alone(store):
    foo = store.enter("alpha")
    store.enter("beta")
    store.put(b"data", b"a large value")
    etcd = Etcd(store)
    held(etcd)
    names, values = etcd.asked
    assert names.keys_only
    assert [part.request_range for part in values.success] == [pb.RangeRequest(key=foo)]


@pytest.mark.parametrize(
    ("locks", "sizes"),
    [(MAX_OPERATIONS, [MAX_OPERATIONS]), (MAX_OPERATIONS + 1, [MAX_OPERATIONS, 1])],
)
def test_no_transaction_has_more_reads_than_etcd_takes(store, locks, sizes):
    store.apply(Grant(1, 60))
    for number in range(locks):
        store.put(b"lock-%d/1" % number, b"alpha", 1)
    etcd = Etcd(store)
    assert len(held(etcd)) == locks
    assert [len(each.success) for each in etcd.asked[1:]] == sizes


@pytest.mark.parametrize("prefix", [b"foo/", b"fo", b"foo"])
def test_a_lock_whose_key_begins_otherwise_is_not_told(store, prefix):
    foo, nested = store.enter("alpha"), store.enter("beta", key="foo/bar")
    store.enter("gamma", key="f")
    told = {nested} if prefix == b"foo/" else {foo, nested}
    assert held(Etcd(store), prefix).keys() == told


def test_who_holds_is_told_where_the_oldest_entry_vanishes_meanwhile(store):
    alpha, beta = store.enter("alpha"), store.enter("beta")
    other = store.enter("gamma", key="other")
    etcd = Etcd(store, between=lambda: store.remove(alpha))
    assert held(etcd) == {beta: b"beta", other: b"gamma"}


def test_who_came_meanwhile_is_told_where_all_vanish_that_were_there(store):
    alpha = store.enter("alpha")
    came = []

    def hand_over() -> None:
        came.append(store.enter("beta"))
        store.remove(alpha)

    assert held(Etcd(store, between=hand_over)) == dict.fromkeys(came, b"beta")


def test_a_lock_that_becomes_free_meanwhile_is_not_told(store):
    alpha = store.enter("alpha")
    assert held(Etcd(store, between=lambda: store.remove(alpha))) == {}


def test_an_entry_put_anew_meanwhile_does_not_stand_before_those_older_by_then(store):
    alpha, beta = store.enter("alpha"), store.enter("beta")
    lease_id = store.keys[alpha].lease_id

    def put_anew() -> None:
        store.delete(alpha)
        store.put(alpha, b"alpha", lease_id)

    assert held(Etcd(store, between=put_anew)) == {beta: b"beta"}


def test_an_entry_put_again_without_its_lease_meanwhile_holds_nothing(store):
    alpha, beta = store.enter("alpha"), store.enter("beta")
    assert held(Etcd(store, between=lambda: store.put(alpha, b"alpha"))) == {beta: b"beta"}
