"""Looking after places: what is due is renewed together, and one in trouble harms no other."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any
from weakref import ref

import pytest
from watching import eventually

from microlock import renewal
from microlock.core.lease import Lease
from microlock.core.port import KeepAlives, Lifetime, Revoke
from microlock.engine import clock
from microlock.errors import DestroyedError, MicrolockError, StoreUnavailableError
from microlock.etcd.client import Budget
from microlock.renewal import Keeper, early

SOON = 0.1
FAR = 1000.0


class Client:
    """What a keeper needs of one: it renews all leases that it knows, and notes the requests."""

    def __init__(self) -> None:
        self.timeout = 5.0
        self.forked = False
        self.revoked: list[int] = []
        self.requests: list[tuple[int, ...]] = []
        self.budgets: list[float] = []
        self.error: Exception | None = None
        self.unknown: set[int] = set()

    def perform(self, request: Any, budget: Budget) -> Any:
        if isinstance(request, Revoke):
            if self.error:
                raise self.error
            self.revoked.append(request.lease_id)
            return None
        assert isinstance(request, KeepAlives)
        now = clock.now()
        self.requests.append(request.lease_ids)
        self.budgets.append(budget.work - now)
        if self.error:
            raise self.error
        return {
            each: Lifetime(9, now, now) for each in request.lease_ids if each not in self.unknown
        }


class Place:
    """One that wants its leases renewed at this time, maybe `again`, and then nothing more."""

    def __init__(
        self, at: float | None, *lease_ids: int, again: float | None = None, ttl: int = 9
    ) -> None:
        self.appointment: float | None = None
        self.at = at
        self.again = again
        self.leases = [Lease(each, asked=ttl, ttl=ttl, sent=clock.now()) for each in lease_ids]
        self.tended: list[float] = []
        self.renewed: list[int] = []
        self.silence: list[MicrolockError] = []
        self.lasts = 1.0

    def tend_at(self) -> float | None:
        return self.at

    def tend(self, now: float) -> Sequence[Lease]:
        self.tended.append(now)
        self.at, self.again = self.again, None
        return self.leases

    def on_renewed(self, lease_id: int, lifetime: Lifetime) -> None:
        self.renewed.append(lease_id)

    def on_silence(self, lease_id: int, error: MicrolockError, *, sent: float) -> None:
        assert sent <= clock.now()
        self.silence.append(error)

    def surrender(self, now: float) -> Sequence[Lease]:
        return self.leases

    def remaining(self, now: float) -> float:
        return self.lasts


class Broken(Place):
    """One that fails whenever it is tended, and wants to be tended all the time."""

    def tend(self, now: float) -> Sequence[Lease]:
        self.tended.append(now)
        raise LookupError("a bug of ours")


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def keeper(client: Client) -> Iterator[Keeper]:
    keeper = Keeper(client)
    yield keeper
    keeper.close()
    assert eventually(lambda: keeper._thread is None)


def soon() -> float:
    return clock.now() + SOON


def keep(keeper: Keeper, *places: Place) -> None:
    for each in places:
        keeper.keep(each)


def threads(keeper: Keeper) -> list[threading.Thread]:
    """The thread of this keeper, while it runs."""
    return [each for each in threading.enumerate() if each is keeper._thread]


# What is renewed, and when.


def test_what_is_due_at_the_same_time_is_renewed_by_one_request(keeper, client):
    at = soon()
    one, two = Place(at, 1), Place(at, 2, 3)
    keep(keeper, one, two)
    assert eventually(lambda: one.renewed and len(two.renewed) == 2)
    assert client.requests == [(1, 2, 3)]


def test_what_falls_due_a_little_later_is_renewed_along(keeper, client):
    at = clock.now() // 0.05 * 0.05 + 1.01  # past the beginning of a tick
    one, two = Place(at, 1), Place(at + 0.02, 2)
    keep(keeper, one, two)
    assert eventually(lambda: one.renewed and two.renewed)
    assert client.requests == [(1, 2)]


def test_many_are_renewed_by_batches_in_the_order_they_are_due(keeper, client, monkeypatch):
    monkeypatch.setattr(renewal, "_BATCH", 10)
    keeper._at_once = 10
    places = [Place(clock.now() - 100 + number, number) for number in range(25)]
    with keeper._lock:  # until all are there
        keep(keeper, *places)
    assert eventually(lambda: all(each.renewed for each in places))
    assert client.requests == [tuple(range(10)), tuple(range(10, 20)), tuple(range(20, 25))]


def test_all_are_told_of_a_silence_after_the_first_batch(keeper, client, monkeypatch):
    monkeypatch.setattr(renewal, "_BATCH", 10)
    keeper._at_once = 10
    client.error = StoreUnavailableError("no")
    places = [Place(clock.now() - 100 + number, number) for number in range(45)]
    with keeper._lock:
        keep(keeper, *places)
    assert eventually(lambda: all(each.silence for each in places))
    assert list(map(len, client.requests)) == [10, 35]


def test_nothing_is_renewed_before_it_is_due(keeper):
    at = soon()
    place = Place(at, 1)
    keep(keeper, place)
    assert eventually(lambda: place.renewed)
    assert place.tended[0] >= at


def test_what_has_passed_is_done_at_once(keeper):
    place = Place(clock.now() - FAR, 1)
    keep(keeper, place)
    assert eventually(lambda: place.renewed)


def test_who_needs_no_renewal_is_tended_without_a_request(keeper, client):
    place = Place(soon())
    keep(keeper, place)
    assert eventually(lambda: place.tended)
    assert eventually(lambda: not threads(keeper))
    assert client.requests == []


def test_who_has_nothing_to_do_is_not_looked_after(keeper):
    keep(keeper, Place(None, 1))
    assert not threads(keeper)


def test_each_time_is_tended_that_a_place_names(keeper, client):
    place = Place(soon(), 1, again=clock.now() + 2 * SOON)
    keep(keeper, place)
    assert eventually(lambda: len(place.renewed) == 2)
    assert client.requests == [(1,), (1,)]


def test_an_earlier_appointment_wakes_the_thread(keeper, monkeypatch):
    monkeypatch.setattr(renewal, "_NAP", FAR)
    later = Place(clock.now() + FAR, 1)
    keep(keeper, later)
    assert eventually(lambda: keeper._sleeps_until)
    sooner = Place(soon(), 2)
    keep(keeper, sooner)
    assert eventually(lambda: sooner.renewed)
    assert later.tended == []


def test_an_appointment_can_be_made_earlier(keeper):
    place = Place(clock.now() + FAR, 1)
    keep(keeper, place)
    place.at = soon()
    keep(keeper, place)
    assert eventually(lambda: place.renewed)


def test_an_appointment_that_was_made_earlier_is_kept_once(keeper):
    place, last = Place(clock.now() + 2 * SOON, 1), Place(clock.now() + 4 * SOON, 2)
    keep(keeper, place, last)
    place.at = soon()
    keep(keeper, place)
    assert eventually(lambda: last.renewed)
    assert len(place.tended) == 1


def test_an_appointment_is_not_put_off_by_a_later_one(keeper):
    place = Place(soon(), 1)
    keep(keeper, place)
    place.at = clock.now() + FAR
    keep(keeper, place)
    assert eventually(lambda: place.renewed)


def test_a_request_leaves_time_for_another_before_the_first_deadline(keeper, client):
    place, urgent = Place(clock.now(), 1, ttl=60), Place(clock.now(), 2, ttl=2)
    client.timeout = 60
    keep(keeper, place, urgent)
    assert eventually(lambda: place.renewed and urgent.renewed)
    assert client.budgets[-1] <= urgent.leases[0].ttl / 2


@pytest.mark.parametrize(("timeout", "most"), [(0.5, 0.5), (60, 2.0)])
def test_a_request_takes_no_longer_than_the_client_allows_or_others_can_wait(
    keeper, client, timeout, most
):
    client.timeout = timeout
    place = Place(clock.now(), 1, ttl=3600)
    keep(keeper, place)
    assert eventually(lambda: place.renewed)
    assert client.budgets[0] <= most


# What goes wrong.


def test_silence_is_told_to_each_with_the_error(keeper, client):
    client.error = StoreUnavailableError("down")
    one, two = Place(soon(), 1), Place(soon(), 2)
    keep(keeper, one, two)
    assert eventually(lambda: one.silence and two.silence)
    assert one.silence == two.silence == [client.error]


def test_silence_is_told_to_those_without_an_answer(keeper, client):
    client.unknown = {2}
    at = soon()
    one, two = Place(at, 1), Place(at, 2, again=at)
    keep(keeper, one, two)
    assert eventually(lambda: one.renewed and two.silence)
    assert (one.silence, two.renewed) == ([], [])


def test_those_that_had_no_answer_are_asked_for_again_before_others(keeper, client, monkeypatch):
    monkeypatch.setattr(renewal, "_BATCH", 2)
    keeper._at_once = 2
    perform, slow = client.perform, {2}

    def performing(request: Any, budget: Budget) -> Any:
        reply = perform(request, budget)
        return {each: reply[each] for each in reply if each not in slow or slow.discard(each)}

    monkeypatch.setattr(client, "perform", performing)
    at = soon()
    one, two, three = Place(at, 1), Place(at, 2, again=at), Place(at, 3)
    keep(keeper, one, two, three)
    assert eventually(lambda: three.renewed)
    assert client.requests == [(1, 2), (2, 3)]
    assert (two.silence, two.renewed) == ([], [2])


def test_one_that_is_late_does_not_cut_the_others_short(keeper, client):
    at = soon()
    late = Place(at, 1)
    late.leases = [Lease(1, asked=9, ttl=9, sent=clock.now() - 9)]
    others = [Place(at, lease_id) for lease_id in range(2, 102)]
    keep(keeper, late, *others)
    assert eventually(lambda: others[-1].renewed)
    assert client.budgets[0] > 101 * 0.001


def test_the_most_urgent_is_asked_for_first(keeper, client):
    at = soon()
    one, two = Place(at, 1, ttl=60), Place(at, 2, ttl=5)
    keep(keeper, one, two)
    assert eventually(lambda: two.renewed)
    assert client.requests == [(2, 1)]


def test_one_that_fails_does_not_stop_the_others(keeper, caplog):
    at = soon()
    broken, place = Broken(at, 1), Place(at, 2)
    keep(keeper, broken, place)
    assert eventually(lambda: place.renewed)


def test_one_that_fails_is_logged(keeper, caplog):
    broken = Broken(soon(), 1)
    keep(keeper, broken)
    assert eventually(lambda: caplog.records)
    broken.at = None
    assert {(r.name, r.levelno) for r in caplog.records} == {("microlock", logging.ERROR)}


def test_one_that_fails_does_not_make_the_thread_spin(keeper):
    broken = Broken(clock.now(), 1)
    keep(keeper, broken)
    assert eventually(lambda: len(broken.tended) > 4)
    broken.at = None
    assert min(later - former for former, later in pairwise(broken.tended)) > 0.049


@pytest.mark.parametrize("when", ["tend", "tend_at", "on_renewed", "on_silence"])
def test_one_that_fails_does_not_stop_those_that_were_due_with_it(keeper, client, when):
    client.unknown = {1} if when == "on_silence" else set()
    at = soon()
    broken, place = Place(at, 1), Place(at, 2, again=at + SOON)
    keep(keeper, broken, place)

    def fail(*args: Any, **kwargs: Any) -> None:
        broken.at = None
        raise LookupError("a bug of ours")

    setattr(broken, when, fail)
    assert eventually(lambda: len(place.renewed) == 2, within=5)


def test_a_request_that_fails_by_a_bug_of_ours_is_made_again(keeper, client):
    client.error = LookupError("a bug of ours")
    at = soon()
    place = Place(at, 1, again=at + SOON)
    keep(keeper, place)
    assert eventually(lambda: len(place.tended) == 2, within=5)


def test_one_whose_client_is_closed_is_left_in_silence(keeper, caplog):
    class Closed(Place):
        def tend(self, now: float) -> Sequence[Lease]:
            super().tend(now)
            raise DestroyedError("closed")

    place = Closed(soon(), 1)
    keep(keeper, place)
    assert eventually(lambda: place.tended)
    assert eventually(lambda: not threads(keeper))
    assert caplog.records == []


# Who is looked after.


def test_a_place_is_held_weakly(keeper):
    place = Place(clock.now() + FAR, 1)
    keep(keeper, place)
    left = ref(place)
    del place
    gc.collect()
    assert left() is None


def test_a_place_that_etcd_did_not_renew_is_not_held_by_the_error(keeper, client):
    client.error = StoreUnavailableError("down")
    place = Place(soon(), 1)
    silence, left = place.silence, ref(place)
    keep(keeper, place)
    assert eventually(lambda: silence)
    gc.disable()
    try:
        del place
        assert eventually(lambda: left() is None, within=2)
    finally:
        gc.enable()
    assert silence[0].__traceback__  # which names the frames of the renewals


def test_a_place_is_not_held_while_etcd_is_asked(keeper, client, monkeypatch):
    asked, answer = threading.Event(), threading.Event()

    def perform(*_: Any) -> dict[int, Lifetime]:
        asked.set()
        assert answer.wait(9)
        return {}

    monkeypatch.setattr(client, "perform", perform)
    place = Place(soon(), 1)
    keep(keeper, place)
    assert asked.wait(9)
    left = ref(place)
    del place
    assert left() is None
    answer.set()


def test_a_place_that_is_no_more_is_dropped(keeper, client):
    gone, place = Place(soon(), 1), Place(clock.now() + 2 * SOON, 2)
    keep(keeper, gone, place)
    del gone
    gc.collect()
    assert eventually(lambda: place.renewed)
    assert client.requests == [(2,)]


# The thread.


def test_the_thread_has_a_name(keeper):
    keep(keeper, place := Place(clock.now() + FAR, 1))
    assert [each.name for each in threads(keeper)] == ["microlock-renewal"]
    assert place.appointment


def test_no_thread_runs_before_there_is_something_to_do(keeper):
    assert not threads(keeper)


def test_the_thread_ends_when_there_is_nothing_more_to_do(keeper):
    place = Place(soon(), 1)
    keep(keeper, place)
    (thread,) = threads(keeper)
    assert eventually(lambda: not thread.is_alive())


def test_the_thread_ends_with_the_last_place(keeper):
    place = Place(soon(), 1)
    keep(keeper, place)
    (thread,) = threads(keeper)
    del place
    gc.collect()
    assert eventually(lambda: not thread.is_alive())


def test_the_thread_does_not_wait_long_for_a_place_that_is_no_more(keeper, monkeypatch):
    monkeypatch.setattr(renewal, "_NAP", SOON)
    place = Place(clock.now() + FAR, 1)
    keep(keeper, place)
    (thread,) = threads(keeper)
    del place
    gc.collect()
    assert eventually(lambda: not thread.is_alive())


def test_a_nap_leaves_the_other_appointments_in_their_order(keeper, client, monkeypatch):
    monkeypatch.setattr(renewal, "_NAP", 0.01)
    start = soon()
    places = [Place(start + number * SOON, number) for number in (2, 3, 1, 4)]
    keep(keeper, *places)
    del places[2]  # the first appointment, in front of those that are ordered by half only
    gc.collect()
    assert eventually(lambda: all(each.renewed for each in places))
    assert [each for request in client.requests for each in request] == [2, 3, 4]


def test_the_thread_starts_again(keeper):
    first = Place(soon(), 1)
    keep(keeper, first)
    assert eventually(lambda: not threads(keeper))
    second = Place(soon(), 2)
    keep(keeper, second)
    assert eventually(lambda: second.renewed)


def test_closing_ends_the_thread(keeper):
    place = Place(clock.now() + FAR, 1)
    keep(keeper, place)
    (thread,) = threads(keeper)
    keeper.close()
    assert not thread.is_alive()


def test_closing_while_a_place_is_tended_ends_the_thread_too(keeper):
    place = Place(soon(), 1, again=clock.now() + FAR)
    place.on_renewed = lambda lease_id, lifetime: keeper.close()
    keep(keeper, place)
    (thread,) = threads(keeper)
    assert eventually(lambda: not thread.is_alive())


def test_nothing_is_looked_after_once_closed(keeper):
    keeper.close()
    keep(keeper, Place(soon(), 1))
    assert not threads(keeper)


def test_closing_twice_is_fine(keeper):
    keep(keeper, Place(clock.now() + FAR, 1))
    keeper.close()
    keeper.close()


def test_a_thread_that_cannot_be_started_is_logged_and_started_with_the_next(
    keeper, monkeypatch, caplog
):
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    place = Place(soon(), 1)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        keep(keeper, place)
    assert "no thread can be started" in caplog.text
    keep(keeper, another := Place(soon(), 2))
    assert eventually(lambda: place.renewed and another.renewed)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_place_whose_thread_could_not_be_started_is_renewed_when_it_is_kept_again(
    keeper, monkeypatch, error
):
    def fail(self: threading.Thread) -> None:
        raise error

    place = Place(soon(), 1)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        with suppress(KeyboardInterrupt):
            keep(keeper, place)
    keep(keeper, place)
    assert eventually(lambda: place.renewed)


# At exit.


@pytest.fixture
def farewell(keeper: Keeper) -> Callable[[], None]:
    return lambda: keeper.let_go(Budget.of(1.0))


def test_the_leases_of_each_place_are_revoked_at_exit(keeper, client, farewell):
    for place in (Place(FAR, 1, 2), Place(FAR, 3)):
        keeper.remember(place)
    farewell()
    assert client.revoked == [1, 2, 3]


def test_a_place_that_nobody_has_any_more_is_given_back_all_the_same(keeper, client, farewell):
    keeper.remember(Place(FAR, 1))
    gc.collect()
    farewell()
    assert client.revoked == [1]


def test_places_that_have_ended_are_forgotten(keeper):
    for _ in range(1000):
        place = Place(FAR, 1)
        place.lasts = 0.0
        keeper.remember(place)
    assert len(keeper._places) < 100


def test_places_that_last_are_not_forgotten(keeper, client, farewell):
    for number in range(1000):
        keeper.remember(Place(FAR, number))
    farewell()
    assert client.revoked == list(range(1000))


def test_what_cannot_be_given_back_is_logged_once(keeper, client, farewell, caplog):
    for number in range(3):
        keeper.remember(Place(FAR, number))
    client.error = StoreUnavailableError("down")
    farewell()
    (record,) = caplog.records
    assert record.getMessage() == "left to their ttl at exit: 3 places, down"


def test_nothing_is_given_back_in_a_child_of_the_process(keeper, client, farewell):
    keeper.remember(Place(FAR, 1))
    client.forked = True
    farewell()
    assert client.revoked == []


def test_places_take_different_parts_of_the_time_between_two_renewals():
    parts = {early() for _ in range(100)}
    assert len(parts) > 1
    assert min(parts) >= 0.8
    assert max(parts) <= 1.0
