"""Turns of the calls on one object: with real threads, and without a wait that is not needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import pytest

from microlock.engine.reentrant_event import ReentrantEvent
from microlock.engine.turns import Turn, Turns

# Seconds after which a thread that hangs is a failure.
PATIENCE = 20.0


waited_for = threading.Event()


class Noting(ReentrantEvent):
    """One that tells when somebody waits for it."""

    def wait(self, timeout: float | None = None) -> bool:
        waited_for.set()  # what is set from here on ends the wait
        return super().wait(timeout)


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Turns:
    monkeypatch.setattr("microlock.engine.turns.ReentrantEvent", Noting)
    return Turns()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


Queue = Callable[..., "Future[Turn]"]


@pytest.fixture
def queue(turns: Turns, threads: ThreadPoolExecutor) -> Queue:
    """Another thread asks for its turn; returns when it waits for it."""

    def queue(*, patient: bool = False) -> Future[Turn]:
        waited_for.clear()
        asked = threads.submit(turns.take, 2 * PATIENCE, patient=patient)
        assert waited_for.wait(PATIENCE)
        return asked

    return queue


def elsewhere(threads: ThreadPoolExecutor, turns: Turns, timeout: float = 0, **how: bool) -> Turn:
    """What another thread is told that asks for its turn."""
    return threads.submit(turns.take, timeout, **how).result(PATIENCE)


def test_the_first_has_its_turn_at_once(turns):
    assert turns.take(0) is Turn.TAKEN


def test_the_owner_is_the_thread_whose_turn_it_is(turns):
    turns.take(0)
    assert turns.mine


def test_a_turn_is_not_given_by_an_owner_of_an_earlier_one(turns):
    turns.take(0)
    earlier = turns.owner
    turns.give()
    turns.take(0)
    turns.give(earlier)
    assert turns.mine
    turns.give(turns.owner)
    assert not turns.mine


def test_a_turn_that_was_given_has_no_owner(turns):
    turns.take(0)
    turns.give()
    assert not turns.mine


def test_a_second_thread_has_no_turn_meanwhile(turns, threads):
    turns.take(0)
    assert elsewhere(threads, turns) is Turn.BUSY


def test_a_second_thread_does_not_take_the_turn_away(turns, threads):
    turns.take(0)
    elsewhere(threads, turns)
    assert turns.mine


def test_a_wait_for_a_turn_ends_with_its_time(turns, threads):
    turns.take(0)
    assert elsewhere(threads, turns, 0.01) is Turn.BUSY


def test_a_time_that_is_over_is_no_time(turns, threads):
    turns.take(0)
    assert elsewhere(threads, turns, -1) is Turn.BUSY


def test_a_turn_that_is_free_is_taken_also_when_the_time_is_over(turns):
    assert turns.take(-1) is Turn.TAKEN


def test_a_call_in_a_call_has_no_turn_of_its_own(turns):
    """As in the handler of a signal."""
    turns.take(0)
    assert turns.take(0) is Turn.BUSY


def test_who_waits_has_its_turn_when_the_owner_gives_it(turns, queue):
    turns.take(0)
    asked = queue()
    turns.give()
    assert asked.result(PATIENCE) is Turn.TAKEN


def test_one_of_those_who_wait_has_the_turn_at_a_time(turns, queue):
    turns.take(0)
    both = {queue(), queue()}
    turns.give()
    done, waiting = wait(both, PATIENCE, FIRST_COMPLETED)
    assert (len(done), len(waiting)) == (1, 1)
    assert turns._owner
    turns._owner.thread = threading.get_ident()  # instead of the one that has it
    turns.give()
    assert [asked.result(PATIENCE) for asked in both] == [Turn.TAKEN, Turn.TAKEN]


def test_turns_are_given_in_the_order_of_asking(turns, threads):
    taken: list[int] = []
    asked = []

    def ask(number: int) -> None:
        assert turns.take(PATIENCE) is Turn.TAKEN
        taken.append(number)
        turns.give()

    turns.take(0)
    for number in range(5):
        waited_for.clear()
        asked.append(threads.submit(ask, number))
        assert waited_for.wait(PATIENCE)
    turns.give()
    for each in asked:
        each.result(PATIENCE)
    assert taken == [0, 1, 2, 3, 4]


def test_who_gives_its_turn_and_asks_again_is_behind_who_waits(turns, queue):
    turns.take(0)
    asked = queue()
    turns.give()
    assert turns.take(0) is Turn.BUSY
    assert asked.result(PATIENCE) is Turn.TAKEN


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_whom_an_interrupt_throws_out_of_its_wait_is_passed_over(turns, threads, error):
    def interrupted(flag: Noting, timeout: float | None = None) -> bool:
        raise error

    turns.take(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Noting, "wait", interrupted)
        asked = threads.submit(turns.take, PATIENCE)
        with pytest.raises(error) as raised:  # whose traceback keeps the call
            asked.result(PATIENCE)
    turns.give()
    assert raised.value.__traceback__
    assert turns.take(0) is Turn.TAKEN


def test_threads_take_turns(turns, threads):
    inside: list[int] = []
    most: list[int] = []

    def call(number: int) -> None:
        for _ in range(50):
            assert turns.take(PATIENCE) is Turn.TAKEN
            inside.append(number)
            most.append(len(inside))
            inside.remove(number)
            turns.give()

    for done in [threads.submit(call, number) for number in range(4)]:
        done.result(PATIENCE)
    assert max(most) == 1


# While the owner stands in the queue of the lock.


def test_who_stands_in_the_queue_keeps_its_turn(turns):
    turns.take(0)
    with turns.stand():
        assert turns.mine


def test_nobody_waits_for_one_who_stands_in_the_queue(turns, threads):
    turns.take(0)
    with turns.stand():
        assert elsewhere(threads, turns, 2 * PATIENCE) is Turn.STANDING


def test_who_waits_goes_when_the_owner_begins_to_stand_in_the_queue(turns, queue):
    turns.take(0)
    asked = queue()
    with turns.stand():
        assert asked.result(PATIENCE) is Turn.STANDING


def test_who_is_patient_waits_for_one_who_stands_in_the_queue(turns, queue):
    turns.take(0)
    with turns.stand():
        asked = queue(patient=True)
    turns.give()
    assert asked.result(PATIENCE) is Turn.TAKEN


def test_who_is_patient_stays_when_the_owner_begins_to_stand_in_the_queue(turns, queue):
    turns.take(0)
    asked = queue(patient=True)
    with turns.stand():
        pass
    turns.give()
    assert asked.result(PATIENCE) is Turn.TAKEN


def test_who_has_stood_in_the_queue_is_waited_for_again(turns, queue):
    turns.take(0)
    with turns.stand():
        pass
    asked = queue()
    turns.give()
    assert asked.result(PATIENCE) is Turn.TAKEN


def test_standing_ends_with_an_interrupt(turns, threads):
    turns.take(0)
    with pytest.raises(KeyboardInterrupt), turns.stand():
        raise KeyboardInterrupt
    assert elsewhere(threads, turns) is Turn.BUSY


def test_who_has_no_turn_gives_nobodys(turns, threads):
    elsewhere(threads, turns)
    turns.give()
    assert turns.take(0) is Turn.BUSY


def test_who_gives_a_turn_in_the_queue_leaves_it_free(turns, threads):
    turns.take(0)
    with turns.stand():
        turns.give()
        assert elsewhere(threads, turns) is Turn.TAKEN
