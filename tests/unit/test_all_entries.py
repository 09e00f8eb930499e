"""All entries of many locks: read from etcd without the values of all keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from shared_etcd import Store

from microlock.core.port import Grant, KeyValue
from microlock.engine.drive import finished
from microlock.errors import StoreError
from microlock.etcd import all_entries, messages
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.all_entries import MAX_OPERATIONS, read_all


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
        self._kept: dict[int, dict[bytes, KeyValue]] = {}

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
        found = [
            pb.KeyValue(
                key=kv.name,
                value=b"" if request.keys_only else kv.value,
                create_revision=kv.create_revision,
                lease=kv.lease_id,
            )
            for _, kv in sorted(self._as_of(request.revision).items())
            if start <= kv.name and (kv.name < end or end == b"\0")
        ]
        shown = found[: request.limit or None]
        header = {"revision": self.store.revision}
        return pb.RangeResponse(header=header, kvs=shown, more=len(found) > len(shown))

    def _as_of(self, revision: int) -> dict[bytes, KeyValue]:
        if 0 < revision < self.store.compacted:
            raise StoreError("etcdserver: mvcc: required revision has been compacted")
        self._kept.setdefault(self.store.revision, dict(self.store.keys))
        return self._kept[revision or self.store.revision]


@pytest.fixture
def store() -> Store:
    return Store()


def there(etcd: Etcd, prefix: bytes = b"") -> dict[bytes, bytes]:
    """The nodes, by their entries."""

    async def ask(*asked: Any) -> Any:
        return etcd(*asked)

    return {kv.name: kv.value for kv in finished(read_all, prefix, ask).keys}


def test_all_entries_are_told_with_their_values(store):
    foo, bar = store.enter("alpha"), store.enter("beta", key="foo/bar")
    more = store.enter("gamma")
    assert there(Etcd(store)) == {foo: b"alpha", bar: b"beta", more: b"gamma"}


def test_no_lock_costs_one_read(store):
    etcd = Etcd(store)
    assert there(etcd) == {}
    assert len(etcd.asked) == 1


def test_values_are_read_of_entries_alone(store):
    foo = store.enter("alpha")
    store.put(b"data", b"a large value")
    etcd = Etcd(store)
    there(etcd)
    names, values = etcd.asked
    assert names.keys_only
    assert [part.request_range.key for part in values.success] == [foo]


@pytest.mark.parametrize(
    ("locks", "sizes"),
    [(MAX_OPERATIONS, [MAX_OPERATIONS]), (MAX_OPERATIONS + 1, [MAX_OPERATIONS, 1])],
)
def test_no_transaction_has_more_reads_than_etcd_takes(store, locks, sizes):
    store.apply(Grant(1, 60))
    for number in range(locks):
        store.put(b"lock-%d/1" % number, b"alpha", 1)
    etcd = Etcd(store)
    assert len(there(etcd)) == locks
    assert [len(each.success) for each in etcd.asked[1:]] == sizes


def test_names_are_read_a_page_at_a_time(store, monkeypatch):
    monkeypatch.setattr(all_entries, "PAGE", 3)
    made = [store.enter("alpha", f"lock-{number}") for number in range(7)]
    etcd = Etcd(store)
    assert [*there(etcd)] == made
    pages = [each for each in etcd.asked if isinstance(each, pb.RangeRequest)]
    assert [each.revision for each in pages] == [0, store.revision, store.revision]


@pytest.mark.parametrize("prefix", [b"foo/", b"fo", b"foo"])
def test_a_lock_whose_key_does_not_go_on_after_the_prefix_is_not_told(store, prefix):
    foo, nested = store.enter("alpha"), store.enter("beta", key="foo/bar")
    store.enter("gamma", key="f")
    assert there(Etcd(store), prefix).keys() == ({foo, nested} if prefix == b"fo" else {nested})


def test_what_changes_meanwhile_is_told_as_it_was(store):
    alpha, beta = store.enter("alpha"), store.enter("beta")

    def hand_over() -> None:
        store.enter("gamma")
        store.remove(alpha)

    assert there(Etcd(store, between=hand_over)) == {alpha: b"alpha", beta: b"beta"}


def test_all_is_read_again_if_etcd_forgets_that_moment_meanwhile(store):
    alpha, beta = store.enter("alpha"), store.enter("beta")

    def forget() -> None:
        store.remove(alpha)
        store.compact(store.revision)

    assert there(Etcd(store, between=forget)) == {beta: b"beta"}


def test_what_etcd_refuses_is_not_asked_for_again(store):
    store.enter("alpha")

    def refuse() -> None:
        raise StoreError("no")

    with pytest.raises(StoreError, match="no"):
        there(Etcd(store, between=refuse))
