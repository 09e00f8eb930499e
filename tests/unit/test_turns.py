"""Turns of the calls on one object: one at a time, in the order of asking."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from walk import MAIN, OTHER, THIRD, Event

from microlock.core.call import NOW, Call, Kind, Steps
from microlock.core.turns import Turns


class Lock:
    """What turns want to know of a lock."""

    free = True


@pytest.fixture
def lock() -> Lock:
    return Lock()


@pytest.fixture
def turns(lock: Lock) -> Turns:
    return Turns(lock)


def call(kind: Kind = Kind.ACT, owner: str = MAIN) -> Call:
    made = Call(kind, owner, 0.0, 0.0)
    made.woken = Event()
    if kind is Kind.WAIT:
        made.stop = lambda: None
    return made


def pause(turns: Turns, first: Call) -> Steps[None]:
    """It has come to the pause between two turns."""
    pausing = turns.pause(first, 10.0)
    assert next(pausing) is NOW
    return pausing


def ask(turns: Turns, *kinds: Kind) -> list[Call]:
    asked = [call(kind, owner) for kind, owner in zip(kinds, (MAIN, OTHER, THIRD), strict=False)]
    for each in asked:
        turns.ask(each)
    return asked


@pytest.mark.parametrize("kind", Kind)
def test_the_first_has_its_turn_at_once(turns, kind):
    (first,) = ask(turns, kind)
    assert turns.current is first
    assert first.woken.is_set()


def test_a_second_waits_for_its_turn(turns):
    first, second = ask(turns, Kind.ACT, Kind.ACT)
    assert turns.current is first
    assert not second.woken.is_set()


def test_a_turn_is_given_in_the_order_of_asking(turns):
    first, second, third = ask(turns, Kind.ACT, Kind.ACT, Kind.ACT)
    turns.give(first)
    assert turns.current is second
    assert second.woken.is_set()
    turns.give(second)
    assert turns.current is third


def test_a_turn_that_nobody_waits_for_is_nobodys(turns):
    (first,) = ask(turns, Kind.ACT)
    turns.give(first)
    assert turns.current is None


def test_who_gives_its_turn_and_asks_again_is_behind_who_waits(turns):
    first, second = ask(turns, Kind.ACT, Kind.ACT)
    turns.give(first)
    turns.ask(first)
    assert (turns.current, turns.calls) == (
        second,
        (
            second,
            first,
        ),
    )


def test_who_has_no_turn_gives_nobodys(turns):
    first, second = ask(turns, Kind.ACT, Kind.ACT)
    turns.give(second)
    turns.give(call())
    assert (turns.current, turns.calls) == (first, (first,))


def test_a_turn_that_is_given_twice_is_not_the_nexts(turns):
    first, second = ask(turns, Kind.ACT, Kind.ACT)
    turns.give(first)
    turns.give(first)
    assert turns.current is second


# That the object holds nothing.


def test_who_wants_to_hold_waits_until_the_object_holds_nothing(turns, lock):
    lock.free = False
    (first,) = ask(turns, Kind.WAIT)
    assert turns.current is None
    lock.free = True
    turns.pass_on()
    assert turns.current is first


@pytest.mark.parametrize("kind", [Kind.ACT, Kind.TRY, Kind.END])
def test_others_do_not_stand_behind_who_waits_to_hold(turns, lock, kind):
    lock.free = False
    _, second = ask(turns, Kind.WAIT, kind)
    assert turns.current is second


def test_nobody_passes_who_can_hold(turns):
    first, second, _ = ask(turns, Kind.ACT, Kind.WAIT, Kind.ACT)
    turns.give(first)
    assert turns.current is second


# What a signal's handler meets, in the middle of a line.


def test_a_turn_is_over_before_its_call_is_off_the_list(turns):
    """A call of a handler in between would wait for it for ever, on the same thread."""
    (first,) = ask(turns, Kind.ACT)
    seen = []

    class Calls(list):
        def __iter__(self):
            seen.append(turns.current)
            return super().__iter__()

    turns.calls = Calls(turns.calls)
    turns.give(first)
    assert seen == [None]


def test_a_call_that_is_woken_while_it_looks_does_not_sleep(turns, monkeypatch):
    ask(turns, Kind.ACT)
    second = call(Kind.WAIT, OTHER)
    second.woken = None
    turns._status.env = SimpleNamespace(event=Event)
    turns._status.hold = None
    monkeypatch.setattr(Turns, "_refusal", lambda *_: turns.wake())
    taking = turns.take(second)
    assert next(taking) is NOW
    assert taking.send(1.0).on.is_set()


def test_a_call_that_is_refused_is_off_the_list(turns, monkeypatch):
    ask(turns, Kind.ACT, Kind.ACT)
    third = call(Kind.ACT, THIRD)
    monkeypatch.setattr(Turns, "_refusal", lambda *_: LookupError("no"))
    taking = turns.take(third)
    next(taking)
    with pytest.raises(LookupError):
        taking.send(1.0)
    assert third not in turns.calls


# Calls that pause, and those in the middle of another.


def test_who_pauses_between_two_tries_has_no_turn_meanwhile(turns):
    first, second = ask(turns, Kind.ACT, Kind.ACT)
    turns.give(first)
    _pausing = pause(turns, first)
    turns.give(second)
    assert turns.current is None
    assert not first.woken.is_set()


def test_who_has_paused_asks_again(turns):
    (first,) = ask(turns, Kind.ACT)
    pause(turns, first).close()
    turns.ask(first)
    assert (turns.current, turns.calls) == (first, (first,))


def test_a_call_in_the_middle_of_a_wait_of_its_own_thread_comes_first(turns):
    """As in the handler of a signal: the other goes on only after this."""
    first, second = ask(turns, Kind.ACT, Kind.ACT)
    inner = call(owner=OTHER)
    turns.ask(inner)
    turns.give(first)
    assert turns.current is inner
    turns.give(inner)
    assert turns.current is second


# Waking, and cancelling.


def test_all_that_wait_are_woken(turns):
    first, second, third = ask(turns, Kind.ACT, Kind.ACT, Kind.WAIT)
    _pausing = pause(turns, first)
    turns.wake()
    assert all(each.woken.is_set() for each in (first, second, third))


def test_those_that_want_to_hold_are_cancelled_and_woken(turns, lock):
    lock.free = False
    first, second = ask(turns, Kind.WAIT, Kind.WAIT)
    turns.cancel()
    assert [each.cancelled for each in (first, second)] == [True, True]
    assert first.woken.is_set()


def test_the_one_whose_turn_it_is_to_hold_is_cancelled(turns):
    (first,) = ask(turns, Kind.WAIT)
    turns.cancel()
    assert first.cancelled


def test_who_pauses_between_two_tries_is_cancelled(turns):
    first = call(Kind.TRY)
    first.stop = lambda: None
    _pausing = pause(turns, first)
    turns.cancel()
    assert first.cancelled
    assert first.woken.is_set()


@pytest.mark.parametrize("kind", [Kind.ACT, Kind.TRY, Kind.END])
def test_calls_that_do_not_want_to_hold_are_not_cancelled(turns, kind):
    first, second = ask(turns, kind, kind)
    turns.cancel()
    assert [each.cancelled for each in (first, second)] == [False, False]


def test_without_a_call_there_is_nothing_to_cancel(turns):
    turns.cancel()
    assert turns.current is None
