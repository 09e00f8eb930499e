"""What a lock of several keys promises beside what all locks do."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from random import Random
from typing import Any

import pytest
from kinds import LONG, MUTEX, PATIENCE, TTL, Nodes

from microlock import (
    AlreadyLockedError,
    KeyRequiredError,
    LockLostError,
    LockNotOwnedError,
    LossReason,
    Microlock,
    MultiLock,
    connect,
)
from microlock.core.keys import MAX_KEYS
from microlock.testing import MemoryStore


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    with MemoryStore() as store:
        yield store


@pytest.fixture
def nodes(store: MemoryStore) -> Nodes:
    return Nodes(store)


@pytest.fixture
def several(nodes: Nodes, store: MemoryStore) -> Any:
    """Makes locks: `several("a", "b")`."""

    def make(*keys: str, node_id: str = "many", **options: Any) -> MultiLock:
        lock = MultiLock(store.connect(), keys, node_id, **{"ttl": TTL} | options)
        nodes.locks.append(lock)
        return lock

    return make


@pytest.fixture
def mutex(nodes: Nodes) -> Any:
    """Makes mutexes: `mutex("a")`."""
    return lambda key, **options: nodes(MUTEX, key=key, **options)


def test_it_holds_the_mutex_of_each_key(several: Any, mutex: Any) -> None:
    hold = several("a", "b", "c").lock()
    for key in "abc":
        assert mutex(key).holder().token == hold.token
        with pytest.raises(AlreadyLockedError):
            mutex(key).lock()


def test_all_keys_are_given_back_in_one(several: Any, mutex: Any, store: MemoryStore) -> None:
    foo = several("a", "b", "c")
    foo.lock()
    before = store.backup().revision
    foo.unlock()
    after = store.backup()
    assert (after.revision, after.keys) == (before + 1, {})


def test_it_is_all_or_nothing(several: Any, mutex: Any, store: MemoryStore) -> None:
    mutex("c").lock()
    before = store.backup().revision
    with pytest.raises(AlreadyLockedError):
        several("a", "b", "c").lock()
    assert store.backup().revision == before
    assert mutex("a").lock()


def test_it_waits_until_all_keys_are_free(several: Any, mutex: Any, nodes: Nodes) -> None:
    one, two, foo = mutex("a"), mutex("b"), several("a", "b", "c")
    one.lock()
    two.lock()
    waiting = nodes.waits(foo)
    two.unlock()
    assert not waiting.done()
    one.unlock()
    assert waiting.result(PATIENCE)


def test_who_waits_for_all_keys_is_overtaken_at_none(
    several: Any, mutex: Any, nodes: Nodes
) -> None:
    mutex("a").lock()
    nodes.waits(several("a", "b"))
    with pytest.raises(AlreadyLockedError):
        mutex("b").lock()


def test_in_any_order_of_the_keys_they_do_not_wait_for_each_other(
    several: Any, nodes: Nodes
) -> None:
    ab, ba, foo = several("a", "b"), several("b", "a"), several("a", "b", "c")
    foo.lock()
    one, two = nodes.waits(ab), nodes.waits(ba)
    foo.unlock()
    one.result(PATIENCE)
    assert not two.done()
    ab.unlock()
    assert two.result(PATIENCE)


def test_keys_that_are_nested_in_one_another_are_taken_too(several: Any, mutex: Any) -> None:
    foo = several("a", "a/b", "a/b/c")
    token = foo.lock().token
    assert [mutex(key).holder().token for key in foo.keys] == [token] * 3
    foo.unlock()
    assert foo.lock(timeout=5).token > token


def test_the_loss_of_one_key_is_the_loss_of_all(
    several: Any, mutex: Any, store: MemoryStore
) -> None:
    foo = several("a", "b", "c", auto_renew=True)
    foo.lock()
    store.advance(0.2)  # from then on its entries are watched
    (gone,) = (name for name in store.backup().keys if name.startswith(b"b/"))
    store._memory.change(lambda state: state.delete(gone))
    store.advance(0)
    assert (foo.held, foo.lost_reason) == (False, LossReason.DELETED)
    assert [mutex(key).holder() for key in "abc"] == [None] * 3


@pytest.mark.parametrize("key", ["a", "b", "c"])
def test_renewing_it_looks_at_each_key(several: Any, store: MemoryStore, key: str) -> None:
    foo = several("a", "b", "c")
    foo.lock()
    (gone,) = (name for name in store.backup().keys if name.startswith(key.encode()))
    store._memory.change(lambda state: state.delete(gone))
    with pytest.raises(LockLostError):
        foo.renew()
    assert store.backup().keys == {}


@pytest.mark.parametrize("key", ["a", "b", "c"])
@pytest.mark.parametrize("call", ["extend", "unlock"])
def test_a_call_that_finds_a_key_gone_ends_the_others(
    several: Any, store: MemoryStore, call: str, key: str
) -> None:
    foo = several("a", "b", "c")
    foo.lock()
    (gone,) = (name for name in store.backup().keys if name.startswith(key.encode()))
    store._memory.change(lambda state: state.delete(gone))
    with pytest.raises(LockLostError):
        foo.unlock() if call == "unlock" else foo.extend(LONG)
    assert store.backup().keys == {}


@pytest.mark.parametrize("key", ["a", "b"])
def test_a_write_is_refused_once_one_key_is_gone(
    several: Any, store: MemoryStore, key: str
) -> None:
    client, foo = store.connect(), several("a", "b")
    foo.lock()
    guard = foo.guard()
    client.transaction(guard, put={"done": "1"})
    (gone,) = (name for name in store.backup().keys if name.startswith(key.encode() + b"/"))
    store._memory.change(lambda state: state.delete(gone))
    with pytest.raises(LockLostError):
        client.transaction(guard, put={"done": "2"})
    assert store.get("done") == b"1"


def test_extending_it_extends_all_keys(several: Any, mutex: Any, store: MemoryStore) -> None:
    foo = several("a", "b")
    token = foo.lock().token
    foo.extend(LONG)
    store.advance(2 * TTL)
    assert [mutex(key).holder().token for key in "ab"] == [token] * 2


def test_a_node_that_restarts_goes_on_only_if_it_has_all_keys(
    several: Any, mutex: Any, store: MemoryStore
) -> None:
    token = several("a", "b", node_id="me").lock().token
    with pytest.raises(LockNotOwnedError):
        several("a", "b", "c", node_id="me").renew()
    again = several("b", "a", node_id="me")
    again.renew()
    assert again.token == token
    again.unlock()
    assert store.backup().keys == {}


def test_a_key_that_is_named_twice_counts_once(several: Any) -> None:
    foo = several("a", "b", "a")
    assert foo.keys == ("a", "b")
    assert foo.lock()


def test_one_key_is_enough(several: Any, mutex: Any) -> None:
    foo = several("a")
    assert foo.lock().token == mutex("a").holder().token
    assert foo.key == "a"


@pytest.mark.parametrize("keys", ["a", b"a", 1, None, [], [""], ["a", 1], ["a\0b"]])
def test_keys_are_several_names(store: MemoryStore, keys: Any) -> None:
    with pytest.raises(KeyRequiredError):
        MultiLock(store.connect(), keys, "me")


def test_more_keys_than_a_transaction_takes_are_refused_before_anything_is_sent(
    several: Any,
) -> None:
    with pytest.raises(KeyRequiredError, match=rf"1 to {MAX_KEYS} different names"):
        several(*map(str, range(MAX_KEYS + 1)))


def test_so_many_keys_are_taken(several: Any) -> None:
    foo = several(*map(str, range(MAX_KEYS)))
    foo.lock()
    foo.extend(LONG)
    foo.renew()
    foo.unlock()
    assert foo.lock(timeout=5)


def test_each_place_is_told_once(several: Any, nodes: Nodes) -> None:
    foo, next_one = several("a", "b"), several("b", "c")
    token = foo.lock().token
    nodes.waits(next_one)
    assert [each.token for each in next_one.holders()] == [token]
    assert len(next_one.waiters()) == 1


def test_events_tell_of_each_key(several: Any, mutex: Any, store: MemoryStore) -> None:
    told: list[tuple[str, str]] = []
    foo = several("a", "b")
    for name in ("locked", "unlocked"):
        foo.on(name, lambda event: told.append((event.name, event.key)))
    one = mutex("b")
    one.lock()
    one.unlock()
    foo.lock()
    store.advance(0)
    assert told[:2] == [("locked", "b"), ("unlocked", "b")]
    assert sorted(told[2:]) == [("locked", "a"), ("locked", "b")]


@pytest.mark.parametrize("seed", range(3))
def test_any_number_of_them_goes_on_and_excludes_who_shares_a_key(seed: int) -> None:
    random, holding, wrong = Random(seed), list[set[str]](), list[object]()
    with connect("memory://") as etcd, ThreadPoolExecutor(8) as pool:

        def work(number: int) -> None:
            for _ in range(10):
                keys = random.sample("abcd", random.randint(1, 3))
                kind: Any = Microlock if len(keys) == 1 else MultiLock
                with kind(etcd, keys[0] if len(keys) == 1 else keys, f"{number}", ttl=LONG):
                    wrong.extend(each for each in holding if each & set(keys))
                    holding.append(set(keys))
                    holding.remove(set(keys))

        done, others = wait([pool.submit(work, number) for number in range(8)], timeout=30)
        assert not others
        for each in done:
            each.result()
    assert not wrong
