"""Behind `etcd grpc-proxy` and `etcd gateway` locks do as they do on etcd: beside the contract."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from cluster import Cluster
from conftest import Etcd
from relays import KINDS, relay
from witness import Witness, assert_works

from microlock import EtcdClient, Microlock, connect


@pytest.fixture(params=KINDS)
def behind(request: pytest.FixtureRequest, etcd_server: Etcd) -> Iterator[EtcdClient]:
    """A client of etcd with one of them in between."""
    with relay(request.param, etcd_server.endpoint) as endpoint, connect(endpoint) as etcd:
        yield etcd


@pytest.fixture
def direct(etcd_server: Etcd) -> Iterator[EtcdClient]:
    with connect(etcd_server.endpoint) as etcd:
        yield etcd


def test_everything_works(behind: EtcdClient, key: str) -> None:
    assert_works(Microlock(behind, key, "one", ttl=5))


def test_many_short_holds_of_one_client_are_kept(behind: EtcdClient, prefix: str) -> None:
    with ExitStack() as stack:
        locks = [Microlock(behind, f"{prefix}{n}", "one", 2, auto_renew=True) for n in range(40)]
        for lock in locks:
            stack.callback(lock.destroy)
            lock.lock()
        assert not locks[0].lost.wait(5)  # for more than two ttls
        assert all(lock.held for lock in locks)


def test_each_of_many_listeners_is_told_what_happens_to_its_lock(
    behind: EtcdClient, direct: EtcdClient, prefix: str
) -> None:
    locks = [Microlock(behind, f"{prefix}{number}", "one") for number in range(20)]
    witnesses = [Witness(lock, "locked", "unlocked") for lock in locks]
    for lock in locks:
        with Microlock(direct, lock.key, "two", ttl=5):
            pass
    for witness in witnesses:
        assert witness.saw("locked", "unlocked")


def test_each_of_many_waiters_has_its_turn(
    behind: EtcdClient, direct: EtcdClient, key: str
) -> None:
    nodes = [Microlock([behind, direct][n % 2], key, f"n{n}", ttl=5) for n in range(8)]

    def work(lock: Microlock) -> int:
        hold = lock.lock(timeout=20)
        lock.unlock()
        return hold.token

    with ThreadPoolExecutor(8) as pool:
        tokens = list(pool.map(work, nodes))
    assert len(set(tokens)) == 8


def test_a_gateway_with_a_dead_member_behind_it_costs_time_and_nothing_else(
    cluster: Cluster, key: str
) -> None:
    endpoints = cluster.endpoints
    with relay("gateway", *endpoints) as endpoint, connect(endpoint) as etcd:
        foo = Microlock(etcd, key, "one", ttl=4, auto_renew=True)
        foo.lock()
        cluster.members[0].kill()
        assert not foo.lost.wait(5)
        assert_works(Microlock(etcd, f"{key}/bar", "one", ttl=5))
        foo.unlock()
