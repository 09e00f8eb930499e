"""Replies that are lost, withheld or interrupted: what is said of the lock is what etcd has."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import pytest
from conftest import Etcd
from ctl import Etcdctl
from proxy import Proxy
from watching import eventually
from witness import AT_ONCE, at_most, entries

from microlock import (
    AlreadyLockedError,
    LockUncertainError,
    Microlock,
    StoreError,
    StoreUnavailableError,
    connect,
)
from microlock.etcd.client import EtcdClient

TIMEOUT = 4.0
SHORT = 2.5  # of a client that gets no answer to the end
SLACK = 1.5
# In no request but the one that puts the entry.
NODE = "node-whose-name-marks-the-put"


@pytest.fixture
def proxy(etcd_server: Etcd) -> Iterator[Proxy]:
    with closing(Proxy(etcd_server.endpoint)) as way:
        yield way


@pytest.fixture
def etcd(proxy: Proxy) -> Iterator[EtcdClient]:
    with connect(proxy.endpoint, timeout=TIMEOUT) as client:
        yield client


@pytest.fixture
def soon(proxy: Proxy) -> Iterator[EtcdClient]:
    with connect(proxy.endpoint, timeout=SHORT) as client:
        yield client


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as workers:
        yield workers


# The reply is lost, and etcd can be asked again


def test_lock_finds_out_that_it_holds_when_only_the_reply_was_lost(
    etcd: EtcdClient, proxy: Proxy, key: str, etcdctl: Etcdctl, pool: ThreadPoolExecutor
) -> None:
    foo = Microlock(etcd, key, NODE, ttl=60)
    proxy.withhold_replies_from(NODE.encode())
    locking = pool.submit(foo.lock)
    assert eventually(lambda: entries(etcdctl, key))
    assert not locking.done()
    proxy.reset()
    hold = locking.result(timeout=TIMEOUT + SLACK)
    holder = foo.holder()
    assert holder
    assert (holder.token, holder.node_id) == (hold.token, NODE)
    assert entries(etcdctl, key) == [f"{key}/{hold.lease_id:x}"]
    foo.unlock()
    assert entries(etcdctl, key) == []
    foo.destroy()


def test_lock_takes_the_lock_when_the_request_was_lost(
    etcd: EtcdClient, proxy: Proxy, key: str, etcdctl: Etcdctl, pool: ThreadPoolExecutor
) -> None:
    foo = Microlock(etcd, key, NODE, ttl=60)
    foo.holder()
    proxy.swallow()
    locking = pool.submit(foo.lock)
    assert not eventually(locking.done, within=0.2)
    proxy.reset()
    hold = locking.result(timeout=TIMEOUT + SLACK)
    assert entries(etcdctl, key) == [f"{key}/{hold.lease_id:x}"]
    foo.destroy()


def test_unlock_is_done_when_only_the_reply_was_lost(
    etcd: EtcdClient, proxy: Proxy, key: str, etcdctl: Etcdctl, pool: ThreadPoolExecutor
) -> None:
    foo = Microlock(etcd, key, NODE, ttl=60)
    pool.submit(foo.lock).result(TIMEOUT)  # by the connection that unlocks
    proxy.replies.clear()
    unlocking = pool.submit(foo.unlock)
    assert eventually(lambda: not entries(etcdctl, key))
    assert not unlocking.done()
    proxy.reset()
    unlocking.result(timeout=TIMEOUT + SLACK)
    assert not foo.held
    foo.lock()
    foo.destroy()


def test_a_repeated_unlock_leaves_the_next_holder_alone(
    etcd: EtcdClient,
    proxy: Proxy,
    etcd_server: Etcd,
    key: str,
    etcdctl: Etcdctl,
    pool: ThreadPoolExecutor,
) -> None:
    with connect(etcd_server.endpoint) as other:
        foo, theirs = Microlock(etcd, key, NODE, ttl=60), Microlock(other, key, NODE, ttl=60)
        pool.submit(foo.lock).result(TIMEOUT)  # by the connection that unlocks
        proxy.replies.clear()
        unlocking = pool.submit(foo.unlock)
        assert eventually(lambda: not entries(etcdctl, key))
        token = theirs.lock().token
        proxy.reset()
        unlocking.result(timeout=TIMEOUT + SLACK)
        holder = theirs.holder()
        assert holder
        assert holder.token == token
        assert theirs.renew() > 50
        theirs.destroy()
        foo.destroy()


def test_extend_is_done_when_only_the_reply_was_lost(
    etcd: EtcdClient, proxy: Proxy, key: str, etcdctl: Etcdctl, pool: ThreadPoolExecutor
) -> None:
    foo = Microlock(etcd, key, NODE, ttl=60)
    hold = foo.lock()
    before = foo.holder()
    assert before
    proxy.withhold_replies_from(NODE.encode())
    extending = pool.submit(foo.extend, 600)

    def moved() -> bool:  # as etcdctl sees it: on the way of this client no reply comes back
        entry = json.loads(etcdctl("get", "-w=json", f"{key}/{hold.lease_id:x}"))["kvs"][0]
        return bool(entry["lease"] != before.lease_id)

    assert eventually(moved)
    assert not extending.done()
    proxy.reset()
    assert extending.result(timeout=TIMEOUT + SLACK) > 500
    after = foo.holder()
    assert after
    assert after.token == hold.token == foo.token
    assert after.lease_id != before.lease_id
    assert foo.renew() > 500
    foo.unlock()
    assert entries(etcdctl, key) == []
    foo.destroy()


# The reply is lost, and so are all that follow


def test_lock_says_that_it_does_not_know_when_etcd_does_not_answer_any_more(
    soon: EtcdClient, proxy: Proxy, key: str, etcdctl: Etcdctl, etcd_server: Etcd
) -> None:
    foo = Microlock(soon, key, NODE, ttl=60)
    proxy.withhold_replies_from(NODE.encode())
    with at_most(SHORT + SLACK), pytest.raises(LockUncertainError) as told:
        foo.lock()
    assert not foo.held
    # Its revocation did arrive, only nobody heard of it.
    assert eventually(lambda: not entries(etcdctl, key))
    proxy.reset()
    assert foo.lock().lease_id != told.value.lease_id
    foo.unlock()
    foo.destroy()


def test_the_entry_in_doubt_is_gone_after_its_ttl(
    etcd: EtcdClient, proxy: Proxy, key: str, etcdctl: Etcdctl, pool: ThreadPoolExecutor
) -> None:
    foo = Microlock(etcd, key, NODE, ttl=2)
    proxy.withhold_replies_from(NODE.encode())
    locking = pool.submit(foo.lock)
    assert eventually(lambda: entries(etcdctl, key))
    proxy.requests.clear()
    with pytest.raises(LockUncertainError):
        locking.result(timeout=TIMEOUT + SLACK)
    assert not foo.held
    assert eventually(lambda: not entries(etcdctl, key), within=6)
    proxy.reset()
    foo.destroy()


def test_lock_that_reached_nobody_leaves_nothing_beyond_what_it_said_when_it_arrives_late(
    soon: EtcdClient, proxy: Proxy, key: str, etcdctl: Etcdctl
) -> None:
    foo = Microlock(soon, key, NODE, ttl=4)
    foo.lock()
    foo.unlock()  # leaves a lease, so that the very next request takes the lock
    proxy.swallow()
    with (
        at_most(SHORT + SLACK),
        pytest.raises((StoreUnavailableError, LockUncertainError)) as told,
    ):
        foo.lock()
    assert not foo.held
    proxy.let_through()
    # The put arrives, its copies, and last of all the revocation; etcd may pass over each one, as
    # nobody waits for it any more.
    if not isinstance(told.value, LockUncertainError):
        assert not eventually(lambda: entries(etcdctl, key), within=1.5)
    hold = foo.lock(timeout=10)
    assert entries(etcdctl, key) == [f"{key}/{hold.lease_id:x}"]
    foo.destroy()


def test_unlock_that_is_not_answered_is_uncertain_and_ends_the_hold(
    soon: EtcdClient, proxy: Proxy, key: str, etcdctl: Etcdctl
) -> None:
    foo = Microlock(soon, key, NODE, ttl=60)
    foo.lock()
    proxy.replies.clear()
    with at_most(SHORT + SLACK), pytest.raises(LockUncertainError):
        foo.unlock()
    assert not foo.held
    assert entries(etcdctl, key) == []
    proxy.reset()
    foo.lock()
    foo.destroy()


def test_extend_that_is_not_answered_leaves_a_hold_that_the_next_renewal_settles(
    soon: EtcdClient, proxy: Proxy, key: str, etcdctl: Etcdctl
) -> None:
    foo = Microlock(soon, key, NODE, ttl=60)
    hold = foo.lock()
    proxy.withhold_replies_from(NODE.encode())
    with at_most(SHORT + SLACK), pytest.raises(StoreError) as told:
        foo.extend(600)
    assert told.value.may_have_happened
    assert foo.held
    assert foo.remaining < 60
    proxy.reset()
    assert foo.renew() > 500
    assert foo.token == hold.token
    assert entries(etcdctl, key) == [f"{key}/{hold.lease_id:x}"]
    foo.unlock()
    assert entries(etcdctl, key) == []
    foo.destroy()


def test_what_is_said_after_cuts_at_any_moment_is_what_etcd_has(
    proxy: Proxy, key: str, etcdctl: Etcdctl, etcd_server: Etcd
) -> None:
    """Connections break while two objects take and give back one lock, over and over."""
    stop = threading.Event()
    inside: list[str] = []
    wrong: list[list[str]] = []

    def work(etcd: EtcdClient, name: str) -> int:
        foo, held = Microlock(etcd, key, name, ttl=60), 0
        while not stop.is_set():
            with suppress(AlreadyLockedError, StoreUnavailableError, LockUncertainError):
                foo.lock()
                inside.append(name)
                if len(inside) > 1:
                    wrong.append(list(inside))
                inside.remove(name)
                held += 1
                foo.unlock()
        with suppress(StoreUnavailableError, LockUncertainError):
            foo.destroy()
        return held

    with (
        connect(proxy.endpoint, timeout=TIMEOUT) as one,
        connect(proxy.endpoint, timeout=TIMEOUT) as two,
        ThreadPoolExecutor(2) as pool,
    ):
        both = [pool.submit(work, one, "node-a"), pool.submit(work, two, "node-b")]
        try:
            for _ in range(40):
                assert not eventually(lambda: any(each.done() for each in both), within=0.05)
                proxy.reset()
        finally:
            stop.set()
        held = sum(each.result(timeout=3 * TIMEOUT) for each in both)
    assert wrong == []
    assert held > 0
    assert entries(etcdctl, key) == []


# Ctrl-C


def interrupted(call: Callable[[], object], when: Callable[[], object]) -> None:
    """The call, on this thread, is interrupted as by Ctrl-C when this has come true."""
    came: list[bool] = []

    def interrupt() -> None:
        came.append(eventually(when))
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]

    def call_until_interrupted() -> None:
        call()
        thread.join()  # should the call be over, the interrupt comes here
        pytest.fail("the call returned before it was interrupted")

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        call_until_interrupted()
    thread.join()
    assert came == [True]


def test_an_interrupted_lock_leaves_no_entry_though_its_put_was_applied(
    etcd: EtcdClient, proxy: Proxy, key: str, etcdctl: Etcdctl
) -> None:
    foo = Microlock(etcd, key, NODE, ttl=60)
    proxy.withhold_replies_from(NODE.encode(), everywhere=False)
    with at_most(TIMEOUT + SLACK):
        interrupted(foo.lock, when=lambda: entries(etcdctl, key))
    assert not foo.held
    assert entries(etcdctl, key) == []
    proxy.reset()
    foo.lock()
    foo.destroy()


def test_an_interrupted_lock_leaves_no_entry_beyond_its_ttl_though_its_put_arrives_late(
    soon: EtcdClient, proxy: Proxy, key: str, etcdctl: Etcdctl
) -> None:
    foo = Microlock(soon, key, NODE, ttl=4)
    foo.lock()
    foo.unlock()  # leaves a lease, so that the very next request takes the lock
    proxy.swallow()
    with at_most(SHORT + SLACK):
        interrupted(foo.lock, when=lambda: not eventually(lambda: False, within=0.3))
    assert not foo.held
    proxy.let_through()
    hold = foo.lock(timeout=10)  # the late one may come after a look at the entries
    assert entries(etcdctl, key) == [f"{key}/{hold.lease_id:x}"]
    foo.destroy()


def test_an_interrupted_unlock_frees_the_lock(
    etcd: EtcdClient, proxy: Proxy, key: str, etcdctl: Etcdctl
) -> None:
    foo = Microlock(etcd, key, NODE, ttl=60)
    foo.lock()
    proxy.replies.clear()
    with at_most(TIMEOUT + SLACK):
        interrupted(foo.unlock, when=lambda: not entries(etcdctl, key))
    assert not foo.held
    assert entries(etcdctl, key) == []
    proxy.reset()
    with at_most(AT_ONCE):
        foo.lock()
    foo.destroy()


def test_an_interrupted_extension_is_settled_by_the_next_renewal(
    etcd: EtcdClient, proxy: Proxy, key: str, etcdctl: Etcdctl
) -> None:
    foo = Microlock(etcd, key, NODE, ttl=60)
    hold = foo.lock()
    proxy.withhold_replies_from(NODE.encode())
    with at_most(TIMEOUT + SLACK):
        interrupted(lambda: foo.extend(600), when=lambda: not proxy.replies.is_set())
    assert foo.held
    proxy.reset()
    assert foo.renew() > 500
    assert foo.token == hold.token
    foo.unlock()
    assert entries(etcdctl, key) == []
    foo.destroy()
