"""Waiting far from one's turn, in a queue that is long: what is heard, and what is not missed."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from subprocess import Popen
from typing import Any
from weakref import ref

import pytest
from conftest import Etcd
from ctl import Etcdctl, taken
from faces import BOTH_FACES, ONLY_THREADS, Microlock
from managers import noted
from nodes import LONG, Make, begin, nodes
from proxy import Proxy
from test_auth import Guarded
from test_events import watches
from test_processes import started
from test_waiting import in_line, line
from watching import DEADLINE, Recorder, eventually
from witness import AT_ONCE, at_most, entries, leases

from microlock import (
    AlreadyLockedError,
    DestroyedError,
    EtcdClient,
    Hold,
    LockLostError,
    LockUncertainError,
    StorePermissionError,
    StoreTimeoutError,
    connect,
)
from microlock.core.keys import is_prefix
from microlock.core.port import Get, Read
from microlock.core.queue import Holder
from microlock.engine.clock import REAL, Clock
from microlock.engine.reader import Reader
from microlock.engine.reentrant_event import ReentrantEvent

pytestmark = BOTH_FACES

SLACK = 1.0  # what a busy machine adds to a time that is promised
OwnEtcd = Callable[..., Etcd]


def reader(lock: Microlock) -> Reader:
    return lock._host.client.one(Reader)


def watched(lock: Microlock) -> list[str]:
    """What its client watches: the prefix of a lock, or one entry."""
    settled = reader(lock)._machine.settled
    return sorted(name.decode() for name in reader(lock).names if settled(name))


def entry(holder: Holder, key: str) -> str:
    return f"{key}/{holder.lease_id:x}"


def behind(lock: Microlock, place: Holder) -> bool:
    """Whether it comes to wait behind this place, and to hear of nothing else."""
    return eventually(lambda: watched(lock) == [entry(place, lock.key)])


def near(lock: Microlock) -> bool:
    """Whether it comes to hear of all of the lock, and to watch nothing else."""
    return eventually(lambda: watched(lock) == [f"{lock.key}/"])


class Row:
    """One that holds the lock, and those who wait for it, in order."""

    def __init__(self, make: Make, count: int) -> None:
        self._make = make
        self.holder = make("holder")
        self.holder.lock()
        self.locks = [make(f"node-{number}") for number in range(count)]
        self.waits = [in_line(lock, self.holder) for lock in self.locks]

    def far(self, **options: Any) -> Microlock:
        """One more, to wait behind all of them."""
        return self._make("far", **options)

    def place(self, number: int) -> Holder:
        """Where one of them stands."""
        return next(each for each in self.holder.waiters() if each.node_id == f"node-{number}")

    def pass_on(self, *numbers: int) -> None:
        """The holder gives back the lock, and those of the numbers have it after that."""
        self.holder.unlock()
        for number in numbers:
            self.waits[number].result(DEADLINE)
            self.locks[number].unlock()


@pytest.fixture
def row(make: Make) -> Row:
    """Three that wait: a fourth is far, and waits behind the second."""
    return Row(make, 3)


def by_the_reader(client: EtcdClient, instead: Callable[[Any, Callable[[], Any]], Any]) -> None:
    """Has what the thread of the watches asks of etcd done by `instead(request, ask)`."""
    perform = client.perform

    def performing(request: Any, budget: Any) -> Any:
        ask = partial(perform, request, budget)
        if threading.current_thread().name != "microlock-watch" or request == Get(b"health"):
            return ask()
        return instead(request, ask)

    client.perform = performing  # type: ignore[method-assign]


class Replies:
    """Counts what etcd tells the watches of a lock's client, from now on."""

    def __init__(self, lock: Microlock) -> None:
        self.count = 0
        machine = reader(lock)._machine
        received = machine.received

        def counting(reply: Any) -> Any:
            self.count += 1
            return received(reply)

        machine.received = counting  # type: ignore[method-assign]


# The order


def test_the_lock_is_had_in_the_order_of_arrival_by_one_at_a_time(make: Make) -> None:
    inside: list[str] = []
    had: list[tuple[str, int]] = []
    crowds: list[list[str]] = []

    def take(lock: Microlock) -> None:
        hold = lock.lock(timeout=LONG)
        inside.append(lock.node_id)
        had.append((lock.node_id, hold.token))
        if len(inside) > 1:
            crowds.append(list(inside))
        holder = lock.holder()
        assert holder
        assert holder.token == hold.token
        inside.remove(lock.node_id)
        lock.unlock()

    first = make("first")
    first.lock()
    names = [f"node-{number}" for number in range(8)]
    taking = []
    for count, name in enumerate(names, 1):
        taking.append(begin(partial(take, make(name))))
        assert eventually(lambda count=count: len(first.waiters()) == count)
    first.unlock()
    for each in taking:
        each.result(DEADLINE)
    tokens = [token for _, token in had]
    assert [name for name, _ in had] == names
    assert tokens == sorted(set(tokens))
    assert crowds == []


def test_each_round_of_many_clients_has_a_higher_token_than_the_one_before(make: Make) -> None:
    tokens: list[int] = []

    def work(lock: Microlock) -> None:
        for _ in range(15):
            with lock as held:
                assert held.token
                tokens.append(held.token)

    with_timeout = [make(f"node-{number}", timeout=LONG) for number in range(6)]
    for each in [begin(partial(work, lock)) for lock in with_timeout]:
        each.result(LONG)
    assert len(tokens) == 90
    assert tokens == sorted(set(tokens))


# What is heard


def test_who_is_far_watches_one_entry_and_who_is_near_the_lock(row: Row) -> None:
    far = row.far()
    in_line(far, row.holder)
    assert behind(far, row.place(1))
    assert near(row.locks[0])
    assert near(row.locks[1])
    assert eventually(lambda: watched(row.locks[2]) == [entry(row.place(0), far.key)])


def test_who_is_far_hears_nothing_of_what_befalls_others_and_who_is_near_does(
    make: Make,
) -> None:
    row = Row(make, 4)
    far = row.far()
    waiting = in_line(far, row.holder)
    assert behind(far, row.place(2))
    assert near(row.locks[1])
    heard_far, heard_near = Replies(far), Replies(row.locks[1])
    late = make("late")
    in_line(late, row.holder)
    late.destroy()  # one that joins and leaves
    row.pass_on(0)
    row.waits[1].result(DEADLINE)
    assert eventually(lambda: heard_near.count >= 4)
    assert heard_far.count == 0
    assert not waiting.done()


def test_who_is_far_hears_of_the_lock_when_its_turn_is_near(row: Row) -> None:
    far = row.far()
    waiting = in_line(far, row.holder)
    assert behind(far, row.place(1))
    row.pass_on(0, 1)
    assert near(far)
    assert not waiting.done()
    row.waits[2].result(DEADLINE)
    row.locks[2].unlock()
    assert waiting.result(AT_ONCE).attempts == 1


def test_what_each_client_watches_is_one_thing_however_long_the_queue(own_etcd: OwnEtcd) -> None:
    server = own_etcd()
    with nodes(server.endpoint, "foo") as make:
        row = Row(make, 6)
        # One each, and one for the hold.
        assert eventually(lambda: watches(server.endpoint) == (7, 7))
        row.pass_on(0, 1, 2)
        row.waits[3].result(DEADLINE)
        assert eventually(lambda: [len(watched(lock)) for lock in row.locks[4:]] == [1, 1])
        assert watches(server.endpoint)[0] == 7


# Whom it waits behind


@pytest.mark.parametrize("how", ["destroyed", "lease revoked", "deleted"])
def test_when_the_one_it_waits_behind_is_gone_it_waits_on_for_the_others(
    row: Row, key: str, etcdctl: Etcdctl, how: str
) -> None:
    far = row.far()
    waiting = in_line(far, row.holder)
    place = row.place(1)
    assert behind(far, place)
    match how:
        case "destroyed":
            row.locks[1].destroy()
        case "lease revoked":
            etcdctl("lease", "revoke", f"{place.lease_id:x}")
        case "deleted":
            etcdctl("del", entry(place, key))
    assert near(far)
    assert not eventually(waiting.done, within=0.3)
    row.pass_on(0, 2)
    assert waiting.result(DEADLINE).attempts == 1


def test_one_that_gives_up_after_its_time_lets_those_behind_it_wait_on(make: Make) -> None:
    row = Row(make, 1)
    short, middle, far = make("short"), make("middle"), row.far()
    giving_up = begin(partial(short.lock, timeout=3))
    assert eventually(lambda: len(line(row.holder)) == 2)
    between = in_line(middle, row.holder)
    waiting = in_line(far, row.holder)
    assert isinstance(giving_up.exception(DEADLINE), AlreadyLockedError)
    assert near(far)
    row.pass_on(0)
    between.result(DEADLINE)
    assert not eventually(waiting.done, within=0.3)
    middle.unlock()
    assert waiting.result(DEADLINE).attempts == 1


@ONLY_THREADS
def test_one_that_died_is_not_waited_for_beyond_its_ttl(
    etcd_server: Etcd, key: str, make: Make
) -> None:
    row = Row(make, 1)
    script = 'Microlock(connect(endpoint), key, "dead", ttl=2).lock(timeout=None)'
    with started(script, etcd_server.endpoint, key) as process:
        assert eventually(lambda: len(line(row.holder)) == 2)
        middle, far = make("middle"), row.far()
        in_line(middle, row.holder)
        waiting = in_line(far, row.holder)
        process.kill()
        process.wait(DEADLINE)
    assert near(far)
    row.pass_on(0)
    middle.destroy()
    assert waiting.result(DEADLINE).attempts == 1


def test_an_extension_of_the_one_it_waits_behind_is_not_taken_for_its_end(row: Row) -> None:
    far = row.far()
    waiting = in_line(far, row.holder)
    place = row.place(1)
    assert behind(far, place)
    heard = Replies(far)
    row.pass_on(0)
    row.waits[1].result(DEADLINE)
    for ttl in (30, 90, 20):
        row.locks[1].extend(ttl)
    assert eventually(lambda: heard.count >= 3)
    assert watched(far) == [entry(place, far.key)]
    row.locks[1].unlock()
    row.waits[2].result(DEADLINE)
    assert not eventually(waiting.done, within=0.3)
    row.locks[2].unlock()
    assert waiting.result(AT_ONCE).attempts == 1


@pytest.mark.parametrize("moment", ["before the watch", "before the read", "after the read"])
@pytest.mark.parametrize("gone", ["one", "all"])
def test_an_entry_that_goes_as_its_watch_begins_is_not_waited_for(
    row: Row, key: str, etcdctl: Etcdctl, moment: str, gone: str
) -> None:
    far = row.far()
    watching, others = reader(far), entries(etcdctl, key)
    watch = watching.watch
    done: list[bytes] = []

    def delete(name: bytes) -> None:
        if done:
            return
        done.append(name)
        if gone == "one":
            etcdctl("del", name.decode())
        else:
            for other in others:
                etcdctl("del", other)

    def first_delete(name: bytes, *args: Any, **kwargs: Any) -> Any:
        if moment == "before the watch" and not is_prefix(name):
            delete(name)
        return watch(name, *args, **kwargs)

    def then_read(request: Any, ask: Callable[[], Any]) -> Any:
        if moment == "before the read" and isinstance(request, Get):
            delete(request.entry)
        found = ask()
        if moment == "after the read" and isinstance(request, Get):
            delete(request.entry)
        return found

    watching.watch = first_delete  # type: ignore[method-assign]
    by_the_reader(far._host.client, then_read)
    if gone == "all":
        for lock in row.locks:  # they would join again
            lock._host.client.close()
    waiting = begin(partial(far.lock, timeout=LONG))
    assert eventually(lambda: done)
    if gone == "one":
        assert near(far)
        assert not waiting.done()
        row.pass_on(0)
        row.locks[2].destroy()
        row.locks[1].destroy()
    hold = waiting.result(DEADLINE)
    holder = far.holder()
    assert holder
    assert holder.token == hold.token


# Its own place


@pytest.mark.parametrize("how", ["its entry was deleted", "its lease was revoked"])
def test_who_is_far_and_has_lost_its_place_has_its_turn_in_the_end(
    row: Row, key: str, etcdctl: Etcdctl, how: str
) -> None:
    far = row.far(ttl=3)
    waiting = in_line(far, row.holder)
    place = row.holder.waiters()[-1]
    assert place.node_id == "far"
    if how == "its entry was deleted":
        etcdctl("del", entry(place, key))
    else:
        etcdctl("lease", "revoke", f"{place.lease_id:x}")
    row.pass_on(0, 1)
    token = row.waits[2].result(DEADLINE).token
    assert eventually(lambda: line(row.locks[2]) == ["far"])
    row.locks[2].unlock()
    hold = waiting.result(DEADLINE)
    holder = far.holder()
    assert holder
    assert (holder.token, hold.attempts) == (hold.token, 2)
    assert hold.token > max(token, place.token)


def test_who_is_far_and_whose_lease_was_revoked_joins_again_within_its_ttl(
    row: Row, etcdctl: Etcdctl
) -> None:
    far = row.far(ttl=3)
    in_line(far, row.holder)
    place = row.holder.waiters()[-1]
    etcdctl("lease", "revoke", f"{place.lease_id:x}")
    assert eventually(lambda: line(row.holder)[3:] == ["far"], within=3 + SLACK)
    assert row.holder.waiters()[-1].token > place.token


@ONLY_THREADS
def test_who_is_far_and_renews_its_lease_keeps_its_place_for_longer_than_its_ttl(
    row: Row,
) -> None:
    far = row.far(ttl=2)
    waiting = in_line(far, row.holder)
    place = row.holder.waiters()[-1]
    assert not eventually(lambda: row.holder.waiters()[-1] != place, within=5)
    row.pass_on(0, 1, 2)
    hold = waiting.result(AT_ONCE)
    assert (hold.token, hold.attempts) == (place.token, 1)


# The time


def test_who_is_far_and_gives_up_names_who_holds_the_lock_by_then(row: Row) -> None:
    far = row.far()
    giving_up = begin(partial(far.lock, timeout=3))
    assert behind(far, row.place(1))
    row.pass_on()
    token = row.waits[0].result(AT_ONCE).token
    error = giving_up.exception(3 + SLACK)
    assert isinstance(error, AlreadyLockedError)
    assert (error.holder.node_id, error.holder.token) == ("node-0", token)


@pytest.mark.parametrize("timeout", [0.15, 0.5, 1.0, 1.5])
def test_a_short_wait_in_a_long_queue_names_the_holder_and_leaves_nothing(
    row: Row, key: str, etcdctl: Etcdctl, timeout: float
) -> None:
    far = row.far()
    before = entries(etcdctl, key)
    with at_most(timeout + SLACK), pytest.raises(AlreadyLockedError) as told:
        far.lock(timeout=timeout)
    assert told.value.holder == row.holder.holder()
    assert entries(etcdctl, key) == before
    assert watched(far) in ([], [f"{key}/"])


def test_who_gave_up_far_from_its_turn_leaves_no_lease(row: Row, etcdctl: Etcdctl) -> None:
    far = row.far()
    giving_up = begin(partial(far.lock, timeout=2))
    assert eventually(lambda: line(row.holder)[3:] == ["far"])
    place = row.holder.waiters()[-1]
    assert isinstance(giving_up.exception(2 + SLACK), AlreadyLockedError)
    assert place.lease_id not in [int(lease, 16) for lease in leases(etcdctl)]


# When etcd is away


def test_a_restart_of_etcd_keeps_those_who_are_far_in_their_order(own_etcd: OwnEtcd) -> None:
    server = own_etcd()
    with nodes(server.endpoint, "foo") as make:
        row = Row(make, 4)
        far = row.far()
        waiting = in_line(far, row.holder)
        place = row.holder.waiters()[-1]
        server.kill()
        server.start()
        row.pass_on(0, 1, 2, 3)
        hold = waiting.result(DEADLINE)
        assert (hold.token, hold.attempts) == (place.token, 1)


@contextmanager
def far_by_a_proxy(endpoint: str) -> Iterator[tuple[Row, Microlock, Future[Hold], Proxy]]:
    """Who is far reaches etcd over a proxy, the others do not."""
    with (
        closing(Proxy(endpoint)) as proxy,
        nodes(endpoint, "foo") as make,
        nodes(proxy.endpoint, "foo") as make_far,
    ):
        row = Row(make, 3)
        far = make_far("far")
        waiting = in_line(far, row.holder)
        assert behind(far, row.place(1))
        yield row, far, waiting, proxy


@pytest.mark.parametrize("past", ["kept", "compacted"])
@pytest.mark.parametrize("left", [1, 3])
def test_what_happens_while_who_is_far_is_cut_off_is_seen(
    own_etcd: OwnEtcd, past: str, left: int
) -> None:
    server = own_etcd()
    with far_by_a_proxy(server.endpoint) as (row, far, waiting, proxy):
        place, second = row.holder.waiters()[-1], row.place(1)
        proxy.cut()
        row.pass_on(*range(left))
        if past == "compacted":
            etcdctl = Etcdctl(server.endpoint)
            etcdctl("put", "bar", "1")
            put = etcdctl("put", "bar", "2", "-w=fields")
            etcdctl("compact", put.split('"Revision" :')[1].split()[0])
        assert not waiting.done()
        proxy.mend()
        if left == 1:
            assert behind(far, second)
            row.waits[1].result(DEADLINE)
            row.locks[1].unlock()
            row.waits[2].result(DEADLINE)
            row.locks[2].unlock()
        hold = waiting.result(DEADLINE)
        assert (hold.token, hold.attempts) == (place.token, 1)


def test_connections_that_break_again_and_again_lose_nobody_its_turn(own_etcd: OwnEtcd) -> None:
    server = own_etcd()
    with far_by_a_proxy(server.endpoint) as (row, _, waiting, proxy):
        place = row.holder.waiters()[-1]
        for _ in range(5):
            proxy.reset()
            row.holder.holder()
        row.pass_on(0)
        proxy.reset()
        row.waits[1].result(DEADLINE)
        row.locks[1].unlock()
        proxy.reset()
        row.waits[2].result(DEADLINE)
        row.locks[2].unlock()
        hold = waiting.result(DEADLINE)
        assert (hold.token, hold.attempts) == (place.token, 1)


def test_a_timeout_of_etcd_as_the_turn_comes_near_does_not_end_the_wait(row: Row) -> None:
    """An election, or a busy disk: the wait goes on, as docs/waiting.md says."""
    far = row.far()
    waiting = in_line(far, row.holder)
    assert behind(far, row.place(1))
    failures = [StoreTimeoutError("no answer")]

    def fails_once(request: Any, ask: Callable[[], Any]) -> Any:
        if failures and isinstance(request, Read):
            raise failures.pop()
        return ask()

    by_the_reader(far._host.client, fails_once)
    row.pass_on(0, 1)
    row.waits[2].result(DEADLINE)
    row.locks[2].unlock()
    assert waiting.result(DEADLINE).attempts == 1
    assert failures == []


# User and password


@pytest.fixture
def guarded(own_etcd: OwnEtcd) -> Guarded:
    return Guarded(own_etcd())


@pytest.mark.parametrize("what", ["the entry", "the lock"])
def test_a_watch_that_is_refused_ends_the_wait_and_says_why(guarded: Guarded, what: str) -> None:
    with ExitStack() as stack:

        def make(node_id: str, *, user: Any = guarded.root) -> Microlock:
            etcd = stack.enter_context(user())
            return Microlock(etcd, "mine", node_id, ttl=60)

        row = Row(make, 3)
        far = make("far", user=guarded.client)
        watching = reader(far)
        watch = watching.watch

        def revoked_first(name: bytes, *args: Any, **kwargs: Any) -> Any:
            if is_prefix(name) == (what == "the lock"):
                guarded.revoke("worker")
            return watch(name, *args, **kwargs)

        watching.watch = revoked_first  # type: ignore[method-assign]
        waiting = begin(partial(far.lock, timeout=LONG))
        if what == "the lock":
            assert behind(far, row.place(1))
            row.pass_on(0, 1)
        error = waiting.exception(DEADLINE)
        assert isinstance(error, StorePermissionError | LockUncertainError)
        cause = error if isinstance(error, StorePermissionError) else error.__cause__
        assert isinstance(cause, StorePermissionError)


@ONLY_THREADS
def test_who_is_far_and_whose_token_has_expired_has_its_turn(own_etcd: OwnEtcd) -> None:
    guarded = Guarded(own_etcd(flags=["--auth-token-ttl=1"]))
    with ExitStack() as stack:

        def make(node_id: str, *, user: Any = guarded.root) -> Microlock:
            etcd = stack.enter_context(user())
            return Microlock(etcd, "mine", node_id, ttl=60)

        row = Row(make, 3)
        waiting = in_line(make("far", user=guarded.client), row.holder)
        guarded.outlive_the_tokens()
        row.pass_on(0, 1, 2)
        assert waiting.result(DEADLINE).attempts == 1


# Threads of one client


def test_the_watch_of_a_hold_ends_when_its_lock_is_dropped(etcd_server: Etcd, key: str) -> None:
    with connect(etcd_server.endpoint) as etcd:
        foo = Microlock(etcd, key, "dropped", LONG)
        foo.lock()
        watching = etcd.one(Reader)
        assert eventually(lambda: watching.names)
        del foo
        gc.collect()
        assert eventually(lambda: not watching.names)


def in_turn(waits: Sequence[Future[Hold]], locks: Sequence[Microlock]) -> bool:
    tokens = []
    for wait, lock in zip(waits, locks, strict=True):
        tokens.append(wait.result(DEADLINE).token)
        lock.unlock()
    return tokens == sorted(set(tokens))


@ONLY_THREADS
def test_threads_of_a_client_share_the_watch_of_the_lock_that_one_near_its_turn_has(
    own_etcd: OwnEtcd,
) -> None:
    server = own_etcd()
    with nodes(server.endpoint, "foo") as make, connect(server.endpoint) as etcd:
        row = Row(make, 0)
        locks = [Microlock(etcd, "foo", f"thread-{number}", LONG) for number in range(6)]
        waits = [in_line(lock, row.holder) for lock in locks]
        assert eventually(lambda: watched(locks[0]) == ["foo/"])
        row.holder.unlock()
        assert in_turn(waits, locks)


@ONLY_THREADS
def test_threads_of_a_client_that_are_all_far_have_their_turns_and_share_a_watch_then(
    own_etcd: OwnEtcd,
) -> None:
    server = own_etcd()
    with nodes(server.endpoint, "foo") as make, connect(server.endpoint) as etcd:
        row = Row(make, 3)
        locks = [Microlock(etcd, "foo", f"thread-{number}", LONG) for number in range(6)]
        waits = [in_line(lock, row.holder) for lock in locks]
        assert eventually(lambda: len(watched(locks[0])) == 6)
        assert "foo/" not in watched(locks[0])
        row.pass_on(0, 1, 2)
        assert in_turn(waits[:-2], locks[:-2])
        assert eventually(lambda: watched(locks[0]) == ["foo/"])
        assert in_turn(waits[-2:], locks[-2:])


# Listeners


def cycles(row: Row) -> list[tuple[str, int | None]]:
    """The lock goes from hand to hand. Returns what a listener is to be told."""
    told: list[tuple[str, int | None]] = []
    token = row.holder.token
    for number in (0, 1):
        row.holder.unlock() if number == 0 else row.locks[0].unlock()
        told.append(("unlocked", token))
        token = row.waits[number].result(DEADLINE).token
        told.append(("locked", token))
    return told


@pytest.mark.parametrize("added", ["before", "while it waits far"])
def test_a_listener_of_one_that_is_far_is_told_of_each_change_once(row: Row, added: str) -> None:
    far = row.far()
    seen = None
    if added == "before":
        seen = Recorder(far)
    in_line(far, row.holder)
    if seen is None:
        assert behind(far, row.place(1))
        seen = Recorder(far)
    expected = cycles(row)
    assert seen.told(len(expected)) == expected
    assert not eventually(lambda: len(seen.events) > len(expected), within=0.2)
    assert not any(event.synthesised for event in seen.events)


def test_a_listener_that_was_removed_lets_the_next_wait_be_far(row: Row) -> None:
    far = row.far()
    note = far.on("locked", lambda: None)
    with pytest.raises(AlreadyLockedError):
        far.lock(timeout=0.2)
    far.remove_listener("locked", note)
    in_line(far, row.holder)
    assert behind(far, row.place(1))


def test_a_listener_that_comes_as_a_wait_begins_is_told_of_each_change_once(
    etcd_server: Etcd, make: Make, key: str
) -> None:
    """Whichever of the two comes first, in thirty rounds."""
    row = Row(make, 3)
    for _ in range(30):
        with connect(etcd_server.endpoint) as etcd:
            far = Microlock(etcd, key, "far", LONG)
            waiting = begin(partial(far.lock, timeout=LONG))
            seen = Recorder(far)
            assert eventually(lambda: line(row.holder)[3:] == ["far"])
            token = row.holder.token
            row.holder.unlock()
            expected = [("unlocked", token), ("locked", row.waits[0].result(DEADLINE).token)]
            assert seen.told(2) == expected
            far.destroy()
            assert isinstance(waiting.exception(DEADLINE), DestroyedError)
            assert seen.told(2) == expected
        # Who holds by now has the others wait in the next round, and who held waits behind them.
        row.holder, last = row.locks[0], row.holder
        row.locks = [*row.locks[1:], last]
        row.waits = [*row.waits[1:], in_line(last, row.holder)]


# What ends it


@pytest.mark.usefixtures("no_linger")
def test_destroying_one_that_is_far_ends_its_wait_and_leaves_nothing(
    row: Row, key: str, etcdctl: Etcdctl
) -> None:
    far = row.far()
    before = entries(etcdctl, key)
    waiting = in_line(far, row.holder)
    place = row.holder.waiters()[-1]
    assert behind(far, row.place(1))
    far.destroy()
    assert isinstance(waiting.exception(AT_ONCE), DestroyedError)
    assert entries(etcdctl, key) == before
    assert place.lease_id not in [int(lease, 16) for lease in leases(etcdctl)]
    assert eventually(lambda: reader(far)._thread is None)


def test_closing_the_client_of_one_that_is_far_ends_its_wait(row: Row) -> None:
    far = row.far()
    waiting = in_line(far, row.holder)
    assert eventually(lambda: reader(far)._thread)
    thread = reader(far)._thread
    assert thread
    far._host.client.close()
    assert isinstance(waiting.exception(AT_ONCE), DestroyedError | LockUncertainError)
    assert eventually(lambda: not thread.is_alive())


FAR = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
etcd = connect(endpoint)
foo = Microlock(etcd, key, "far", ttl=5)
"""


@ONLY_THREADS
def test_ctrl_c_ends_the_wait_of_one_that_is_far_and_nothing_is_left_of_it(
    etcd_server: Etcd, key: str, row: Row, etcdctl: Etcdctl
) -> None:
    script = """
try:
    foo.lock(timeout=None)
except KeyboardInterrupt:
    print("interrupted", foo.held, flush=True)
hold = foo.lock(timeout=None)
print(hold.attempts, flush=True)
"""
    before = entries(etcdctl, key)
    with started(FAR + script, etcd_server.endpoint, key) as process:
        assert process.stdout
        assert eventually(lambda: line(row.holder)[3:] == ["far"])
        place = row.holder.waiters()[-1]
        process.send_signal(signal.SIGINT)
        with at_most(AT_ONCE):
            assert process.stdout.readline() == "interrupted False\n"
        assert eventually(lambda: line(row.holder)[3:] == ["far"])
        assert row.holder.waiters()[-1].token > place.token
        assert entry(place, key) not in entries(etcdctl, key)
        row.pass_on(0, 1, 2)
        assert process.stdout.readline() == "1\n"
        process.wait(DEADLINE)
    assert eventually(lambda: not set(entries(etcdctl, key)) & set(before))


@ONLY_THREADS
def test_a_program_that_ends_while_it_is_far_leaves_nothing(
    etcd_server: Etcd, key: str, row: Row, etcdctl: Etcdctl
) -> None:
    script = """
import time
threading.Thread(target=lambda: foo.lock(timeout=None), daemon=True).start()
sys.stdin.readline()
time.sleep(0.2)  # by now the thread knows that it stands there
"""
    before = entries(etcdctl, key)
    with started(FAR + script, etcd_server.endpoint, key) as process:
        assert eventually(lambda: line(row.holder)[3:] == ["far"])
        process.communicate("\n", timeout=DEADLINE)
    assert entries(etcdctl, key) == before


@ONLY_THREADS
def test_a_fork_of_one_that_is_far_waits_for_nothing_and_the_parent_has_its_turn(
    etcd_server: Etcd, key: str, row: Row
) -> None:
    script = """
got = []
thread = threading.Thread(target=lambda: got.append(foo.lock(timeout=None)))
thread.start()
sys.stdin.readline()
print(in_a_child(lambda: (foo.held, raised(foo.lock), raised(lambda: foo.lock(timeout=5)),
                          raised(foo.destroy))), flush=True)
thread.join()
print(got[0].attempts, foo.held, flush=True)
foo.unlock()
"""
    with started(FAR + script, etcd_server.endpoint, key) as process:
        assert process.stdin
        assert process.stdout
        assert eventually(lambda: line(row.holder)[3:] == ["far"])
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "(False, 'ForkedError', 'ForkedError', None)\n"
        assert line(row.holder)[3:] == ["far"]
        row.pass_on(0, 1, 2)
        assert process.stdout.readline() == "1 True\n"
        assert process.wait(DEADLINE) == 0


def interrupt_after(monkeypatch: pytest.MonkeyPatch, owner: type, call_name: str) -> None:
    """Has a signal's handler raise right after the next such call."""
    call = getattr(owner, call_name)

    def then_interrupted(self: Any, *args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(owner, call_name, call)
        call(self, *args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(owner, call_name, then_interrupted)


@ONLY_THREADS
@pytest.mark.parametrize("call_name", ["watch", "unwatch"])
def test_an_interrupt_as_a_wait_begins_leaves_a_lock_that_has_its_turn(
    row: Row, monkeypatch: pytest.MonkeyPatch, call_name: str
) -> None:
    """A signal's handler may raise anywhere; here where what is watched changes."""
    far = row.far()
    with pytest.raises(AlreadyLockedError):
        far.lock(timeout=0.2)  # so that there is a watch to be given up
    interrupt_after(monkeypatch, Reader, call_name)
    with pytest.raises(KeyboardInterrupt):
        far.lock(timeout=5)
    for lock in row.locks:
        lock.destroy()
    waiting = in_line(far, row.holder)
    row.holder.unlock()
    assert waiting.result(AT_ONCE).attempts == 1


@ONLY_THREADS
@pytest.mark.parametrize("which", ["of the entry", "of the lock"])
@pytest.mark.parametrize("moment", ["before it is noted", "when it is noted"])
def test_an_interrupt_before_a_watch_is_asked_for_leaves_a_lock_that_has_its_turn(
    row: Row, monkeypatch: pytest.MonkeyPatch, moment: str, which: str
) -> None:
    far = row.far()
    with pytest.raises(AlreadyLockedError):
        far.lock(timeout=0.2)
    machine = reader(far)._machine
    subscribe = machine.subscribe

    def interrupted(name: bytes, *args: Any) -> None:
        strikes = is_prefix(name) == (which == "of the lock")
        if strikes:
            machine.subscribe = subscribe  # type: ignore[method-assign]
        if not (strikes and moment == "before it is noted"):
            subscribe(name, *args)
        if strikes:
            raise KeyboardInterrupt

    machine.subscribe = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        far.lock(timeout=1.5)
    for lock in row.locks:
        lock.destroy()
    waiting = in_line(far, row.holder)
    row.holder.unlock()
    assert waiting.result(AT_ONCE).attempts == 1


@ONLY_THREADS
def test_an_interrupt_as_a_wait_begins_leaves_a_lock_whose_loss_is_noticed(
    make: Make, key: str, etcdctl: Etcdctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Row(make, 0)
    far = row.far()
    waiting = in_line(far, row.holder)
    assert near(far)  # so that there is a watch to be given up
    row.holder.unlock()
    waiting.result(AT_ONCE)
    far.unlock()
    row = Row(make, 3)
    interrupt_after(monkeypatch, Reader, "unwatch")
    with pytest.raises(KeyboardInterrupt):
        far.lock(timeout=5)
    for lock in (*row.locks, row.holder):
        lock.destroy()
    hold = far.lock()
    eventually(lambda: watched(far), within=1)
    etcdctl("del", f"{key}/{hold.lease_id:x}")
    assert eventually(lambda: not far.held, within=AT_ONCE)


# The stream


@ONLY_THREADS
def test_the_stream_stays_open_between_the_waits_of_one_object(
    own_etcd: OwnEtcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = own_etcd()
    with nodes(server.endpoint, "foo") as make:
        row = Row(make, 3)
        far = row.far()
        opened: list[str] = []
        client = far._host.client
        open_watch = client.open_watch

        def counting(sink: Any) -> Any:
            opened.append("a stream")
            return open_watch(sink)

        monkeypatch.setattr(client, "open_watch", counting)
        for timeout in (0.2, 1.4, 0.2):
            with pytest.raises(AlreadyLockedError):
                far.lock(timeout=timeout)
        assert len(opened) == 1


@pytest.mark.usefixtures("no_linger")
@ONLY_THREADS
@pytest.mark.parametrize("timeout", [0.3, 1.6])
@pytest.mark.parametrize("how", ["destroyed", "dropped"])
def test_the_thread_that_watches_ends_with_an_object_that_waited_far(
    row: Row, etcd_server: Etcd, key: str, how: str, timeout: float
) -> None:
    with connect(etcd_server.endpoint) as etcd:
        far = Microlock(etcd, key, "far", LONG)
        with pytest.raises(AlreadyLockedError):
            far.lock(timeout=timeout)
        watching = etcd.one(Reader)
        assert watching._thread
        if how == "destroyed":
            far.destroy()
        del far
        assert eventually(lambda: gc.collect() >= 0 and watching._thread is None)


@pytest.mark.usefixtures("no_linger")
@ONLY_THREADS
@pytest.mark.parametrize("how", ["destroyed", "dropped"])
def test_the_thread_that_watches_ends_with_an_object_whose_wait_was_cut_far_from_its_turn(
    row: Row, etcd_server: Etcd, key: str, how: str
) -> None:
    with connect(etcd_server.endpoint) as etcd:
        far = Microlock(etcd, key, "far", LONG)
        cut_far_from_its_turn(far, row)
        watching = etcd.one(Reader)
        assert watching._thread
        if how == "destroyed":
            far.destroy()
        alive = ref(far)
        del far
        assert eventually(lambda: gc.collect() >= 0 and alive() is None)
        assert eventually(lambda: watching._thread is None)


class Interrupts(ReentrantEvent):
    """In place of the event that it waits for."""

    def wait(self, timeout: float | None = None, clock: Clock = REAL) -> bool:
        raise KeyboardInterrupt


def cut_far_from_its_turn(far: Microlock, row: Row) -> None:
    """As a handler of a signal does that raises."""
    waiting = in_line(far, row.holder)
    assert behind(far, row.place(1))
    heard = Replies(far)
    woken, far._core.tracker.woken = far._core.tracker.woken, Interrupts()
    woken.set()
    assert isinstance(waiting.exception(DEADLINE), KeyboardInterrupt)
    assert eventually(lambda: heard.count)  # that nothing is watched any more


@pytest.mark.usefixtures("no_linger")
@ONLY_THREADS
@pytest.mark.parametrize("how", ["destroyed", "dropped"])
def test_the_thread_that_watches_ends_with_an_object_whose_hold_was_watched(
    etcd_server: Etcd, key: str, how: str
) -> None:
    """Between its holds nothing is watched, and the stream is open."""
    with connect(etcd_server.endpoint) as etcd:
        foo = Microlock(etcd, key, "one", LONG)
        hold_until_watched(foo)
        watching = etcd.one(Reader)
        if how == "destroyed":
            foo.destroy()
        del foo
        assert eventually(lambda: gc.collect() >= 0 and watching._thread is None)


def hold_until_watched(foo: Microlock) -> None:
    """Then it holds anew, which ends the watch of the first hold, and gives that back at once."""
    foo.lock()
    assert eventually(lambda: watched(foo))
    foo.unlock()
    foo.lock()
    foo.unlock()


def test_each_of_many_holds_notices_soon_that_its_entry_was_deleted(
    make: Make, key: str, etcdctl: Etcdctl
) -> None:
    foo = make("one")
    noticed = []
    for _ in range(3):
        hold = foo.lock()
        eventually(lambda: watched(foo), within=1)
        etcdctl("del", f"{key}/{hold.lease_id:x}")
        noticed.append(eventually(lambda: not foo.held, within=AT_ONCE))
        with suppress(LockLostError):
            foo.unlock()
    assert noticed == [True] * 3


@pytest.mark.usefixtures("no_linger")
@ONLY_THREADS
def test_many_waits_leave_no_watch_behind(own_etcd: OwnEtcd) -> None:
    server = own_etcd()
    with nodes(server.endpoint, "foo") as make:
        row = Row(make, 3)
        far = row.far()
        assert eventually(lambda: watches(server.endpoint) == (4, 4))
        for _ in range(4):
            with pytest.raises(AlreadyLockedError):
                far.lock(timeout=1.2)  # far for a moment, and time enough to be undone
        assert eventually(lambda: watches(server.endpoint) == (4, 4))
        assert reader(far).names == []


@ONLY_THREADS
def test_two_hundred_turns_in_a_long_queue_leave_no_watch_behind(own_etcd: OwnEtcd) -> None:
    server = own_etcd()
    with nodes(server.endpoint, "foo") as make:
        locks = [make(f"node-{number}") for number in range(5)]

        def work(lock: Microlock) -> None:
            for _ in range(40):
                lock.lock(timeout=LONG)
                lock.unlock()

        for each in [begin(partial(work, lock)) for lock in locks]:
            each.result(LONG)
        assert eventually(lambda: watches(server.endpoint)[1] <= 5)
        for lock in locks:
            assert len(reader(lock).names) <= 1
            lock.destroy()
        assert eventually(lambda: watches(server.endpoint) == (0, 0))


# With etcdctl


def test_who_is_far_behind_etcdctl_has_its_turn_after_all_of_them(
    make: Make, key: str, etcdctl_lock: Callable[[], Popen[str]]
) -> None:
    far, last = make("far"), make("last")
    processes = []
    for count in range(4):
        processes.append(etcdctl_lock())
        assert eventually(lambda count=count: far.holder() and len(far.waiters()) == count)
    waiting = in_line(far, last)
    assert behind(far, last.waiters()[1])
    behind_us = etcdctl_lock()
    assert eventually(lambda: len(last.waiters()) == 5)
    final = in_line(last, last)
    for process in processes:
        assert not waiting.done()
        taken(process)
        process.terminate()  # it unlocks at a signal
        process.wait(DEADLINE)
    hold = waiting.result(DEADLINE)
    far.unlock()
    assert taken(behind_us).startswith(f"{key}/")
    assert not final.done()
    behind_us.terminate()
    assert final.result(DEADLINE).token > hold.token


def test_an_etcdctl_that_gives_up_does_not_let_who_waits_behind_it_in(
    make: Make, etcdctl_lock: Callable[[], Popen[str]]
) -> None:
    row = Row(make, 1)
    process = etcdctl_lock()
    assert eventually(lambda: len(row.holder.waiters()) == 2)
    middle, far = make("middle"), row.far()
    between = in_line(middle, row.holder)
    place = row.holder.waiters()[1]
    waiting = in_line(far, row.holder)
    assert behind(far, place)
    process.terminate()
    process.wait(DEADLINE)
    assert near(far)
    assert not eventually(waiting.done, within=0.3)
    row.pass_on(0)
    between.result(DEADLINE)
    middle.unlock()
    assert waiting.result(DEADLINE).attempts == 1


def test_what_a_watch_reads_is_one_key_far_from_the_turn(
    row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = row.far()
    asked = noted(far._host.client, monkeypatch)
    in_line(far, row.holder)
    assert behind(far, row.place(1))
    reads = [each for each in asked if isinstance(each, Read | Get) and each != Get(b"health")]
    assert [type(each) for each in reads] == [Get]
