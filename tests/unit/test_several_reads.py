"""What is read from etcd in several requests, as of one moment: many entries, and not the values of
other keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from shared_etcd import Store

from microlock.core.port import Get, Grant, KeyValue, ReadAll, Transaction
from microlock.engine.drive import finished
from microlock.errors import StoreError
from microlock.etcd import messages, several_reads
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.several_reads import ENTRIES, read


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
        assert method == messages.RANGE
        return self._range(message)

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


def answer(etcd: Etcd, request: Any) -> Any:
    async def ask(*asked: Any) -> Any:
        return etcd(*asked)

    return finished(read, request, ask)


def there(etcd: Etcd, prefix: bytes = b"") -> dict[bytes, bytes]:
    """The nodes, by their entries."""
    return {kv.name: kv.value for kv in answer(etcd, ReadAll(prefix)).keys}


def asked_for(etcd: Etcd) -> list[tuple[bytes, bytes]]:
    """The ranges whose values were read."""
    return [(each.key, each.range_end) for each in etcd.asked if not each.keys_only]


def test_all_entries_are_told_with_their_values(store):
    foo, bar = store.enter("alpha"), store.enter("beta", key="foo/bar")
    more = store.enter("gamma")
    assert there(Etcd(store)) == {foo: b"alpha", bar: b"beta", more: b"gamma"}


def test_no_lock_costs_one_read(store):
    etcd = Etcd(store)
    assert there(etcd) == {}
    assert len(etcd.asked) == 1


def test_values_are_read_of_entries_alone(store):
    first, second = sorted((store.enter("alpha"), store.enter("beta")))
    third = store.enter("gamma", key="foo2")
    for name in (b"data", b"foo/data", b"foo0", b"foo1/1"):
        store.put(name, b"a large value")
    etcd = Etcd(store)
    assert there(etcd).keys() == {first, second, third}
    assert asked_for(etcd) == [(first, second + b"\0"), (third, third + b"\0")]


def entries(store: Store, count: int) -> list[bytes]:
    store.apply(Grant(1, 60))
    names = [b"lock-%04d/1" % number for number in range(count)]
    for name in names:
        store.put(name, b"alpha", 1)
    return names


@pytest.mark.parametrize("page", [several_reads.PAGE, 7])
@pytest.mark.parametrize("more", [0, 1])
def test_entries_that_follow_each_other_are_read_together_but_not_too_many(
    store, monkeypatch, page, more
):
    monkeypatch.setattr(several_reads, "PAGE", page)
    names = entries(store, ENTRIES + more)
    etcd = Etcd(store)
    assert [*there(etcd)] == names
    runs = [names[:ENTRIES], names[ENTRIES:]][: 1 + more]
    assert asked_for(etcd) == [(run[0], run[-1] + b"\0") for run in runs]


def test_names_are_read_a_page_at_a_time(store, monkeypatch):
    monkeypatch.setattr(several_reads, "PAGE", 3)
    made = [store.enter("alpha", f"lock-{number}") for number in range(7)]
    etcd = Etcd(store)
    assert [*there(etcd)] == made
    pages = [each for each in etcd.asked if each.keys_only]
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


# Several entries, by their names.


def test_entries_of_several_locks_are_told_as_of_one_revision(store):
    foo, bar = store.enter("alpha"), store.enter("beta", key="bar")
    before = store.revision
    found = answer(Etcd(store, between=lambda: store.remove(bar)), Get(foo, (b"none", bar)))
    assert [kv.name for kv in found.keys] == [foo, bar]
    assert found.revision == before


def test_they_are_read_again_if_etcd_forgets_that_moment_meanwhile(store):
    foo, bar = store.enter("alpha"), store.enter("beta", key="bar")

    def forget() -> None:
        store.remove(bar)
        store.compact(store.revision)

    found = answer(Etcd(store, between=forget), Get(foo, (bar,)))
    assert [kv.name for kv in found.keys] == [foo]
    assert found.revision == store.revision


def test_a_transaction_that_changes_nothing_tells_whether_all_entries_stand(store):
    store.apply(Grant(1, 60))
    store.change((b"bar/1", b"alpha", 1), (b"foo/1", b"alpha", 1))
    token = store.revision
    nothing = Transaction(b"foo/1", token, (), (), (b"bar/1",))
    assert answer(Etcd(store), nothing) == token
    store.put(b"data", b"")
    assert answer(Etcd(store), nothing) == token + 1
    store.delete(b"bar/1")
    assert answer(Etcd(store), nothing) is None
    store.put(b"bar/1", b"alpha", 1)
    assert answer(Etcd(store), nothing) is None
