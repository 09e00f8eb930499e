"""Threads, or tasks, that share one object take turns on it, as on a `threading.Lock`."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from time import monotonic, sleep

import pytest
from ctl import Etcdctl
from faces import BOTH_FACES, ONLY_THREADS, Microlock
from nodes import Make, begin, queued
from watching import DEADLINE, eventually
from witness import AT_ONCE, at_most, entries

from microlock import (
    AlreadyLockedError,
    DestroyedError,
    Hold,
    LockCancelledError,
    LockLostError,
    MicrolockError,
    State,
)

pytestmark = BOTH_FACES


def waits_for_its_turn(foo: Microlock, count: int = 1) -> bool:
    """Whether so many threads come to wait for each other."""
    turns = foo._core.turns
    return eventually(
        lambda: len([each for each in turns.calls if each is not turns.current]) == count
    )


def begin_to_wait(foo: Microlock, count: int) -> list[Future[Hold]]:
    """Threads that wait for their turn on an object, one after another."""
    waiting = []
    for number in range(count):
        waiting.append(begin(lambda: foo.lock(timeout=DEADLINE)))
        assert waits_for_its_turn(foo, number + 1)
    return waiting


class Overlap:
    """Counts who is in a block of code at the same time."""

    def __init__(self) -> None:
        self.most = self.times = self._inside = 0

    def __call__(self) -> None:
        self._inside += 1
        self.most = max(self.most, self._inside)
        self.times += 1
        sleep(0.002)
        self._inside -= 1


@contextmanager
def on_signal(act: Callable[[], object]) -> Iterator[Future[object]]:
    """Has SIGUSR1 do this; what comes of it is in the future."""
    came: Future[object] = Future()

    def handler(*_: object) -> None:
        try:
            came.set_result(act())
        except MicrolockError as error:
            came.set_exception(error)

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        yield came
    finally:
        signal.signal(signal.SIGUSR1, before)


def signal_main() -> None:
    signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)  # type: ignore[arg-type]


# Turns


def test_threads_get_the_object_in_the_order_of_asking(make: Make) -> None:
    foo, order = make(), list[int]()
    foo.lock()

    def take(number: int) -> None:
        with foo:
            order.append(number)

    threads = []
    for number in range(8):
        threads.append(begin(lambda number=number: take(number)))
        assert waits_for_its_turn(foo, number + 1)
    foo.unlock()
    for each in threads:
        each.result(DEADLINE)
    assert order == list(range(8))


def test_a_function_that_threads_call_by_one_object_never_overlaps(
    make: Make, etcdctl: Etcdctl, key: str
) -> None:
    foo, work = make(), Overlap()
    decorated = foo(work.__call__)
    threads = [begin(lambda: [decorated() for _ in range(10)]) for _ in range(8)]
    for each in threads:
        each.result(DEADLINE)
    assert (work.most, work.times) == (1, 80)
    assert entries(etcdctl, key) == []


def test_blocks_of_threads_by_two_objects_never_overlap(make: Make) -> None:
    work = Overlap()

    def enter(foo: Microlock) -> None:
        for _ in range(10):
            with foo:
                work()

    threads = [begin(lambda foo=foo: enter(foo)) for foo in (make("one"), make("two")) * 4]
    for each in threads:
        each.result(DEADLINE)
    assert (work.most, work.times) == (1, 80)


def test_the_turn_and_the_wait_in_etcd_have_one_deadline(make: Make) -> None:
    foo, two = make(), make("two")
    foo.lock()
    theirs = begin(lambda: two.lock(timeout=DEADLINE))
    assert queued(foo)
    started = monotonic()
    waiting = begin(lambda: foo.lock(timeout=2))
    assert waits_for_its_turn(foo)
    sleep(1)
    foo.unlock()
    theirs.result(DEADLINE)
    error = waiting.exception(DEADLINE)
    took = monotonic() - started
    assert isinstance(error, AlreadyLockedError)
    assert error.holder.node_id == "two"
    assert 1.4 < took < 2.6


def test_a_thread_whose_time_is_over_before_its_turn_is_told_who_holds(make: Make) -> None:
    foo = make()
    token = foo.lock().token
    with at_most(0.5 + AT_ONCE):
        error = begin(lambda: foo.lock(timeout=0.5)).exception(DEADLINE)
    assert isinstance(error, AlreadyLockedError)
    assert error.holder.token == token
    foo.unlock()


@pytest.mark.parametrize("waits", [False, True], ids=["held", "queued"])
def test_a_try_never_waits_for_another_thread(make: Make, waits: bool) -> None:
    foo, two = make(), make("two")
    if waits:
        two.lock()
        waiting = begin(lambda: foo.lock(timeout=DEADLINE))
        assert queued(two)
    else:
        foo.lock()
    with at_most(AT_ONCE):
        assert isinstance(begin(foo.lock).exception(DEADLINE), AlreadyLockedError)
    if waits:
        two.unlock()
        waiting.result(DEADLINE)


def test_any_thread_may_unlock_and_the_next_gets_it(make: Make) -> None:
    foo = make()
    first = foo.lock()
    (waiting,) = begin_to_wait(foo, 1)
    begin(foo.unlock).result(DEADLINE)
    assert waiting.result(AT_ONCE).token > first.token
    foo.unlock()  # which this thread does not hold


# The thread that holds it


@pytest.mark.parametrize("way", ["lock(timeout)", "with", "decorated"])
def test_the_thread_that_holds_does_not_wait_for_itself(make: Make, way: str) -> None:
    foo = make()
    token = foo.lock().token

    @foo
    def decorated() -> None: ...

    ways = {
        "lock(timeout)": lambda: foo.lock(timeout=None),
        "with": foo.__enter__,
        "decorated": decorated,
    }
    with at_most(AT_ONCE), pytest.raises(AlreadyLockedError) as caught:
        ways[way]()
    assert caught.value.holder.token == token
    assert foo.held


@ONLY_THREADS
def test_a_signals_handler_does_not_wait_for_the_thread_that_it_interrupts(make: Make) -> None:
    foo = make()
    foo.lock()
    with on_signal(lambda: foo.lock(timeout=None)) as came, at_most(AT_ONCE):
        signal.raise_signal(signal.SIGUSR1)
    assert isinstance(came.exception(0), AlreadyLockedError)
    assert foo.held


@ONLY_THREADS
@pytest.mark.parametrize("stage", ["for etcd", "for its turn"])
def test_a_signals_handler_does_not_wait_for_the_wait_that_it_interrupts(
    make: Make, stage: str
) -> None:
    foo, two = make(), make("two")
    holder = two if stage == "for etcd" else foo
    begin(holder.lock).result(DEADLINE)

    def interrupt() -> None:
        assert queued(two) if holder is two else waits_for_its_turn(foo)
        signal_main()
        eventually(came.done, 2 * AT_ONCE)
        holder.unlock()

    with on_signal(lambda: foo.lock(timeout=2 * DEADLINE)) as came:
        aside = begin(interrupt)
        with at_most(DEADLINE):
            foo.lock(timeout=DEADLINE)
        aside.result(DEADLINE)
    assert isinstance(came.exception(0), MicrolockError)
    assert foo.held


@ONLY_THREADS
def test_a_signals_handler_may_unlock_what_the_thread_that_it_interrupts_waits_for(
    make: Make,
) -> None:
    foo = make()
    begin(foo.lock).result(DEADLINE)
    with on_signal(foo.unlock) as came:
        begin(lambda: waits_for_its_turn(foo) and signal_main())
        with at_most(AT_ONCE):
            foo.lock(timeout=DEADLINE)
    assert came.result(0) is None


@ONLY_THREADS
def test_a_signals_handler_may_destroy_while_its_thread_waits_for_a_turn(
    make: Make, etcdctl: Etcdctl, key: str
) -> None:
    foo = make()
    begin(foo.lock).result(DEADLINE)
    with on_signal(foo.destroy) as came:
        begin(lambda: waits_for_its_turn(foo) and signal_main())
        with at_most(AT_ONCE), pytest.raises(DestroyedError):
            foo.lock(timeout=DEADLINE)
    assert came.result(0) is None
    assert entries(etcdctl, key) == []


def test_a_thread_waits_for_the_hold_of_one_that_has_ended(make: Make) -> None:
    foo = make()
    for _ in range(5):  # Python gives the ident of a thread that has ended to another
        thread = threading.Thread(target=foo.lock)
        thread.start()
        thread.join()
        waiting = begin(lambda: foo.lock(timeout=DEADLINE))
        assert waits_for_its_turn(foo)
        foo.unlock()
        waiting.result(DEADLINE)
        foo.unlock()


# What hands it on, and what ends the waiting


@pytest.mark.parametrize("loss", ["deleted", "revoked", "expired"])
def test_a_loss_hands_it_on(make: Make, etcdctl: Etcdctl, key: str, loss: str) -> None:
    foo = make(ttl=2 if loss == "expired" else 60)
    first = foo.lock()
    (waiting,) = begin_to_wait(foo, 1)
    sleep(0.3)  # by now it is watched
    if loss == "deleted":
        etcdctl("del", "--prefix", f"{key}/")
    elif loss == "revoked":
        etcdctl("lease", "revoke", f"{first.lease_id:x}")
    second = waiting.result(2 + AT_ONCE)
    assert second.token > first.token
    assert begin(lambda: foo.token).result(DEADLINE) == second.token


def test_a_thread_that_lost_its_hold_does_not_take_that_of_another_for_its_own(
    make: Make, etcdctl: Etcdctl, key: str
) -> None:
    foo = make(ttl=60)
    foo.lock()
    (waiting,) = begin_to_wait(foo, 1)
    sleep(0.3)  # by now it is watched
    etcdctl("del", "--prefix", f"{key}/")
    second = waiting.result(AT_ONCE)
    assert (foo.held, foo.token, foo.state, foo.lost.is_set()) == (False, None, State.LOST, True)
    for call in (foo.check, foo.guard, foo.renew, foo.unlock):
        with pytest.raises(LockLostError):
            call()
    assert begin(lambda: foo.renew() and foo.token).result(DEADLINE) == second.token


def test_a_block_whose_hold_was_lost_says_so_though_another_thread_has_the_lock(
    make: Make, etcdctl: Etcdctl, key: str
) -> None:
    foo = make(ttl=60)
    with pytest.raises(LockLostError), foo:  # noqa: PT012
        (waiting,) = begin_to_wait(foo, 1)
        sleep(0.3)  # by now it is watched
        etcdctl("del", "--prefix", f"{key}/")
        second = waiting.result(AT_ONCE)
    assert begin(lambda: foo.token).result(DEADLINE) == second.token


def test_a_failed_wait_hands_it_on(make: Make) -> None:
    foo, two = make(), make("two")
    two.lock()
    first = begin(lambda: foo.lock(timeout=1))
    assert queued(two)
    second = begin(lambda: foo.lock(timeout=DEADLINE))
    assert waits_for_its_turn(foo)
    assert isinstance(first.exception(DEADLINE), AlreadyLockedError)
    assert queued(two)
    two.unlock()
    second.result(DEADLINE)


def test_destroy_ends_all_that_wait(make: Make, etcdctl: Etcdctl, key: str) -> None:
    foo = make()
    foo.lock()
    waiting = begin_to_wait(foo, 5)
    with at_most(AT_ONCE):
        foo.destroy()
        errors = [type(each.exception(DEADLINE)) for each in waiting]
    assert errors == [DestroyedError] * 5
    assert entries(etcdctl, key) == []


def test_cancel_ends_all_that_wait_and_not_the_hold(make: Make, etcdctl: Etcdctl, key: str) -> None:
    foo = make()
    token = foo.lock().token
    waiting = begin_to_wait(foo, 5)
    with at_most(AT_ONCE):
        foo.cancel()
        errors = [type(each.exception(DEADLINE)) for each in waiting]
    assert errors == [LockCancelledError] * 5
    assert (foo.token, len(entries(etcdctl, key))) == (token, 1)
    (again,) = begin_to_wait(foo, 1)
    foo.unlock()
    again.result(DEADLINE)


def test_cancel_ends_the_one_in_etcds_queue_and_all_behind_it(
    make: Make, etcdctl: Etcdctl, key: str
) -> None:
    foo, two = make(), make("two")
    two.lock()
    first = begin(lambda: foo.lock(timeout=DEADLINE))
    assert queued(two)
    waiting = [first, *begin_to_wait(foo, 3)]
    foo.cancel()
    assert [type(each.exception(AT_ONCE)) for each in waiting] == [LockCancelledError] * 4
    assert len(entries(etcdctl, key)) == 1


def test_200_threads_take_turns_in_blocks_of_one_object(
    make: Make, etcdctl: Etcdctl, key: str
) -> None:
    foo, work = make(), Overlap()

    def enter() -> None:
        with foo:
            work()

    threads = [begin(enter) for _ in range(200)]
    for each in threads:
        each.result(2 * DEADLINE)
    assert (work.most, work.times) == (1, 200)
    assert entries(etcdctl, key) == []
