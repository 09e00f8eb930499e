"""Handlers may call what they like, take their time and fail: nothing hangs, nothing is missed."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from time import sleep

import pytest
from cluster import hang
from conftest import Etcd
from ctl import Etcdctl
from faces import BOTH_FACES, FACES, THREADS, Microlock
from nodes import Make, begin, nodes, queued
from watching import DEADLINE, Recorder, eventually
from witness import AT_ONCE, at_most, entries

from microlock import (
    AlreadyLockedError,
    DestroyedError,
    Hold,
    LockEvent,
    LossReason,
    MicrolockError,
    State,
    connect,
)
from microlock.engine import clock

pytestmark = BOTH_FACES

SLOW = 2.0  # seconds that a handler takes which is slow
SHORT = 2  # a ttl


class Handler:
    """Does something when it is called for the first time, and keeps what came of it."""

    def __init__(self, lock: Microlock, event: str, call: Callable[[], object]) -> None:
        self._call = call
        self._called = threading.Event()
        self.result: object = None
        lock.once(event, self)

    def __call__(self) -> None:
        try:
            self.result = self._call()
        except MicrolockError as error:
            self.result = error
        self._called.set()

    def done(self) -> object:
        """What it returned or raised."""
        assert self._called.wait(DEADLINE), "the handler was not called, or hangs"
        return self.result


# What a handler calls


@pytest.mark.parametrize("timeout", [0, 5, None])
def test_a_handler_of_unlocked_may_lock(make: Make, timeout: float | None) -> None:
    one, two = make("one"), make("two")
    two.lock()
    handler = Handler(one, "unlocked", lambda: one.lock(timeout=timeout))
    two.unlock()
    hold = handler.done()
    assert isinstance(hold, Hold)
    assert one.token == hold.token


def test_a_handler_may_wait_its_turn_while_others_wait(make: Make) -> None:
    one, two, three = make("one"), make("two"), make("three")
    two.lock()
    waiting = begin(lambda: three.lock(timeout=DEADLINE))
    assert queued(two)
    handler = Handler(one, "unlocked", lambda: one.lock(timeout=DEADLINE))
    two.unlock()
    waiting.result(DEADLINE)
    assert queued(three)
    three.unlock()
    assert isinstance(handler.done(), Hold)


def test_a_handler_of_acquired_may_unlock(make: Make, etcdctl: Etcdctl, key: str) -> None:
    foo = make()
    seen = Recorder(foo, "released")
    handler = Handler(foo, "acquired", foo.unlock)
    foo.lock()
    assert handler.done() is None
    assert len(seen.wait_for(1)) == 1
    assert entries(etcdctl, key) == []


def test_a_handler_of_acquired_may_renew_and_extend(make: Make) -> None:
    foo = make()
    renewal = Handler(foo, "acquired", foo.renew)
    extension = Handler(foo, "acquired", lambda: foo.extend(100))
    foo.lock()
    renewal.done()
    extension.done()
    assert foo.remaining > 90


def test_a_handler_of_renewed_may_renew_again_and_again(make: Make) -> None:
    foo, done = make(), threading.Event()
    count = 0

    def renew() -> None:
        nonlocal count
        count += 1
        foo.renew() if count < 20 else done.set()

    foo.on("renewed", renew)
    foo.lock()
    foo.renew()
    assert done.wait(DEADLINE)


def test_a_handler_of_released_may_lock(make: Make) -> None:
    foo = make()
    handler = Handler(foo, "released", foo.lock)
    token = foo.lock().token
    foo.unlock()
    hold = handler.done()
    assert isinstance(hold, Hold)
    assert hold.token > token


def test_a_handler_of_failed_may_wait_instead(make: Make) -> None:
    one, two = make("one"), make("two")
    two.lock()
    handler = Handler(one, "failed", lambda: one.lock(timeout=DEADLINE))
    with pytest.raises(AlreadyLockedError):
        one.lock()
    assert queued(two)
    two.unlock()
    assert isinstance(handler.done(), Hold)


def test_a_handler_of_lost_may_lock(make: Make, etcdctl: Etcdctl, key: str) -> None:
    foo = make()
    handler = Handler(foo, "lost", foo.lock)
    token = foo.lock().token
    sleep(0.3)  # by now it is watched
    etcdctl("del", "--prefix", f"{key}/")
    hold = handler.done()
    assert isinstance(hold, Hold)
    assert hold.token > token
    assert foo.state is State.HELD


def test_a_handler_of_lost_may_call_what_raises(make: Make, key: str) -> None:
    handlers = {}
    for call in ("unlock", "renew", "destroy", "check"):
        foo = make(key=f"{key}-{call}", ttl=1)
        handlers[call] = Handler(foo, "lost", getattr(foo, call))
        foo.lock()
    for call, handler in handlers.items():
        result = handler.done()
        assert (result is None) == (call == "destroy"), (call, result)


def test_a_handler_of_suspended_may_call_what_is_not_answered(
    own_etcd: Callable[..., Etcd],
) -> None:
    etcd = own_etcd()
    with nodes(etcd.endpoint, "foo", timeout=0.5) as make:
        handlers = {}
        for call in ("unlock", "renew", "destroy", "lock"):  # each of a client of its own
            foo = make(f"node-{call}", key=call, ttl=3, auto_renew=True)
            handlers[call] = Handler(foo, "suspended", getattr(foo, call))
            foo.lock()
        hang(etcd)
        for call, handler in handlers.items():
            assert isinstance(handler.done(), MicrolockError), call
        etcd.resume()
        for call in handlers:  # and the thread of the handlers goes on
            bar = make(f"node-{call}", key="bar")
            after = Recorder(bar, "acquired")
            eventually(lambda bar=bar: _locks(bar))
            assert len(after.wait_for(1)) == 1, call
            bar.unlock()


def _locks(lock: Microlock) -> bool:
    try:
        lock.lock(timeout=5)
    except MicrolockError:
        return False
    return True


def test_a_handler_of_waiting_may_destroy(make: Make, etcdctl: Etcdctl, key: str) -> None:
    one, two = make("one"), make("two")
    two.lock()
    handler = Handler(one, "waiting", one.destroy)
    with at_most(AT_ONCE), pytest.raises(DestroyedError):
        one.lock(timeout=DEADLINE)
    assert handler.done() is None
    assert len(entries(etcdctl, key)) == 1


@pytest.mark.parametrize("event", ["acquired", "renewed", "locked", "released", "unlocked"])
def test_a_handler_may_destroy(make: Make, etcdctl: Etcdctl, key: str, event: str) -> None:
    foo = make(ttl=SHORT, auto_renew=True)
    handler = Handler(foo, event, foo.destroy)
    with suppress(DestroyedError):  # told of `locked`, it may destroy before lock() returns
        foo.lock()
        if event in ("released", "unlocked"):
            foo.unlock()
    assert handler.done() is None
    assert eventually(lambda: entries(etcdctl, key) == [])
    assert not foo.held


def test_a_handler_may_destroy_another_lock_that_waits(make: Make) -> None:
    one, two, three = make("one"), make("two"), make("three")
    two.lock()
    handler = Handler(three, "failed", one.destroy)
    waiting = begin(lambda: one.lock(timeout=None))
    assert queued(two)
    with pytest.raises(AlreadyLockedError):
        three.lock()
    assert handler.done() is None
    assert isinstance(waiting.exception(DEADLINE), DestroyedError)


def test_two_nodes_whose_handlers_lock_and_unlock_take_turns(make: Make) -> None:
    rounds, done = [], threading.Event()

    def joins(lock: Microlock) -> None:
        def take() -> None:
            if not done.is_set():
                with suppress(AlreadyLockedError):  # the other was quicker
                    lock.lock()

        def give() -> None:
            rounds.append(lock.token)
            if len(rounds) >= 40:
                done.set()
            lock.unlock()

        lock.on("unlocked", take)
        lock.on("acquired", give)

    for name in ("one", "two"):
        joins(make(name))
    starter = make("three")
    starter.lock()
    starter.unlock()
    assert done.wait(DEADLINE)


# What a handler raises

EVENTS = ("waiting", "acquired", "renewed", "released", "failed", "locked", "unlocked")


# On a loop Ctrl-C ends all of it, in a handler as anywhere.
@pytest.mark.parametrize(
    ("face", "error"),
    [*product(FACES, [RuntimeError, SystemExit]), (THREADS, KeyboardInterrupt)],
    indirect=["face"],
)
def test_handlers_that_raise_lose_no_event(
    make: Make, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    caplog.set_level(logging.CRITICAL, "microlock")
    one, two = make("one"), make("two")

    def fail() -> None:
        raise error

    for name in EVENTS:
        one.on(name, fail)
    seen = Recorder(one, *EVENTS)
    first = two.lock().token
    with pytest.raises(AlreadyLockedError):
        one.lock()
    waiting = begin(lambda: one.lock(timeout=DEADLINE))
    assert queued(two)
    two.unlock()
    token = waiting.result(DEADLINE).token
    one.renew()
    one.unlock()
    told = seen.told(9)
    assert [each for each in told if each[0] in ("locked", "unlocked")] == [
        ("locked", first),
        ("unlocked", first),
        ("locked", token),
        ("unlocked", token),
    ]
    assert [each for each in told if each[0] not in ("locked", "unlocked")] == [
        ("failed", None),
        ("waiting", token),
        ("acquired", token),
        ("renewed", token),
        ("released", token),
    ]


def test_a_handler_that_raises_disturbs_no_other_of_its_event(make: Make) -> None:
    foo = make()

    def fail() -> None:
        raise RuntimeError

    foo.on("acquired", fail)
    seen, errors = Recorder(foo, "acquired"), Recorder(foo, "error")
    foo.on("acquired", fail)
    foo.lock()
    assert len(seen.wait_for(1)) == 1
    assert isinstance(errors.wait_for(1)[0].error, RuntimeError)


def test_a_handler_that_raises_does_not_end_the_hold(make: Make) -> None:
    foo = make(ttl=SHORT, auto_renew=True)

    def fail() -> None:
        raise RuntimeError

    foo.on("renewed", fail)
    errors = Recorder(foo, "error")
    foo.lock()
    assert len(errors.wait_for(4)) >= 4  # more than a ttl
    assert (foo.state, foo.held) == (State.HELD, True)


def test_a_handler_that_ends_the_program_ends_nothing(make: Make) -> None:
    foo = make()
    foo.once("acquired", sys.exit)
    seen = Recorder(foo, "released")
    foo.lock()
    foo.unlock()
    assert len(seen.wait_for(1)) == 1


# What a handler takes its time for


def test_a_hold_is_renewed_in_time_while_handlers_are_slow(make: Make) -> None:
    foo, lost, over = make(ttl=SHORT, auto_renew=True), threading.Event(), threading.Event()
    for name in ("acquired", "renewed"):
        foo.on(name, lambda: over.wait(SLOW))
    foo.on("lost", lost.set)
    foo.on("suspended", lost.set)
    token = foo.lock().token
    end = clock.now() + 2 * SHORT
    while clock.now() < end:
        assert foo.held
        assert not lost.is_set()
        sleep(0.01)
    assert foo.token == token
    over.set()


def test_a_loss_is_a_state_though_a_handler_is_slow(make: Make, etcdctl: Etcdctl, key: str) -> None:
    foo, entered, over = make(), threading.Event(), threading.Event()
    foo.on("acquired", lambda: (entered.set(), over.wait(DEADLINE)))
    seen = Recorder(foo, "lost")
    foo.lock()
    assert entered.wait(DEADLINE)
    sleep(0.3)  # by now it is watched
    etcdctl("del", "--prefix", f"{key}/")
    assert eventually(lambda: foo.state is State.LOST, AT_ONCE)
    assert foo.lost.wait(0)
    assert seen.events == []
    over.set()
    assert [event.reason for event in seen.wait_for(1)] == [LossReason.DELETED]


def test_calls_do_not_wait_for_slow_handlers(make: Make) -> None:
    foo, over = make(), threading.Event()
    foo.on("acquired", lambda: over.wait(DEADLINE))
    with at_most(AT_ONCE):
        for _ in range(5):
            foo.lock()
            foo.renew()
            foo.unlock()
    over.set()


def test_waiting_does_not_wait_for_slow_handlers(make: Make) -> None:
    one, two, over = make("one"), make("two"), threading.Event()
    one.on("locked", lambda: over.wait(DEADLINE))
    two.lock()
    waiting = begin(lambda: one.lock(timeout=DEADLINE))
    assert queued(two)
    two.unlock()
    with at_most(AT_ONCE):
        waiting.result(DEADLINE)
    over.set()


def test_no_event_is_lost_behind_a_slow_handler(make: Make, key: str) -> None:
    one, two = make("one"), make("two")
    entered, over = threading.Event(), threading.Event()
    one.once("locked", lambda: (entered.set(), over.wait(DEADLINE)))
    seen = Recorder(one, "locked", "unlocked", "failed")
    expected: list[tuple[str, int | None]] = []
    for _ in range(10):
        token = two.lock().token
        assert entered.wait(DEADLINE)
        two.unlock()
        expected += [("locked", token), ("unlocked", token)]
    over.set()
    assert seen.told(20) == expected


def test_a_handler_may_wait_for_a_lock_while_another_hold_is_renewed(make: Make) -> None:
    foo = make(ttl=SHORT, auto_renew=True)
    bar, theirs = make(key=f"{foo.key}-2"), make("two", key=f"{foo.key}-2")
    theirs.lock()
    handler = Handler(foo, "acquired", lambda: bar.lock(timeout=DEADLINE))
    token = foo.lock().token
    assert queued(theirs)
    end = clock.now() + 1.5 * SHORT
    while clock.now() < end:
        assert foo.token == token
        sleep(0.01)
    theirs.unlock()
    assert isinstance(handler.done(), Hold)


def test_slow_handlers_of_one_client_do_not_delay_another(
    make: Make, etcd_server: Etcd, key: str
) -> None:
    foo, over = make(), threading.Event()
    foo.on("locked", lambda: over.wait(DEADLINE))
    with connect(etcd_server.endpoint) as etcd:
        seen: list[LockEvent] = []
        bar = Microlock(etcd, key, "two")
        bar.on("locked", seen.append)
        foo.lock()
        assert eventually(lambda: seen, AT_ONCE)
        bar.destroy()
    over.set()


def test_a_slow_handler_of_one_lock_does_not_delay_the_loss_of_another(
    make: Make, etcdctl: Etcdctl
) -> None:
    foo, bar, entered, over = make(), make(key="bar"), threading.Event(), threading.Event()
    foo.on("acquired", lambda: (entered.set(), over.wait(3)))
    seen = Recorder(bar, "lost")
    bar.lock()
    sleep(0.3)  # by now it is watched
    foo.lock()
    assert entered.wait(DEADLINE)
    with at_most(1):
        etcdctl("del", "--prefix", "bar/")
        assert [event.reason for event in seen.wait_for(1)] == [LossReason.DELETED]
    over.set()


def test_a_handler_that_waits_for_a_lock_lets_another_locks_handler_release_it(make: Make) -> None:
    theirs, mine = make(key="bar"), make("two", key="bar")
    theirs.lock()
    foo, baz = make(), make(key="baz")
    waits = Handler(foo, "acquired", lambda: mine.lock(timeout=DEADLINE))
    gives = Handler(baz, "acquired", theirs.unlock)
    foo.lock()
    assert queued(theirs)
    baz.lock()
    with at_most(AT_ONCE):
        assert gives.done() is None
        assert isinstance(waits.done(), Hold)


def test_a_hundred_locks_whose_handlers_block_are_all_told(make: Make, key: str) -> None:
    together = threading.Barrier(101)
    locks = [make(key=f"{key}-{number}") for number in range(100)]
    for lock in locks:
        lock.on("acquired", lambda: together.wait(DEADLINE))
        lock.lock()
    together.wait(DEADLINE)  # not before all of them are in their handlers
