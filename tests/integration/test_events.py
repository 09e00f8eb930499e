"""The events of the lock: each told once, in order, whatever happens to the connection."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from time import monotonic, sleep

import pytest
from conftest import Etcd
from ctl import Etcdctl
from faces import BOTH_FACES, ONLY_THREADS, TASKS, Microlock
from nodes import Make, begin, nodes, queued
from proxy import Proxy
from watching import DEADLINE, Recorder, eventually, threads_of_microlock

import microlock
from microlock import (
    AlreadyLockedError,
    DestroyedError,
    EtcdClient,
    LockEvent,
    StoreUnavailableError,
    connect,
)

pytestmark = BOTH_FACES

LONG = 60  # no test takes so long


@pytest.fixture
def proxy(etcd_server: Etcd) -> Iterator[Proxy]:
    with closing(Proxy(etcd_server.endpoint)) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: Proxy) -> Iterator[EtcdClient]:
    """A client whose way to etcd can be cut."""
    with connect(proxy.endpoint) as client:
        yield client


@pytest.fixture
def watcher(client: EtcdClient, key: str) -> Iterator[Microlock]:
    """A lock of that client."""
    lock = Microlock(client, key, "watcher", LONG)
    yield lock
    lock.destroy()


def cycle(lock: Microlock) -> list[tuple[str, int | None]]:
    """Locks and unlocks; returns what listeners are to be told."""
    token = lock.lock().token
    lock.unlock()
    return [("locked", token), ("unlocked", token)]


# Of this object


def test_acquired_tells_of_the_hold(make: Make, key: str) -> None:
    one = make("one")
    seen = Recorder(one, "acquired")
    hold = one.lock()
    assert seen.wait_for(1) == [
        LockEvent("acquired", key, node_id="one", token=hold.token, waited=hold.waited, attempts=1)
    ]


def test_released_tells_of_the_hold(make: Make, key: str) -> None:
    one = make("one")
    seen = Recorder(one, "released")
    hold = one.lock()
    one.unlock()
    assert seen.wait_for(1) == [LockEvent("released", key, node_id="one", token=hold.token)]


def test_failed_tells_why(make: Make, key: str) -> None:
    make("two").lock()
    one = make("one")
    seen = Recorder(one, "failed")
    with pytest.raises(AlreadyLockedError) as caught:
        one.lock()
    (event,) = seen.wait_for(1)
    assert event == LockEvent("failed", key, "one", error=caught.value, waited=event.waited)
    assert event.waited is not None
    assert event.waited > 0


def test_destroy_tells_released_before_it_returns(make: Make) -> None:
    one = make("one")
    seen = Recorder(one, "released")
    hold = one.lock()
    one.destroy()
    assert [(each.name, each.token) for each in seen.events] == [("released", hold.token)]


def test_an_object_is_not_told_what_another_did(make: Make) -> None:
    one = make("one")
    seen = Recorder(one, "acquired", "released", "failed")
    cycle(make("two"))
    hold = one.lock()
    assert seen.told(1) == [("acquired", hold.token)]


def test_a_call_on_a_dead_etcd_tells_failed(own_etcd: Callable[..., Etcd]) -> None:
    etcd = own_etcd()
    with connect(etcd.endpoint, timeout=0.5) as client:
        one = Microlock(client, "foo", "one")
        seen = Recorder(one, "failed")
        etcd.kill()
        with pytest.raises(StoreUnavailableError) as caught:
            one.lock()
        (event,) = seen.wait_for(1)
        assert event.error is caught.value
        one.destroy()


# Of the key: however the lock became free

HOLD_UNTIL_KILLED = """
import sys
from microlock import Microlock, connect

endpoint, key = sys.argv[1:]
print(Microlock(connect(endpoint), key, "victim", ttl=1).lock().token, flush=True)
sys.stdin.read()
"""


def test_unlocked_is_told_when_a_killed_holder_expires(
    make: Make, etcd_server: Etcd, key: str
) -> None:
    seen = Recorder(make("one"))
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_UNTIL_KILLED, etcd_server.endpoint, key],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as victim:
        assert victim.stdout
        token = int(victim.stdout.readline())
        victim.kill()
    assert seen.wait_for(2) == [
        LockEvent("locked", key, node_id="victim", token=token),
        LockEvent("unlocked", key, node_id="victim", token=token),
    ]


def test_unlocked_is_told_when_the_lease_is_revoked(make: Make, etcdctl: Etcdctl) -> None:
    hold = make("two").lock()
    seen = Recorder(make("one"))
    etcdctl("lease", "revoke", f"{hold.lease_id:x}")
    assert seen.told(1) == [("unlocked", hold.token)]


def test_unlocked_is_told_when_the_entry_is_deleted(make: Make, etcdctl: Etcdctl, key: str) -> None:
    make("two").lock()
    seen = Recorder(make("one"))
    etcdctl("del", "--prefix", f"{key}/")
    assert [event.name for event in seen.wait_for(1)] == ["unlocked"]


def test_a_hand_over_tells_unlocked_then_locked(make: Make, etcdctl: Etcdctl, key: str) -> None:
    two = make("two")
    hold = two.lock()
    seen = Recorder(make("one"))
    with etcdctl.start("lock", key) as waiter:
        try:
            assert eventually(two.waiters)
            two.unlock()
            unlocked, locked = seen.wait_for(2)
        finally:
            waiter.terminate()
    assert (unlocked.name, unlocked.node_id, unlocked.token) == ("unlocked", "two", hold.token)
    assert (locked.name, locked.node_id) == ("locked", None)
    assert locked.token
    assert locked.token > hold.token


def test_a_waiter_that_leaves_tells_nothing(make: Make, etcdctl: Etcdctl, key: str) -> None:
    two = make("two")
    seen = Recorder(make("one"))
    hold = two.lock()
    with etcdctl.start("lock", key) as waiter:
        assert eventually(two.waiters)
        waiter.terminate()
    assert eventually(lambda: not two.waiters())
    two.unlock()
    assert seen.told(2) == [("locked", hold.token), ("unlocked", hold.token)]


def test_renewals_and_extensions_tell_nothing(make: Make) -> None:
    two = make("two")
    seen = Recorder(make("one"))
    hold = two.lock()
    for _ in range(5):
        two.renew()
        two.extend(2 * LONG)
    two.unlock()
    assert seen.told(2) == [("locked", hold.token), ("unlocked", hold.token)]


def test_a_stale_write_under_the_lock_tells_nothing(make: Make, etcdctl: Etcdctl, key: str) -> None:
    two = make("two")
    seen = Recorder(make("one"))
    etcdctl("put", f"{key}/not-an-entry", "x")
    etcdctl("put", f"{key}/", "x")
    etcdctl("put", f"{key}0", "x")
    etcdctl("del", "--prefix", key)
    expected = cycle(two)
    assert seen.told(2) == expected


def test_events_come_in_the_order_of_the_changes(make: Make) -> None:
    seen = Recorder(make("one"))
    two, three = make("two"), make("three")
    expected = [told for _ in range(25) for lock in (two, three) for told in cycle(lock)]
    assert seen.told(len(expected)) == expected


def test_nothing_is_missed_from_the_moment_on_returns(
    etcd_server: Etcd, make: Make, prefix: str
) -> None:
    for number in range(100):
        other = make("two", key=f"{prefix}{number}")
        with connect(etcd_server.endpoint) as client:
            fresh = Microlock(client, f"{prefix}{number}", "fresh")
            seen = Recorder(fresh)
            expected = cycle(other)
            assert seen.told(2) == expected
            fresh.destroy()  # delivers what is on its way
        assert len(seen.events) == 2


def test_the_state_at_the_moment_of_on_is_no_event(make: Make) -> None:
    two = make("two")
    hold = two.lock()
    seen = Recorder(make("one"))
    two.unlock()
    assert seen.told(1) == [("unlocked", hold.token)]


def test_every_lock_of_a_client_is_told_of_its_own_key_alone(make: Make, prefix: str) -> None:
    keys = [f"{prefix}{number}" for number in range(20)]
    seen = [Recorder(make("one", key=key)) for key in keys]
    expected = [cycle(make("two", key=key)) for key in keys]
    assert [each.told(2) for each in seen] == expected


def test_two_locks_of_a_client_on_one_key_are_both_told(make: Make) -> None:
    seen = [Recorder(make("one")), Recorder(make("one"))]
    expected = cycle(make("two"))
    assert [each.told(2) for each in seen] == [expected, expected]


def test_destroying_one_lock_leaves_the_events_of_another_on_its_key(make: Make) -> None:
    first, second = make("one"), make("one")
    Recorder(first)
    seen = Recorder(second)
    first.destroy()
    expected = cycle(make("two"))
    assert seen.told(2) == expected


def test_listening_again_after_a_destroyed_lock_misses_nothing(make: Make) -> None:
    two = make("two")
    for _ in range(20):
        one = make("one")
        seen = Recorder(one)
        expected = cycle(two)
        assert seen.told(2) == expected
        one.destroy()


# Over a lost connection


def test_no_event_is_lost_or_doubled_when_etcd_restarts(own_etcd: Callable[..., Etcd]) -> None:
    etcd = own_etcd()
    with nodes(etcd.endpoint, "foo") as make:
        seen = Recorder(make("one"))
        two = make("two")
        expected = []
        for _ in range(3):
            token = two.lock().token
            etcd.kill()
            etcd.start()
            two.unlock()
            expected += [("locked", token), ("unlocked", token)]
            expected += cycle(two)
        assert seen.told(len(expected)) == expected
        assert not any(event.synthesised for event in seen.events)


def test_no_event_is_lost_or_doubled_when_etcd_pauses(own_etcd: Callable[..., Etcd]) -> None:
    etcd = own_etcd()
    with nodes(etcd.endpoint, "foo") as make:
        seen = Recorder(make("one"))
        two = make("two")
        assert two.holder() is None
        etcd.pause()
        timer = threading.Timer(0.5, etcd.resume)
        timer.start()
        expected = cycle(two) + cycle(two)
        timer.join()
        assert seen.told(4) == expected


def test_a_fresh_client_waits_for_an_etcd_that_pauses(own_etcd: Callable[..., Etcd]) -> None:
    etcd = own_etcd()
    with nodes(etcd.endpoint, "foo") as make:
        etcd.pause()
        timer = threading.Timer(0.5, etcd.resume)
        timer.start()
        try:
            make("one").lock()
        finally:
            timer.join()


def test_what_changed_while_the_watch_was_cut_is_told_afterwards(
    watcher: Microlock, proxy: Proxy, make: Make
) -> None:
    seen = Recorder(watcher)
    two = make("two")
    expected = cycle(two)
    assert seen.told(2) == expected
    proxy.cut()
    expected += cycle(two) + cycle(two)
    proxy.mend()
    assert seen.told(6) == expected
    assert not any(event.synthesised for event in seen.events)


@ONLY_THREADS
def test_a_watch_that_is_cut_again_and_again_loses_and_doubles_nothing(
    watcher: Microlock, proxy: Proxy, make: Make
) -> None:
    seen = Recorder(watcher)
    two = make("two")
    expected = []
    for _ in range(8):
        before = proxy.accepted
        proxy.cut()
        expected += cycle(two)
        proxy.mend()
        while proxy.accepted == before:  # changes before, during and after it comes back
            expected += cycle(two)
        expected += cycle(two)
    assert seen.told(len(expected)) == expected


def test_one_error_is_told_for_one_cut(watcher: Microlock, proxy: Proxy, make: Make) -> None:
    errors, seen = Recorder(watcher, "error"), Recorder(watcher)
    two = make("two")
    for cuts in (1, 2):
        proxy.cut()
        assert len(errors.wait_for(cuts)) == cuts
        proxy.mend()
        cycle(two)
        seen.wait_for(2 * cuts)
    assert all(isinstance(event.error, StoreUnavailableError) for event in errors.events)
    assert len(errors.events) == 2


def test_on_returns_while_etcd_is_away_and_tells_when_it_is_back(
    own_etcd: Callable[..., Etcd],
) -> None:
    etcd = own_etcd()
    with connect(etcd.endpoint, timeout=1) as client, nodes(etcd.endpoint, "foo") as make:
        one, two = Microlock(client, "foo", "one"), make("two")
        assert one.holder() is None
        etcd.kill()
        started = monotonic()
        seen = Recorder(one, "locked")
        took = monotonic() - started
        etcd.start()
        assert eventually(lambda: cycle(two) and seen.events)
        assert took < 2  # the client's timeout, and time to spare
        one.destroy()


def test_locked_is_told_afterwards_if_it_happened_while_on_could_not_reach_etcd(
    proxy: Proxy, make: Make, key: str
) -> None:
    two = make("two")
    with connect(proxy.endpoint, timeout=1) as client:
        one = Microlock(client, key, "one")
        assert one.holder() is None
        proxy.cut()
        seen = Recorder(one)
        token = two.lock().token
        proxy.mend()
        assert seen.wait_for(1, within=5) == [
            LockEvent("locked", key, "two", token, synthesised=True)
        ]
        one.destroy()


def test_unlocked_is_told_afterwards_if_it_happened_while_on_could_not_reach_etcd(
    proxy: Proxy, make: Make, key: str
) -> None:
    two = make("two")
    two.lock()
    with connect(proxy.endpoint, timeout=1) as client:
        one = Microlock(client, key, "one")
        assert one.holder() is not None
        proxy.cut()
        seen = Recorder(one)
        two.unlock()
        proxy.mend()
        told = [(event.name, event.synthesised) for event in seen.wait_for(1, within=5)]
        assert told == [("unlocked", True)]
        one.destroy()


@contextmanager
def compacted_while_cut(proxy: Proxy, endpoint: str, errors: Recorder) -> Iterator[None]:
    """The watch is cut over the body, and what happened in it is compacted."""
    proxy.cut()
    assert errors.wait_for(1)
    yield
    etcdctl = Etcdctl(endpoint)
    revision = etcdctl("put", "after", "x", "-w", "fields").partition('"Revision" : ')[2]
    etcdctl("compact", revision.split()[0])
    proxy.mend()


def test_a_change_that_was_compacted_away_is_told_once_and_marked(
    watcher: Microlock, proxy: Proxy, make: Make, etcd_server: Etcd, key: str
) -> None:
    seen, errors = Recorder(watcher), Recorder(watcher, "error")
    two = make("two")
    with compacted_while_cut(proxy, etcd_server.endpoint, errors):
        cycle(two)
        cycle(two)
        token = two.lock().token
    assert seen.wait_for(1) == [LockEvent("locked", key, "two", token, synthesised=True)]
    two.unlock()
    assert seen.wait_for(2)[1:] == [LockEvent("unlocked", key, "two", token)]


def test_a_hand_over_that_was_compacted_away_is_told_once_and_marked(
    watcher: Microlock, proxy: Proxy, make: Make, etcd_server: Etcd, key: str
) -> None:
    two, three = make("two"), make("three")
    first = two.lock().token
    seen, errors = Recorder(watcher), Recorder(watcher, "error")
    with compacted_while_cut(proxy, etcd_server.endpoint, errors):
        two.unlock()
        cycle(two)
        last = three.lock().token
    assert seen.wait_for(2) == [
        LockEvent("unlocked", key, "two", first, synthesised=True),
        LockEvent("locked", key, "three", last, synthesised=True),
    ]


@pytest.mark.parametrize("held", [True, False], ids=["held", "free"])
def test_nothing_is_told_after_compaction_if_nothing_changed(
    client: EtcdClient,
    watcher: Microlock,
    proxy: Proxy,
    make: Make,
    etcd_server: Etcd,
    key: str,
    held: bool,
) -> None:
    two = make("two")
    if held:
        two.lock()
    seen, errors = Recorder(watcher), Recorder(watcher, "error")
    changed = [f"{key}-{number}" for number in range(8)]
    others = [Microlock(client, each, "watcher") for each in changed]
    seen_there = [Recorder(other) for other in others]
    with compacted_while_cut(proxy, etcd_server.endpoint, errors):
        for each in changed:
            make("two", key=each).lock()
        two.renew() if held else cycle(two)
    assert all(each.wait_for(1)[0].synthesised for each in seen_there)  # the watch is back
    two.unlock() if held else two.lock()
    assert [event.name for event in seen.wait_for(1)] == ["unlocked" if held else "locked"]


# Handlers


def test_handlers_may_take_the_event_or_nothing(make: Make) -> None:
    one = make("one")
    calls: list[object] = []
    done = threading.Event()
    one.on("acquired", lambda: calls.append("nothing"))
    one.on("acquired", lambda event: calls.append(event.name))
    one.on("acquired", lambda *events: calls.append(len(events)))
    one.on("acquired", lambda event=None: calls.append(event.name))
    one.on("acquired", done.set)
    one.lock()
    assert done.wait(DEADLINE)
    assert calls == ["nothing", "acquired", 1, "acquired"]


def test_on_decorates(make: Make) -> None:
    one = make("one")
    done = threading.Event()

    @one.on("acquired")
    def handler() -> None:
        done.set()

    one.lock()
    assert done.wait(DEADLINE)


@pytest.mark.parametrize("takes", ["the event", "nothing"])
def test_once_calls_once(make: Make, takes: str) -> None:
    one = make("one")
    calls: list[object] = []
    if takes == "nothing":
        one.once("locked", lambda: calls.append(None))
    else:
        one.once("locked", lambda event: calls.append(event))
    seen = Recorder(one)
    cycle(one)
    cycle(one)
    seen.wait_for(4)
    assert len(calls) == 1


def test_a_removed_listener_is_not_called(make: Make) -> None:
    one = make("one")
    calls: list[LockEvent] = []
    one.on("locked", calls.append)
    seen = Recorder(one)
    one.remove_listener("locked", calls.append)
    cycle(one)
    seen.wait_for(2)
    assert calls == []


def test_a_handler_that_raises_is_reported_and_stops_nothing(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    one = make("one")
    wrong = ValueError("a handler's own")

    def fails() -> None:
        raise wrong

    one.on("locked", fails)
    seen, errors = Recorder(one), Recorder(one, "error")
    with caplog.at_level(logging.CRITICAL, "microlock"):
        expected = cycle(one) + cycle(one)
        assert seen.told(4) == expected
        assert [event.error for event in errors.wait_for(2)] == [wrong, wrong]


def test_a_handler_of_error_that_raises_stops_nothing(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    one = make("one")

    def fails() -> None:
        raise ValueError("a handler's own")

    one.on("locked", fails)
    one.on("error", fails)
    seen = Recorder(one)
    with caplog.at_level(logging.CRITICAL, "microlock"):
        expected = cycle(one)
        assert seen.told(2) == expected


def test_an_error_that_nobody_listens_to_is_no_error(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    one = make("one")

    def fails() -> None:
        raise ValueError("a handler's own")

    one.on("locked", fails)
    seen = Recorder(one, "unlocked")
    with caplog.at_level(logging.CRITICAL, "microlock"):
        cycle(one)
        assert len(seen.wait_for(1)) == 1


def test_a_handler_may_lock(make: Make) -> None:
    one, two = make("one"), make("two")
    two.lock()
    one.on("unlocked", lambda: one.lock())
    acquired = Recorder(one, "acquired")
    two.unlock()
    assert len(acquired.wait_for(1)) == 1
    assert one.held
    one.remove_all_listeners()


def test_a_handler_may_unlock(make: Make) -> None:
    one = make("one")
    one.on("acquired", one.unlock)
    released = Recorder(one, "released")
    one.lock()
    assert len(released.wait_for(1)) == 1
    assert not one.held


def test_a_handler_may_destroy(make: Make) -> None:
    one = make("one")
    destroyed = threading.Event()

    def destroy() -> None:
        one.destroy()
        destroyed.set()

    one.on("locked", destroy)
    with suppress(DestroyedError):  # it may come before lock() returns
        one.lock()
    assert destroyed.wait(DEADLINE)
    with pytest.raises(DestroyedError):
        one.lock()


def test_a_handler_may_add_listeners(make: Make, prefix: str) -> None:
    one, other = make("one"), make("one", key=f"{prefix}other")
    added: list[Recorder] = []
    one.on("locked", lambda: added.append(Recorder(other)))
    one.lock()
    assert eventually(lambda: added)
    expected = cycle(make("two", key=f"{prefix}other"))
    assert added[0].told(2) == expected


def test_destroy_does_not_wait_long_for_a_handler_that_is_stuck(make: Make) -> None:
    one = make("one")
    entered, leave = threading.Event(), threading.Event()

    def stuck() -> None:
        entered.set()
        leave.wait(DEADLINE)

    one.on("locked", stuck)
    one.lock()
    assert entered.wait(DEADLINE)
    started = monotonic()
    one.destroy()
    took = monotonic() - started
    leave.set()
    assert took < 3


@ONLY_THREADS
def test_handlers_run_on_one_thread_of_their_own(make: Make) -> None:
    one = make("one")
    seen = Recorder(one, "locked", "unlocked", "acquired", "released")
    cycle(one)
    seen.wait_for(4)
    assert [thread.name for thread in seen.threads] == ["microlock-handlers"]


def test_a_slow_handler_does_not_delay_the_thread_that_reads(make: Make, prefix: str) -> None:
    one = make("one")
    entered, leave = threading.Event(), threading.Event()

    def slow() -> None:
        entered.set()
        leave.wait(DEADLINE)

    one.on("locked", slow)
    one.lock()
    assert entered.wait(DEADLINE)
    started = monotonic()
    Recorder(make("one", key=f"{prefix}other"))  # returns once that thread has read its reply
    took = monotonic() - started
    leave.set()
    assert took < 2.5  # half of the client's timeout


def test_events_behind_a_slow_handler_are_told_in_order(make: Make) -> None:
    one, two = make("one"), make("two")
    leave = threading.Event()
    one.once("locked", lambda: leave.wait(DEADLINE))
    seen = Recorder(one)
    expected = [told for _ in range(10) for told in cycle(two)]
    leave.set()
    assert seen.told(20) == expected


# Threads


@ONLY_THREADS
def test_200_locks_share_one_thread_and_one_stream(own_etcd: Callable[..., Etcd]) -> None:
    etcd = own_etcd()
    with nodes(etcd.endpoint, "foo") as make:
        seen = [Recorder(make("one", key="0"))]
        with_one = threading.active_count()
        seen += [Recorder(make("one", key=str(number))) for number in range(1, 200)]
        assert threading.active_count() <= with_one
        assert watches(etcd.endpoint) == (1, 200)
        expected = cycle(make("two", key="199"))
        assert seen[199].told(2) == expected


def watches(endpoint: str) -> tuple[int, int]:
    """How many streams of watches etcd serves, and how many watches on them."""
    with urllib.request.urlopen(f"http://{endpoint}/metrics") as reply:
        lines = reply.read().decode().splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    metrics = ("etcd_debugging_mvcc_watch_stream_total", "etcd_debugging_mvcc_watcher_total")
    streams, watchers = (int(float(found[name])) for name in metrics)
    return streams, watchers


def no_thread_is_left() -> bool:
    """Whether the threads of all that was dropped have ended."""
    gc.collect()
    return not threads_of_microlock()


@pytest.fixture
def no_threads() -> None:
    """There are none of microlock's, so that those of a test can be told."""
    assert eventually(no_thread_is_left)


@pytest.mark.usefixtures("no_threads")
def test_no_thread_starts_before_it_is_needed(make: Make) -> None:
    make("one").holder()
    assert threads_of_microlock() == set()


@pytest.mark.usefixtures("no_threads")
def test_the_thread_that_looks_after_locks_ends_with_the_last_of_them(make: Make) -> None:
    one = make("one")
    cycle(one)
    assert {each.name for each in threads_of_microlock()} == {"microlock-renewal"}
    one.destroy()
    assert eventually(lambda: not threads_of_microlock())


@ONLY_THREADS
@pytest.mark.usefixtures("no_threads", "no_linger")
def test_the_watch_ends_with_the_last_lock_that_is_destroyed(make: Make, prefix: str) -> None:
    made = [make("one", key=f"{prefix}{number}") for number in range(3)]
    for lock in made:
        Recorder(lock)
    assert len(threads_of_microlock()) == 2
    for lock in made:
        lock.destroy()
    assert eventually(lambda: not threads_of_microlock())


@pytest.mark.usefixtures("no_threads", "no_linger")
def test_the_watch_ends_with_the_last_lock_that_is_dropped(etcd_server: Etcd, prefix: str) -> None:
    with connect(etcd_server.endpoint) as client:
        made = [Microlock(client, f"{prefix}{number}", "one") for number in range(3)]
        for lock in made:
            Recorder(lock)
        del lock
        made.clear()
        assert eventually(no_thread_is_left)


@pytest.mark.usefixtures("no_linger")
def test_a_listener_that_is_dropped_on_a_quiet_etcd_leaves_no_watch_no_stream_and_no_thread(
    own_etcd: Callable[..., Etcd],
) -> None:
    server = own_etcd()
    before = set(threading.enumerate())
    with connect(server.endpoint) as client:
        Recorder(Microlock(client, "foo", "dropped"))
        assert eventually(lambda: gc.collect() >= 0 and watches(server.endpoint) == (0, 0))
        left = {"microlock-watch", "microlock-stream"}
        assert eventually(
            lambda: not left & {each.name for each in set(threading.enumerate()) - before}
        )


@pytest.mark.usefixtures("no_threads")
def test_the_watch_goes_on_while_one_lock_is_left(make: Make, etcd_server: Etcd, key: str) -> None:
    with connect(etcd_server.endpoint) as client:
        left = Microlock(client, key, "left")
        seen = Recorder(left)
        for each in (key, f"{key}-other"):
            Recorder(Microlock(client, each, "dropped"))
        gc.collect()
        expected = cycle(make("two"))
        assert seen.told(2) == expected


def test_a_watch_starts_again_after_it_ended(make: Make) -> None:
    first = make("one")
    Recorder(first)
    first.destroy()
    seen = Recorder(make("one"))
    expected = cycle(make("two"))
    assert seen.told(2) == expected


@pytest.mark.usefixtures("no_threads")
def test_closing_the_client_ends_its_threads(face: str, etcd_server: Etcd, key: str) -> None:
    on_loop = {"microlock-handlers"} if face == TASKS else set()
    with connect(etcd_server.endpoint) as client:
        one = Microlock(client, key, "one")
        seen = Recorder(one)
        cycle(one)
        seen.wait_for(2)
        one.lock()
        assert {each.name for each in threads_of_microlock()} == {
            "microlock-watch",
            "microlock-handlers",
            "microlock-renewal",
        } - on_loop
    assert eventually(lambda: not threads_of_microlock())


@pytest.mark.usefixtures("no_threads")
def test_closing_the_client_while_etcd_is_away_ends_its_threads(
    own_etcd: Callable[..., Etcd],
) -> None:
    etcd = own_etcd()
    with connect(etcd.endpoint) as client:
        one = Microlock(client, "foo", "one")
        seen = Recorder(one, "locked", "error")
        etcd.kill()
        seen.wait_for(1)
    assert eventually(lambda: not threads_of_microlock())
    assert not one.held


@pytest.mark.usefixtures("no_threads", "no_linger")
def test_closing_a_lent_client_ends_the_threads(
    etcd_server: Etcd, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    host, _, port = etcd_server.endpoint.rpartition(":")
    with caplog.at_level(logging.CRITICAL, "microlock"):
        etcd = microlock.etcd3.client(host=host, port=int(port))
        one = Microlock(etcd, key, "one")
        seen = Recorder(one)
        cycle(one)
        seen.wait_for(2)
        etcd.close()
        del one, etcd
        assert eventually(no_thread_is_left)


@pytest.mark.usefixtures("no_threads", "no_linger")
def test_a_lent_client_that_is_dropped_leaves_no_thread(etcd_server: Etcd, key: str) -> None:
    host, _, port = etcd_server.endpoint.rpartition(":")
    etcd = microlock.etcd3.client(host=host, port=int(port))
    one = Microlock(etcd, key, "one")
    seen = Recorder(one)
    cycle(one)
    seen.wait_for(2)
    del one, etcd
    assert eventually(no_thread_is_left)


def test_a_lock_is_told_of_nothing_after_its_client_was_closed(
    etcd_server: Etcd, make: Make, key: str
) -> None:
    still = Recorder(make("one"))
    with connect(etcd_server.endpoint) as client:
        closed = Microlock(client, key, "closed")
        seen = Recorder(closed)
    cycle(make("two"))
    still.wait_for(2)
    assert seen.events == []
    assert not closed.held


def test_a_lock_can_be_destroyed_after_its_client_was_closed(etcd_server: Etcd, key: str) -> None:
    with connect(etcd_server.endpoint) as client:
        one = Microlock(client, key, "one")
        one.on("locked", print)
    one.destroy()
    assert one.listeners("locked") == []


def test_acquired_says_how_long_and_how_often_it_took(make: Make) -> None:
    foo, two = make("one"), make("two")
    seen = Recorder(foo, "acquired", "released")
    tried = foo.lock()
    foo.unlock()
    two.lock()
    waiting = begin(lambda: foo.lock(timeout=DEADLINE))
    assert queued(two)
    sleep(0.5)
    two.unlock()
    waited = waiting.result(DEADLINE)
    foo.unlock()
    two.lock()
    retrying = begin(lambda: foo.lock(retries=20, interval=0.2))
    sleep(0.5)
    two.unlock()
    retried = retrying.result(DEADLINE)
    first, _, second, _, third = seen.wait_for(5)
    assert [(each.waited, each.attempts) for each in (first, second, third)] == [
        (hold.waited, hold.attempts) for hold in (tried, waited, retried)
    ]
    assert (first.attempts, second.attempts) == (1, 1)
    assert third.attempts
    assert third.attempts > 1
    assert second.waited
    assert second.waited > 0.5


def test_no_other_event_says_how_long_it_took(make: Make) -> None:
    foo = make()
    seen = Recorder(foo, "locked", "renewed", "released", "unlocked")
    foo.lock()
    foo.renew()
    foo.unlock()
    assert {(each.waited, each.attempts) for each in seen.wait_for(4)} == {(None, None)}
