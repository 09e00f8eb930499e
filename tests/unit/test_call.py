"""The time that one call has, and what of it is kept for undoing."""

from __future__ import annotations

import math
from typing import Any

import pytest
from walk import MAIN, Event

from microlock.core.call import Call, Kind
from microlock.core.port import Get, Grant, KeepAlive, Revoke

START, TIMEOUT = 1000.0, 4.0
GET, GRANT, REVOKE = Get(b"foo/1"), Grant(7, 60), Revoke(7)


def call(kind: Kind = Kind.ACT, **how: Any) -> Call:
    return Call(kind, MAIN, START, TIMEOUT, **how)


def test_a_call_that_does_not_wait_has_the_time_of_the_client_from_its_beginning():
    made = call()
    made.budget(GET, START + 1)
    budget = made.budget(GET, START + 2)
    assert (budget.work, budget.end) == (START + 3, START + 4)


def test_a_call_that_does_not_wait_gives_up_its_turn_with_the_time_of_the_client():
    assert (call().until, call().turn_until) == (None, START + TIMEOUT)


def test_a_call_to_end_gives_up_its_turn_with_the_time_of_the_client():
    assert call(Kind.END).turn_until == START + TIMEOUT


@pytest.mark.parametrize(("wait", "kept"), [(100.0, 0.25), (1.0, 0.1), (0.2, 0.05), (0.01, 0.005)])
def test_a_wait_keeps_some_of_its_time_for_undoing(wait, kept):
    made = call(Kind.WAIT, wait=wait)
    assert made.until == pytest.approx(START + wait - kept)
    assert made.turn_until == made.until


def test_a_request_of_a_wait_has_until_its_time_is_over_and_no_more_than_the_clients():
    made = call(Kind.WAIT, wait=100.0)
    assert made.budget(GET, START + 1).work == made.until
    assert made.budget(GET, START + 1).end == START + 1 + TIMEOUT
    assert made.budget(GET, START + 99).end == START + 100


def test_whose_turn_comes_at_last_has_what_is_kept_for_undoing():
    made = call(Kind.WAIT, wait=10.0)
    assert made.budget(KeepAlive(7), START + 9).work == START + 10


def test_a_wait_without_an_end_never_gives_up():
    made = call(Kind.WAIT, wait=None)
    assert (made.until, made.turn_until) == (None, math.inf)


def test_what_follows_a_wait_without_an_end_has_a_time_of_its_own():
    made = call(Kind.WAIT, wait=None)
    assert made.budget(GET, START).end == START + TIMEOUT
    assert made.budget(GET, START + 3).end == START + TIMEOUT
    made.parked(START + 50)
    assert made.budget(GET, START + 60).end == START + 60 + TIMEOUT


def test_a_call_that_has_paused_has_the_time_of_the_client_for_its_next_turn():
    made = call()
    made.parked(START + 50)
    assert made.turn_until == START + 50 + TIMEOUT


@pytest.mark.parametrize("wait", [0.0, 1.0, None])
def test_undoing_has_a_time_of_its_own_and_is_not_stopped(wait):
    def stop() -> None:
        raise AssertionError

    made = call(Kind.WAIT, wait=wait)
    made.stop = stop
    assert made.budget(GET, START).stop is stop
    made.undo()
    budget = made.budget(REVOKE, START + 60)
    assert (budget.end, budget.stop) == (START + 60 + TIMEOUT, None)


def test_a_call_counts_what_it_asks_and_notes_the_leases_that_it_may_leave():
    made = call()
    made.budget(GRANT, START)
    made.budget(Grant(8, 60), START)
    made.budget(REVOKE, START)
    assert made.leases == {7, 8}  # an interrupt may keep it from being sent
    made.tried(REVOKE)
    assert (made.requests, made.leases) == (3, {8})


def test_a_call_that_does_not_wait_is_not_woken():
    made = call()
    made.wake()
    made.woken = Event()
    made.wake()
    assert made.woken.is_set()
