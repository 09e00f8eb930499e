"""Leases that are ready for the next lock of a client."""

from __future__ import annotations

import threading

from microlock.leases import _MOST, Leases
from microlock.tenure import Lease

NOW = 1000.0


def lease(lease_id: int, ttl: int = 9, sent: float = NOW) -> Lease:
    return Lease(lease_id, asked=ttl, ttl=ttl, sent=sent)


def left(*leases: Lease) -> Leases:
    ready = Leases()
    for each in leases:
        ready.leave(each)
    return ready


def test_what_one_leaves_another_takes():
    one = lease(1)
    assert left(one).take(9, NOW) is one


def test_it_is_taken_once():
    ready = left(lease(1))
    ready.take(9, NOW)
    assert ready.take(9, NOW) is None


def test_there_is_none_at_first():
    assert Leases().take(9, NOW) is None


def test_the_freshest_is_taken_first():
    ready = left(lease(1), lease(2))
    assert [ready.take(9, NOW).id, ready.take(9, NOW).id] == [2, 1]


def test_only_one_with_the_ttl_that_is_asked_for_is_taken():
    ready = left(lease(1, ttl=5), lease(2, ttl=30))
    assert ready.take(9, NOW) is None
    assert ready.take(5, NOW).id == 1


def test_the_ttl_that_was_asked_for_counts_and_not_the_one_granted():
    granted = Lease(1, asked=1, ttl=2, sent=NOW)
    assert left(granted).take(1, NOW) is granted


def test_one_past_its_deadline_is_not_taken():
    old = lease(1)
    assert left(old).take(9, old.deadline) is None


def test_the_one_beneath_it_is():
    late, fresh = lease(1, sent=NOW - 20), lease(2)
    assert left(fresh, late).take(9, NOW) is fresh


def test_nothing_can_be_left():
    assert left(None).take(9, NOW) is None


def test_another_nodes_lease_is_not_kept():
    ready = left(Lease(1, asked=None, ttl=9, sent=NOW))
    assert ready._left == {}


def test_a_burst_leaves_a_bounded_number():
    ready = left(*(lease(each) for each in range(3 * _MOST)))
    taken = [ready.take(9, NOW) for _ in range(_MOST + 1)]
    assert [each.id for each in taken[:2]] == [3 * _MOST - 1, 3 * _MOST - 2]
    assert taken[-2]
    assert taken[-1] is None


def test_threads_never_take_the_same():
    ready = left(*(lease(each) for each in range(_MOST)))
    seen: list[int] = []
    begin = threading.Barrier(8)

    def take_and_leave() -> None:
        begin.wait()
        for _ in range(2000):
            taken = ready.take(9, NOW)
            if taken:
                seen.append(taken.id)
                mine = seen.count(taken.id)
                assert mine == 1, "somebody else has it"
                seen.remove(taken.id)
                ready.leave(taken)

    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            take_and_leave()
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
