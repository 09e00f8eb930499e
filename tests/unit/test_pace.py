"""When a lease is to be renewed, until when it lasts, and what a renewal changes."""

from __future__ import annotations

import pytest

from microlock.core.lease import Lease
from microlock.core.place import Place
from microlock.core.port import Lifetime

SENT = 1000.0


def lease(lease_id: int = 1, ttl: int = 6, sent: float = SENT) -> Lease:
    return Lease(lease_id, asked=ttl, ttl=ttl, sent=sent)


def lifetime(sent: float, ttl: int = 6) -> Lifetime:
    return Lifetime(ttl, sent, sent + 0.5)


NEVER = 0.0


# When.


def after(seconds: float, ttl: int = 6) -> object:
    """So long after it was sent, or up to a thirtieth of the ttl earlier."""
    return pytest.approx(SENT + seconds - ttl / 60, abs=ttl / 60)


def test_a_lease_is_due_after_a_third_of_its_ttl():
    assert lease().due(early=1.0, tried=NEVER) == after(2)


def test_a_part_of_that_time_is_taken_so_that_not_all_come_at_once():
    assert lease().due(early=0.8, tried=NEVER) == after(1.6)


def test_the_granted_ttl_counts():
    granted = Lease(1, asked=1, ttl=9, sent=SENT)
    assert granted.due(early=1.0, tried=NEVER) == after(3, ttl=9)


def test_leases_that_would_be_due_at_many_times_are_due_at_a_few():
    times = {lease(sent=SENT + each / 100).due(early=1.0, tried=NEVER) for each in range(100)}
    assert len(times) == pytest.approx(1 / (6 / 30), abs=1)


@pytest.mark.parametrize(("ttl", "pause"), [(2, 0.1), (6, 0.3), (10, 0.5), (3600, 0.5)])
def test_a_failed_renewal_is_tried_again_soon(ttl, pause):
    tried = SENT + ttl / 2
    assert lease(ttl=ttl).due(early=1.0, tried=tried) == pytest.approx(tried + pause)


def test_a_failure_before_the_last_renewal_does_not_count():
    assert lease().due(early=1.0, tried=SENT - 1) == after(2)


def test_there_is_time_for_several_tries_before_the_deadline():
    for ttl in (1, 2, 5, 60):
        held, tries, tried = lease(ttl=ttl), 0, NEVER
        while (at := held.due(early=1.0, tried=tried)) < held.deadline:
            tried, tries = at, tries + 1
        assert tries >= 10, ttl


# Until when.


@pytest.mark.parametrize(("ttl", "margin"), [(1, 0.05), (5, 0.05), (6, 0.06), (3600, 36)])
def test_the_deadline_is_a_margin_before_the_ttl_has_passed_since_it_was_sent(ttl, margin):
    assert lease(ttl=ttl).deadline == pytest.approx(SENT + ttl - margin)


@pytest.mark.parametrize(("age", "fresh"), [(0.0, True), (0.5, True), (0.75, False)])
def test_a_lease_is_fresh_for_a_tenth_of_its_ttl(age, fresh):
    assert lease(ttl=5).fresh(SENT + age) is fresh


# What a renewal changes.


def test_a_renewed_lease_counts_from_when_the_renewal_was_sent():
    assert lease().renewed(lifetime(SENT + 2)).sent == SENT + 2


def test_a_renewed_lease_has_the_ttl_that_it_was_given():
    assert lease().renewed(lifetime(SENT + 2, ttl=9)).ttl == 9


def test_a_renewed_lease_is_as_doubtful_as_before():
    doubtful = Lease(1, asked=6, ttl=6, sent=SENT, doubtful=True)
    assert doubtful.renewed(lifetime(SENT + 2)).doubtful


def test_a_renewal_that_was_overtaken_by_a_later_one_changes_nothing():
    assert lease().renewed(lifetime(SENT - 1, ttl=9)) == lease()


PLACE = Place(b"foo/1", 5, lease(1))
IN_DOUBT = Place(b"foo/1", 5, lease(1), lease(2, ttl=4))


def test_a_place_has_one_lease():
    assert PLACE.leases == (lease(1),)


def test_a_place_whose_extension_is_in_doubt_has_two():
    assert IN_DOUBT.leases == (lease(1), lease(2, ttl=4))


def test_a_place_lasts_until_the_earlier_deadline_of_its_leases():
    assert IN_DOUBT.deadline == lease(2, ttl=4).deadline


def test_a_place_is_renewed_by_its_lease():
    assert PLACE.renewed(1, lifetime(SENT + 2)) == Place(b"foo/1", 5, lease(1, sent=SENT + 2))


def test_a_place_in_doubt_is_renewed_by_its_first_lease():
    renewed = IN_DOUBT.renewed(1, lifetime(SENT + 2))
    assert renewed.leases == (lease(1, sent=SENT + 2), lease(2, ttl=4))


def test_a_place_in_doubt_is_renewed_by_its_next_lease():
    renewed = IN_DOUBT.renewed(2, lifetime(SENT + 2, ttl=4))
    assert renewed.leases == (lease(1), lease(2, ttl=4, sent=SENT + 2))


@pytest.mark.parametrize("place", [PLACE, IN_DOUBT], ids=["sure", "in doubt"])
def test_a_place_is_not_renewed_by_another_lease(place):
    assert place.renewed(3, lifetime(SENT + 2)) is place
