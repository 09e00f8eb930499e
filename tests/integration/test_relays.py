"""Behind `etcd grpc-proxy` and `etcd gateway` locks do as they do on etcd: beside the contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

import pytest
from cluster import Cluster
from conftest import Etcd
from ctl import Etcdctl
from etcds import Choice
from relays import KINDS, relay
from watching import Recorder
from witness import Witness, assert_works

from microlock import EtcdClient, Microlock, connect
from microlock.server import free_ports


@pytest.fixture(params=KINDS)
def behind(
    request: pytest.FixtureRequest, etcd_server: Etcd, etcd_choice: Choice
) -> Iterator[EtcdClient]:
    """A client of etcd with one of them in between."""
    between = relay(request.param, etcd_server.endpoint, binary=etcd_choice.binary)
    with between as endpoint, connect(endpoint) as etcd:
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
        assert not locks[0].lost.wait(3)  # for longer than the ttl
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


def test_after_a_restart_of_the_proxy_and_a_compaction_its_listeners_are_told_again(
    own_etcd: Callable[..., Etcd], etcd_choice: Choice, key: str
) -> None:
    server = own_etcd()
    (port,) = free_ports(1)
    binary = etcd_choice.binary
    proxy = partial(relay, "grpc-proxy", server.endpoint, binary=binary, port=port)
    with connect(server.endpoint) as direct, ExitStack() as stack:
        other = Microlock(direct, key, "two", ttl=60)
        with proxy() as endpoint:
            foo = Microlock(stack.enter_context(connect(endpoint)), key, "one", ttl=60)
            witness = Witness(foo, "locked", "unlocked")
        other.lock()
        other.unlock()
        hold = other.lock()
        Etcdctl(server.endpoint)("compact", str(hold.token))
        with proxy():
            assert witness.saw("locked")
            assert witness.events[0].synthesised
            other.unlock()
            other.lock()
            assert witness.saw("locked", "unlocked", "locked")
        other.destroy()


def test_a_gateway_with_a_dead_member_behind_it_costs_time_and_nothing_else(
    cluster: Cluster, key: str
) -> None:
    endpoints = cluster.endpoints
    with relay("gateway", *endpoints) as endpoint, connect(endpoint) as etcd:
        foo = Microlock(etcd, key, "one", ttl=4, auto_renew=True)
        foo.lock()
        cluster.members[0].kill()
        assert len(Recorder(foo, "renewed").wait_for(2)) >= 2
        assert foo.held
        assert_works(Microlock(etcd, f"{key}/bar", "one", ttl=5))
        foo.unlock()
