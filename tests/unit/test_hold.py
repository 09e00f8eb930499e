"""One hold, from its beginning to its end: what it is at a moment, whatever was told of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from walk import Event

from microlock.core.hold import Hold, HoldState, State
from microlock.core.lease import Lease
from microlock.core.place import Place
from microlock.core.port import Lifetime
from microlock.errors import (
    LossReason,
    MicrolockError,
    StoreAuthenticationError,
    StorePermissionError,
    StoreTlsError,
    StoreUnavailableError,
)

SENT, TTL = 1000.0, 10
LEASE, NEXT = Lease(1, asked=TTL, ttl=TTL, sent=SENT), Lease(2, asked=4, ttl=4, sent=SENT + 1)
PLACE = Place(b"foo/1", 5, LEASE)
MOVED = Place(b"foo/1", 5, NEXT)
IN_DOUBT = Place(b"foo/1", 5, LEASE, NEXT)
NOW = SENT + 1.5
LATE = SENT + TTL
AWAY, REFUSED = StoreUnavailableError("away"), StorePermissionError("permission denied")


def lifetime(sent: float, ttl: int = TTL) -> Lifetime:
    return Lifetime(ttl, sent, sent + 0.01)


def begun(place: Place = PLACE, hold: Hold | None = None) -> HoldState:
    return HoldState(place, now=SENT, owner="main", ended=Event(), hold=hold)


@pytest.fixture
def hold() -> HoldState:
    return begun()


def lost(hold: HoldState) -> None:
    hold.lose(LossReason.DELETED)


def ended(hold: HoldState) -> None:
    hold.end()


def found_lost(hold: HoldState) -> None:
    """By the request that was to give it back."""
    hold.give_back()
    hold.end(LossReason.DELETED)


OVER = pytest.mark.parametrize("over", [lost, ended, found_lost])


# As it begins.


def test_a_hold_begins_held(hold):
    assert hold.state(NOW) is State.HELD


def test_a_hold_has_the_token_of_its_entry(hold):
    assert hold.token == 5


def test_a_hold_knows_since_when_and_what_the_user_was_told():
    told = Hold("foo", "alpha", 5, 1, TTL, 1, 0.0)
    hold = begun(hold=told)
    assert (hold.since, hold.hold) == (SENT, told)


def test_a_hold_that_was_found_in_etcd_has_told_the_user_nothing(hold):
    assert hold.hold is None


# Its deadline.


def test_what_remains_is_the_time_to_the_deadline(hold):
    assert hold.remaining(NOW) == LEASE.deadline - NOW


@pytest.mark.parametrize("after", [0.0, 1.0])
def test_nothing_remains_from_the_deadline_on(hold, after):
    assert hold.remaining(LEASE.deadline + after) == 0.0


def test_a_hold_is_lost_from_the_deadline_on_though_nobody_noticed(hold):
    assert hold.state(LEASE.deadline) is State.LOST
    assert hold.reason(LEASE.deadline) is LossReason.EXPIRED


def test_a_hold_is_not_lost_until_the_deadline(hold):
    assert hold.reason(LEASE.deadline - 0.01) is None


ASKED = {
    "remaining": lambda hold, now: hold.remaining(now),
    "reason": lambda hold, now: hold.reason(now),
    "state": lambda hold, now: hold.state(now),
}


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("by", ["a renewal", "a call"])
def test_a_loss_that_was_told_stays_though_the_reply_to_a_renewal_comes(hold, asked, by):
    ASKED[asked](hold, LEASE.deadline)
    if by == "a renewal":
        assert not hold.renewed(1, lifetime(LEASE.deadline - 1))
    else:
        hold.moved(PLACE.renewed(1, lifetime(LEASE.deadline - 1)))
    assert hold.state(LEASE.deadline + 0.1) is State.LOST
    assert hold.remaining(LEASE.deadline + 0.1) == 0.0


@pytest.mark.parametrize("asked", ASKED)
def test_a_renewal_whose_reply_comes_after_the_deadline_counts_if_nobody_was_told(hold, asked):
    ASKED[asked](hold, LEASE.deadline - 0.1)
    assert hold.renewed(1, lifetime(LEASE.deadline - 1))
    assert hold.state(LEASE.deadline + 0.1) is State.HELD


@pytest.mark.parametrize("earlier", [LEASE, NEXT])
def test_a_hold_whose_extension_is_in_doubt_lasts_until_the_earlier_deadline(earlier):
    other = Lease(3, asked=60, ttl=60, sent=SENT)
    hold = begun()
    hold.moved(Place(b"foo/1", 5, earlier, other))
    assert hold.remaining(NOW) == earlier.deadline - NOW
    hold.moved(Place(b"foo/1", 5, other, earlier))
    assert hold.remaining(NOW) == earlier.deadline - NOW


# Renewals.


def test_a_renewal_moves_the_deadline(hold):
    hold.renewed(1, lifetime(NOW))
    assert hold.remaining(NOW) == PLACE.renewed(1, lifetime(NOW)).deadline - NOW


def test_a_renewal_is_news(hold):
    assert hold.renewed(1, lifetime(NOW))


def test_a_renewal_of_a_foreign_lease_is_no_news(hold):
    assert not hold.renewed(2, lifetime(NOW))


def test_a_renewal_of_a_foreign_lease_changes_nothing(hold):
    hold.suspend(AWAY)
    hold.renewed(2, lifetime(NOW))
    assert (hold.place, hold.state(NOW)) == (PLACE, State.SUSPENDED)


def test_a_renewal_that_was_overtaken_does_not_shorten_the_hold(hold):
    hold.renewed(1, lifetime(NOW))
    before = hold.remaining(NOW)
    hold.renewed(1, lifetime(NOW - 1))
    assert hold.remaining(NOW) == before


def test_a_renewal_of_one_of_two_leases_leaves_the_deadline_of_the_other():
    hold = begun(IN_DOUBT)
    hold.renewed(1, lifetime(NOW + 2))
    assert hold.remaining(NOW) == NEXT.deadline - NOW


def test_renewals_of_both_leases_move_the_deadline_of_a_hold_in_doubt():
    hold = begun(IN_DOUBT)
    hold.renewed(1, lifetime(NOW + 2))
    hold.renewed(2, lifetime(NOW + 2, ttl=4))
    assert hold.remaining(NOW) == IN_DOUBT.leases[1].deadline - (SENT + 1) + 2


def test_a_renewal_of_the_lease_before_an_extension_is_no_news(hold):
    hold.moved(MOVED)
    assert not hold.renewed(1, lifetime(NOW))


def test_a_renewal_by_a_call_counts(hold):
    hold.moved(MOVED)
    assert (hold.place, hold.remaining(NOW)) == (MOVED, MOVED.deadline - NOW)


# Suspension.


def test_a_renewal_without_an_answer_suspends(hold):
    assert (hold.suspend(AWAY), hold.state(NOW)) == (True, State.SUSPENDED)


def test_a_suspended_hold_lasts_until_its_deadline(hold):
    hold.suspend(AWAY)
    assert hold.remaining(NOW) == LEASE.deadline - NOW


def test_a_suspension_is_told_once(hold):
    hold.suspend(AWAY)
    assert not hold.suspend(AWAY)


def test_a_renewal_ends_a_suspension(hold):
    hold.suspend(AWAY)
    hold.renewed(1, lifetime(NOW))
    assert hold.state(NOW) is State.HELD


def test_a_renewal_by_a_call_ends_a_suspension(hold):
    hold.suspend(AWAY)
    hold.moved(PLACE)
    assert hold.state(NOW) is State.HELD


def test_a_second_suspension_is_told_too(hold):
    hold.suspend(AWAY)
    hold.renewed(1, lifetime(NOW))
    assert hold.suspend(AWAY)


def test_a_suspended_hold_is_lost_at_its_deadline(hold):
    hold.suspend(AWAY)
    assert hold.state(LATE) is State.LOST


@pytest.mark.parametrize("error", [REFUSED, StoreAuthenticationError("user name is empty")])
def test_one_that_is_refused_until_its_deadline_is_lost_for_that(hold, error):
    hold.suspend(error)
    assert hold.state(NOW) is State.SUSPENDED
    assert (hold.reason(LATE), hold.refusal) == (LossReason.REFUSED, error)


@pytest.mark.parametrize("error", [AWAY, StoreTlsError("expired"), MicrolockError("a bug")])
def test_one_that_has_no_answer_is_lost_for_that(hold, error):
    hold.suspend(error)
    assert hold.reason(LATE) is LossReason.EXPIRED


@pytest.mark.parametrize(
    "then",
    [
        lambda hold: hold.suspend(AWAY),
        lambda hold: hold.renewed(1, lifetime(SENT + 0.1)),
        lambda hold: hold.moved(PLACE),
    ],
    ids=["no answer", "renewed", "renewed by a call"],
)
def test_a_refusal_that_was_not_the_last_word_is_no_reason(hold, then):
    hold.suspend(REFUSED)
    then(hold)
    assert hold.reason(LATE + 1) is LossReason.EXPIRED


def test_a_refusal_that_comes_after_the_deadline_is_no_reason(hold):
    assert hold.reason(LATE) is LossReason.EXPIRED
    hold.suspend(REFUSED)
    assert hold.reason(LATE) is LossReason.EXPIRED


@OVER
def test_what_is_over_is_not_suspended(hold, over):
    over(hold)
    assert not hold.suspend(AWAY)
    assert hold.state(NOW) is not State.SUSPENDED


# Its loss.


def test_a_lost_hold_says_why(hold):
    hold.lose(LossReason.LEASE_GONE)
    assert (hold.state(NOW), hold.reason(NOW)) == (State.LOST, LossReason.LEASE_GONE)


def test_a_loss_is_told_once(hold):
    assert hold.lose(LossReason.DELETED)
    assert not hold.lose(LossReason.LEASE_GONE)


def test_the_first_reason_of_a_loss_stays(hold):
    hold.lose(LossReason.DELETED)
    hold.lose(LossReason.LEASE_GONE)
    assert hold.reason(LATE) is LossReason.DELETED


def test_a_loss_ends_the_hold(hold):
    hold.lose(LossReason.DELETED)
    assert hold.ended.is_set()


def test_a_lost_hold_was_not_returned(hold):
    hold.lose(LossReason.DELETED)
    assert not hold.returned


@OVER
def test_nothing_remains_of_what_is_over(hold, over):
    over(hold)
    assert hold.remaining(NOW) == 0.0


@OVER
def test_a_late_renewal_does_not_revive_what_is_over(hold, over):
    over(hold)
    assert not hold.renewed(1, lifetime(NOW))
    assert hold.remaining(NOW) == 0.0


@OVER
def test_a_late_extension_does_not_revive_what_is_over(hold, over):
    over(hold)
    hold.moved(MOVED)
    assert hold.remaining(NOW) == 0.0


@OVER
def test_what_is_over_does_not_stand_again(hold, over):
    over(hold)
    hold.stand()
    assert not hold.alive


# Giving it back.


def test_what_is_being_given_back_does_not_count_as_held(hold):
    hold.give_back()
    assert (hold.alive, hold.remaining(NOW)) == (False, 0.0)
    assert hold.state(NOW) is State.RELEASED


def test_what_is_being_given_back_has_not_ended(hold):
    hold.give_back()
    assert (hold.ended.is_set(), hold.returned) == (False, False)


def test_what_is_being_given_back_is_not_lost_by_its_own_deletion(hold):
    hold.give_back()
    assert not hold.lose(LossReason.DELETED)
    hold.end()
    assert hold.reason(NOW) is None


def test_what_is_being_given_back_is_not_lost_by_its_deadline(hold):
    hold.give_back()
    assert hold.reason(LATE) is None


def test_what_was_not_given_back_after_all_is_held_again(hold):
    hold.give_back()
    hold.stand()
    assert hold.state(NOW) is State.HELD


def test_a_renewal_while_it_is_given_back_counts_if_it_stands(hold):
    hold.give_back()
    assert not hold.renewed(1, lifetime(NOW))
    hold.stand()
    assert hold.remaining(NOW) == PLACE.renewed(1, lifetime(NOW)).deadline - NOW


def test_what_was_given_back_is_released(hold):
    hold.end()
    assert (hold.state(NOW), hold.returned) == (State.RELEASED, True)


def test_what_was_given_back_stays_released_past_its_deadline(hold):
    hold.end()
    assert hold.state(LATE) is State.RELEASED


def test_what_was_given_back_is_not_lost_any_more(hold):
    hold.end()
    assert not hold.lose(LossReason.DELETED)
    assert hold.reason(NOW) is None


def test_what_was_found_lost_on_the_way_back_is_lost(hold):
    found_lost(hold)
    assert (hold.state(NOW), hold.reason(NOW)) == (State.LOST, LossReason.DELETED)
    assert not hold.returned


def test_the_end_of_a_lost_hold_leaves_its_reason(hold):
    hold.lose(LossReason.LEASE_GONE)
    hold.end()
    assert hold.reason(NOW) is LossReason.LEASE_GONE


# Whatever happens to it, in whatever order.

HAPPENINGS: dict[str, Callable[[HoldState], object]] = {
    "renewed": lambda hold: hold.renewed(1, lifetime(NOW)),
    "moved": lambda hold: hold.moved(MOVED),
    "suspend": lambda hold: hold.suspend(AWAY),
    "lose": lambda hold: hold.lose(LossReason.DELETED),
    "give back": lambda hold: hold.give_back(),
    "stand": lambda hold: hold.stand(),
    "end": lambda hold: hold.end(),
    "end lost": lambda hold: hold.end(LossReason.LEASE_GONE),
}
STORIES = list(itertools.product(HAPPENINGS, repeat=4))


def states(story: tuple[str, ...]) -> list[State]:
    """What the hold was after each of these."""
    hold = begun()
    seen = [hold.state(NOW)]
    for name in story:
        HAPPENINGS[name](hold)
        seen.append(hold.state(NOW))
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
        hold = begun()
        for name in story:
            HAPPENINGS[name](hold)
        held = hold.state(NOW) in (State.HELD, State.SUSPENDED)
        assert (hold.remaining(NOW) > 0) is held, story


def test_a_loss_is_told_at_most_once_whatever_else_happens():
    for story in STORIES:
        hold = begun()
        told = [HAPPENINGS[name](hold) is True for name in story]
        assert sum(t for t, name in zip(told, story, strict=True) if name == "lose") <= 1, story
