"""What an election promises beside what all locks do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from kinds import ELECTION, LONG, MUTEX, PATIENCE, TTL, Nodes, begin

import microlock.asyncio
from microlock import (
    AlreadyLockedError,
    DestroyedError,
    InvalidArgumentError,
    Leader,
    LockCancelledError,
    LockEvent,
    LockLostError,
    LockNotOwnedError,
    StoreAuthenticationError,
    StoreError,
    StorePermissionError,
    StoreUnavailableError,
)
from microlock.core.keys import MAX_VALUE_BYTES
from microlock.testing import MemoryStore


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    with MemoryStore() as store:
        yield store


@pytest.fixture
def nodes(store: MemoryStore) -> Nodes:
    return Nodes(store)


def observing(election: Any) -> Future[list[Leader]]:
    """All that it tells until it ends."""
    observed = election.observe()
    return begin(lambda: list(observed))


def test_who_campaigns_first_leads_and_proclaims_its_node_id(nodes: Nodes) -> None:
    foo = nodes(ELECTION, "me")
    hold = foo.campaign()
    assert foo.leader() == nodes(ELECTION).leader() == Leader(b"me", hold.token)


def test_nobody_leads_before_the_first_campaign_and_after_the_last(nodes: Nodes) -> None:
    foo = nodes(ELECTION)
    assert foo.leader() is None
    foo.campaign()
    foo.resign()
    assert foo.leader() is None


@pytest.mark.parametrize(
    ("value", "said"),
    [("http://10.0.0.1", b"http://10.0.0.1"), ("é", "é".encode()), (b"\xff\0", b"\xff\0")],
)
def test_it_proclaims_str_and_bytes(nodes: Nodes, value: Any, said: bytes) -> None:
    foo = nodes(ELECTION)
    foo.campaign(value)
    assert foo.leader().value == said
    foo.proclaim("between")
    foo.proclaim(value)
    assert foo.leader().value == said


def test_what_a_campaign_would_have_said_that_never_led_is_forgotten(
    nodes: Nodes, store: MemoryStore
) -> None:
    foo, rival = nodes(ELECTION, "me"), nodes(ELECTION)
    rival.campaign()
    with pytest.raises(AlreadyLockedError):
        foo.campaign("x", timeout=0)
    waiting = begin(lambda: foo.campaign("y", timeout=LONG))
    wait_for_waiters(rival, 1)
    foo.cancel()
    with pytest.raises(LockCancelledError):
        waiting.result(PATIENCE)
    with store.unavailable(), pytest.raises(StoreError):
        foo.campaign("z", timeout=0)
    rival.resign()
    foo.campaign()
    assert foo.leader().value == b"me"


def test_the_next_leads_when_the_first_resigns_crashes_or_is_gone(
    nodes: Nodes, store: MemoryStore
) -> None:
    one, two, three = (nodes(ELECTION, name) for name in ("one", "two", "three"))
    one.campaign()
    second = begin(lambda: two.campaign(timeout=LONG))
    wait_for_waiters(two, 1)
    third = begin(lambda: three.campaign("three!", timeout=LONG))
    wait_for_waiters(two, 2)
    one.resign()
    second.result(PATIENCE)
    assert str(three.leader()) == "two"
    store.advance(TTL)
    third.result(PATIENCE)
    assert str(three.leader()) == "three!"
    assert not two.held


def wait_for_waiters(lock: Any, count: int) -> None:
    while len(lock.waiters()) < count:
        pass


def test_proclaiming_keeps_the_token_and_puts_the_whole_ttl_back(
    nodes: Nodes, store: MemoryStore
) -> None:
    foo = nodes(ELECTION)
    token = foo.campaign("one").token
    store.advance(TTL / 2)
    left = foo.proclaim("two")
    assert left > TTL * 0.9
    assert (foo.token, foo.leader()) == (token, Leader(b"two", token))
    store.advance(TTL * 0.9)
    assert foo.held


def test_what_was_proclaimed_last_stands_when_the_hold_is_renewed_or_extended(
    nodes: Nodes, store: MemoryStore
) -> None:
    foo = nodes(ELECTION, auto_renew=True)
    foo.campaign("one")
    foo.proclaim("two")
    store.advance(3 * TTL)
    foo.renew()
    foo.extend(LONG)
    assert foo.leader().value == b"two"
    foo.resign()
    foo.campaign()
    assert foo.leader().value == b"two"


@pytest.mark.parametrize("lost", ["lose_reply", "lose_request"])
def test_a_lost_message_leaves_what_was_proclaimed(
    nodes: Nodes, store: MemoryStore, lost: str
) -> None:
    foo = nodes(ELECTION)
    token = foo.campaign("one").token
    getattr(store, lost)()
    foo.proclaim("two")
    assert foo.leader() == Leader(b"two", token)


@pytest.mark.parametrize("lost", ["lose_reply", "lose_request"])
def test_a_proclamation_in_doubt_is_finished_by_the_next_renewal(
    nodes: Nodes, store: MemoryStore, lost: str
) -> None:
    foo = nodes(ELECTION, ttl=LONG)
    foo.campaign("one")
    with getattr(store, lost)(times=None), pytest.raises(StoreError):
        foo.proclaim("two")
    foo.renew()
    assert foo.held
    assert foo.leader().value in (b"one", b"two")
    foo.proclaim("three")
    assert foo.leader().value == b"three"


def test_without_a_place_nothing_can_be_proclaimed(nodes: Nodes, store: MemoryStore) -> None:
    foo = nodes(ELECTION)
    with pytest.raises(LockNotOwnedError):
        foo.proclaim("one")
    foo.campaign()
    store.advance(TTL)
    with pytest.raises(LockLostError):
        foo.proclaim("one")


def test_campaigning_again_after_a_loss_is_one_line(nodes: Nodes, store: MemoryStore) -> None:
    foo = nodes(ELECTION)
    foo.campaign("one")
    store.advance(TTL)
    assert foo.campaign("two").token == foo.leader().token
    assert foo.leader().value == b"two"


def test_a_campaign_may_be_given_a_time(nodes: Nodes) -> None:
    nodes(ELECTION, ttl=LONG).campaign()
    with pytest.raises(AlreadyLockedError):
        nodes(ELECTION).campaign(timeout=2)


def test_a_mutex_of_the_key_stands_for_the_same_office(nodes: Nodes) -> None:
    mutex = nodes(MUTEX, "mutex")
    token = mutex.lock().token
    foo = nodes(ELECTION)
    assert foo.leader() == Leader(b"mutex", token)
    with pytest.raises(AlreadyLockedError):
        foo.campaign(timeout=0)


@pytest.mark.parametrize("value", [1, None, "\udc80", b"x" * (MAX_VALUE_BYTES + 1), ["a"]])
def test_a_value_is_str_or_bytes_of_a_mebibyte(nodes: Nodes, value: Any) -> None:
    foo = nodes(ELECTION)
    with pytest.raises(InvalidArgumentError, match="value"):
        foo.proclaim(value)
    if value is not None:
        with pytest.raises(InvalidArgumentError, match="value"):
            foo.campaign(value)


# Who follows.


def test_who_observes_sees_each_leader_and_each_value(nodes: Nodes, store: MemoryStore) -> None:
    one, two, watches = (nodes(ELECTION) for _ in range(3))
    seen = observing(watches)
    first = one.campaign("a").token
    one.proclaim("b")
    one.proclaim("c")
    one.renew()
    one.resign()
    second = two.campaign("d").token
    store.advance(0)
    watches.destroy()
    tokens = [(each.value, each.token) for each in seen.result(PATIENCE)]
    assert tokens == [(b"a", first), (b"b", first), (b"c", first), (b"d", second)]


def test_nothing_is_missed_while_the_store_is_away(nodes: Nodes, store: MemoryStore) -> None:
    foo, watches = nodes(ELECTION, ttl=LONG), nodes(ELECTION)
    seen = observing(watches)
    foo.campaign("a")
    values = [b"a"]
    for number in range(5):
        with store.unavailable():
            store.advance(1)
        foo.proclaim(str(number))
        foo.proclaim(f"{number}!")
        values += [str(number).encode(), f"{number}!".encode()]
    store.advance(5)
    watches.destroy()
    assert [each.value for each in seen.result(PATIENCE)] == values


def test_observing_ends_with_the_object(nodes: Nodes) -> None:
    foo = nodes(ELECTION)
    ended = observing(foo)
    foo.campaign()
    foo.destroy()
    assert len(ended.result(PATIENCE)) == 1
    with pytest.raises(DestroyedError):
        foo.observe()


def test_observing_ends_with_the_client(nodes: Nodes, store: MemoryStore) -> None:
    etcd = store.connect()
    foo = ELECTION.make(etcd, "me")
    ended = observing(foo)
    etcd.close()
    assert ended.result(PATIENCE) == []


def test_who_stops_observing_listens_no_more(nodes: Nodes) -> None:
    foo = nodes(ELECTION)
    observed = foo.observe()
    foo.campaign()
    assert next(observed).token == foo.token
    observed.close()
    assert foo.listeners("leader") == foo.listeners("error") == []


def test_the_event_says_who_leads_and_that_nobody_does(nodes: Nodes, store: MemoryStore) -> None:
    foo, told = nodes(ELECTION, "me"), list[LockEvent]()
    nodes(ELECTION).on("leader", told.append)
    nodes.locks[-1].on("locked", told.append)
    token = foo.campaign("one").token
    foo.proclaim("two")
    foo.resign()
    store.advance(0)
    assert [(each.name, each.value, each.token) for each in told] == [
        ("leader", b"one", token),
        ("locked", None, token),
        ("leader", b"two", token),
        ("leader", None, None),
    ]


def test_no_other_lock_tells_of_leaders(nodes: Nodes, store: MemoryStore) -> None:
    told: list[LockEvent] = []
    nodes(MUTEX).on("leader", told.append)
    nodes(ELECTION).campaign()
    store.advance(0)
    assert told == []


@pytest.mark.parametrize("refusal", [StorePermissionError, StoreAuthenticationError])
def test_who_may_not_watch_is_told_so(nodes: Nodes, refusal: type[StoreError]) -> None:
    foo = nodes(ELECTION)
    observed = foo.observe()
    foo.emit("error", LockEvent("error", "foo", error=StoreUnavailableError("passes")))
    foo.emit("error", LockEvent("error", "foo", error=refusal("not you")))
    with pytest.raises(refusal):
        next(observed)
    assert foo.listeners("leader") == []


# For tasks.


def test_tasks_campaign_proclaim_and_observe() -> None:
    async def main() -> None:
        with MemoryStore() as store:
            one, two, watches = (
                microlock.asyncio.Election(store.connect(), "foo", name, TTL)
                for name in ("one", "two", "watches")
            )
            seen: list[tuple[bytes, int]] = []

            observed = watches.observe()

            async def follow() -> None:
                async for leader in observed:
                    seen.append((leader.value, leader.token))

            following = asyncio.create_task(follow())
            await watches.listening()
            first = (await one.campaign("a")).token
            await one.proclaim(b"b")
            assert await two.leader() == Leader(b"b", first)
            waiting = asyncio.create_task(two.campaign(timeout=LONG))
            while not await two.waiters():
                await asyncio.sleep(0)
            await one.resign()
            second = (await store.until(waiting)).token
            await store.advance_async(0)
            await watches.destroy()
            await store.until(following)
            assert seen == [(b"a", first), (b"b", first), (b"two", second)]
            for each in (one, two):
                await each.destroy()

    asyncio.run(main())
