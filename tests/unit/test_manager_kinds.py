"""What a `LockManager` does with holds of every kind, in both faces: on a store in memory."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kinds import KINDS, LIMIT, LONG, Kind, Nodes

import microlock
import microlock.asyncio
from microlock import Holder, InvalidArgumentError, KeyRequiredError, LockNotOwnedError
from microlock.testing import MemoryStore

TTL = 60


class Manager:
    """One of threads, or one of tasks whose calls are made to their end.

    Args:
        face: the module.
    """

    def __init__(self, store: MemoryStore, face: Any) -> None:
        self._store = store
        self._face = face

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            manager = self._face.LockManager(self._store.connect(), "an operator", prefix="app/")
            made = getattr(manager, name)(*arguments, **options)
            return asyncio.run(_awaited(made)) if inspect.isawaitable(made) else made

        return call


async def _awaited(made: Any) -> Any:
    return await made


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    with MemoryStore() as store:
        yield store


@pytest.fixture
def nodes(store: MemoryStore) -> Nodes:
    return Nodes(store)


@pytest.fixture(params=[microlock, microlock.asyncio], ids=["threads", "tasks"])
def manager(request: pytest.FixtureRequest, store: MemoryStore) -> Manager:
    return Manager(store, request.param)


@pytest.fixture(params=KINDS.values(), ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    made: Kind = request.param
    return made


def taken(nodes: Nodes, kind: Kind | str, **options: Any) -> Any:
    lock = nodes(kind, key="app/foo", ttl=TTL, **options)
    lock.lock()
    return lock


def named(kind: Kind) -> dict[str, Any]:
    """How a manager is told of a hold of this kind, beside its token."""
    names = ["foo", *("foo" + each for each in kind.more)]
    return {"name": names if kind.more else "foo", "limit": max(kind.arguments, default=1)}


def test_locks_tells_who_holds_and_who_waits_of_every_kind(
    kind: Kind, manager: Manager, nodes: Nodes
) -> None:
    first = taken(nodes, kind)
    last = nodes("WriteLock" if kind.rival == "WriteLock" else kind, key="app/foo")
    if kind.name == "Semaphore":
        for _ in range(LIMIT - 1):
            taken(nodes, kind)
    nodes.waits(last)
    told = {each.name: each for each in manager.locks()}
    assert [*told] == sorted(["foo", *("foo" + each for each in kind.more)])
    for each in told.values():
        assert each.kind == ("queue" if kind.rival == kind.name else "readers/writers")
        assert each.holders[0] == manager.holder(each.name)
        assert each.holders[0].token == first.token
        assert each.waiters[-1] == last.waiters()[-1]


def test_locks_tells_readers_from_writers(manager: Manager, nodes: Nodes) -> None:
    for _ in range(2):
        taken(nodes, "ReadLock")
    nodes.waits(nodes("WriteLock", key="app/foo"))
    (foo,) = manager.locks()
    assert [each.role for each in foo.holders] == ["reader", "reader"]
    assert [each.role for each in foo.waiters] == ["writer"]


def test_remaining_is_what_the_lease_of_a_holder_has_left(
    manager: Manager, nodes: Nodes, store: MemoryStore
) -> None:
    taken(nodes, "Microlock")
    holder = manager.holder("foo")
    assert manager.remaining(holder) == TTL
    store.advance(10)
    assert manager.remaining(holder) == TTL - 10
    store.advance(TTL)
    assert manager.remaining(holder) == 0.0


def test_a_hold_of_every_kind_is_given_back_by_its_token(
    kind: Kind, manager: Manager, nodes: Nodes, store: MemoryStore
) -> None:
    lock = taken(nodes, kind)
    store.advance(1)  # from then on it is watched
    manager.release(token=lock.token, **named(kind))
    store.advance(0)
    assert lock.lost_reason is microlock.LossReason.DELETED
    assert manager.locks() == []


def test_a_hold_of_every_kind_is_extended_by_its_token(
    kind: Kind, manager: Manager, nodes: Nodes, store: MemoryStore
) -> None:
    lock = taken(nodes, kind)
    token = lock.token
    assert manager.extend(token=token, ttl=LONG, **named(kind)) > LONG - 10
    store.advance(TTL + 1)
    told = manager.locks()
    assert {each.holders[0].token for each in told} == {token}
    assert len(told) == kind.entries


def test_a_hold_of_every_kind_is_broken(kind: Kind, manager: Manager, nodes: Nodes) -> None:
    lock = taken(nodes, kind)
    holder = manager.holder("foo")
    assert holder.token == lock.token
    assert manager.break_lock("foo") == holder
    assert manager.holder("foo") is None


def test_each_who_holds_a_semaphore_gives_back_its_own_hold(manager: Manager, nodes: Nodes) -> None:
    one, two, three = (taken(nodes, "Semaphore") for _ in range(3))
    manager.release("foo", two.token, limit=LIMIT)
    assert [each.token for each in one.holders()] == [one.token, three.token]


def test_who_waits_for_a_semaphore_is_no_holder(manager: Manager, nodes: Nodes) -> None:
    locks = [taken(nodes, "Semaphore") for _ in range(3)]
    nodes.waits(nodes("Semaphore", key="app/foo"))
    waiting = locks[0].waiters()[0].token
    with pytest.raises(LockNotOwnedError):
        manager.release("foo", waiting, limit=LIMIT)
    with pytest.raises(LockNotOwnedError):
        manager.extend("foo", waiting, LONG, limit=LIMIT)
    with pytest.raises(LockNotOwnedError) as raised:
        manager.release("foo", locks[1].token)  # as a mutex it is the second in the queue
    assert raised.value.holder.token == locks[0].token


def test_several_keys_are_given_back_only_by_whoever_holds_all(
    manager: Manager, nodes: Nodes
) -> None:
    lock = taken(nodes, "Microlock")
    for names in (["foo", "bar"], ["bar", "foo"]):
        with pytest.raises(LockNotOwnedError):
            manager.release(names, lock.token)
    assert lock.held


def test_a_reader_that_waits_gives_back_nothing(manager: Manager, nodes: Nodes) -> None:
    writer = taken(nodes, "WriteLock")
    nodes.waits(nodes("ReadLock", key="app/foo"))
    waiting = writer.waiters()[0].token
    with pytest.raises(LockNotOwnedError) as raised:
        manager.release("foo", waiting)
    assert raised.value.holder.role == "writer"


@pytest.mark.parametrize("bad", [None, 7, "foo", Holder])
def test_remaining_is_asked_of_a_holder(bad: object, manager: Manager) -> None:
    with pytest.raises(InvalidArgumentError, match="holder must be a Holder, not "):
        manager.remaining(bad)


@pytest.mark.parametrize("bad", [None, 7, b"foo", [], [""], ["foo", 1]])
def test_what_is_no_name_is_refused(bad: object, manager: Manager) -> None:
    with pytest.raises(KeyRequiredError):
        manager.release(bad, 1)
    with pytest.raises(KeyRequiredError):
        manager.extend(bad, 1, 1)


def test_a_limit_of_none_is_refused(manager: Manager) -> None:
    with pytest.raises(InvalidArgumentError, match="limit must be an int of 1 or more, not 0"):
        manager.release("foo", 1, limit=0)
