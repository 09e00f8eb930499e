"""What is due when: the earliest first, and each item once."""

from __future__ import annotations

import math

import pytest

from microlock.core.agenda import BATCH, TICK, Agenda, patience
from microlock.core.lease import Lease


class Item:
    """Something to be done."""


@pytest.fixture
def agenda() -> Agenda[Item]:
    return Agenda()


def test_nothing_is_due_at_first(agenda):
    assert (agenda.next, agenda.due(1000.0, BATCH)) == (math.inf, [])


def test_an_item_is_due_at_its_time_and_not_before(agenda):
    item = Item()
    agenda.add(item, 10.0)
    assert agenda.due(9.99, BATCH) == []
    assert agenda.due(10.0, BATCH) == [item]


def test_an_item_that_was_due_is_off_the_agenda(agenda):
    item = Item()
    agenda.add(item, 10.0)
    agenda.due(10.0, BATCH)
    assert (agenda.has(item, 20.0), agenda.next, agenda.due(20.0, BATCH)) == (False, math.inf, [])


def test_what_falls_due_within_one_tick_is_done_together_and_never_early(agenda):
    one, two = Item(), Item()
    agenda.add(one, 10.01)
    agenda.add(two, 10.04)
    assert agenda.next == pytest.approx(10.05)
    assert agenda.due(10.051, BATCH) == [one, two]
    assert TICK == 0.05


def test_the_longest_overdue_is_the_first(agenda):
    late, later, latest = Item(), Item(), Item()
    agenda.add(later, 20.0)
    agenda.add(latest, 30.0)
    agenda.add(late, 10.0)
    assert agenda.due(30.0, 2) == [late, later]
    assert agenda.due(30.0, 2) == [latest]


def test_what_is_earlier_than_everything_else_is_next(agenda):
    one, two, three = Item(), Item(), Item()
    for item, at, following in (one, 20.0, 20.0), (two, 30.0, 20.0), (three, 10.0, 10.0):
        agenda.add(item, at)
        assert agenda.next == following


def test_an_item_is_known_to_be_done_by_its_time(agenda):
    item = Item()
    agenda.add(item, 20.0)
    assert [agenda.has(item, at) for at in (19.0, 20.0, 30.0)] == [False, True, True]


def test_an_item_that_was_dropped_is_not_due(agenda):
    item, other = Item(), Item()
    agenda.add(item, 10.0)
    agenda.drop(item)
    agenda.drop(other)
    assert (agenda.next, agenda.due(20.0, BATCH)) == (math.inf, [])


def test_an_item_can_be_made_earlier_and_is_due_once(agenda):
    item = Item()
    agenda.add(item, 20.0)
    agenda.add(item, 10.0)
    assert agenda.due(10.0, BATCH) == [item]
    assert agenda.due(30.0, BATCH) == []


@pytest.mark.parametrize("again", [10.0, 20.0])
def test_an_item_is_not_put_off_by_a_later_time(agenda, again):
    item = Item()
    agenda.add(item, 10.0)
    agenda.add(item, again)
    assert agenda.due(10.0, BATCH) == [item]


def test_an_item_that_was_due_can_be_put_on_again(agenda):
    item = Item()
    agenda.add(item, 10.0)
    agenda.due(10.0, BATCH)
    agenda.add(item, 20.0)
    assert agenda.due(20.0, BATCH) == [item]


def test_ticks_that_nothing_is_left_of_are_forgotten(agenda):
    item, other = Item(), Item()
    agenda.add(other, 1500.0)
    for time in range(1000, 0, -1):
        agenda.add(item, float(time))
    assert agenda.due(0.5, BATCH) == []
    assert len(agenda._ticks) == 2
    assert agenda.due(2000.0, BATCH) == [item, other]


class Interrupted(dict[object, None]):
    """A tick that is interrupted when an item comes."""

    def __setitem__(self, item: object, value: None) -> None:
        super().__setitem__(item, value)
        raise KeyboardInterrupt


def test_an_item_whose_addition_was_interrupted_can_be_added_again_and_is_due_once(agenda):
    item = Item()
    agenda._ticks[10.0] = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        agenda.add(item, 10.0)
    assert not agenda.has(item, 10.0)
    agenda.add(item, 20.0)
    assert agenda.due(15.0, BATCH) == []
    assert agenda.due(20.0, BATCH) == [item]


# How long a request for renewals may take.


def leases(*sent: float, ttl: int = 10) -> list[Lease]:
    return [Lease(number, asked=ttl, ttl=ttl, sent=each) for number, each in enumerate(sent)]


def test_a_request_leaves_time_for_another_before_the_first_deadline():
    urgent, other = leases(997.0, 1000.0, ttl=5)
    assert patience([other, urgent], 1000.0, 60.0) == (urgent.deadline - 1000.0) / 2


def test_a_request_has_the_time_that_a_proxy_takes_to_pass_it_on_before_the_first_deadline():
    (lease,) = leases(999.0, ttl=2)
    assert 0.7 <= patience([lease], 1000.0, 60.0) < lease.deadline - 1000.0
    assert patience([lease], 1000.5, 60.0) == pytest.approx(lease.deadline - 1000.5)


@pytest.mark.parametrize(("timeout", "most"), [(0.5, 0.5), (60.0, 2.0)])
def test_a_request_takes_no_longer_than_the_client_allows_or_others_can_wait(timeout, most):
    assert patience(leases(1000.0, ttl=3600), 1000.0, timeout) == most


def test_one_that_is_late_does_not_cut_the_others_short():
    assert patience(leases(900.0, *[1000.0] * 100), 1000.0, 60.0) > 101 * 0.001
