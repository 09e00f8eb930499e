"""One hold, from its beginning to its end: what it is at a moment, whatever was told of it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable

import pytest

from microlock.core.hold import Hold, State
from microlock.core.lease import Lease
from microlock.core.place import Place
from microlock.core.port import Lifetime
from microlock.errors import LossReason
from microlock.holding import Holding

SENT, TTL = 1000.0, 10
LEASE, NEXT = Lease(1, asked=TTL, ttl=TTL, sent=SENT), Lease(2, asked=4, ttl=4, sent=SENT + 1)
TENURE = Place(b"foo/1", 5, LEASE)
MOVED = Place(b"foo/1", 5, NEXT)
IN_DOUBT = Place(b"foo/1", 5, LEASE, NEXT)
NOW = SENT + 1.5
LATE = SENT + TTL


def lifetime(sent: float, ttl: int = TTL) -> Lifetime:
    return Lifetime(ttl, sent, sent + 0.01)


@pytest.fixture
def holding() -> Holding:
    return Holding(TENURE, now=SENT)


def lost(holding: Holding) -> None:
    holding.lose(LossReason.DELETED)


def ended(holding: Holding) -> None:
    holding.end()


def found_lost(holding: Holding) -> None:
    """By the request that was to give it back."""
    holding.give_back()
    holding.end(LossReason.DELETED)


OVER = pytest.mark.parametrize("over", [lost, ended, found_lost])


# As it begins.


def test_a_hold_begins_held(holding):
    assert holding.state(NOW) is State.HELD


def test_a_hold_has_the_token_of_its_entry(holding):
    assert holding.token == 5


def test_a_hold_knows_since_when_and_what_the_user_was_told():
    told = Hold("foo", "alpha", 5, 1, TTL, 1, 0.0)
    holding = Holding(TENURE, now=SENT, hold=told)
    assert (holding.since, holding.hold) == (SENT, told)


def test_a_hold_that_was_found_in_etcd_has_told_the_user_nothing(holding):
    assert holding.hold is None


# Its deadline.


def test_what_remains_is_the_time_to_the_deadline(holding):
    assert holding.remaining(NOW) == LEASE.deadline - NOW


@pytest.mark.parametrize("after", [0.0, 1.0])
def test_nothing_remains_from_the_deadline_on(holding, after):
    assert holding.remaining(LEASE.deadline + after) == 0.0


def test_a_hold_is_lost_from_the_deadline_on_though_nobody_noticed(holding):
    assert holding.state(LEASE.deadline) is State.LOST
    assert holding.reason(LEASE.deadline) is LossReason.EXPIRED


def test_a_hold_is_not_lost_until_the_deadline(holding):
    assert holding.reason(LEASE.deadline - 0.01) is None


ASKED = {
    "remaining": lambda holding, now: holding.remaining(now),
    "reason": lambda holding, now: holding.reason(now),
    "state": lambda holding, now: holding.state(now),
}


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("by", ["a renewal", "a call"])
def test_a_loss_that_was_told_stays_though_the_reply_to_a_renewal_comes(holding, asked, by):
    ASKED[asked](holding, LEASE.deadline)
    if by == "a renewal":
        assert not holding.renewed(1, lifetime(LEASE.deadline - 1))
    else:
        holding.moved(TENURE.renewed(1, lifetime(LEASE.deadline - 1)))
    assert holding.state(LEASE.deadline + 0.1) is State.LOST
    assert holding.remaining(LEASE.deadline + 0.1) == 0.0


@pytest.mark.parametrize("asked", ASKED)
def test_a_renewal_whose_reply_comes_after_the_deadline_counts_if_nobody_was_told(holding, asked):
    ASKED[asked](holding, LEASE.deadline - 0.1)
    assert holding.renewed(1, lifetime(LEASE.deadline - 1))
    assert holding.state(LEASE.deadline + 0.1) is State.HELD


@pytest.mark.parametrize("earlier", [LEASE, NEXT])
def test_a_hold_whose_extension_is_in_doubt_lasts_until_the_earlier_deadline(earlier):
    other = Lease(3, asked=60, ttl=60, sent=SENT)
    holding = Holding(TENURE, now=SENT)
    holding.moved(Place(b"foo/1", 5, earlier, other))
    assert holding.remaining(NOW) == earlier.deadline - NOW
    holding.moved(Place(b"foo/1", 5, other, earlier))
    assert holding.remaining(NOW) == earlier.deadline - NOW


# Renewals.


def test_a_renewal_moves_the_deadline(holding):
    holding.renewed(1, lifetime(NOW))
    assert holding.remaining(NOW) == TENURE.renewed(1, lifetime(NOW)).deadline - NOW


def test_a_renewal_is_news(holding):
    assert holding.renewed(1, lifetime(NOW))


def test_a_renewal_of_a_foreign_lease_is_no_news(holding):
    assert not holding.renewed(2, lifetime(NOW))


def test_a_renewal_of_a_foreign_lease_changes_nothing(holding):
    holding.suspend()
    holding.renewed(2, lifetime(NOW))
    assert (holding.place, holding.state(NOW)) == (TENURE, State.SUSPENDED)


def test_a_renewal_that_was_overtaken_does_not_shorten_the_hold(holding):
    holding.renewed(1, lifetime(NOW))
    before = holding.remaining(NOW)
    holding.renewed(1, lifetime(NOW - 1))
    assert holding.remaining(NOW) == before


def test_a_renewal_of_one_of_two_leases_leaves_the_deadline_of_the_other():
    holding = Holding(IN_DOUBT, now=SENT)
    holding.renewed(1, lifetime(NOW + 2))
    assert holding.remaining(NOW) == NEXT.deadline - NOW


def test_renewals_of_both_leases_move_the_deadline_of_a_hold_in_doubt():
    holding = Holding(IN_DOUBT, now=SENT)
    holding.renewed(1, lifetime(NOW + 2))
    holding.renewed(2, lifetime(NOW + 2, ttl=4))
    assert holding.remaining(NOW) == IN_DOUBT.leases[1].deadline - (SENT + 1) + 2


def test_a_renewal_of_the_lease_before_an_extension_is_no_news(holding):
    holding.moved(MOVED)
    assert not holding.renewed(1, lifetime(NOW))


def test_a_renewal_by_a_call_counts(holding):
    holding.moved(MOVED)
    assert (holding.place, holding.remaining(NOW)) == (MOVED, MOVED.deadline - NOW)


# Suspension.


def test_a_renewal_without_an_answer_suspends(holding):
    assert (holding.suspend(), holding.state(NOW)) == (True, State.SUSPENDED)


def test_a_suspended_hold_lasts_until_its_deadline(holding):
    holding.suspend()
    assert holding.remaining(NOW) == LEASE.deadline - NOW


def test_a_suspension_is_told_once(holding):
    holding.suspend()
    assert not holding.suspend()


def test_a_renewal_ends_a_suspension(holding):
    holding.suspend()
    holding.renewed(1, lifetime(NOW))
    assert holding.state(NOW) is State.HELD


def test_a_renewal_by_a_call_ends_a_suspension(holding):
    holding.suspend()
    holding.moved(TENURE)
    assert holding.state(NOW) is State.HELD


def test_a_second_suspension_is_told_too(holding):
    holding.suspend()
    holding.renewed(1, lifetime(NOW))
    assert holding.suspend()


def test_a_suspended_hold_is_lost_at_its_deadline(holding):
    holding.suspend()
    assert holding.state(LATE) is State.LOST


@OVER
def test_what_is_over_is_not_suspended(holding, over):
    over(holding)
    assert not holding.suspend()
    assert holding.state(NOW) is not State.SUSPENDED


# Its loss.


def test_a_lost_hold_says_why(holding):
    holding.lose(LossReason.LEASE_GONE)
    assert (holding.state(NOW), holding.reason(NOW)) == (State.LOST, LossReason.LEASE_GONE)


def test_a_loss_is_told_once(holding):
    assert holding.lose(LossReason.DELETED)
    assert not holding.lose(LossReason.LEASE_GONE)


def test_the_first_reason_of_a_loss_stays(holding):
    holding.lose(LossReason.DELETED)
    holding.lose(LossReason.LEASE_GONE)
    assert holding.reason(LATE) is LossReason.DELETED


def test_a_loss_ends_the_hold(holding):
    holding.lose(LossReason.DELETED)
    assert holding.ended.is_set()


def test_a_lost_hold_was_not_returned(holding):
    holding.lose(LossReason.DELETED)
    assert not holding.returned


@OVER
def test_nothing_remains_of_what_is_over(holding, over):
    over(holding)
    assert holding.remaining(NOW) == 0.0


@OVER
def test_a_late_renewal_does_not_revive_what_is_over(holding, over):
    over(holding)
    assert not holding.renewed(1, lifetime(NOW))
    assert holding.remaining(NOW) == 0.0


@OVER
def test_a_late_extension_does_not_revive_what_is_over(holding, over):
    over(holding)
    holding.moved(MOVED)
    assert holding.remaining(NOW) == 0.0


@OVER
def test_what_is_over_does_not_stand_again(holding, over):
    over(holding)
    holding.stand()
    assert not holding.alive


# Giving it back.


def test_what_is_being_given_back_does_not_count_as_held(holding):
    holding.give_back()
    assert (holding.alive, holding.remaining(NOW)) == (False, 0.0)
    assert holding.state(NOW) is State.RELEASED


def test_what_is_being_given_back_has_not_ended(holding):
    holding.give_back()
    assert (holding.ended.is_set(), holding.returned) == (False, False)


def test_what_is_being_given_back_is_not_lost_by_its_own_deletion(holding):
    holding.give_back()
    assert not holding.lose(LossReason.DELETED)
    holding.end()
    assert holding.reason(NOW) is None


def test_what_is_being_given_back_is_not_lost_by_its_deadline(holding):
    holding.give_back()
    assert holding.reason(LATE) is None


def test_what_was_not_given_back_after_all_is_held_again(holding):
    holding.give_back()
    holding.stand()
    assert holding.state(NOW) is State.HELD


def test_a_renewal_while_it_is_given_back_counts_if_it_stands(holding):
    holding.give_back()
    assert not holding.renewed(1, lifetime(NOW))
    holding.stand()
    assert holding.remaining(NOW) == TENURE.renewed(1, lifetime(NOW)).deadline - NOW


def test_what_was_given_back_is_released(holding):
    holding.end()
    assert (holding.state(NOW), holding.returned) == (State.RELEASED, True)


def test_what_was_given_back_stays_released_past_its_deadline(holding):
    holding.end()
    assert holding.state(LATE) is State.RELEASED


def test_what_was_given_back_is_not_lost_any_more(holding):
    holding.end()
    assert not holding.lose(LossReason.DELETED)
    assert holding.reason(NOW) is None


def test_what_was_found_lost_on_the_way_back_is_lost(holding):
    found_lost(holding)
    assert (holding.state(NOW), holding.reason(NOW)) == (State.LOST, LossReason.DELETED)
    assert not holding.returned


def test_the_end_of_a_lost_hold_leaves_its_reason(holding):
    holding.lose(LossReason.LEASE_GONE)
    holding.end()
    assert holding.reason(NOW) is LossReason.LEASE_GONE


# After a fork.


@pytest.fixture
def child(holding: Holding, monkeypatch: pytest.MonkeyPatch) -> Holding:
    """The hold, as a child of its process sees it."""
    monkeypatch.setattr(os, "getpid", lambda: 0)
    return holding


def test_a_child_holds_nothing(child):
    assert (child.remaining(NOW), child.state(NOW)) == (0.0, State.LOST)


def test_a_child_is_told_that_the_hold_is_the_parents(child):
    assert child.reason(NOW) is LossReason.FORKED


def test_a_child_is_told_so_past_the_deadline_too(child):
    assert child.reason(LATE) is LossReason.FORKED


def test_a_hold_that_had_ended_before_the_fork_stays_as_it_ended(holding, monkeypatch):
    holding.end()
    monkeypatch.setattr(os, "getpid", lambda: 0)
    assert holding.state(NOW) is State.RELEASED


# Whatever happens to it, in whatever order.

HAPPENINGS: dict[str, Callable[[Holding], object]] = {
    "renewed": lambda holding: holding.renewed(1, lifetime(NOW)),
    "moved": lambda holding: holding.moved(MOVED),
    "suspend": lambda holding: holding.suspend(),
    "lose": lambda holding: holding.lose(LossReason.DELETED),
    "give back": lambda holding: holding.give_back(),
    "stand": lambda holding: holding.stand(),
    "end": lambda holding: holding.end(),
    "end lost": lambda holding: holding.end(LossReason.LEASE_GONE),
}
STORIES = list(itertools.product(HAPPENINGS, repeat=4))


def states(story: tuple[str, ...]) -> list[State]:
    """What the hold was after each of these."""
    holding = Holding(TENURE, now=SENT)
    seen = [holding.state(NOW)]
    for name in story:
        HAPPENINGS[name](holding)
        seen.append(holding.state(NOW))
    return seen


def test_a_lost_hold_stays_lost():
    for story in STORIES:
        seen = states(story)
        if State.LOST in seen:
            assert {*seen[seen.index(State.LOST) :]} == {State.LOST}, story


def test_a_hold_that_was_given_back_is_never_held_again():
    for story in STORIES:
        if "end" in story:
            seen = states(story)[story.index("end") + 1 :]
            assert not {State.HELD, State.SUSPENDED} & {*seen}, story


def test_time_remains_exactly_as_long_as_a_hold_counts_as_held():
    for story in STORIES:
        holding = Holding(TENURE, now=SENT)
        for name in story:
            HAPPENINGS[name](holding)
        held = holding.state(NOW) in (State.HELD, State.SUSPENDED)
        assert (holding.remaining(NOW) > 0) is held, story


def test_a_loss_is_told_at_most_once_whatever_else_happens():
    for story in STORIES:
        holding = Holding(TENURE, now=SENT)
        told = [HAPPENINGS[name](holding) is True for name in story]
        assert sum(t for t, name in zip(told, story, strict=True) if name == "lose") <= 1, story
