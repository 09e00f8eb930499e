"""A lock object that is dropped is given back at once, in the background, and leaves nothing."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from time import monotonic, sleep

import pytest
from conftest import Etcd
from ctl import Etcdctl
from nodes import Make
from test_events import watches
from test_processes import started
from watching import DEADLINE, eventually, threads_of_microlock
from witness import AT_ONCE, at_most, entries, leases

from microlock import LockManager, Microlock, connect

OwnEtcd = Callable[..., Etcd]


@pytest.mark.parametrize("closed", [False, True], ids=["client open", "client closed"])
def test_a_thousand_dropped_objects_leave_no_lease(own_etcd: OwnEtcd, closed: bool) -> None:
    server = own_etcd()
    etcdctl, etcd = Etcdctl(server.endpoint), connect(server.endpoint)
    for number in range(500):
        with Microlock(etcd, f"user/{number}", "one", 600):
            pass
    jobs = LockManager(etcd, "one", prefix="job/", ttl=600)
    for number in range(500):
        jobs.lock(f"{number}").unlock()
    gc.collect()
    if closed:
        etcd.close()
        assert leases(etcdctl) == []
    else:
        assert eventually(lambda: leases(etcdctl) == [])
        etcd.close()


def test_closing_the_client_frees_what_dropped_locks_held(
    etcd_server: Etcd, etcdctl: Etcdctl, prefix: str
) -> None:
    with connect(etcd_server.endpoint) as etcd:
        for number in range(100):
            Microlock(etcd, f"{prefix}{number}", "one", 600, auto_renew=True).lock()
        gc.collect()
    assert etcdctl("get", "--prefix", "--keys-only", prefix).split() == []


def test_a_dropped_lock_is_another_nodes_at_once(make: Make, etcd_server: Etcd, key: str) -> None:
    two = make("two")
    with connect(etcd_server.endpoint) as etcd:
        foo = Microlock(etcd, key, "one", 600, auto_renew=True)
        foo.lock()
        del foo
        with at_most(AT_ONCE):
            two.lock(timeout=DEADLINE)


def test_a_lock_in_a_circle_is_given_back_when_that_is_collected(
    make: Make, etcd_server: Etcd, key: str
) -> None:
    two = make("two")
    with connect(etcd_server.endpoint) as etcd:
        foo = Microlock(etcd, key, "one", 600)
        foo.on("lost", lambda foo=foo: foo.lock())
        foo.lock()
        del foo
        gc.collect()
        with at_most(AT_ONCE):
            two.lock(timeout=DEADLINE)


@pytest.mark.usefixtures("no_linger")
def test_a_dropped_listener_leaves_no_watch_on_a_quiet_etcd_and_no_thread(
    own_etcd: OwnEtcd,
) -> None:
    server, before = own_etcd(), threads_of_microlock()
    with connect(server.endpoint) as etcd:
        foo = Microlock(etcd, "foo", "one")
        foo.on("unlocked", print)
        assert eventually(lambda: watches(server.endpoint) == (1, 1))
        del foo
        gc.collect()
        assert eventually(lambda: watches(server.endpoint) == (0, 0))
        assert eventually(lambda: threads_of_microlock() == before)


def test_a_dropped_lock_whose_handler_is_under_way_is_given_back_after_it(
    make: Make, etcd_server: Etcd, key: str
) -> None:
    two, entered, over = make("two"), threading.Event(), threading.Event()
    with connect(etcd_server.endpoint) as etcd:
        foo = Microlock(etcd, key, "one", 600)
        foo.on("acquired", lambda: (entered.set(), over.wait(DEADLINE)))
        foo.lock()
        assert entered.wait(DEADLINE)
        del foo
        over.set()
        with at_most(AT_ONCE):
            two.lock(timeout=DEADLINE)


DOWN = """
import gc, resource, time
etcd = connect(endpoint, timeout=1)
foo = Microlock(etcd, key, "one", ttl=60)
foo.lock()
print(flush=True)
sys.stdin.readline()
most = 0
for number in range(300):
    bar = Microlock(etcd, f"{key}-{number}", "one", ttl=60, auto_renew=True)
    if number % 100 == 0:
        raised(bar.lock)
    del bar
    most = max(most, threading.active_count())
del foo
gc.collect()
time.sleep(0.5)
print(max(most, threading.active_count()), flush=True)
"""


@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_objects_that_are_dropped_while_etcd_is_down_cost_no_thread_and_no_time_at_the_end(
    own_etcd: OwnEtcd, fault: str
) -> None:
    server = own_etcd()
    with started(DOWN, server.endpoint, "foo") as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        getattr(server, fault)()
        process.stdin.write("\n")
        process.stdin.flush()
        threads = int(process.stdout.readline())
        begun = monotonic()
        status = process.wait(DEADLINE)
        took = monotonic() - begun
        if fault == "pause":
            server.resume()
    assert threads < 20
    assert (status, took < 4) == (0, True), took


def test_a_lock_that_is_dropped_while_etcd_is_paused_is_given_back_when_it_goes_on(
    own_etcd: OwnEtcd,
) -> None:
    server = own_etcd()
    etcdctl = Etcdctl(server.endpoint)
    with connect(server.endpoint, timeout=8) as etcd:
        foo = Microlock(etcd, "foo", "one", 600)
        foo.lock()
        server.pause()
        del foo
        gc.collect()
        sleep(1)
        server.resume()
        assert eventually(lambda: entries(etcdctl, "foo") == [])
        assert eventually(lambda: leases(etcdctl) == [])
