"""`cancel()` ends the waits of an object, at every stage, and leaves nothing behind."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from concurrent.futures import Future
from time import sleep
from typing import Any

import pytest
from conftest import Etcd
from ctl import Etcdctl
from faces import BOTH_FACES, ONLY_THREADS, Microlock
from nodes import Make, begin, nodes, queued
from test_sharing import on_signal, signal_main, waits_for_its_turn
from watching import DEADLINE, Recorder, eventually
from witness import AT_ONCE, at_most, entries

from microlock import (
    AlreadyLockedError,
    Hold,
    LockCancelledError,
    LockUncertainError,
    State,
)
from microlock.core.call import Call
from microlock.core.turns import Turns

pytestmark = BOTH_FACES

STAGES = ["in etcd's queue", "for a turn on the object", "between two tries"]


def begin_to_wait(foo: Microlock, other: Microlock, stage: str) -> Future[Hold]:
    """A thread that waits, at this stage, since somebody else holds the lock."""
    if stage == "for a turn on the object":
        foo.lock()
        waiting = begin(lambda: foo.lock(timeout=None))
        assert waits_for_its_turn(foo)
    elif stage == "in etcd's queue":
        other.lock()
        waiting = begin(lambda: foo.lock(timeout=None))
        assert queued(other)
    else:
        other.lock()
        waiting = begin(lambda: foo.lock(retries=100, interval=30))
        assert eventually(lambda: [each for each in foo._core.turns.calls if each.paused])
    return waiting


def cancelled(waiting: Future[Hold]) -> LockCancelledError:
    error = waiting.exception(AT_ONCE)
    assert isinstance(error, LockCancelledError), error
    return error


@pytest.mark.parametrize("stage", STAGES)
def test_cancel_ends_a_wait_and_the_object_can_be_used_again(
    make: Make, etcdctl: Etcdctl, key: str, stage: str
) -> None:
    foo, two = make("one"), make("two")
    for _ in range(3):
        waiting = begin_to_wait(foo, two, stage)
        foo.cancel()
        error = cancelled(waiting)
        assert (error.key, error.node_id) == (key, "one")
        assert len(entries(etcdctl, key)) == 1
        (foo if foo.held else two).unlock()
        foo.lock(timeout=DEADLINE)
        foo.unlock()
    assert entries(etcdctl, key) == []


@pytest.mark.parametrize("stage", STAGES)
def test_failed_tells_of_the_cancellation(make: Make, stage: str) -> None:
    foo = make("one")
    seen = Recorder(foo, "failed")
    waiting = begin_to_wait(foo, make("two"), stage)
    foo.cancel()
    assert seen.wait_for(1)[0].error is cancelled(waiting)


def test_a_handler_of_waiting_may_cancel(make: Make, etcdctl: Etcdctl, key: str) -> None:
    foo, two = make("one"), make("two")
    two.lock()
    foo.on("waiting", foo.cancel)
    with at_most(AT_ONCE), pytest.raises(LockCancelledError):
        foo.lock(timeout=None)
    assert len(entries(etcdctl, key)) == 1


@ONLY_THREADS
@pytest.mark.parametrize("stage", STAGES)
def test_a_signals_handler_may_cancel_the_wait_that_it_interrupts(make: Make, stage: str) -> None:
    foo, two = make("one"), make("two")
    holder = foo if stage == "for a turn on the object" else two
    begin(holder.lock).result(DEADLINE)

    def interrupt() -> None:
        if stage == "between two tries":
            eventually(lambda: [each for each in foo._core.turns.calls if each.paused])
        elif holder is two:
            queued(two)
        else:
            waits_for_its_turn(foo)
        signal_main()

    with on_signal(foo.cancel) as came:
        begin(interrupt)
        how: Any = {"retries": 100, "interval": 30} if "tries" in stage else {"timeout": None}
        with at_most(AT_ONCE), pytest.raises(LockCancelledError):
            foo.lock(**how)
    assert came.result(0) is None


def test_the_wait_behind_a_cancelled_one_goes_on(make: Make) -> None:
    foo, two, three = make("one"), make("two"), make("three")
    two.lock()
    waiting = begin(lambda: foo.lock(timeout=None))
    assert queued(two)
    behind = begin(lambda: three.lock(timeout=DEADLINE))
    assert queued(two, 2)
    foo.cancel()
    cancelled(waiting)
    two.unlock()
    behind.result(DEADLINE)


def test_cancel_without_a_wait_does_nothing(make: Make) -> None:
    foo = make()
    foo.cancel()
    token = foo.lock(timeout=DEADLINE).token
    foo.cancel()
    assert (foo.token, foo.state) == (token, State.HELD)
    foo.unlock()
    with foo:
        foo.cancel()
        assert foo.held
    foo.destroy()
    foo.cancel()


def test_cancel_leaves_what_other_threads_do_with_the_hold(make: Make) -> None:
    foo = make()
    foo.lock()
    renewals = begin(lambda: [foo.renew() for _ in range(100)])
    while not renewals.done():
        foo.cancel()
    assert len(renewals.result(0)) == 100


@pytest.mark.parametrize("stage", STAGES[:2])
def test_cancel_ends_a_block_before_it_begins(make: Make, stage: str) -> None:
    foo, two = make("one"), make("two")
    (two if stage == "in etcd's queue" else foo).lock()
    entered: list[bool] = []

    def enter() -> None:
        with foo:
            entered.append(True)

    waiting = begin(enter)
    assert queued(two) if stage == "in etcd's queue" else waits_for_its_turn(foo)
    foo.cancel()
    assert isinstance(waiting.exception(AT_ONCE), LockCancelledError)
    assert entered == []


def test_a_cancel_at_any_moment_leaves_a_hold_or_nothing(
    make: Make, etcdctl: Etcdctl, key: str
) -> None:
    foo, two, chance, outcomes = make("one"), make("two"), random.Random(7), set[str]()
    for _ in range(60):
        two.lock()
        waiting = begin(lambda: foo.lock(timeout=DEADLINE))
        unlocking = begin(lambda: (sleep(chance.uniform(0, 0.03)), two.unlock()))
        sleep(chance.uniform(0, 0.03))
        while not waiting.done():
            foo.cancel()
            sleep(0.001)
        unlocking.result(DEADLINE)
        error = waiting.exception(0)
        outcomes.add(type(error).__name__)
        if error is None:
            assert foo.held
            foo.unlock()
        assert not foo.held
        assert entries(etcdctl, key) == []
    assert outcomes <= {"NoneType", "LockCancelledError"}
    assert "LockCancelledError" in outcomes


def test_cancel_while_etcd_does_not_answer_leaves_nothing_beyond_the_ttl(
    own_etcd: Callable[..., Etcd],
) -> None:
    etcd = own_etcd()
    etcdctl = Etcdctl(etcd.endpoint)
    with nodes(etcd.endpoint, "foo", timeout=2) as make:
        foo, two = make("one", ttl=3), make("two")
        two.lock()
        waiting = begin(lambda: foo.lock(timeout=None))
        assert queued(two)
        etcd.pause()
        try:
            with at_most(2 + AT_ONCE):
                foo.cancel()
                error = waiting.exception(DEADLINE)
        finally:
            etcd.resume()
        assert isinstance(error, LockCancelledError | LockUncertainError), error
        if isinstance(error, LockCancelledError):
            assert len(entries(etcdctl, "foo")) == 1
        assert eventually(lambda: len(entries(etcdctl, "foo")) == 1, 3 + 3)
        two.unlock()
        assert foo.lock(timeout=DEADLINE).token
        foo.unlock()


def test_a_try_is_not_cancelled(make: Make) -> None:
    foo = make()
    tries = begin(lambda: [(foo.lock(), foo.unlock()) for _ in range(50)])
    while not tries.done():
        foo.cancel()
    assert len(tries.result(0)) == 50


def test_a_cancelled_wait_of_one_object_leaves_those_of_others(make: Make) -> None:
    foo, bar, two = make("one"), make("one"), make("two")
    two.lock()
    mine = begin(lambda: foo.lock(timeout=None))
    others = begin(lambda: bar.lock(timeout=DEADLINE))
    assert queued(two, 2)
    foo.cancel()
    cancelled(mine)
    two.unlock()
    others.result(DEADLINE)
    with pytest.raises(AlreadyLockedError):
        foo.lock()


@ONLY_THREADS
def test_cancel_in_a_signals_handler_between_calls_does_nothing(make: Make) -> None:
    foo = make()
    with on_signal(foo.cancel) as came:
        signal.raise_signal(signal.SIGUSR1)
    assert came.result(0) is None
    foo.lock(timeout=DEADLINE)


def test_cancel_ends_tries_whenever_it_comes(make: Make) -> None:
    foo, two, chance = make("one"), make("two"), random.Random(7)
    two.lock()
    for _ in range(30):
        waiting = begin(lambda: foo.lock(retries=1_000_000, interval=0.001))
        sleep(chance.uniform(0.05, 0.06))
        # The call may begin later than that, and a cancel before it ends nothing.
        assert eventually(lambda waiting=waiting: foo.cancel() or waiting.done())
        cancelled(waiting)


@ONLY_THREADS
def test_destroy_in_the_last_lines_of_another_call_ends_the_object(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a signal's handler may do, when the call has looked for that already."""
    foo, observer = make("one"), make("two")
    give = Turns.give

    def giving(turns: Turns, call: Call) -> None:
        if turns is foo._core.turns and not foo._status.destroyed:
            foo.destroy()
        give(turns, call)

    monkeypatch.setattr(Turns, "give", giving)
    foo.lock()
    assert observer.holder() is None
