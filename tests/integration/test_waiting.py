"""Waiting for the lock, for so long or as long as it takes, whatever befalls etcd meanwhile."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack, closing
from functools import partial
from time import monotonic, sleep

import pytest
from clients import CLIENTS
from cluster import Cluster, hang
from conftest import Etcd
from ctl import Etcdctl
from faces import BOTH_FACES, ONLY_THREADS, TASKS, THREADS, Microlock
from nodes import LONG, Make, begin, nodes, queued
from proxy import Proxy
from test_processes import started
from watching import DEADLINE, Recorder, eventually
from witness import AT_ONCE, at_most, entries, leases

from microlock import (
    AlreadyLockedError,
    DestroyedError,
    Hold,
    LockUncertainError,
    StoreTimeoutError,
    StoreUnavailableError,
    connect,
)
from microlock.server import HOST, free_ports

pytestmark = BOTH_FACES

SHORT = 2  # a ttl to be waited out, and to be renewed in time on a machine that stalls
TIMEOUT = 1.5  # of a client whose etcd goes away
SLACK = 1.0  # what a busy machine adds to a time that is promised
OwnEtcd = Callable[..., Etcd]


def in_line(lock: Microlock, observer: Microlock) -> Future[Hold]:
    """Has it wait, and returns when it stands behind those who wait already."""
    count = len(observer.waiters()) + 1
    waiting = begin(partial(lock.lock, timeout=LONG))
    assert queued(observer, count)
    return waiting


def line(observer: Microlock) -> list[str | None]:
    """Who waits, in order."""
    return [waiter.node_id for waiter in observer.waiters()]


# What one gets


def test_a_free_lock_is_had_without_waiting(make: Make) -> None:
    foo = make()
    seen = Recorder(foo, "waiting", "acquired")
    with at_most(AT_ONCE):
        hold = foo.lock(timeout=LONG)
    assert (hold.attempts, seen.told(1)) == (1, [("acquired", hold.token)])
    assert hold.waited < AT_ONCE


def test_a_waiter_has_its_whole_ttl_ahead_though_it_waited_for_longer(make: Make) -> None:
    one, two = make("one"), make("two", ttl=SHORT)
    one.lock()

    def take() -> tuple[Hold, float]:
        return two.lock(timeout=LONG), two.remaining

    waiting = begin(take)
    assert queued(one)
    sleep(1.25 * SHORT)
    one.unlock()
    hold, remaining = waiting.result(AT_ONCE)
    assert hold.ttl == SHORT
    # A lease that was renewed within the last tenth of its ttl is not renewed again.
    assert remaining > 0.8 * SHORT


@ONLY_THREADS
def test_a_waiter_is_told_how_long_it_waited_and_that_it_joined_once(make: Make) -> None:
    one, two = make("one"), make("two", ttl=SHORT)
    one.lock()
    started = monotonic()
    waiting = in_line(two, one)
    joined = monotonic()
    sleep(1.25 * SHORT)
    released = monotonic()
    one.unlock()
    hold = waiting.result(AT_ONCE)
    assert released - joined <= hold.waited <= monotonic() - started
    assert hold.attempts == 1


def test_waiters_are_listed_in_order_while_they_wait(make: Make) -> None:
    one = make("one")
    token = one.lock().token
    names = ["two", "three", "four"]
    for name in names:
        in_line(make(name), one)
    assert line(one) == names
    tokens = [token, *(waiter.token for waiter in one.waiters())]
    assert tokens == sorted(set(tokens))


def test_waiting_is_told_once_with_the_token_to_be(make: Make) -> None:
    one, two = make("one"), make("two", ttl=1)
    seen = Recorder(two, "waiting", "acquired")
    one.lock()
    waiting = in_line(two, one)
    sleep(1.25)  # for renewals to come and go
    one.unlock()
    token = waiting.result(AT_ONCE).token
    assert seen.told(2) == [("waiting", token), ("acquired", token)]


def test_every_client_can_wait(etcd_server: Etcd, key: str, make: Make) -> None:
    """All of them at the same time, for longer than a ttl."""
    with ExitStack() as stack:
        waits = []
        for name, client in CLIENTS.items():
            one = make("one", key=f"{key}-{name}")
            etcd = stack.enter_context(closing(client(etcd_server.endpoint)))
            two = Microlock(etcd, one.key, "two", ttl=SHORT)
            one.lock()
            waits.append((name, one, two, in_line(two, one)))
        sleep(1.25 * SHORT)
        for name, one, two, waiting in waits:
            one.unlock()
            assert waiting.result(AT_ONCE).attempts == 1, name
            assert two.renew() > 0, name
            two.destroy()


# The time


def test_a_wait_that_is_over_names_the_holder(make: Make) -> None:
    one, two = make("one"), make("two")
    token = one.lock().token
    with pytest.raises(AlreadyLockedError) as told:
        two.lock(timeout=1)
    assert (told.value.holder.node_id, told.value.holder.token) == ("one", token)


def test_a_wait_that_is_over_names_who_holds_the_lock_by_then(make: Make) -> None:
    one, two, three = make("one"), make("two"), make("three")
    one.lock()
    second = in_line(two, one)
    third = begin(partial(three.lock, timeout=2.5))
    assert queued(one, 2)
    one.unlock()
    token = second.result(AT_ONCE).token
    error = third.exception(2.5 + SLACK)
    assert isinstance(error, AlreadyLockedError)
    assert (error.holder.node_id, error.holder.token) == ("two", token)


def test_a_wait_takes_its_time_and_no_longer(make: Make) -> None:
    one, two = make("one"), make("two")
    one.lock()
    started = monotonic()
    with at_most(1 + SLACK), pytest.raises(AlreadyLockedError):
        two.lock(timeout=1)
    assert monotonic() - started > 0.85


def test_a_wait_that_is_over_leaves_no_entry_and_no_lease(
    make: Make, key: str, etcdctl: Etcdctl
) -> None:
    one, two = make("one"), make("two")
    hold = one.lock()
    waiting = begin(partial(two.lock, timeout=1.5))
    assert queued(one)
    (waiter,) = one.waiters()
    assert isinstance(waiting.exception(1.5 + SLACK), AlreadyLockedError)
    assert entries(etcdctl, key) == [f"{key}/{hold.lease_id:x}"]
    assert waiter.lease_id not in [int(lease, 16) for lease in leases(etcdctl)]


def test_who_gave_up_can_wait_again(make: Make) -> None:
    one, two = make("one"), make("two")
    one.lock()
    for _ in range(3):
        with pytest.raises(AlreadyLockedError):
            two.lock(timeout=0.3)
    waiting = in_line(two, one)
    one.unlock()
    assert waiting.result(AT_ONCE).attempts == 1


@pytest.mark.parametrize("timeout", [0.001, 0.01])
def test_a_time_shorter_than_a_round_trip_is_over_at_once_and_leaves_nothing(
    make: Make, key: str, etcdctl: Etcdctl, timeout: float
) -> None:
    one, two = make("one"), make("two", ttl=SHORT)
    hold = one.lock()
    for _ in range(5):
        with (
            at_most(timeout + SLACK),
            pytest.raises((AlreadyLockedError, StoreTimeoutError, LockUncertainError)),
        ):
            two.lock(timeout=timeout)
    assert not two.held
    assert eventually(lambda: entries(etcdctl, key) == [f"{key}/{hold.lease_id:x}"], 2 * SHORT)


def test_a_wait_without_an_end_outlasts_the_timeout_of_the_client_and_the_ttl(
    etcd_server: Etcd, key: str, make: Make
) -> None:
    one = make("one")
    one.lock()
    with connect(etcd_server.endpoint, timeout=1) as etcd:
        two = Microlock(etcd, key, "two", ttl=1)
        waiting = begin(partial(two.lock, timeout=None))
        assert not eventually(waiting.done, within=2.5)
        one.unlock()
        assert waiting.result(AT_ONCE).attempts == 1
        two.destroy()


# etcd is down


@pytest.fixture
def nowhere() -> str:
    """An address where nobody listens."""
    (port,) = free_ports(1)
    return f"{HOST}:{port}"


def test_a_wait_for_an_etcd_that_was_never_there_ends_in_time(nowhere: str) -> None:
    with (
        connect(nowhere, timeout=LONG) as etcd,
        at_most(2 + SLACK),
        pytest.raises(StoreUnavailableError),
    ):
        Microlock(etcd, "foo", "one").lock(timeout=2)


def kill(etcd: Etcd) -> None:
    etcd.kill()


@pytest.mark.parametrize("fail", [kill, hang])
def test_a_wait_for_an_etcd_that_is_down_ends_in_time(
    own_etcd: OwnEtcd, fail: Callable[[Etcd], None]
) -> None:
    server = own_etcd()
    with connect(server.endpoint, timeout=LONG) as etcd:
        foo = Microlock(etcd, "foo", "one", ttl=LONG)
        assert foo.holder() is None
        fail(server)
        with at_most(2 + SLACK), pytest.raises((StoreUnavailableError, LockUncertainError)):
            foo.lock(timeout=2)
        assert not foo.held
        etcd.close()


@pytest.mark.parametrize("fail", [kill, hang])
@pytest.mark.parametrize(
    ("face", "ttl"), [(THREADS, 1), (THREADS, LONG), (TASKS, LONG)], indirect=["face"]
)
def test_a_wait_during_which_etcd_goes_down_ends_in_time(
    own_etcd: OwnEtcd, fail: Callable[[Etcd], None], ttl: int
) -> None:
    """It must not say that somebody else has the lock, as if nothing were left behind."""
    server = own_etcd()
    with (
        nodes(server.endpoint, "foo", timeout=TIMEOUT) as make,
        connect(server.endpoint, timeout=LONG) as etcd,
    ):
        one = make("one")
        one.lock()
        foo = Microlock(etcd, "foo", "two", ttl)
        began = monotonic()
        waiting = begin(partial(foo.lock, timeout=3))
        assert queued(one)
        fail(server)
        error = waiting.exception(4 + SLACK)
        assert monotonic() - began < 3 + SLACK
        assert isinstance(error, StoreUnavailableError | LockUncertainError)
        closing = monotonic()
        etcd.close()  # though the lease could not be revoked yet
        assert monotonic() - closing < SLACK
        if fail is hang:
            server.resume()


@pytest.mark.parametrize(
    ("face", "fail"), [(THREADS, kill), (THREADS, hang), (TASKS, hang)], indirect=["face"]
)
def test_a_wait_without_an_end_ends_when_etcd_is_gone_for_longer_than_the_ttl(
    own_etcd: OwnEtcd, fail: Callable[[Etcd], None]
) -> None:
    server = own_etcd()
    with (
        nodes(server.endpoint, "foo", timeout=TIMEOUT) as make,
        connect(server.endpoint, timeout=TIMEOUT) as etcd,
    ):
        one = make("one")
        one.lock()
        foo = Microlock(etcd, "foo", "two", ttl=SHORT)
        waiting = begin(partial(foo.lock, timeout=None))
        assert queued(one)
        fail(server)
        # A call to see whether the lease has ended, and one to end it.
        error = waiting.exception(SHORT + 2 * TIMEOUT + SLACK)
        assert isinstance(error, StoreUnavailableError | LockUncertainError)
        if fail is hang:
            server.resume()


# No wake-up is lost


def test_a_hand_over_right_after_etcd_was_restarted_is_seen(own_etcd: OwnEtcd) -> None:
    server = own_etcd()
    with nodes(server.endpoint, "foo") as make:
        one, two = make("one"), make("two")
        one.lock()
        waiting = in_line(two, one)
        (place,) = one.waiters()
        server.kill()
        server.start()
        one.unlock()
        hold = waiting.result(DEADLINE)
        assert (hold.token, hold.attempts) == (place.token, 1)


def test_a_hand_over_in_a_pause_of_etcd_is_seen(own_etcd: OwnEtcd) -> None:
    server = own_etcd()
    with nodes(server.endpoint, "foo", timeout=LONG) as make:
        one, two = make("one"), make("two")
        one.lock()
        waiting = in_line(two, one)
        (place,) = one.waiters()
        hang(server)
        released = begin(one.unlock)
        assert not eventually(lambda: released.done() or waiting.done(), within=1)
        server.resume()
        released.result(DEADLINE)
        hold = waiting.result(DEADLINE)
        assert (hold.token, hold.attempts) == (place.token, 1)


@pytest.mark.parametrize("past", ["kept", "compacted"])
def test_a_hand_over_while_the_waiter_is_cut_off_is_seen(own_etcd: OwnEtcd, past: str) -> None:
    server = own_etcd()
    with (
        closing(Proxy(server.endpoint)) as proxy,
        nodes(server.endpoint, "foo") as make,
        nodes(proxy.endpoint, "foo") as make_far,
    ):
        one, two, three = make("one"), make_far("two"), make("three")
        one.lock()
        waiting = in_line(two, one)
        in_line(three, one)
        place = one.waiters()[0]
        proxy.cut()
        one.unlock()
        if past == "compacted":
            etcdctl = Etcdctl(server.endpoint)
            etcdctl("put", "bar", "1")
            put = etcdctl("put", "bar", "2", "-w=fields")
            etcdctl("compact", put.split('"Revision" :')[1].split()[0])
        assert not waiting.done()
        proxy.mend()
        hold = waiting.result(DEADLINE)
        assert (hold.token, hold.attempts) == (place.token, 1)
        assert line(one) == ["three"]


@ONLY_THREADS
@pytest.mark.usefixtures("soon_silent")
@pytest.mark.parametrize("how", ["dies", "hangs", "steps down"])
def test_a_hand_over_after_the_leader_has_changed_is_seen(cluster: Cluster, how: str) -> None:
    leader = cluster.leader()
    others = [each for i, each in enumerate(cluster.endpoints) if i != leader]
    with (
        connect([cluster.endpoints[leader], *others], timeout=6) as near,
        connect(others, timeout=6) as far,
    ):
        one, two = Microlock(far, "foo", "one", LONG), Microlock(near, "foo", "two", LONG)
        one.lock()
        waiting = in_line(two, one)
        (place,) = one.waiters()
        if how == "dies":
            cluster.members[leader].kill()
        elif how == "hangs":
            hang(cluster.members[leader])
        else:
            heir = Etcdctl(others[0])("endpoint", "status").split(", ")[1]
            Etcdctl(cluster.endpoints[leader])("move-leader", heir)
        one.unlock()
        hold = waiting.result(DEADLINE)
        assert (hold.token, hold.attempts) == (place.token, 1)
        assert two.renew() > 0
        two.destroy()
        one.destroy()


# The place


def test_the_place_is_kept_over_a_short_outage(own_etcd: OwnEtcd) -> None:
    server = own_etcd()
    with nodes(server.endpoint, "foo") as make:
        one, two, three = make("one"), make("two", ttl=20), make("three")
        one.lock()
        second = in_line(two, one)
        in_line(three, one)
        before = one.waiters()
        server.kill()
        server.start()
        assert one.waiters() == before
        one.unlock()
        assert second.result(DEADLINE).attempts == 1
        assert line(one) == ["three"]


@pytest.mark.parametrize("how", ["its entry was deleted", "its lease was revoked"])
def test_a_waiter_that_lost_its_place_joins_again_at_the_end(
    make: Make, key: str, etcdctl: Etcdctl, how: str
) -> None:
    one, two, three = make("one"), make("two"), make("three")
    one.lock()
    second, third = in_line(two, one), in_line(three, one)
    place = one.waiters()[0]
    if how == "its entry was deleted":
        etcdctl("del", f"{key}/{place.lease_id:x}")
    else:
        etcdctl("lease", "revoke", f"{place.lease_id:x}")
    assert eventually(lambda: line(one) == ["three", "two"])
    one.unlock()
    third.result(AT_ONCE)
    assert line(one) == ["two"]
    three.unlock()
    assert second.result(AT_ONCE).attempts == 2


def test_a_waiter_that_lost_its_place_gives_up_when_its_time_is_over_and_leaves_nothing(
    make: Make, key: str, etcdctl: Etcdctl
) -> None:
    one, two = make("one"), make("two")
    hold = one.lock()
    began = monotonic()
    waiting = begin(partial(two.lock, timeout=3))
    assert queued(one)
    (place,) = one.waiters()
    etcdctl("del", f"{key}/{place.lease_id:x}")
    assert eventually(lambda: line(one) == ["two"])
    error = waiting.exception(4 + SLACK)
    assert monotonic() - began < 3 + SLACK
    assert isinstance(error, AlreadyLockedError)
    assert entries(etcdctl, key) == [f"{key}/{hold.lease_id:x}"]
    assert place.lease_id not in [int(lease, 16) for lease in leases(etcdctl)]


@ONLY_THREADS
def test_nobody_passes_a_waiter_that_waits_for_longer_than_its_ttl(make: Make) -> None:
    one, two, three = make("one"), make("two", ttl=1), make("three")
    one.lock()
    second = in_line(two, one)
    in_line(three, one)
    assert not eventually(lambda: line(one) != ["two", "three"], within=2.5)
    one.unlock()
    second.result(AT_ONCE)
    assert line(one) == ["three"]


def test_an_entry_of_a_nested_name_is_no_place_in_the_queue(make: Make, key: str) -> None:
    one, two = make("one"), make("two")
    below = make("three", key=f"{key}/bar")
    one.lock()
    waiting = in_line(two, one)
    for _ in range(3):
        below.lock()
        below.unlock()
    assert not eventually(waiting.done, within=0.3)
    below.lock()
    one.unlock()
    assert waiting.result(AT_ONCE)
    assert below.held


def test_who_waits_for_a_nested_name_does_not_hold_its_parent_up(make: Make, key: str) -> None:
    one, two, three = make("one"), make("two", key=f"{key}/bar"), make("three", key=f"{key}/bar")
    two.lock()
    waiting = in_line(three, two)
    with at_most(AT_ONCE):
        one.lock(timeout=LONG)
    two.unlock()
    assert waiting.result(AT_ONCE)


# Others that die, stop, or close what is waited with

HOLDS = f"""
lock = Microlock(connect(endpoint), key, "one", ttl={SHORT})
lock.lock()
print(flush=True)
sys.stdin.readline()
"""


@ONLY_THREADS
def test_a_holder_that_was_killed_is_followed_by_the_next_in_line_after_its_ttl(
    etcd_server: Etcd, key: str, make: Make
) -> None:
    two, three = make("two"), make("three")
    with started(HOLDS, etcd_server.endpoint, key) as process:
        assert process.stdout
        process.stdout.readline()
        second = in_line(two, two)
        in_line(three, two)
        process.kill()
        process.wait(DEADLINE)
        # etcd looks for leases that have ended twice a second.
        assert second.result(SHORT + 3).attempts == 1
        assert line(two) == ["three"]


WAITS = """
lock = Microlock(connect(endpoint), key, "two", ttl=4)  # enough to see it stopped and first in line
hold = lock.lock(timeout=None)
print(hold.token, hold.attempts, lock.held, flush=True)
sys.stdin.readline()
"""


@ONLY_THREADS
@pytest.mark.parametrize("turn", ["does not come", "comes and goes"])
def test_a_waiter_that_was_stopped_beyond_its_ttl_joins_again(
    etcd_server: Etcd, key: str, make: Make, turn: str
) -> None:
    """Its place is gone when it wakes up, also where that place was the first for a while."""
    one, three = make("one"), make("three")
    one.lock()
    with started(WAITS, etcd_server.endpoint, key) as process:
        assert process.stdout
        assert queued(one)
        (place,) = one.waiters()
        os.kill(process.pid, signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        if turn == "comes and goes":
            one.unlock()
            holder = three.holder()
            assert holder
            assert holder.token == place.token
            hold = three.lock(timeout=LONG)
        else:
            assert eventually(lambda: not one.waiters())
            one.unlock()
            hold = three.lock()
        printed = begin(process.stdout.readline)
        os.kill(process.pid, signal.SIGCONT)
        assert queued(three)
        assert not printed.done()
        (place,) = three.waiters()
        assert place.token > hold.token
        three.unlock()
        assert printed.result(AT_ONCE).split() == [str(place.token), "2", "True"]


@ONLY_THREADS
def test_a_waiter_that_was_stopped_beyond_its_time_leaves_no_place(
    etcd_server: Etcd, key: str, make: Make, etcdctl: Etcdctl
) -> None:
    script = """
lock = Microlock(connect(endpoint), key, "stopped", ttl=60)
print(raised(lambda: lock.lock(timeout=2)), flush=True)
sys.stdin.readline()
"""
    one = make("one")
    one.lock()
    with started(script, etcd_server.endpoint, key) as process:
        assert process.stdout
        assert queued(one)
        os.kill(process.pid, signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        sleep(2)
        os.kill(process.pid, signal.SIGCONT)
        assert process.stdout.readline() == "AlreadyLockedError\n"
        assert len(entries(etcdctl, key)) == 1


@pytest.mark.parametrize("client", CLIENTS)
def test_closing_the_client_ends_a_wait(
    etcd_server: Etcd, key: str, make: Make, client: str
) -> None:
    one = make("one")
    one.lock()
    etcd = CLIENTS[client](etcd_server.endpoint)
    waiting = in_line(Microlock(etcd, key, "two"), one)
    etcd.close()
    assert isinstance(waiting.exception(AT_ONCE), DestroyedError | LockUncertainError)


def test_a_place_whose_client_was_closed_is_gone_after_its_ttl(
    etcd_server: Etcd, key: str, make: Make
) -> None:
    one = make("one")
    one.lock()
    with connect(etcd_server.endpoint) as etcd:
        in_line(Microlock(etcd, key, "two", ttl=1), one)
    assert eventually(lambda: not one.waiters(), within=1 + 3)
