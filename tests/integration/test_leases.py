"""Leases go from one lock of a client to the next, and never to two at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import sleep

import pytest
from conftest import Etcd
from ctl import Etcdctl
from watching import eventually

from microlock import AlreadyLockedError, EtcdClient, Microlock, connect


@pytest.fixture
def client(etcd_server: Etcd):
    with connect(etcd_server.endpoint) as client:
        yield client


Lock = Callable[..., Microlock]


@pytest.fixture
def lock(client: EtcdClient, prefix: str) -> Lock:
    def lock(name: str, ttl: float = 30, client: EtcdClient = client) -> Microlock:
        return Microlock(client, prefix + name, "one", ttl)

    return lock


def cycle(lock: Microlock) -> int:
    """Takes and gives it back; returns the lease."""
    lease_id = lock.lock().lease_id
    lock.unlock()
    return lease_id


def test_a_lease_serves_the_next_lock_of_the_client(lock: Lock):
    assert cycle(lock("foo")) == cycle(lock("bar"))


def test_it_does_so_after_destroy(lock: Lock):
    foo = lock("foo")
    lease_id = cycle(foo)
    foo.destroy()
    assert cycle(lock("bar")) == lease_id


def test_it_does_so_after_with(lock: Lock):
    with lock("foo") as foo:
        lease_id = foo.hold.lease_id
    with lock("bar") as bar:
        assert bar.hold.lease_id == lease_id


def test_it_does_so_after_a_refusal(lock: Lock):
    foo, bar = lock("foo"), lock("bar")
    bar.lock()
    lease_id = cycle(foo)
    with pytest.raises(AlreadyLockedError):
        lock("bar").lock()
    assert cycle(foo) == lease_id


def test_two_holds_have_two_leases(lock: Lock):
    assert lock("foo").lock().lease_id != lock("bar").lock().lease_id


def test_a_hold_outlives_the_release_of_one_that_had_its_lease_before(lock: Lock):
    foo = lock("foo")
    cycle(foo)
    bar = lock("bar")
    bar.lock()
    foo.destroy()
    assert bar.renew() > 0


def test_locks_with_other_ttls_have_other_leases(lock: Lock):
    foo, bar = lock("foo", ttl=30), lock("bar", ttl=60)
    cycle(foo)
    assert (cycle(bar) != cycle(foo), bar.lock().ttl) == (True, 60)


def test_another_client_has_leases_of_its_own(lock: Lock, etcd_server: Etcd):
    lease_id = cycle(lock("foo"))
    with connect(etcd_server.endpoint) as other:
        assert cycle(lock("foo", client=other)) != lease_id


def test_one_that_was_revoked_meanwhile_is_replaced(lock: Lock, etcdctl: Etcdctl):
    lease_id = cycle(lock("foo"))
    etcdctl("lease", "revoke", f"{lease_id:x}")
    hold = lock("bar").lock()
    assert hold.lease_id != lease_id


def test_one_that_has_ended_meanwhile_is_replaced(lock: Lock):
    lease_id = cycle(lock("foo", ttl=2))
    sleep(3)
    assert lock("bar", ttl=2).lock().lease_id != lease_id


def test_one_that_is_left_ends_with_its_ttl(lock: Lock, etcdctl: Etcdctl):
    foo = lock("foo", ttl=2)
    lease_id = cycle(foo)
    foo.destroy()
    assert eventually(lambda: f"{lease_id:x}" not in etcdctl("lease", "list"), within=8)


def test_a_held_lock_that_is_destroyed_leaves_none(lock: Lock, etcdctl: Etcdctl):
    foo = lock("foo")
    lease_id = foo.lock().lease_id
    foo.destroy()
    assert f"{lease_id:x}" not in etcdctl("lease", "list")


def test_an_extended_lease_serves_nobody_else(lock: Lock):
    foo = lock("foo")
    foo.lock()
    foo.extend(60)
    extended = foo.holder().lease_id
    foo.unlock()
    assert lock("bar", ttl=60).lock().lease_id != extended


def test_threads_with_a_new_object_each_time_share_a_few(client: EtcdClient, lock: Lock):
    with ThreadPoolExecutor(8) as pool:
        leases = set(pool.map(lambda each: cycle(lock(str(each))), range(400)))
    assert 1 <= len(leases) <= 8
