"""Faults of etcd itself: what those versions do that have them, and what the library makes of it.

docs/faults.md tells of each.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from itertools import cycle
from random import Random
from time import monotonic, sleep

import disk
import nemesis
import pytest
import requests
from nemesis import Ground
from situations import QUOTA, Case, no_space
from watching import eventually
from witness import AT_ONCE, Witness, at_most

from microlock import (
    EtcdClient,
    LockLostError,
    LossReason,
    Microlock,
    State,
    StoreError,
    StoreNoSpaceError,
    connect,
)
from microlock.core.port import (
    Get,
    Grant,
    Join,
    KeepAlive,
    KeepAlives,
    Lifetime,
    ReadAll,
    Revoke,
)
from microlock.core.retry import Budget
from microlock.engine import clock
from microlock.etcd import messages

Break = Callable[..., Ground]

TTL = 2
PAUSE = 3.2
MANY = 40  # of which, where leases are lost, hardly ever all are kept
TRIES = 15  # likewise
TIMEOUT = 10.0
RESOURCE_EXHAUSTED = 8  # of gRPC


def version(ground: Ground) -> tuple[int, ...]:
    return tuple(map(int, ground.cluster.members[0].version.split(".")))


def fixed_in(found: tuple[int, ...], *fixes: tuple[int, int, int]) -> bool:
    """Whether a version has one of these fixes; each is for its minor version, the last one for
    those after it too."""
    same = [fix for fix in fixes if fix[:2] == found[:2]]
    return found >= same[0] if same else found > fixes[-1]


def perform(client: EtcdClient, request: object, seconds: float = TIMEOUT) -> object:
    return client.perform(request, Budget.of(clock.now(), seconds))  # type: ignore[arg-type]


def at_a_follower(ground: Ground) -> EtcdClient:
    """A client that talks to one."""
    return connect(ground.cluster.endpoints[(ground.cluster.leader() + 1) % 3], timeout=TIMEOUT)


# A lease that was renewed in time is lost after a pause of the leader: etcd #12528, #15247


def pause_the_leader(ground: Ground, meanwhile: Callable[[], object]) -> None:
    with nemesis.pause_leader(ground):
        end = monotonic() + PAUSE
        while monotonic() < end:
            meanwhile()
            sleep(0.1)


def test_a_lease_renewed_in_time_is_lost_after_a_pause_of_the_leader_before_3_4_31_and_3_5_13(
    break_ground: Break,
) -> None:
    ground = break_ground()
    seen = any(_loses_leases(ground, first) for first in (1, 1 + MANY))
    if fixed_in(version(ground), (3, 4, 31), (3, 5, 13)):
        assert not seen
    elif not seen:
        pytest.skip("not seen in two pauses")


def _loses_leases(ground: Ground, first: int) -> bool:
    leases = tuple(range(first, first + MANY))
    with at_a_follower(ground) as client:
        for each in leases:
            perform(client, Grant(each, TTL))

        def all_live() -> bool:
            try:
                lifetimes = perform(client, KeepAlives(leases), seconds=0.5)
            except StoreError:  # an election
                return True
            assert isinstance(lifetimes, dict)
            return all(lifetime.ttl > 0 for lifetime in lifetimes.values())

        pause_the_leader(ground, all_live)
        return eventually(lambda: not all_live(), TTL)


def test_a_hold_that_etcd_lost_after_a_pause_of_the_leader_is_told_at_once(
    break_ground: Break,
) -> None:
    ground = break_ground()
    with (
        at_a_follower(ground) as client,
        connect(ground.cluster.endpoints) as other,
        ExitStack() as stack,
    ):
        locks = [Microlock(client, f"lock-{i}", "one", TTL, auto_renew=True) for i in range(MANY)]
        witnesses = [Witness(lock, "lost") for lock in locks]
        for lock in locks:
            lock.lock()
            stack.callback(lock.destroy)
        pause_the_leader(ground, lambda: None)

        def holders() -> list[int | None]:
            found = [Microlock(other, lock.key, "onlooker").holder() for lock in locks]
            return [holder and holder.token for holder in found]

        # What etcd takes away, it does when the leader is back.
        assert eventually(lambda: holders() == [lock.token for lock in locks], AT_ONCE)
        for lock, witness in zip(locks, witnesses, strict=True):
            if lock.held:
                assert witness.events == []
                continue
            assert lock.state is State.LOST
            assert lock.lost_reason in (LossReason.DELETED, LossReason.LEASE_GONE)
            assert witness.saw("lost")
            with pytest.raises(LockLostError):
                lock.unlock()
        if fixed_in(version(ground), (3, 4, 31), (3, 5, 13)):
            assert all(lock.held for lock in locks)


# A keep-alive that succeeds for a lease that was revoked


@pytest.fixture
def lagging(break_ground: Break) -> Iterator[tuple[Ground, EtcdClient, EtcdClient]]:
    """A client that talks to a leader which is late in applying, and one at a follower."""
    if reason := disk.why_not():
        pytest.skip(reason)
    ground = break_ground(fast=False)  # with fast timers another one would lead soon
    leader = ground.cluster.leader()
    endpoints = ground.cluster.endpoints
    process = ground.cluster.members[leader].pid
    assert process
    with (
        connect(endpoints[leader], timeout=TIMEOUT) as late,
        connect(endpoints[(leader + 1) % 3], timeout=TIMEOUT) as prompt,
        disk.slow_disk(process, nemesis.SLOW_DISK),
    ):
        yield ground, late, prompt


def test_a_keep_alive_may_succeed_for_a_revoked_lease_before_3_4_38_and_3_5_23_and_3_6_5(
    lagging: tuple[Ground, EtcdClient, EtcdClient],
) -> None:
    ground, late, prompt = lagging

    def revived(lease: int) -> bool:
        perform(prompt, Grant(lease, 60))
        perform(prompt, Join(b"key/", b"key/%x" % lease, b"value", lease, near=0))
        perform(prompt, Revoke(lease))
        lifetime = perform(late, KeepAlive(lease))
        assert isinstance(lifetime, Lifetime)
        return lifetime.ttl > 0

    seen = any(map(revived, range(1, TRIES + 1)))
    if fixed_in(version(ground), (3, 4, 38), (3, 5, 23), (3, 6, 5)):
        assert not seen
    elif not seen:
        pytest.skip(f"not seen in {TRIES} tries")


def test_renew_says_that_the_lease_was_revoked_though_the_keep_alive_succeeds(
    lagging: tuple[Ground, EtcdClient, EtcdClient],
) -> None:
    _, late, prompt = lagging
    foo = Microlock(late, "foo", "one", 60)
    for _ in range(3):
        perform(prompt, Revoke(foo.lock().lease_id))
        with pytest.raises(LockLostError):
            foo.renew()
        assert not foo.held
    foo.destroy()


# A full database: etcd #14254, #14884


@pytest.fixture
def nearly_full(
    break_ground: Break, monkeypatch: pytest.MonkeyPatch
) -> tuple[Ground, Callable[[], AbstractContextManager[None]]]:
    """A cluster, and the block in which it has no space."""
    ground = break_ground(flags=[f"--quota-backend-bytes={QUOTA}"])
    return ground, lambda: no_space(Case(ground, "", TTL, None, monkeypatch))


def test_a_full_etcd_refuses_a_transaction_that_deletes_before_3_4_20_and_3_5_7(
    nearly_full: tuple[Ground, Callable[[], AbstractContextManager[None]]],
) -> None:
    """And takes a plain delete, which can't be guarded."""
    ground, full = nearly_full
    key = base64.b64encode(b"foo").decode()

    def post(endpoint: str, what: str, body: dict[str, object]) -> requests.Response:
        return requests.post(f"http://{endpoint}/v3/kv/{what}", json=body, timeout=5)

    with full():
        codes = set()
        for endpoint in ground.cluster.endpoints:
            refused = post(endpoint, "txn", {"success": [{"request_delete_range": {"key": key}}]})
            codes.add(refused.json().get("code"))
            assert post(endpoint, "deleterange", {"key": key}).ok
        fixed = fixed_in(version(ground), (3, 4, 20), (3, 5, 7))
        assert (RESOURCE_EXHAUSTED in codes) is not fixed


def test_unlock_gives_the_lock_back_to_a_full_etcd(
    nearly_full: tuple[Ground, Callable[[], AbstractContextManager[None]]],
) -> None:
    ground, full = nearly_full
    with connect(ground.cluster.endpoints) as client:
        foo = Microlock(client, "foo", "one", 60)
        foo.lock()
        with full():
            with at_most(AT_ONCE):
                foo.unlock()
            assert foo.holder() is None
            with pytest.raises(StoreNoSpaceError):
                foo.lock()
        foo.lock()
        foo.destroy()


@pytest.fixture
def reading(break_ground: Break) -> Iterator[tuple[Ground, EtcdClient, list[bytes]]]:
    """A client of one member, and the entries of many locks."""
    ground = break_ground()
    with connect(ground.cluster.members[0].endpoint) as client:
        perform(client, Grant(7, 600))
        locks = [b"lock-%03d/" % number for number in range(128)]
        for lock in locks:
            perform(client, Join(lock, lock + b"7", b"n" * 4096, 7, 1))
        yield ground, client, [lock + b"7" for lock in locks]


def ends_the_member(client: EtcdClient, read: Callable[[float], object]) -> bool:
    """Whether it does, given up in the middle again and again; `read` takes its timeout."""
    chance = Random(1)
    for _ in range(40):
        begun = monotonic()
        try:
            read(TIMEOUT)
        except StoreError:
            return True
        whole = monotonic() - begun
        for _ in range(20):
            with suppress(StoreError):
                read(chance.uniform(0.3, 1.0) * whole)
    return False


def test_the_end_of_a_transaction_that_only_reads_may_end_the_member_before_3_4_23_and_3_5_7(
    reading: tuple[Ground, EtcdClient, list[bytes]],
) -> None:
    ground, client, entries = reading
    (wire,) = client.store._wires.values()  # type: ignore[attr-defined]
    asked = messages.txn((), map(messages.get, entries))
    ended = ends_the_member(client, lambda left: wire.call(*asked, timeout=left, metadata=()))
    assert ended is not fixed_in(version(ground), (3, 4, 23), (3, 5, 7))


def test_no_read_that_is_given_up_ends_the_member(
    reading: tuple[Ground, EtcdClient, list[bytes]],
) -> None:
    _, client, (first, *others) = reading
    requests = cycle((ReadAll(b""), Get(first, tuple(others[:8]))))

    def read(left: float) -> object:
        member = client.store.members[0]
        return client.store.attempt(member, next(requests), timeout=left, repeated=False)

    assert not ends_the_member(client, read)
