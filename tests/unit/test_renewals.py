"""Which leases are renewed together: no hold is late because of another one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from microlock.core.lease import Lease
from microlock.core.port import Lifetime
from microlock.core.renewals import Ask, Renewals
from microlock.errors import (
    MicrolockError,
    StoreAuthenticationError,
    StoreError,
    StorePermissionError,
    StoreTimeoutError,
)

NOW = 1000.0
SLOW = StoreTimeoutError("no answer")
REFUSALS = [StorePermissionError("permission denied"), StoreError("odd")]


class Etcd:
    """Answers in their order until it comes to one that it refuses, or is silent about.

    Attributes:
        asked: what it was asked for together, and how long that might take at the most.
    """

    def __init__(
        self, *, refused: Sequence[int] = (), silent: Sequence[int] = (), error: object = None
    ) -> None:
        self.refused, self.silent = refused, silent
        self.error: MicrolockError = error or REFUSALS[0]  # type: ignore[assignment]
        self.asked: list[tuple[int, ...]] = []
        self.most: list[float | None] = []

    def answer(self, ask: Ask) -> tuple[dict[int, Lifetime], MicrolockError]:
        self.asked.append(tuple(each.id for each in ask.leases))
        self.most.append(ask.most)
        answered: dict[int, Lifetime] = {}
        for lease in ask.leases:
            if lease.id in self.refused:
                # What is told of a stream that has answered others is no more than that it ended.
                return answered, SLOW if answered else self.error
            if lease.id in self.silent:
                return answered, SLOW
            answered[lease.id] = Lifetime(9, NOW, NOW)
        return answered, SLOW


def leases(*ids: int) -> list[Lease]:
    return [Lease(each, asked=9, ttl=9, sent=NOW) for each in ids]


def renew(
    renewals: Renewals, etcd: Etcd, *ids: int, now: float = NOW
) -> tuple[list[int], dict[int, MicrolockError]]:
    """Those that were renewed, and what is told of others."""
    renewed: list[int] = []
    renewing = renewals.renew(leases(*ids), now)
    answer = None
    try:
        while True:
            answer = etcd.answer(renewing.send(answer))  # type: ignore[arg-type]
            renewed += answer[0]
    except StopIteration as done:
        return renewed, done.value


def test_all_that_is_due_is_renewed_by_one_request():
    etcd = Etcd()
    assert renew(Renewals(), etcd, 1, 2, 3) == ([1, 2, 3], {})
    assert etcd.asked == [(1, 2, 3)]


@pytest.mark.parametrize("error", REFUSALS)
def test_one_that_is_refused_is_asked_for_alone_and_the_others_by_doubling_batches(error):
    etcd = Etcd(refused=[1], error=error)
    renewed, told = renew(Renewals(), etcd, *range(1, 11))
    assert (renewed, told) == (list(range(2, 11)), {1: error})
    assert list(map(len, etcd.asked)) == [10, 1, 1, 2, 4, 2]


def test_several_that_are_refused_are_each_told_so_and_no_other():
    etcd = Etcd(refused=[1, 2, 3])
    renewed, told = renew(Renewals(), etcd, *range(1, 9))
    assert (renewed, set(told)) == ([4, 5, 6, 7, 8], {1, 2, 3})


def test_one_in_the_middle_that_is_refused_is_found_with_the_next_request():
    etcd, renewals = Etcd(refused=[3]), Renewals()
    assert renew(renewals, etcd, 1, 2, 3, 4, 5) == ([1, 2], {})
    renewed, told = renew(renewals, etcd, 3, 4, 5)
    assert (renewed, set(told)) == ([4, 5], {3})
    assert etcd.asked == [(1, 2, 3, 4, 5), (4, 5), (3,)]


def test_one_that_was_refused_is_asked_for_after_the_others_from_then_on():
    etcd, renewals = Etcd(refused=[1]), Renewals()
    renew(renewals, etcd, 1, 2, 3)
    etcd.asked.clear()
    renewed, told = renew(renewals, etcd, 1, 2, 3)
    assert (renewed, set(told), etcd.asked) == ([2, 3], {1}, [(2, 3), (1,)])


def test_one_that_is_permitted_again_is_renewed_with_the_others():
    etcd, renewals = Etcd(refused=[1]), Renewals()
    renew(renewals, etcd, 1, 2, 3)
    etcd.refused = ()
    assert renew(renewals, etcd, 1, 2, 3) == ([2, 3, 1], {})
    etcd.asked.clear()
    renew(renewals, etcd, 1, 2, 3)
    assert etcd.asked == [(1, 2, 3)]


def test_one_without_an_answer_makes_no_other_late_but_once():
    etcd, renewals = Etcd(silent=[1]), Renewals()
    assert renew(renewals, etcd, 1, 2, 3) == ([], dict.fromkeys((1, 2, 3), SLOW))
    for _ in range(3):
        assert renew(renewals, etcd, 1, 2, 3) == ([2, 3], {1: SLOW})
    assert etcd.asked == [(1, 2, 3), *[(2, 3), (1,)] * 3]
    assert etcd.most[2] is None
    assert etcd.most[4] == etcd.most[6] == 0.7  # once it had its time, alone


def test_in_an_outage_all_are_told_so_after_one_request():
    etcd, renewals = Etcd(silent=range(9)), Renewals()
    for _ in range(5):
        assert renew(renewals, etcd, 1, 2, 3) == ([], dict.fromkeys((1, 2, 3), SLOW))
    assert len(etcd.asked) == 5
    etcd.silent = ()
    assert sorted(renew(renewals, etcd, 1, 2, 3)[0]) == [1, 2, 3]


@pytest.mark.parametrize("error", [StoreAuthenticationError("no"), MicrolockError("a bug")])
def test_an_error_that_is_about_all_of_them_is_told_to_all_after_one_request(error):
    etcd = Etcd(refused=[1], error=error)
    assert renew(Renewals(), etcd, 1, 2, 3) == ([], dict.fromkeys((1, 2, 3), error))
    assert len(etcd.asked) == 1


def test_a_lease_that_is_alone_has_all_the_time():
    etcd, renewals = Etcd(silent=[1]), Renewals()
    for _ in range(3):
        assert renew(renewals, etcd, 1) == ([], {1: SLOW})
    assert etcd.most == [None] * 3


@pytest.mark.parametrize("trouble", ["refused", "silent"])
def test_what_has_passed_its_deadline_is_forgotten(trouble):
    etcd, renewals = Etcd(**{trouble: [1]}), Renewals()  # type: ignore[arg-type]
    for _ in range(3):
        renew(renewals, etcd, 1, 2)
    renew(renewals, etcd, 2, now=NOW + 9)
    assert not renewals._apart
    assert not renewals._silent


def test_nothing_is_asked_for_where_nothing_is_due():
    etcd = Etcd()
    assert renew(Renewals(), etcd) == ([], {})
    assert etcd.asked == []
