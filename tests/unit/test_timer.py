"""Looking after locks: what is due is renewed together, one in trouble harms no other, and what a
dropped lock had is given back."""

from __future__ import annotations

import gc
import logging
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from watching import eventually

from microlock.core import agenda
from microlock.core.lease import Lease
from microlock.core.port import KeepAlives, Lifetime, Revoke
from microlock.core.retry import Budget
from microlock.engine import clock
from microlock.engine import timer as module
from microlock.engine.handlers import Handlers
from microlock.engine.timer import Timer
from microlock.errors import (
    DestroyedError,
    MicrolockError,
    StorePermissionError,
    StoreUnavailableError,
)

SOON = 0.1
FAR = 1000.0
PATIENCE = 20.0


class Client:
    """What a timer needs of one: it renews all leases that it knows, and notes the requests."""

    def __init__(self) -> None:
        self.timeout = 5.0
        self.clock = clock.REAL
        self.forked = False
        self.closed = False
        self.handlers = Handlers()
        self.revoked: list[int] = []
        self.requests: list[tuple[int, ...]] = []
        self.budgets: list[float] = []
        self.error: Exception | None = None
        self.unknown: set[int] = set()

    def one(self, kind: object) -> Handlers:
        assert kind is Handlers
        if self.closed:
            raise DestroyedError("closed")
        return self.handlers

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


class Core:
    """Of a host: when something is due, apart from when the agenda has it."""

    class names:
        key = "foo"

    def __init__(self, at: float) -> None:
        self.status = SimpleNamespace(closed=False, present=lambda _: None)
        self.tracker = SimpleNamespace(next_due=at)


class Host:
    """A lock that wants its leases renewed at this time, maybe `again`, and then nothing more."""

    def __init__(self, at: float, *lease_ids: int, again: float = math.inf, ttl: int = 9) -> None:
        self.core = Core(at)
        self.again = again
        self.leases = [Lease(each, asked=ttl, ttl=ttl, sent=clock.now()) for each in lease_ids]
        self.tended: list[float] = []
        self.answered: list[int] = []
        self.silence: list[MicrolockError] = []
        self.ended = threading.Event()
        self.error: Exception | None = None
        self.stirred = False

    def due_next(self) -> float:
        due: float = self.core.tracker.next_due
        return due

    def due(self, now: float) -> Sequence[Lease]:
        self.tended.append(now)
        self.core.tracker.next_due, self.again = self.again, math.inf
        return self.leases

    def renewed(self, lease_id: int, lifetime: Lifetime) -> None:
        self.answered.append(lease_id)

    def silent(self, lease_id: int, error: MicrolockError, *, sent: float) -> None:
        assert sent <= clock.now()
        self.silence.append(error)

    def stir(self) -> None:
        self.stirred = True

    def dropped(self) -> None:
        self.ended.set()
        if self.error:
            raise self.error

    def release_at_exit(self, now: float) -> list[Any]:
        def end(lease: Lease) -> Iterator[Revoke]:
            yield Revoke(lease.id)

        return [end(each) for each in self.leases]


class Face:
    """What a user has of a lock."""


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client()
    yield client
    client.handlers.close()


@pytest.fixture
def timer(client: Client) -> Iterator[Timer]:
    timer = Timer(client)  # type: ignore[arg-type]
    yield timer
    timer.close()
    assert eventually(lambda: timer._thread is None)


def soon() -> float:
    return clock.now() + SOON


def schedule(timer: Timer, *hosts: Host) -> None:
    for each in hosts:
        timer.schedule(each)  # type: ignore[arg-type]


def adopt(timer: Timer, host: Host) -> Face:
    face = Face()
    timer.adopt(face, host)  # type: ignore[arg-type]
    return face


# What is renewed, and when.


def test_what_is_due_at_the_same_time_is_renewed_by_one_request(timer, client):
    at = soon()
    one, two = Host(at, 1), Host(at, 2, 3)
    schedule(timer, one, two)
    assert eventually(lambda: one.answered and len(two.answered) == 2)
    assert client.requests == [(1, 2, 3)]


def test_what_falls_due_a_little_later_is_renewed_along(timer, client):
    at = clock.now() // 0.05 * 0.05 + 1.01  # past the beginning of a tick
    one, two = Host(at, 1), Host(at + 0.02, 2)
    schedule(timer, one, two)
    assert eventually(lambda: one.answered and two.answered)
    assert client.requests == [(1, 2)]


def test_many_are_renewed_by_batches_in_the_order_they_are_due(timer, client, monkeypatch):
    monkeypatch.setattr(agenda, "BATCH", 10)
    timer._at_once = 10
    hosts = [Host(clock.now() - 100 + number, number) for number in range(25)]
    with timer._lock:  # until all are there
        schedule(timer, *hosts)
    assert eventually(lambda: all(each.answered for each in hosts))
    assert client.requests == [tuple(range(10)), tuple(range(10, 20)), tuple(range(20, 25))]


def test_all_are_told_of_a_silence_after_the_first_batch(timer, client, monkeypatch):
    monkeypatch.setattr(agenda, "BATCH", 10)
    timer._at_once = 10
    client.error = StoreUnavailableError("no")
    hosts = [Host(clock.now() - 100 + number, number) for number in range(45)]
    with timer._lock:
        schedule(timer, *hosts)
    assert eventually(lambda: all(each.silence for each in hosts))
    assert list(map(len, client.requests)) == [10, 35]


def test_nothing_is_renewed_before_it_is_due(timer):
    at = soon()
    host = Host(at, 1)
    schedule(timer, host)
    assert eventually(lambda: host.answered)
    assert host.tended[0] >= at


def test_what_has_passed_is_done_at_once(timer):
    host = Host(clock.now() - FAR, 1)
    schedule(timer, host)
    assert eventually(lambda: host.answered)


def test_what_needs_no_renewal_is_looked_after_without_a_request(timer, client):
    host = Host(soon())
    schedule(timer, host)
    assert eventually(lambda: host.tended)
    assert eventually(lambda: timer._thread is None)
    assert client.requests == []


def test_each_time_is_kept_that_a_lock_names(timer, client):
    host = Host(soon(), 1, again=clock.now() + 2 * SOON)
    schedule(timer, host)
    assert eventually(lambda: len(host.answered) == 2)
    assert client.requests == [(1,), (1,)]


def test_an_earlier_time_wakes_the_thread(timer, monkeypatch):
    monkeypatch.setattr(module, "_NAP", FAR)
    later = Host(clock.now() + FAR, 1)
    schedule(timer, later)
    assert eventually(lambda: timer._sleeps_until)
    sooner = Host(soon(), 2)
    schedule(timer, sooner)
    assert eventually(lambda: sooner.answered)
    assert later.tended == []


def test_a_time_can_be_made_earlier_and_is_kept_once(timer):
    host, last = Host(clock.now() + 2 * SOON, 1), Host(clock.now() + 4 * SOON, 2)
    schedule(timer, host, last)
    host.core.tracker.next_due = soon()
    schedule(timer, host)
    assert eventually(lambda: last.answered)
    assert len(host.tended) == 1


def test_a_time_is_not_put_off_by_a_later_one(timer):
    host = Host(soon(), 1)
    schedule(timer, host)
    host.core.tracker.next_due = clock.now() + FAR
    schedule(timer, host)
    assert eventually(lambda: host.answered)


def test_the_most_urgent_is_asked_for_first(timer, client):
    at = soon()
    one, two = Host(at, 1, ttl=60), Host(at, 2, ttl=5)
    schedule(timer, one, two)
    assert eventually(lambda: two.answered)
    assert client.requests == [(2, 1)]


def test_a_request_takes_half_of_what_is_left_to_the_most_urgent(timer, client):
    host = Host(clock.now(), 1, ttl=2)
    schedule(timer, host)
    assert eventually(lambda: host.answered)
    assert client.budgets[0] <= 1.0


# What goes wrong.


def test_silence_is_told_to_each_with_the_error(timer, client):
    client.error = StoreUnavailableError("down")
    one, two = Host(soon(), 1), Host(soon(), 2)
    schedule(timer, one, two)
    assert eventually(lambda: one.silence and two.silence)
    assert one.silence == two.silence == [client.error]


def test_silence_is_told_to_those_without_an_answer(timer, client):
    client.unknown = {2}
    at = soon()
    one, two = Host(at, 1), Host(at, 2, again=at)
    schedule(timer, one, two)
    assert eventually(lambda: one.answered and two.silence)
    assert (one.silence, two.answered) == ([], [])


def test_one_that_had_no_answer_is_asked_for_again_at_once_alone_and_after_the_others(
    timer, client, monkeypatch
):
    monkeypatch.setattr(agenda, "BATCH", 2)
    timer._at_once = 2
    perform, slow = client.perform, {2}

    def performing(request: Any, budget: Budget) -> Any:
        reply = perform(request, budget)
        return {each: reply[each] for each in reply if each not in slow or slow.discard(each)}

    monkeypatch.setattr(client, "perform", performing)
    at = soon()
    one, two, three = Host(at, 1), Host(at, 2, again=at), Host(at, 3)
    schedule(timer, one, two, three)
    assert eventually(lambda: three.answered)
    assert eventually(lambda: two.answered)
    assert client.requests == [(1, 2), (3,), (2,)]
    assert two.silence == []


def test_one_that_etcd_refuses_is_told_so_and_the_others_are_renewed(timer, client, monkeypatch):
    perform, refused = client.perform, StorePermissionError("permission denied")

    def performing(request: Any, budget: Budget) -> Any:
        reply = perform(request, budget)
        if 2 in request.lease_ids:
            raise refused
        return reply

    monkeypatch.setattr(client, "perform", performing)
    at = soon()
    hosts = [Host(at, number) for number in range(1, 5)]
    schedule(timer, *hosts)
    assert eventually(lambda: all(each.answered or each.silence for each in hosts))
    assert [each.silence for each in hosts] == [[], [refused], [], []]


def test_a_refusal_is_no_silence(timer, client):
    client.error = StorePermissionError("permission denied")
    host = Host(soon(), 1)
    schedule(timer, host)
    assert eventually(lambda: host.silence)
    assert timer._at_once == agenda.BATCH


class Broken(Host):
    """One that fails whenever it is due, and is due all the time."""

    def due(self, now: float) -> Sequence[Lease]:
        self.tended.append(now)
        raise LookupError("a bug of ours")


def test_one_that_fails_is_logged_and_does_not_make_the_thread_spin(timer, caplog):
    broken = Broken(clock.now(), 1)
    schedule(timer, broken)
    assert eventually(lambda: len(broken.tended) > 4)
    broken.core.tracker.next_due = math.inf
    assert min(later - former for former, later in pairwise(broken.tended)) > 0.049
    assert {(r.name, r.levelno) for r in caplog.records} == {("microlock", logging.ERROR)}


@pytest.mark.parametrize("when", ["due", "due_next", "renewed", "silent"])
def test_one_that_fails_does_not_stop_those_that_were_due_with_it(timer, client, when):
    client.unknown = {1} if when == "silent" else set()
    at = soon()
    broken, host = Host(at, 1), Host(at, 2, again=at + SOON)
    schedule(timer, broken, host)

    def fail(*args: Any, **kwargs: Any) -> None:
        broken.core.tracker.next_due = math.inf
        raise LookupError("a bug of ours")

    setattr(broken, when, fail)
    assert eventually(lambda: len(host.answered) == 2, within=5)


def test_a_request_that_fails_by_a_bug_of_ours_is_made_again(timer, client, caplog):
    client.error = LookupError("a bug of ours")
    at = soon()
    host = Host(at, 1, again=at + SOON)
    schedule(timer, host)
    assert eventually(lambda: len(host.tended) == 2, within=5)


def test_one_whose_client_is_closed_is_left_in_silence(timer, caplog):
    class Closed(Host):
        def due(self, now: float) -> Sequence[Lease]:
            super().due(now)
            raise DestroyedError("closed")

    host = Closed(soon(), 1)
    schedule(timer, host)
    assert eventually(lambda: host.tended)
    assert eventually(lambda: timer._thread is None)
    assert caplog.records == []


# The thread.


def test_the_thread_has_a_name(timer):
    schedule(timer, Host(clock.now() + FAR, 1))
    assert timer._thread.name == "microlock-renewal"


def test_no_thread_runs_before_there_is_something_to_do(timer):
    schedule(timer, Host(math.inf, 1))
    assert timer._thread is None


def test_the_thread_ends_when_there_is_nothing_more_to_do_and_starts_again(timer):
    first = Host(soon(), 1)
    schedule(timer, first)
    thread = timer._thread
    assert eventually(lambda: not thread.is_alive())
    second = Host(soon(), 2)
    schedule(timer, second)
    assert eventually(lambda: second.answered)


def test_closing_ends_the_thread_and_has_every_lock_look_again(timer):
    host = Host(clock.now() + FAR, 1)
    face = adopt(timer, host)
    schedule(timer, host)
    thread = timer._thread
    timer.close()
    assert not thread.is_alive()
    assert host.stirred
    assert face


def test_closing_while_a_lock_is_looked_after_ends_the_thread_too(timer):
    host = Host(soon(), 1, again=clock.now() + FAR)
    host.renewed = lambda lease_id, lifetime: timer.close()  # type: ignore[method-assign]
    schedule(timer, host)
    thread = timer._thread
    assert eventually(lambda: not thread.is_alive())


def test_nothing_is_looked_after_once_closed_and_closing_twice_is_fine(timer):
    timer.close()
    timer.close()
    face = adopt(timer, Host(soon(), 1))
    schedule(timer, Host(soon(), 2))
    assert timer._thread is None
    assert face


def fail_to_start(error: type[BaseException]) -> Callable[[threading.Thread], None]:
    def start(self: threading.Thread) -> None:
        raise error("can't start new thread")

    return start


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_thread_that_could_not_be_started_is_started_with_the_next(timer, monkeypatch, error):
    host = Host(soon(), 1)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail_to_start(error))
        with suppress(KeyboardInterrupt):
            schedule(timer, host)
    schedule(timer, another := Host(soon(), 2))
    assert eventually(lambda: host.answered and another.answered)


def test_a_thread_that_could_not_be_started_is_started_when_the_same_lock_asks_again(
    timer, monkeypatch, caplog
):
    host = Host(soon(), 1)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail_to_start(RuntimeError))
        schedule(timer, host)
    assert "no thread can be started" in caplog.text
    schedule(timer, host)
    assert eventually(lambda: host.answered)


# Dropped locks.


def drop(face: list[Face]) -> None:
    face.clear()
    gc.collect()


def test_what_a_dropped_lock_had_is_given_back_elsewhere(timer):
    host, seen = Host(math.inf), []
    host.dropped = lambda: seen.append(threading.current_thread().name)  # type: ignore[method-assign]
    faces = [adopt(timer, host)]
    drop(faces)
    assert eventually(lambda: seen)
    assert seen == ["microlock-handlers"]


def test_a_lock_is_kept_as_long_as_somebody_has_it(timer):
    host = Host(math.inf)
    faces = [adopt(timer, host)]
    gc.collect()
    assert timer._thread.is_alive()
    assert not host.ended.is_set()
    drop(faces)
    assert host.ended.wait(PATIENCE)


def test_the_thread_ends_with_the_last_dropped_lock(timer):
    thread = None
    faces = [adopt(timer, Host(math.inf))]
    thread = timer._thread
    drop(faces)
    assert eventually(lambda: not thread.is_alive())


def test_the_thread_ends_with_the_last_lock_that_was_destroyed(timer):
    host = Host(math.inf)
    face = adopt(timer, host)
    thread = timer._thread
    host.core.status.closed = True
    schedule(timer, host)
    assert eventually(lambda: not thread.is_alive())
    assert face


def test_a_dropped_lock_that_cannot_be_given_back_is_forgotten(timer, caplog):
    host = Host(math.inf)
    host.error = StoreUnavailableError("down")
    faces = [adopt(timer, host)]
    thread = timer._thread
    drop(faces)
    assert eventually(lambda: caplog.records)
    assert eventually(lambda: not thread.is_alive())


def test_a_dropped_lock_that_takes_long_delays_no_renewal(timer):
    go, host, other = threading.Event(), Host(math.inf), Host(clock.now() + 2 * SOON, 1)
    host.dropped = lambda: go.wait(PATIENCE)  # type: ignore[assignment, method-assign]
    faces = [adopt(timer, host)]
    drop(faces)
    schedule(timer, other)
    assert eventually(lambda: other.answered)
    go.set()


def test_a_dropped_lock_is_given_back_here_where_no_thread_can_be_started(timer, monkeypatch):
    host = Host(math.inf)
    faces = [adopt(timer, host)]
    monkeypatch.setattr(threading.Thread, "start", fail_to_start(RuntimeError))
    drop(faces)
    assert host.ended.wait(PATIENCE)


def test_what_is_dropped_after_the_close_of_the_client_is_left(timer, client):
    host = Host(math.inf)
    faces = [adopt(timer, host)]
    client.closed = True
    drop(faces)
    timer.close()
    assert not host.ended.is_set()


def test_a_client_that_closes_waits_until_dropped_locks_are_given_back(timer):
    go, host = threading.Event(), Host(math.inf)
    ended: list[bool] = []
    host.dropped = lambda: ended.append(go.wait(PATIENCE))  # type: ignore[method-assign]
    faces = [adopt(timer, host)]
    drop(faces)
    threading.Timer(SOON, go.set).start()
    timer.finish(PATIENCE)
    assert ended == [True]


def test_a_client_that_closes_does_not_wait_longer_than_asked(timer):
    go, host = threading.Event(), Host(math.inf)
    host.dropped = lambda: go.wait(PATIENCE)  # type: ignore[assignment, method-assign]
    faces = [adopt(timer, host)]
    drop(faces)
    begun = clock.now()
    timer.finish(SOON)
    assert clock.now() - begun < PATIENCE / 2
    go.set()


def test_a_client_without_locks_does_not_wait(timer):
    timer.finish(PATIENCE)
    assert timer._thread is None


# At exit.


def farewell(timer: Timer) -> None:
    timer.release_at_exit(1.0)


def test_what_each_lock_has_is_given_back_at_exit(timer, client):
    faces = [adopt(timer, Host(math.inf, 1, 2)), adopt(timer, Host(math.inf, 3))]
    farewell(timer)
    assert client.revoked == [1, 2, 3]
    assert faces


def test_what_cannot_be_given_back_at_exit_is_logged_once(timer, client, caplog):
    faces = [adopt(timer, Host(math.inf, number)) for number in range(3)]
    client.error = StoreUnavailableError("down")
    farewell(timer)
    (record,) = caplog.records
    assert record.getMessage() == "at exit 3 hold(s) are left, and end with their ttl: down"
    assert faces


def test_after_the_client_was_closed_nothing_is_said_at_exit(timer, client, caplog):
    face = adopt(timer, Host(math.inf, 1))
    client.error = DestroyedError("closed")
    farewell(timer)
    assert caplog.records == []
    assert face


@pytest.mark.parametrize("why", ["forked", "closed"])
def test_nothing_is_given_back_at_exit_by_a_child_or_after_the_close(timer, client, why):
    face = adopt(timer, Host(math.inf, 1))
    if why == "forked":
        client.forked = True
    else:
        timer.close()
    farewell(timer)
    assert client.revoked == []
    assert face
