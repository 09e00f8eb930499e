"""A store whose clock a test turns: what is due is done, in order, before the next line."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from time import monotonic, perf_counter
from typing import Any

import pytest

from microlock import (
    AlreadyLockedError,
    DestroyedError,
    Hold,
    InvalidArgumentError,
    LockCancelledError,
    LockEvent,
    LockLostError,
    LockManager,
    LockUncertainError,
    LossReason,
    Microlock,
    State,
    StoreNoSpaceError,
    StoreTimeoutError,
    StoreUnavailableError,
    connect,
    events,
)
from microlock.testing import MemoryStore, TurnedClock
from microlock.testing import clock as clock_module
from microlock.testing import faults as faults_module

TTL = 6
LONG = 600
PATIENCE = 20.0


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    with MemoryStore() as store:
        yield store


class Node:
    """A lock of a node of its own, and all that it tells."""

    def __init__(self, store: MemoryStore, told: list[Any], name: str, ttl: float, **how: Any):
        self.lock = Microlock(store.connect(), "foo", name, ttl, **how)
        self._told, self._name, self._clock = told, name, store.clock

    def listen(self, *names: str) -> Node:
        for name in names or (each for each in events.ALL if each != events.error):
            self.lock.on(name, self._tell)
        return self

    def _tell(self, event: LockEvent) -> None:
        self._told.append((round(self._clock.now() - 1000, 2), self._name, event.name))


def a_story() -> list[Any]:
    """What is told by three nodes, one of which dies, while time passes."""
    told: list[Any] = []
    with MemoryStore() as store:
        dies = Node(store, told, "dies", TTL).listen()
        lives = Node(store, told, "lives", TTL, auto_renew=True).listen()
        waits = Node(store, told, "waits", TTL).listen("waiting", "acquired", "unlocked")
        dies.lock.lock()
        with ThreadPoolExecutor(2) as pool:
            one = pool.submit(lives.lock.lock, timeout=LONG)
            wait_for(lambda: len(lives.lock.waiters()) == 1)
            two = pool.submit(waits.lock.lock, timeout=LONG)
            wait_for(lambda: len(lives.lock.waiters()) == 2)
            store.advance(2 * TTL)
            one.result(PATIENCE)
            lives.lock.unlock()
            store.advance(0)
            two.result(PATIENCE)
            store.advance(2 * TTL)
    return told


def wait_for(condition: Any) -> None:
    end = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < end


# Time.


def test_a_lost_lock_is_tested_in_less_time_than_its_ttl() -> None:
    def lost() -> float:
        begun = perf_counter()
        with MemoryStore() as store:
            foo, told = Microlock(store.connect(), "foo", "node-a", ttl=TTL), []
            foo.on("lost", told.append)
            foo.lock()
            store.advance(TTL)
            assert not foo.held
            assert [event.reason for event in told] == [LossReason.EXPIRED]
        return perf_counter() - begun

    assert lost() < TTL


def test_the_same_steps_have_the_same_order_of_events() -> None:
    assert len({repr(a_story()) for _ in range(20)}) == 1


def test_all_that_is_due_is_done_in_its_time() -> None:
    assert [each for each in a_story() if each[1] != "waits"][:11] == [
        (0.0, "dies", "locked"),
        (0.0, "lives", "locked"),
        (0.0, "dies", "acquired"),
        (0.0, "lives", "waiting"),
        (5.95, "dies", "lost"),
        (6.0, "dies", "unlocked"),
        (6.0, "dies", "locked"),
        (6.0, "lives", "unlocked"),
        (6.0, "lives", "locked"),
        (6.0, "lives", "acquired"),
        (7.6, "lives", "renewed"),
    ]


def test_a_hold_is_renewed_as_long_as_time_passes(store: MemoryStore) -> None:
    foo = Microlock(store.connect(), "foo", "node-a", ttl=TTL, auto_renew=True)
    renewed: list[LockEvent] = []
    foo.on("renewed", renewed.append)
    foo.lock()
    for _ in range(10):
        store.advance(TTL)
        assert foo.remaining > TTL / 2
    assert 30 <= len(renewed) <= 36


def test_a_day_is_over_in_no_time(store: MemoryStore) -> None:
    foo = Microlock(store.connect(), "foo", "node-a", ttl=LONG, auto_renew=True)
    foo.lock()
    begun = monotonic()
    store.advance(86_400)
    assert foo.held
    assert monotonic() - begun < 5


def test_a_max_hold_ends_a_hold(store: MemoryStore) -> None:
    foo = Microlock(store.connect(), "foo", "a", ttl=TTL, auto_renew=True, max_hold=3 * TTL)
    foo.lock()
    store.advance(3 * TTL - 1)
    assert foo.held
    store.advance(TTL + 1)
    assert not foo.held


def test_a_min_hold_keeps_others_out(store: MemoryStore) -> None:
    foo = Microlock(store.connect(), "foo", "node-a", ttl=LONG, min_hold=30)
    bar = Microlock(store.connect(), "foo", "node-b", ttl=LONG)
    foo.lock()
    foo.unlock()
    store.advance(29)
    with pytest.raises(AlreadyLockedError):
        bar.lock()
    store.advance(1)
    assert bar.lock().attempts == 1


def test_the_thread_that_turns_the_clock_waits_in_no_time(store: MemoryStore) -> None:
    foo, bar = (Microlock(store.connect(), "foo", name, ttl=TTL) for name in "ab")
    foo.lock()
    began = store.clock.now()
    with pytest.raises(AlreadyLockedError):
        bar.lock(timeout=TTL - 2)
    assert TTL - 3 < store.clock.now() - began <= TTL - 2
    assert bar.lock(timeout=None).waited == pytest.approx(2, abs=0.5)
    assert store.clock.now() - began == TTL


def test_it_waits_for_a_loss_in_no_time(store: MemoryStore) -> None:
    foo = Microlock(store.connect(), "foo", "node-a", ttl=TTL)
    foo.lock()
    assert not foo.lost.wait(TTL - 1)
    assert foo.lost.wait()
    assert foo.state is State.LOST


def test_a_wait_that_nothing_ends_is_told(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock_module, "_PATIENCE", 1.0)
    foo = Microlock(store.connect(), "foo", "node-a", ttl=TTL, auto_renew=True)
    bar = Microlock(store.connect(), "foo", "node-b", ttl=TTL)
    foo.lock()
    with pytest.raises(TimeoutError, match="nothing is due any more"):
        bar.lock(timeout=None)
    assert foo.waiters() == []


def test_another_thread_waits_until_the_clock_is_turned(store: MemoryStore) -> None:
    foo, bar = (Microlock(store.connect(), "foo", name, ttl=LONG) for name in "ab")
    foo.lock()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(bar.lock, timeout=5)
        wait_for(foo.waiters)
        store.advance(4)
        assert not waiting.done()
        store.advance(1)
        assert isinstance(waiting.exception(PATIENCE), AlreadyLockedError)
    assert foo.waiters() == []


@pytest.mark.parametrize("how", ["cancel", "destroy"])
def test_a_wait_that_is_ended_leaves_nothing(store: MemoryStore, how: str) -> None:
    foo, bar = (Microlock(store.connect(), "foo", name, ttl=LONG) for name in "ab")
    foo.lock()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(bar.lock, timeout=None)
        wait_for(foo.waiters)
        getattr(bar, how)()
        kind = LockCancelledError if how == "cancel" else DestroyedError
        assert isinstance(waiting.exception(PATIENCE), kind)
    assert foo.waiters() == []


def test_a_handler_may_take_and_wait_for_locks(store: MemoryStore) -> None:
    foo, bar = (Microlock(store.connect(), "foo", name, ttl=TTL) for name in "ab")
    got: list[Hold] = []
    bar.on("locked", lambda: got.append(bar.lock(timeout=60)))
    foo.lock()
    store.advance(TTL - 1)
    assert not got
    store.advance(1)
    assert [hold.node_id for hold in got] == ["b"]


def test_a_handler_may_wait_for_that_of_another_lock(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are called one after the other, as long as that goes."""
    monkeypatch.setattr(clock_module, "_TURN", 0.05)
    monkeypatch.setattr(faults_module, "_PATIENCE", 0.05)
    foo, bar = (Microlock(store.connect(), name, "a", ttl=TTL) for name in ("foo", "bar"))
    go, order = threading.Event(), []
    foo.on("acquired", lambda: order.append(go.wait(PATIENCE)))
    bar.on("acquired", lambda: go.set())
    foo.lock()
    bar.lock()
    store.advance(0)
    assert order == [True]


def test_a_handler_that_does_not_end_is_told(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock_module, "_PATIENCE", 0.1)
    foo, go = Microlock(store.connect(), "foo", "a", ttl=TTL), threading.Event()
    foo.on("acquired", lambda: go.wait(PATIENCE))
    foo.lock()
    with pytest.raises(TimeoutError, match=r"microlock-handlers still works(?s:.*)go\.wait"):
        store.advance(1)
    go.set()


@pytest.mark.parametrize("wrong", [-1, math.nan, math.inf, "1", None, True])
def test_a_time_that_is_none_is_refused(store: MemoryStore, wrong: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="seconds"):
        store.advance(wrong)


def test_two_stores_may_go_by_one_clock(store: MemoryStore) -> None:
    with MemoryStore(clock=store.clock) as other:
        foo, bar = (Microlock(each.connect(), "foo", "a", ttl=TTL) for each in (store, other))
        foo.lock()
        bar.lock()
        store.advance(TTL)
        assert (foo.held, bar.held) == (False, False)


def test_a_clock_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="TurnedClock"):
        MemoryStore(clock=monotonic)  # type: ignore[arg-type]


# An application that connects itself.


def test_an_application_finds_it_by_its_address(store: MemoryStore) -> None:
    foo = Microlock(store.connect(), "foo", "node-a", ttl=TTL)
    foo.lock()
    with connect(store.endpoint) as etcd:
        bar = Microlock(etcd, "foo", "node-b", ttl=TTL)
        with pytest.raises(AlreadyLockedError):
            bar.lock()
        store.advance(TTL)
        bar.lock()
        store.advance(TTL)
        assert not bar.held


def test_its_threads_end_with_it() -> None:
    before = set(threading.enumerate())
    with MemoryStore() as store:
        foo = Microlock(store.connect(), "foo", "node-a", ttl=TTL, auto_renew=True)
        foo.on("locked", lambda: None)
        foo.lock()
        assert set(threading.enumerate()) - before
        foo.destroy()
    wait_for(lambda: not set(threading.enumerate()) - before)


# What goes wrong.


def test_who_reaches_nobody_is_suspended_and_then_loses(store: MemoryStore) -> None:
    foo = Microlock(store.connect(), "foo", "node-a", ttl=TTL, auto_renew=True)
    told: list[str] = []
    for name in ("suspended", "lost"):
        foo.on(name, lambda event: told.append(event.name))
    foo.lock()
    with store.unavailable():
        store.advance(TTL - 1)
        assert (foo.state, told) == (State.SUSPENDED, ["suspended"])
        store.advance(1)
        assert (foo.state, told) == (State.LOST, ["suspended", "lost"])
    with pytest.raises(LockLostError):
        foo.unlock()


def test_who_is_back_in_time_goes_on(store: MemoryStore) -> None:
    foo = Microlock(store.connect(), "foo", "node-a", ttl=TTL, auto_renew=True)
    foo.lock()
    with store.unavailable():
        store.advance(TTL - 1)
        assert foo.state is State.SUSPENDED
    store.advance(0.9)
    assert foo.state is State.HELD


def test_a_wait_that_could_not_be_undone_ends_as_soon_as_etcd_is_back(store: MemoryStore) -> None:
    """The place does not stay for its ttl."""
    foo, other = (Microlock(store.connect(), "foo", name, ttl=LONG) for name in ("a", "b"))
    other.lock()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(foo.lock, timeout=10)
        while not other.waiters():
            store.advance(0)
        with store.unavailable():
            store.advance(11)
            assert isinstance(waiting.exception(PATIENCE), LockUncertainError)
        assert other.waiters()
        store.advance(2)
    assert other.waiters() == []


def test_a_call_gives_up_when_its_time_is_over(store: MemoryStore) -> None:
    foo = Microlock(store.connect(timeout=3), "foo", "node-a", ttl=TTL)
    fault, began = store.unavailable(), store.clock.now()
    with pytest.raises(StoreUnavailableError):
        foo.lock()
    assert 1 < store.clock.now() - began <= 3
    fault.end()
    fault.end()
    foo.lock()


def test_what_changed_while_nobody_watched_is_told(store: MemoryStore) -> None:
    foo, bar = (Microlock(store.connect(), "foo", name, ttl=TTL) for name in "ab")
    told: list[Any] = []
    bar.on("unlocked", lambda event: told.append(event.synthesised))
    foo.lock()
    with store.unavailable():
        store.advance(TTL)
    assert told == []
    store.advance(1)
    assert told == [False]


def test_what_was_compacted_meanwhile_is_told_as_what_must_have_happened(
    store: MemoryStore,
) -> None:
    foo, bar = (Microlock(store.connect(), "foo", name, ttl=TTL) for name in "ab")
    told: list[Any] = []
    bar.on("unlocked", lambda event: told.append(event.synthesised))
    foo.lock()
    with store.unavailable():
        store.advance(TTL)
        store.put("other", "1")
        store.compact()
        store.compact()
    store.advance(1)
    assert told == [True]


def test_a_slow_reply_takes_its_time(store: MemoryStore) -> None:
    foo = Microlock(store.connect(), "foo", "node-a", ttl=LONG)
    began = store.clock.now()
    with store.slow(0.5):
        foo.lock()
    assert store.clock.now() - began == 1.5  # it looks, and asks for a lease and an entry
    assert foo.remaining == LONG - LONG / 100 - 1


def test_what_is_slower_than_the_timeout_is_in_doubt(store: MemoryStore) -> None:
    foo = Microlock(store.connect(timeout=2), "foo", "node-a", ttl=TTL)
    with store.slow(3), pytest.raises((StoreTimeoutError, LockUncertainError)):
        foo.lock()
    assert not foo.held


@pytest.mark.parametrize("lost", ["lose_reply", "lose_request"])
def test_one_that_is_lost_is_asked_again(store: MemoryStore, lost: str) -> None:
    foo = Microlock(store.connect(), "foo", "node-a", ttl=TTL)
    for times in (1, 2, 3):
        getattr(store, lost)(times=times)
        hold = foo.lock()
        getattr(store, lost)()
        foo.unlock()
        assert store.advance(TTL) is None
        assert foo.holder() is None
        assert hold.token > 0


@pytest.mark.parametrize("lost", ["lose_reply", "lose_request"])
def test_where_all_is_lost_nobody_can_say(store: MemoryStore, lost: str) -> None:
    foo = Microlock(store.connect(), "foo", "node-a", ttl=LONG)
    foo.lock()
    with getattr(store, lost)(times=None), pytest.raises(LockUncertainError):
        foo.unlock()
    store.advance(1)
    assert foo.holder() is None  # another thread has asked again, long before the ttl is over


def test_without_space_a_hold_stands_and_is_renewed(store: MemoryStore) -> None:
    foo, bar = (
        Microlock(store.connect(), name, "a", ttl=TTL, auto_renew=True) for name in ("foo", "bar")
    )
    foo.lock()
    with store.no_space():
        with pytest.raises(StoreNoSpaceError):
            bar.lock()
        store.advance(2 * TTL)
        assert foo.held
        foo.unlock()
    bar.lock()


@pytest.mark.parametrize(
    "what", [lambda lock: lock, lambda lock: lock.hold, lambda lock: lock.hold.lease_id]
)
def test_a_lease_that_was_revoked_is_a_loss_at_once(store: MemoryStore, what: Any) -> None:
    foo, told = Microlock(store.connect(), "foo", "node-a", ttl=LONG), SimpleQueue[LockEvent]()
    foo.on("lost", told.put)
    foo.lock()
    store.advance(1)  # a hold is watched soon after it was taken
    store.revoke(what(foo))
    assert told.get_nowait().reason is LossReason.DELETED
    assert foo.lost.is_set()


def test_what_has_no_lease_is_not_revoked(store: MemoryStore) -> None:
    for wrong in (Microlock(store.connect(), "foo", "node-a"), "foo", None, True):
        with pytest.raises(InvalidArgumentError, match="lease"):
            store.revoke(wrong)


def test_a_hold_that_a_backup_does_not_know_is_lost(store: MemoryStore) -> None:
    foo = Microlock(store.connect(), "foo", "node-a", ttl=LONG, auto_renew=True)
    backup = store.backup()
    foo.lock()
    store.advance(1)
    store.restore(backup)
    store.advance(1)
    assert foo.lost_reason is LossReason.DELETED


def older_than_its_entry(store: MemoryStore) -> tuple[Microlock, Microlock, Any]:
    """A lock whose lease is in a backup, and another one of the same key; the backup."""
    foo = Microlock(store.connect(), "foo", "node-a", ttl=5, auto_renew=True)
    other = Microlock(store.connect(), "foo", "node-b", ttl=LONG)
    foo.lock()
    foo.unlock()
    backup = store.backup()
    for _ in range(5):
        other.lock()
        other.unlock()
    return foo, other, backup


def test_a_hold_that_a_backup_does_not_know_is_lost_though_its_lease_is_in_it(
    store: MemoryStore,
) -> None:
    foo, other, backup = older_than_its_entry(store)
    foo.lock()
    store.advance(1)
    store.restore(backup)
    store.advance(1)
    assert foo.lost_reason is LossReason.DELETED
    assert other.lock()


def test_a_waiter_that_a_backup_does_not_know_joins_again_though_its_lease_is_in_it(
    store: MemoryStore,
) -> None:
    foo, other, backup = older_than_its_entry(store)
    other.lock()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(foo.lock, timeout=None)
        while not other.waiters():
            store.advance(0)
        store.restore(backup)
        store.advance(1)
        assert waiting.result(timeout=10)


def test_an_operator_may_break_a_lock(store: MemoryStore) -> None:
    foo = Microlock(store.connect(), "foo", "node-a", ttl=LONG)
    foo.lock()
    broken = LockManager(store.connect(), "operator").break_lock("foo")
    assert broken
    assert broken.node_id == "node-a"
    store.advance(1)
    assert foo.state is State.LOST


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "1"])
def test_a_number_of_times_that_is_none_is_refused(store: MemoryStore, wrong: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="times"):
        store.lose_reply(times=wrong)


def test_a_stale_write_is_refused(store: MemoryStore) -> None:
    etcd = store.connect()
    foo = Microlock(etcd, "foo", "node-a", ttl=TTL)
    foo.lock()
    guard = foo.guard()
    etcd.transaction(guard, put={"report": "1"})
    store.advance(TTL)
    with pytest.raises(LockLostError):
        etcd.transaction(guard, put={"report": "2"})
    assert (store.get("report"), store.get("other")) == (b"1", None)


# A loop.


def test_a_task_turns_the_clock_and_the_others_go_on() -> None:
    """As waiters of the face for asyncio do: by an alarm on their loop."""

    async def main() -> list[tuple[str, float]]:
        clock, order = TurnedClock(), []
        loop = asyncio.get_running_loop()

        async def sleeper(name: str, *naps: float) -> None:
            for nap in naps:
                rang = loop.create_future()
                clock.alarm(clock.now() + nap, lambda rang=rang: rang.set_result(None), loop)
                await rang
                order.append((name, clock.now() - 1000))

        tasks = [
            asyncio.create_task(sleeper("one", 1, 1, 3)),
            asyncio.create_task(sleeper("two", 2, 1)),
        ]
        await clock.advance_async(0)
        await clock.advance_async(4)
        assert not tasks[0].done()
        await clock.advance_async(1)
        await asyncio.gather(*tasks)
        return order

    assert asyncio.run(main()) == [
        ("one", 1),
        ("two", 2),
        ("one", 2),
        ("two", 3),
        ("one", 5),
    ]


def test_what_is_awaited_takes_the_time_that_it_takes() -> None:
    async def main() -> float:
        clock, loop = TurnedClock(), asyncio.get_running_loop()

        async def sleeper() -> float:
            for _ in range(3):
                rang = loop.create_future()
                clock.alarm(clock.now() + 20, lambda rang=rang: rang.set_result(None), loop)
                await rang
            return clock.now() - 1000

        assert await clock.until(sleeper()) == 60
        assert await clock.until(asyncio.to_thread(lambda: 7)) == 7
        return clock.now() - 1000

    assert asyncio.run(main()) == 60


def test_an_alarm_that_was_cancelled_wakes_nobody() -> None:
    async def main() -> None:
        clock, loop = TurnedClock(), asyncio.get_running_loop()
        for seconds in (0, 1):
            clock.alarm(clock.now() + seconds, lambda: pytest.fail("it rang"), loop)()
        await clock.advance_async(2)

    asyncio.run(main())


# Its inbox.


def test_what_waits_at_an_inbox_gets_what_comes_in_its_order() -> None:
    clock = TurnedClock()
    inbox = clock.inbox()
    for number in range(3):
        inbox.put(number)
    assert [inbox.get(timeout=1) for _ in range(3)] == [0, 1, 2]
    assert inbox.empty()
    with pytest.raises(Empty):
        inbox.get_nowait()
    with pytest.raises(Empty):
        inbox.get(timeout=5)
    assert clock.now() == 1005


# The plugin.


def test_a_plugin_that_nobody_uses_imports_nothing_of_microlock() -> None:
    script = """
import sys, pytest
before = set(sys.modules)
import pytest_microlock
print(sorted(set(sys.modules) - before))
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "['pytest_microlock']\n"


def test_the_fixture_is_there_without_a_word(microlock_store: MemoryStore) -> None:
    foo = Microlock(microlock_store.connect(), "foo", "node-a", ttl=TTL)
    foo.lock()
    microlock_store.advance(TTL)
    assert not foo.held
