"""Threads, interrupts and closed clients in the middle of a call."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cluster import hang
from conftest import Etcd
from ctl import Etcdctl
from witness import at_most, entries

import microlock
from microlock import DestroyedError, Microlock, StoreError, StoreTimeoutError, connect
from microlock.core.hold import HoldState
from microlock.core.port import Lifetime, Move
from microlock.engine import clock
from microlock.engine.clock import RealClock
from microlock.etcd.client import EtcdClient

TIMEOUT = 2.0

INTERRUPTED = """
import os, signal, sys, threading, time
from microlock import Microlock, connect

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
etcd = connect(sys.argv[1], timeout=4)
foo = Microlock(etcd, sys.argv[2], "node-a", ttl=60)
foo.lock()
calls = {"renew": foo.renew, "extend": lambda: foo.extend(60)}
for round in range(40):
    timer = threading.Timer(0.001 * (round % 7 + 1), os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        while True:
            calls[sys.argv[3]]()
    except KeyboardInterrupt:
        pass
    timer.join()
started = time.monotonic()
assert foo.renew() > 0
foo.unlock()
assert time.monotonic() - started < 4
foo.destroy()
print("done")
"""


@pytest.fixture
def client(etcd_server: Etcd) -> Iterator[EtcdClient]:
    with connect(etcd_server.endpoint, timeout=TIMEOUT) as etcd:
        yield etcd


@pytest.mark.parametrize("call", ["renew", "extend"])
def test_interrupts_leave_a_hold_that_can_be_used_and_nothing_that_hangs(
    etcd_server: Etcd, etcdctl: Etcdctl, prefix: str, call: str
) -> None:
    process = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, etcd_server.endpoint, prefix, call],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.stdout == "done\n", process.stderr
    assert entries(etcdctl, prefix) == []


def test_what_etcd_says_of_the_lease_before_an_extension_is_no_loss(
    client: EtcdClient, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    foo = Microlock(client, prefix, "node-a", ttl=60)
    old = foo.lock().lease_id
    perform, moved = client.perform, threading.Event()

    def moving(request: Any, budget: Any) -> Any:
        reply = perform(request, budget)
        if isinstance(request, Move):
            moved.set()
        return reply

    def answered_in_between() -> float:
        now = clock.now()
        if moved.is_set():
            # It was revoked by the extension.
            foo._host.step(foo._core.tracker.renewed, old, Lifetime(0, now, now), now)
        return now

    client.perform = moving  # type: ignore[method-assign]
    in_between = RealClock()
    monkeypatch.setattr(in_between, "now", answered_in_between)
    foo._host.clock = in_between
    assert foo.extend(30) > 20
    assert foo.held
    foo.destroy()


def test_a_hold_that_is_taken_over_is_not_lost_to_a_thread_that_looks_meanwhile(
    client: EtcdClient, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Microlock(client, prefix, "node-a", ttl=60)
    first.lock()
    again = Microlock(client, prefix, "node-a", ttl=60)
    moved, seen = HoldState.moved, []

    def looked_at(holding: HoldState, place: Any) -> None:
        seen.append(again.lost_reason)
        moved(holding, place)

    monkeypatch.setattr(HoldState, "moved", looked_at)
    assert again.renew() > 20
    assert (set(seen), again.held) == ({None}, True)
    again.destroy()


def test_destroy_destroys_also_while_another_call_is_stuck(
    own_etcd: Callable[..., Etcd],
) -> None:
    server = own_etcd()
    with connect(server.endpoint, timeout=TIMEOUT) as etcd, ThreadPoolExecutor() as pool:
        foo = Microlock(etcd, "foo", "node-a", ttl=60)
        foo.lock()
        hang(server)
        started = threading.Barrier(5)

        def renew() -> None:
            started.wait()
            foo.renew()

        calls = [pool.submit(renew) for _ in range(4)]
        started.wait()
        with at_most(TIMEOUT + 1), pytest.raises((StoreError, microlock.LockUncertainError)):
            foo.destroy()
        assert not foo.held
        with pytest.raises(DestroyedError):
            foo.lock()
        assert all(isinstance(call.exception(), StoreError | DestroyedError) for call in calls)
        server.resume()


def test_destroy_says_that_a_lock_is_left_when_its_client_was_closed(client: EtcdClient) -> None:
    foo = Microlock(client, "left", "node-a", ttl=2)
    foo.lock()
    client.close()
    with pytest.raises(DestroyedError):
        foo.destroy()
    assert not foo.held


def test_a_listener_that_waits_when_the_client_is_closed_is_told_at_once(
    own_etcd: Callable[..., Etcd],
) -> None:
    server = own_etcd()
    etcd = connect(server.endpoint, timeout=20)
    Microlock(etcd, "foo", "node-a").on("unlocked", print)
    hang(server)
    with ThreadPoolExecutor() as pool, at_most(10):
        waiting = pool.submit(Microlock(etcd, "bar", "node-a").on, "unlocked", print)
        with pytest.raises(futures.TimeoutError):
            waiting.result(timeout=0.5)
        etcd.close()
        assert isinstance(waiting.exception(), DestroyedError)
    server.resume()


@pytest.mark.parametrize("call", ["lock", "renew"])
def test_a_lent_client_that_its_owner_closed_is_a_destroyed_one(
    etcd_server: Etcd, prefix: str, call: str
) -> None:
    host, _, port = etcd_server.endpoint.rpartition(":")
    etcd = microlock.etcd3.client(host=host, port=int(port))
    foo = Microlock(etcd, prefix, "node-a", ttl=2)
    if call == "renew":
        foo.lock()
    etcd.close()
    with pytest.raises(DestroyedError):
        getattr(foo, call)()


def test_a_call_that_finds_another_stuck_says_so_in_time(own_etcd: Callable[..., Etcd]) -> None:
    server = own_etcd()
    with connect(server.endpoint, timeout=TIMEOUT) as etcd, ThreadPoolExecutor() as pool:
        foo = Microlock(etcd, "foo", "node-a", ttl=60)
        foo.lock()
        hang(server)
        with at_most(TIMEOUT + 1):
            calls = [pool.submit(foo.renew) for _ in range(4)]
            assert all(isinstance(call.exception(), StoreTimeoutError) for call in calls)
        server.resume()
        foo.unlock()


def test_an_interrupt_while_a_lease_gets_its_id_leaves_an_object_that_can_be_used(
    client: EtcdClient, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    foo = Microlock(client, prefix, "node-a", ttl=60)

    def interrupted(_bits: int) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("secrets.randbits", interrupted)
        with pytest.raises(KeyboardInterrupt):
            foo.lock()
    foo.lock()
    foo.destroy()
