"""What every kind of lock promises, whoever is admitted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kinds import KINDS, LONG, PATIENCE, TTL, Kind, Nodes

from microlock import (
    AlreadyLockedError,
    DestroyedError,
    Hold,
    LockCancelledError,
    LockEvent,
    LockLostError,
    LockNotOwnedError,
    LossReason,
    State,
    StoreError,
)
from microlock.engine.reentrant_event import ReentrantEvent
from microlock.testing import MemoryStore


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    with MemoryStore() as store:
        yield store


@pytest.fixture
def nodes(store: MemoryStore) -> Nodes:
    return Nodes(store)


@pytest.fixture(params=KINDS.values(), ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


def what_is_there(store: MemoryStore) -> tuple[object, ...]:
    state = store.backup()
    return state.revision, state.keys, set(state.leases)


def test_a_free_lock_is_taken_and_given_back(kind: Kind, nodes: Nodes) -> None:
    foo = nodes(kind)
    hold = foo.lock()
    assert isinstance(hold, Hold)
    assert (foo.held, foo.token, foo.state) == (True, hold.token, State.HELD)
    foo.unlock()
    assert (foo.held, foo.holders()) == (False, [])


def test_it_is_called_by_its_kind(kind: Kind, nodes: Nodes) -> None:
    foo = nodes(kind, "me")
    assert repr(foo) == f"<{kind.name} {foo.key!r} of 'me': RELEASED>"


def test_a_try_is_refused_while_rivals_hold_it(kind: Kind, nodes: Nodes) -> None:
    rivals = nodes.rivals(kind)
    with pytest.raises(AlreadyLockedError) as refused:
        nodes(kind).lock()
    assert refused.value.holder.token == rivals[0].token


def test_a_try_is_refused_while_a_rival_waits_that_came_before(kind: Kind, nodes: Nodes) -> None:
    """Nobody is overtaken, not even where those who hold it would let it in."""
    nodes.rivals(KINDS[kind.rival])
    waiting = nodes.waits(nodes(kind.rival))
    with pytest.raises(AlreadyLockedError):
        nodes(kind).lock()
    assert not waiting.done()


@pytest.mark.parametrize("again", [False, True], ids=["with a new lease", "with one of before"])
def test_a_refused_try_writes_nothing(
    kind: Kind, nodes: Nodes, store: MemoryStore, again: bool
) -> None:
    foo = nodes(kind)
    if again:
        foo.lock()
        foo.unlock()
    nodes.rivals(kind)
    before = what_is_there(store)
    with pytest.raises(AlreadyLockedError):
        foo.lock()
    assert what_is_there(store) == before


def test_the_last_rival_to_go_lets_it_in(kind: Kind, nodes: Nodes, store: MemoryStore) -> None:
    rivals, foo = nodes.rivals(kind), nodes(kind)
    waiting = nodes.waits(foo)
    assert not waiting.done()
    rivals[-1].unlock()
    assert waiting.result(PATIENCE).token == foo.token
    assert foo.held


def test_waiters_hold_it_in_the_order_of_arrival(
    kind: Kind, nodes: Nodes, store: MemoryStore
) -> None:
    rivals, told = nodes.rivals(kind), list[LockEvent]()
    locks = [nodes(kind) for _ in range(4)]
    for lock in locks:
        lock.on("acquired", told.append)
    waiting = [nodes.waits(lock) for lock in locks]
    for lock in rivals:
        lock.unlock()
    for lock, wait in zip(locks, waiting, strict=True):
        wait.result(PATIENCE)
        lock.unlock()
    store.advance(0)
    tokens = [event.token for event in told]
    assert sorted(tokens) == tokens
    assert len(tokens) == 4


def test_waiters_are_told_apart_from_holders(kind: Kind, nodes: Nodes) -> None:
    rivals, foo = nodes.rivals(kind), nodes(kind, "waits")
    nodes.waits(foo)
    assert [each.token for each in foo.holders()] == [each.token for each in rivals]
    assert foo.holder() == foo.holders()[0]
    assert [each.node_id for each in foo.waiters()] == ["waits"]


@pytest.mark.parametrize("crash", ["expires", "is revoked", "is deleted"])
def test_a_rival_that_crashes_lets_it_in(
    kind: Kind, nodes: Nodes, store: MemoryStore, crash: str
) -> None:
    rivals, foo = nodes.rivals(kind), nodes(kind, auto_renew=True)
    waiting = nodes.waits(foo)
    store.advance(0.2)  # from then on entries are watched
    if crash == "expires":
        store.advance(TTL)
    elif crash == "is revoked":
        store.revoke(rivals[0])
    else:
        token, there = rivals[0].token, store.backup().keys.values()
        gone = [(kv.name, None, 0) for kv in there if kv.create_revision == token]
        store._memory.change(lambda state: state.change(*gone))
    store.advance(0)
    assert waiting.result(PATIENCE)
    assert not rivals[0].held


def test_a_hold_that_is_not_renewed_expires(kind: Kind, nodes: Nodes, store: MemoryStore) -> None:
    foo, lost = nodes(kind), list[LockEvent]()
    foo.on("lost", lost.append)
    foo.lock()
    store.advance(TTL)
    assert (foo.held, foo.state) == (False, State.LOST)
    assert [each.reason for each in lost] == [LossReason.EXPIRED]
    with pytest.raises(LockLostError):
        foo.unlock()


def test_a_hold_that_is_deleted_is_lost_at_once(
    kind: Kind, nodes: Nodes, store: MemoryStore
) -> None:
    foo = nodes(kind)
    foo.lock()
    store.advance(0.2)  # from then on its entry is watched
    store.revoke(foo)
    assert (foo.held, foo.lost_reason) == (False, LossReason.DELETED)


def test_a_lost_lock_can_be_taken_again(kind: Kind, nodes: Nodes, store: MemoryStore) -> None:
    foo = nodes(kind)
    foo.lock()
    store.advance(TTL)
    assert foo.lock().token == foo.token


def test_a_hold_lasts_as_long_as_it_is_renewed(
    kind: Kind, nodes: Nodes, store: MemoryStore
) -> None:
    foo = nodes(kind, auto_renew=True)
    token = foo.lock().token
    store.advance(10 * TTL)
    assert (foo.held, foo.token) == (True, token)


def test_extending_it_keeps_the_token_and_the_place(
    kind: Kind, nodes: Nodes, store: MemoryStore
) -> None:
    foo = nodes(kind)
    token = foo.lock().token
    foo.extend(LONG)
    store.advance(2 * TTL)
    assert (foo.held, foo.token, foo.holder().token) == (True, token, token)


def test_a_node_that_restarts_goes_on_with_its_hold(
    kind: Kind, nodes: Nodes, store: MemoryStore
) -> None:
    token = nodes(kind, "me").lock().token
    again = nodes(kind, "me")
    again.renew()
    assert again.token == token
    again.unlock()
    assert again.holders() == []


def test_a_node_that_restarts_is_no_owner_of_others_holds(kind: Kind, nodes: Nodes) -> None:
    rivals = nodes.rivals(kind)
    with pytest.raises(LockNotOwnedError):
        nodes(kind, "me").unlock()
    assert all(each.held for each in rivals)


def test_a_wait_that_is_over_leaves_nothing(kind: Kind, nodes: Nodes, store: MemoryStore) -> None:
    nodes.rivals(kind, ttl=LONG)
    before = what_is_there(store)[1:]
    with pytest.raises(AlreadyLockedError):
        nodes(kind).lock(timeout=5)
    assert what_is_there(store)[1:] == before


def test_a_wait_that_is_cancelled_leaves_nothing(
    kind: Kind, nodes: Nodes, store: MemoryStore
) -> None:
    rivals, foo = nodes.rivals(kind), nodes(kind)
    before = what_is_there(store)[1:]
    waiting = nodes.waits(foo)
    foo.cancel()
    with pytest.raises(LockCancelledError):
        waiting.result(PATIENCE)
    assert what_is_there(store)[1:] == before
    assert all(each.held for each in rivals)


def test_a_wait_that_is_interrupted_is_told_to_have_failed(
    kind: Kind, nodes: Nodes, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    nodes.rivals(kind)
    foo, told = nodes(kind), list[LockEvent]()
    foo.on("failed", told.append)
    with monkeypatch.context() as patched:
        patched.setattr(ReentrantEvent, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            foo.lock(timeout=LONG)
    store.advance(0)
    assert [type(each.error) for each in told] == [LockCancelledError]


def test_a_waiter_whose_entry_is_deleted_joins_again(
    kind: Kind, nodes: Nodes, store: MemoryStore
) -> None:
    rivals, foo = nodes.rivals(kind, ttl=LONG), nodes(kind)
    waiting = nodes.waits(foo)
    store.revoke(foo.waiters()[0].lease_id)
    for lock in rivals:
        lock.unlock()
    assert waiting.result(PATIENCE).attempts == 2


@pytest.mark.parametrize("lost", ["lose_reply", "lose_request"])
@pytest.mark.parametrize("wait", [False, True])
def test_a_lost_message_leaves_one_entry(
    kind: Kind, nodes: Nodes, store: MemoryStore, lost: str, wait: bool
) -> None:
    foo = nodes(kind)
    getattr(store, lost)()
    token = foo.lock(timeout=LONG if wait else 0).token
    assert [each.token for each in foo.holders()] == [token]
    assert len(store.backup().keys) == kind.entries


@pytest.mark.parametrize("lost", ["lose_reply", "lose_request"])
def test_no_answer_at_all_leaves_nothing(
    kind: Kind, nodes: Nodes, store: MemoryStore, lost: str
) -> None:
    foo = nodes(kind)
    foo.lock()
    foo.unlock()
    with store.unavailable(), pytest.raises(StoreError):
        foo.lock()
    store.advance(TTL)
    assert store.backup().keys == {}


def test_every_holder_that_comes_and_goes_is_told(
    kind: Kind, nodes: Nodes, store: MemoryStore
) -> None:
    told = list[tuple[str, str | None]]()

    def note(event: LockEvent) -> None:
        if event.key == "foo":
            told.append((event.name, event.node_id))

    listens = nodes(kind, "listens")
    for name in ("locked", "unlocked"):
        listens.on(name, note)
    rivals = nodes.rivals(kind)
    foo = nodes(kind, "foo")
    waiting = nodes.waits(foo)
    rivals[0].unlock()
    waiting.result(PATIENCE)
    foo.unlock()
    store.advance(0)
    gone = rivals[0].node_id
    assert told == [
        *(("locked", each.node_id) for each in rivals),
        ("unlocked", gone),
        ("locked", "foo"),
        ("unlocked", "foo"),
    ]


def test_with_min_hold_nobody_gets_it_earlier(kind: Kind, nodes: Nodes, store: MemoryStore) -> None:
    rivals, foo = nodes.rivals(kind, min_hold=30), nodes(kind)
    for lock in rivals:
        lock.unlock()
    store.advance(20)
    with pytest.raises(AlreadyLockedError):
        foo.lock()
    store.advance(11)
    assert foo.lock()


def test_a_block_holds_it(kind: Kind, nodes: Nodes) -> None:
    with nodes(kind) as foo:
        assert foo.held
    assert foo.holders() == []


def test_a_write_is_refused_once_the_hold_has_ended(
    kind: Kind, nodes: Nodes, store: MemoryStore
) -> None:
    client = store.connect()
    foo = kind.make(client, "me")
    foo.lock()
    guard = foo.guard()
    client.transaction(guard, put={"done": "1"})
    foo.unlock()
    with pytest.raises(LockLostError):
        client.transaction(guard, put={"done": "2"})
    assert store.get("done") == b"1"


def test_destroying_a_holder_lets_the_next_in(kind: Kind, nodes: Nodes) -> None:
    rivals, foo = nodes.rivals(kind), nodes(kind)
    waiting = nodes.waits(foo)
    rivals[0].destroy()
    assert waiting.result(PATIENCE)
    with pytest.raises(DestroyedError):
        rivals[0].lock()


def test_far_from_its_turn_a_waiter_gets_it_in_time(
    kind: Kind, nodes: Nodes, store: MemoryStore
) -> None:
    """Each hears of what it has to hear of, and nobody is forgotten."""
    rivals = nodes.rivals(kind)
    locks = [nodes(kind.rival if number % 2 else kind) for number in range(12)]
    waiting = [nodes.waits(lock) for lock in locks]
    for lock in rivals:
        lock.unlock()
    for lock, wait in zip(locks, waiting, strict=True):
        wait.result(PATIENCE)
        lock.unlock()
