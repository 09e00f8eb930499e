"""Each row of docs/coming-from.md is what happens."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import pytest
from cluster import Cluster, hang
from conftest import Etcd
from ctl import Etcdctl
from managers import Keep, kept, noted, queue, standing, tries
from nodes import LONG, begin, queued
from proxy import Proxy
from watching import DEADLINE, Recorder, eventually
from witness import AT_ONCE, assert_works, at_most, entries, leases

import microlock
from microlock import (
    AlreadyLockedError,
    DestroyedError,
    EtcdClient,
    InvalidArgumentError,
    LockLostError,
    LockManager,
    LockNotOwnedError,
    LockUncertainError,
    LossReason,
    Microlock,
    StoreError,
    StoreUnavailableError,
    connect,
)
from microlock.core.port import Read, Request
from microlock.server import EtcdServer

DOCUMENT = Path(__file__).parents[2] / "docs/coming-from.md"
MICROLOCK = "microlock (npm)"
DISTRIBUTED_LOCKS = "distributed-locks (npm)"
DIST_LOCK = "dist-lock (npm, Redis)"
DISTRIBUTEDLOCK = "distributedlock (npm, Redis)"

F = TypeVar("F", bound=Callable[..., None])
TESTS: dict[tuple[str, str], Callable[..., None]] = {}


def row(table: str, there: str) -> Callable[[F], F]:
    """The test of the row of this table that has this in its first cell."""

    def register(test: F) -> F:
        assert (table, there) not in TESTS
        TESTS[table, there] = test
        return test

    return register


@pytest.fixture(scope="module")
def etcd(etcd_server: Etcd) -> Iterator[EtcdClient]:
    with connect(etcd_server.endpoint) as client:
        yield client


@pytest.fixture(scope="module")
def other_etcd(etcd_server: Etcd) -> Iterator[EtcdClient]:
    with connect(etcd_server.endpoint) as client:
        yield client


@pytest.fixture
def jobs(etcd: EtcdClient, prefix: str) -> LockManager:
    return LockManager(etcd, "one", prefix=prefix, ttl=LONG)


@pytest.fixture
def elsewhere(other_etcd: EtcdClient, prefix: str) -> LockManager:
    """A manager of another node, over a client of its own."""
    return LockManager(other_etcd, "elsewhere", prefix=prefix, ttl=LONG)


@pytest.fixture
def keep() -> Iterator[Keep]:
    """`foo = keep(jobs.lock("foo"))` destroys it at the end of the test."""
    with kept() as keep:
        yield keep


@pytest.fixture
def foo(jobs: LockManager, keep: Keep) -> Microlock:
    """A lock that is not taken yet."""
    return keep(jobs.create("foo"))


@pytest.fixture
def theirs(elsewhere: LockManager, keep: Keep) -> Microlock:
    """The same lock, of another node; not taken yet either."""
    return keep(elsewhere.create("foo"))


@pytest.fixture
def asked(etcd: EtcdClient, monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """What is asked of etcd over the client of `jobs`."""
    return noted(etcd, monkeypatch)


# microlock


@row(MICROLOCK, "`new Microlock(etcd, key, id, ttl)`")
def test_the_constructor_takes_the_same_arguments_and_checks_them(
    etcd: EtcdClient, key: str, keep: Keep
) -> None:
    lock = keep(Microlock(etcd, key, "one", 5))
    assert (lock.key, lock.node_id, lock.ttl) == (key, "one", 5)
    assert keep(Microlock(etcd, key, "one")).ttl == 1
    with pytest.raises(InvalidArgumentError):
        Microlock(etcd, "", "one", 5)


@row(MICROLOCK, "`lock().then(...)`")
def test_lock_returns_a_hold_with_a_fencing_token(foo: Microlock) -> None:
    hold = foo.lock()
    assert hold.token == foo.token


@row(MICROLOCK, "`AlreadyLockedError`")
def test_the_error_of_a_lock_that_is_held_says_by_whom(foo: Microlock, theirs: Microlock) -> None:
    theirs.lock()
    with pytest.raises(AlreadyLockedError) as caught:
        foo.lock()
    assert caught.value.holder == standing(theirs)


@row(MICROLOCK, "`unlock()`")
def test_an_object_does_not_unlock_another_one_of_its_node(
    foo: Microlock, jobs: LockManager, keep: Keep
) -> None:
    foo.lock()
    same_node = keep(jobs.create("foo"))
    with pytest.raises(AlreadyLockedError):
        same_node.lock()
    with pytest.raises(LockNotOwnedError):
        same_node.unlock()
    assert jobs.holder("foo") == standing(foo)
    foo.unlock()
    assert jobs.holder("foo") is None


@row(MICROLOCK, "`renew()`")
def test_renew_returns_the_seconds_left_or_raises_why_it_was_lost(
    foo: Microlock, elsewhere: LockManager
) -> None:
    foo.lock()
    assert LONG / 2 < foo.renew() <= LONG
    elsewhere.break_lock("foo")
    with pytest.raises(LockLostError) as caught:
        foo.renew()
    assert caught.value.reason is LossReason.DELETED


@row(MICROLOCK, "`LockNotOwnedError`")
def test_the_error_of_a_lock_that_is_not_owned_says_whose_it_is(
    foo: Microlock, theirs: Microlock
) -> None:
    theirs.lock()
    for call in (foo.unlock, foo.renew):
        with pytest.raises(LockNotOwnedError) as caught:
            call()
        assert caught.value.holder == standing(theirs)


@row(MICROLOCK, "`'unlocked'` on release")
def test_unlocked_is_told_of_release_expiry_and_revocation(
    foo: Microlock, elsewhere: LockManager, keep: Keep, etcdctl: Etcdctl
) -> None:
    seen = Recorder(foo, "unlocked")
    keep(elsewhere.lock("foo")).unlock()
    assert len(seen.wait_for(1)) == 1
    keep(elsewhere.lock("foo", ttl=1))
    assert len(seen.wait_for(2)) == 2
    lease_id = standing(keep(elsewhere.lock("foo"))).lease_id
    etcdctl("lease", "revoke", f"{lease_id:x}")
    assert len(seen.wait_for(3)) == 3


@row(MICROLOCK, "`'locked'`")
def test_locked_is_told_once_for_each_hold_and_not_for_a_renewal(
    foo: Microlock, theirs: Microlock
) -> None:
    seen = Recorder(foo)
    tokens = []
    for lock in (theirs, foo, theirs):
        tokens.append(lock.lock().token)
        lock.renew()
        lock.extend(LONG)
        lock.unlock()
    assert seen.told(6) == [(name, token) for token in tokens for name in ("locked", "unlocked")]


@row(MICROLOCK, "`Microlock.events.unlocked`")
def test_the_names_of_the_events_are_constants(foo: Microlock) -> None:
    assert Microlock.events.unlocked == microlock.events.unlocked == "unlocked"
    assert foo.events.locked == "locked"


@row(MICROLOCK, "a connection for each lock")
def test_many_locks_share_two_connections_and_three_threads(etcd_server: Etcd, prefix: str) -> None:
    before = set(threading.enumerate())
    with (
        closing(Proxy(etcd_server.endpoint)) as proxy,
        connect(proxy.endpoint) as etcd,
        kept() as keep,
    ):
        locks = [keep(Microlock(etcd, f"{prefix}{i}", "one", LONG)) for i in range(20)]
        for lock in locks:
            lock.on("locked", lambda: None)
        assert proxy.accepted == 2  # one for calls, and one for the watches
        names = [each.name for each in set(threading.enumerate()) - before]
        threads = sorted(name for name in names if name.startswith("microlock"))
        assert threads == ["microlock-renewal", "microlock-watch", "microlock-wire"]


@row(MICROLOCK, "`destroy()`")
def test_destroy_frees_the_hold_and_its_lease(foo: Microlock, etcdctl: Etcdctl) -> None:
    lease_id = foo.lock().lease_id
    foo.destroy()
    assert entries(etcdctl, foo.key) == []
    assert f"{lease_id:x}" not in leases(etcdctl)


@row(MICROLOCK, "nothing of the kind")
def test_what_the_npm_package_has_nothing_of_works(
    foo: Microlock, theirs: Microlock, jobs: LockManager, keep: Keep
) -> None:
    with foo:
        assert foo.held
        assert 0 < foo.remaining <= LONG
        assert foo.extend(2 * LONG) > LONG
        assert theirs.holder()
        waiting = begin(lambda: theirs.lock(timeout=LONG))
        assert queued(foo)
        assert [waiter.node_id for waiter in foo.waiters()] == ["elsewhere"]
    assert waiting.result(DEADLINE).waited > 0
    renewing = keep(jobs.create("bar", ttl=2, auto_renew=True))
    seen = Recorder(renewing, "renewed")
    renewing.lock()
    assert seen.wait_for(1)


# distributed-locks


@row(DISTRIBUTED_LOCKS, "`new LocksFactory(storage)`")
def test_the_lock_of_a_manager_says_who_holds_it(jobs: LockManager, keep: Keep) -> None:
    keep(jobs.lock("my-key"))
    holder = jobs.holder("my-key")
    assert holder
    assert holder.node_id == "one"


@row(DISTRIBUTED_LOCKS, "`new RedisStorage({ url })`")
def test_a_client_of_several_members_finds_one_that_lives(
    etcd_server: Etcd, key: str, keep: Keep
) -> None:
    with connect(["127.0.0.1:1", etcd_server.endpoint]) as etcd, kept() as keep:
        assert_works(keep(Microlock(etcd, key, "one", LONG)))


@row(
    DISTRIBUTED_LOCKS,
    "`new PostgresqlStorage({ host, port, database, username, password, tableName })`",
)
def test_an_entry_goes_with_its_lease(foo: Microlock, etcdctl: Etcdctl) -> None:
    hold = foo.lock()
    assert entries(etcdctl, foo.key)
    etcdctl("lease", "revoke", f"{hold.lease_id:x}")
    assert entries(etcdctl, foo.key) == []


@row(DISTRIBUTED_LOCKS, "`new MongoStorage({ url, database, collectionName })`")
def test_the_first_lock_in_an_empty_etcd_needs_no_preparation(own_etcd: Any) -> None:
    with connect(own_etcd().endpoint) as etcd, kept() as keep:
        assert_works(keep(Microlock(etcd, "foo", "one", LONG)))


@row(DISTRIBUTED_LOCKS, "`keyPrefix: 'my-locks'`, by default `distributed-locks`")
def test_a_prefix_is_put_before_the_name_as_it_is(
    etcd: EtcdClient, prefix: str, keep: Keep
) -> None:
    jobs = LockManager(etcd, "one", prefix=f"{prefix}my-locks/", ttl=LONG)
    lock = keep(jobs.lock("my-key"))
    assert lock.key == f"{prefix}my-locks/my-key"
    assert jobs.locks() == [queue("my-key", lock)]
    assert LockManager(etcd, "one").create("my-key").key == "my-key"


@row(DISTRIBUTED_LOCKS, "`createLock('my-key')`")
def test_what_create_makes_can_be_listened_to_before_it_is_taken(
    jobs: LockManager, keep: Keep
) -> None:
    lock = keep(jobs.create("my-key"))
    assert not lock.held
    seen = Recorder(lock, "acquired")
    token = lock.lock().token
    assert seen.told(1) == [("acquired", token)]


@row(DISTRIBUTED_LOCKS, "`lock({ ttl, interval, retries })`")
def test_lock_takes_ttl_interval_and_retries(jobs: LockManager, keep: Keep) -> None:
    lock = keep(jobs.lock("my-key", ttl=10, interval=1, retries=2))
    assert lock.hold
    assert (lock.hold.ttl, lock.hold.token) == (10, lock.token)


@row(DISTRIBUTED_LOCKS, "`ttl: 10`, the default")
def test_the_ttl_is_1_s_by_default_and_the_hold_says_what_was_granted(
    etcd: EtcdClient, own_etcd: Any, key: str, keep: Keep
) -> None:
    assert Microlock(etcd, key, "one").ttl == LockManager(etcd, "one").create(key).ttl == 1
    with connect(own_etcd(fast=False).endpoint) as slow, kept() as keep:
        assert keep(Microlock(slow, key, "one")).lock().ttl == 2
        assert keep(Microlock(slow, f"{key}2", "one", ttl=10)).lock().ttl == 10


@row(DISTRIBUTED_LOCKS, "`retries: 3`, the default: tries in all")
def test_3_tries_in_all_are_2_retries(
    jobs: LockManager, theirs: Microlock, asked: list[Request]
) -> None:
    theirs.lock()
    with pytest.raises(AlreadyLockedError):
        jobs.lock("foo", retries=2, interval=0.01)
    assert tries(asked) == 3
    asked.clear()
    with pytest.raises(AlreadyLockedError):
        jobs.lock("foo")
    assert tries(asked) == 1


@row(DISTRIBUTED_LOCKS, "`interval: 5`, by default 1")
def test_the_interval_is_1_s_by_default_and_none_follows_the_last_try(
    jobs: LockManager, theirs: Microlock
) -> None:
    assert inspect.signature(Microlock.lock).parameters["interval"].default == 1
    assert inspect.signature(LockManager).parameters["interval"].default == 1
    theirs.lock()
    with at_most(AT_ONCE), pytest.raises(AlreadyLockedError):
        jobs.lock("foo", retries=0, interval=LONG)


@row(DISTRIBUTED_LOCKS, "`FailedToObtainKey`")
def test_a_lock_that_is_held_and_an_etcd_that_fails_are_told_apart(
    jobs: LockManager, theirs: Microlock
) -> None:
    theirs.lock()
    with pytest.raises(AlreadyLockedError) as caught:
        jobs.lock("foo", retries=1, interval=0.01)
    assert caught.value.holder == standing(theirs)
    with connect("127.0.0.1:1", timeout=1) as nowhere, pytest.raises(StoreError):
        LockManager(nowhere, "one").lock("foo", retries=1, interval=0.01)


@row(DISTRIBUTED_LOCKS, "`unlock()`")
def test_unlock_raises_when_there_is_nothing_to_unlock(jobs: LockManager, keep: Keep) -> None:
    lock = keep(jobs.lock("my-key"))
    lock.unlock()
    with pytest.raises(LockNotOwnedError):
        lock.unlock()


@row(DISTRIBUTED_LOCKS, "`try` with `lock()`, `finally` with `unlock()`")
def test_with_unlocks_only_what_it_locked_and_raises_when_it_was_lost(
    jobs: LockManager, elsewhere: LockManager, keep: Keep
) -> None:
    lock = keep(jobs.create("my-key", timeout=0))
    with lock:
        assert lock.held
    assert jobs.holder("my-key") is None
    other = keep(elsewhere.lock("my-key"))
    with pytest.raises(AlreadyLockedError), lock:
        pytest.fail("it is held by another")
    assert jobs.holder("my-key") == standing(other)
    other.unlock()
    with pytest.raises(LockLostError), lock:
        elsewhere.break_lock("my-key")


@row(DISTRIBUTED_LOCKS, "one holder at a time for a key")
def test_no_two_of_8_workers_are_inside_at_once(
    etcd: EtcdClient, other_etcd: EtcdClient, key: str
) -> None:
    inside: list[str] = []
    most = []

    def work(number: int) -> None:
        name = f"worker-{number}"
        lock = Microlock(etcd if number % 2 else other_etcd, key, name, LONG)
        for _ in range(5):
            with lock:
                inside.append(name)
                most.append(len(inside))
                inside.remove(name)
        lock.destroy()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert most == [1] * 40


@row(DISTRIBUTED_LOCKS, "a ttl, so that no lock is held for ever")
def test_a_hold_that_nobody_renews_goes_to_those_who_wait_in_order(
    jobs: LockManager, elsewhere: LockManager, keep: Keep
) -> None:
    holder = keep(jobs.lock("foo", ttl=2))
    waiting = []
    for count in (1, 2):
        waiting.append(begin(lambda: elsewhere.lock("foo", timeout=LONG)))
        assert queued(holder, count)
    first = keep(waiting[0].result(DEADLINE))
    assert not waiting[1].done()
    first.unlock()
    assert keep(waiting[1].result(DEADLINE)).held


@row(DISTRIBUTED_LOCKS, "`unlock()` after the ttl leaves the next holder alone")
def test_unlock_after_the_ttl_raises_and_leaves_the_next_holder_alone(
    jobs: LockManager, elsewhere: LockManager, keep: Keep
) -> None:
    late = keep(jobs.lock("foo", ttl=1))
    following = keep(elsewhere.lock("foo", timeout=LONG))
    with pytest.raises(LockLostError) as caught:
        late.unlock()
    assert caught.value.reason in (LossReason.EXPIRED, LossReason.DELETED)
    assert jobs.holder("foo") == standing(following)


@row(DISTRIBUTED_LOCKS, "Redlock and Lua, `REPEATABLE READ`, a unique index")
def test_no_lock_is_taken_without_a_majority(cluster: Cluster, key: str) -> None:
    one, two, lonely = cluster.members
    one.kill()
    two.kill()
    try:
        with connect(lonely.endpoint, timeout=2) as etcd:
            lock = Microlock(etcd, key, "one", LONG)
            with pytest.raises((StoreUnavailableError, LockUncertainError)):
                lock.lock()
            assert not lock.held
    finally:
        start(one, two)


def start(*members: EtcdServer) -> None:
    """Starts members of a cluster that can't serve before it has a majority."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(EtcdServer.start, members))


@row(DISTRIBUTED_LOCKS, "replicas of one service on many machines")
def test_the_holder_says_which_replica_it_is(
    jobs: LockManager, etcd_server: Etcd, prefix: str
) -> None:
    script = f"""
import os, sys
from microlock import LockManager, connect

lock = LockManager(connect(sys.argv[1]), "replica-2", prefix=sys.argv[2], ttl={LONG}).lock("my-key")
os._exit(0)  # and gives nothing back
"""
    subprocess.run(
        [sys.executable, "-c", script, etcd_server.endpoint, prefix], timeout=LONG, check=True
    )
    with pytest.raises(AlreadyLockedError):
        jobs.lock("my-key")
    holder = jobs.break_lock("my-key")
    assert holder
    assert holder.node_id == "replica-2"


@row(DISTRIBUTED_LOCKS, "tests in Docker")
def test_a_test_can_bring_an_etcd_along() -> None:
    with EtcdServer(fast=True) as server, connect(server.endpoint) as etcd, kept() as keep:
        assert_works(keep(Microlock(etcd, "foo", "one", LONG)))


# dist-lock


@row(DIST_LOCK, "`require('dist-lock')(redis, options)`")
def test_options_are_for_all_locks_or_for_one(etcd: EtcdClient, prefix: str, keep: Keep) -> None:
    jobs = LockManager(etcd, "one", prefix=prefix, ttl=30, auto_renew=True, retries=3, interval=2)
    all_locks, one_lock = keep(jobs.lock("a")), keep(jobs.lock("b", ttl=60, retries=0, interval=1))
    assert all_locks.hold
    assert one_lock.hold
    assert (all_locks.hold.ttl, one_lock.hold.ttl) == (30, 60)


@row(DIST_LOCK, "`ttl: 30000`, the default")
def test_a_renewed_lock_outlives_its_ttl(jobs: LockManager, keep: Keep) -> None:
    foo = keep(jobs.create("foo", ttl=2, auto_renew=True))
    seen = Recorder(foo, "lost")
    hold = foo.lock()
    end = monotonic() + 2 * hold.ttl
    assert eventually(lambda: monotonic() > end)
    assert foo.token == hold.token
    assert seen.events == []


@row(DIST_LOCK, "`retryDelay: 50`, the default")
def test_the_interval_is_seconds_and_varies_by_half(jobs: LockManager, theirs: Microlock) -> None:
    theirs.lock()
    started = monotonic()
    with pytest.raises(AlreadyLockedError):
        jobs.lock("foo", retries=4, interval=0.05)
    assert 4 * 0.024 < monotonic() - started < 4 * 0.075 + AT_ONCE


@row(DIST_LOCK, "`maxRetries: -1`, the default: waits for ever")
def test_nothing_is_asked_while_a_lock_waits(
    jobs: LockManager, theirs: Microlock, keep: Keep, asked: list[Request]
) -> None:
    theirs.lock()
    waiting = begin(lambda: jobs.lock("foo", timeout=None))
    assert queued(theirs)
    # Its watch is about to begin: with a question whether etcd is there, and a read.
    assert eventually(lambda: len(asked) > 0 and isinstance(asked[-1], Read))
    asked.clear()
    assert not eventually(lambda: asked, within=0.5)
    theirs.unlock()
    assert keep(waiting.result(DEADLINE)).held


@row(DIST_LOCK, "`maxRetries: 3`")
def test_3_retries_follow_the_first_try(
    jobs: LockManager, theirs: Microlock, asked: list[Request]
) -> None:
    theirs.lock()
    with pytest.raises(AlreadyLockedError):
        jobs.lock("foo", retries=3, interval=0.01)
    assert tries(asked) == 4


@row(DIST_LOCK, "giving up after some time, `maxRetries` times `retryDelay`")
def test_a_timeout_ends_the_waiting_and_leaves_nothing(
    jobs: LockManager, theirs: Microlock, etcdctl: Etcdctl
) -> None:
    hold = theirs.lock()
    with at_most(0.5 + AT_ONCE), pytest.raises(AlreadyLockedError):
        jobs.lock("foo", timeout=0.5)
    assert entries(etcdctl, theirs.key) == [f"{theirs.key}/{hold.lease_id:x}"]


@row(DIST_LOCK, '`keyPrefix: "lock:"`, the default')
def test_a_prefix_may_end_with_a_colon(etcd: EtcdClient, prefix: str, keep: Keep) -> None:
    jobs = LockManager(etcd, "one", prefix=f"{prefix}lock:", ttl=LONG)
    lock = keep(jobs.lock("foo"))
    assert lock.key == f"{prefix}lock:foo"
    assert jobs.locks() == [queue("foo", lock)]


@row(DIST_LOCK, "`acquire(resourceName, owner, callback)`")
def test_lock_returns_the_lock_that_was_acquired(jobs: LockManager, keep: Keep) -> None:
    assert keep(jobs.lock("shared-resource-name")).held


@row(DIST_LOCK, "acquiring does not block")
def test_a_try_does_not_wait_and_an_event_tells_when_the_next_is_worth_it(
    foo: Microlock, theirs: Microlock
) -> None:
    theirs.lock()
    free = threading.Event()
    foo.on("unlocked", free.set)
    with at_most(AT_ONCE), pytest.raises(AlreadyLockedError):
        foo.lock()
    theirs.unlock()
    assert free.wait(DEADLINE)
    assert foo.lock()


@row(DIST_LOCK, "`owner`, may be left out")
def test_who_holds_a_lock_is_in_the_error_and_in_etcd(
    jobs: LockManager, theirs: Microlock, etcd: Any
) -> None:
    theirs.lock()
    with pytest.raises(AlreadyLockedError, match="locked by elsewhere"):
        jobs.lock("foo")
    holder = jobs.holder("foo")
    assert holder
    assert holder.node_id == "elsewhere"
    with pytest.raises(TypeError):
        LockManager(etcd)  # type: ignore[call-arg]


@row(DIST_LOCK, "`lock` is `false` when it is not acquired")
def test_a_lock_that_is_not_acquired_raises(jobs: LockManager, theirs: Microlock) -> None:
    theirs.lock()
    with pytest.raises(AlreadyLockedError) as caught:
        jobs.lock("foo")
    assert caught.value.holder == standing(theirs)


@row(DIST_LOCK, "`err` when Redis fails")
def test_an_etcd_that_fails_raises_and_says_whether_it_may_have_happened(prefix: str) -> None:
    with connect("127.0.0.1:1", timeout=1) as nowhere, pytest.raises(StoreError) as caught:
        LockManager(nowhere, "one", prefix=prefix).lock("foo")
    assert caught.value.may_have_happened is False


@row(DIST_LOCK, "the lock ends after the ttl")
def test_the_holder_is_told_when_its_ttl_is_over(
    jobs: LockManager, elsewhere: LockManager, keep: Keep
) -> None:
    foo = keep(jobs.create("foo", ttl=1))
    seen = Recorder(foo, "lost")
    foo.lock()
    assert seen.wait_for(1)[0].reason is LossReason.EXPIRED
    assert foo.held is False
    assert eventually(lambda: elsewhere.holder("foo") is None)


@row(DIST_LOCK, "`lock.id`")
def test_the_token_rises_from_holder_to_holder(
    jobs: LockManager, elsewhere: LockManager, keep: Keep
) -> None:
    tokens = []
    for manager in (jobs, elsewhere, jobs):
        lock = keep(manager.lock("foo"))
        assert lock.token
        tokens.append(lock.token)
        lock.unlock()
    assert tokens == sorted(set(tokens))


@row(DIST_LOCK, "`lock.key`")
def test_a_lock_knows_its_key(jobs: LockManager, prefix: str, keep: Keep) -> None:
    assert keep(jobs.lock("foo")).key == f"{prefix}foo"


@row(DIST_LOCK, "`lock.owner`")
def test_a_lock_knows_its_node(jobs: LockManager, keep: Keep) -> None:
    assert keep(jobs.lock("foo")).node_id == "one"


@row(DIST_LOCK, "`lock.acquiredOnAttempt`")
def test_a_hold_knows_how_many_tries_it_took(
    jobs: LockManager, theirs: Microlock, keep: Keep, asked: list[Request]
) -> None:
    theirs.lock()
    trying = begin(lambda: jobs.lock("foo", retries=10_000, interval=0.05))
    assert eventually(lambda: tries(asked) >= 2)
    theirs.unlock()
    hold = keep(trying.result(DEADLINE)).hold
    assert hold
    assert hold.attempts == tries(asked) > 2


@row(DIST_LOCK, "`lock.acquireDelay`, milliseconds")
def test_a_hold_knows_how_long_it_took(
    jobs: LockManager, elsewhere: LockManager, keep: Keep
) -> None:
    keep(elsewhere.lock("foo", ttl=3))
    started = monotonic()
    hold = keep(jobs.lock("foo", timeout=LONG)).hold
    assert hold
    assert 0.5 < hold.waited <= monotonic() - started


@row(DIST_LOCK, "`lock.release(callback)`")
def test_unlock_gives_back_or_raises_that_it_was_lost(
    jobs: LockManager, elsewhere: LockManager, keep: Keep
) -> None:
    lock = keep(jobs.lock("foo"))
    lock.unlock()
    assert jobs.holder("foo") is None
    lock.lock()
    elsewhere.break_lock("foo")
    with pytest.raises(LockLostError):
        lock.unlock()


@row(DIST_LOCK, "`lock.extend(milliseconds, callback)`")
def test_extend_takes_and_returns_seconds(jobs: LockManager, keep: Keep) -> None:
    lock = keep(jobs.lock("foo"))
    assert 2 * LONG - 20 < lock.extend(2 * LONG) <= 2 * LONG


@row(DIST_LOCK, "`releaseLock(resourceName, id, callback)`")
def test_release_by_name_and_token_tells_the_one_who_had_it(
    jobs: LockManager, elsewhere: LockManager, keep: Keep
) -> None:
    lock = keep(jobs.lock("foo"))
    assert lock.token
    elsewhere.release("foo", lock.token)
    assert jobs.holder("foo") is None
    assert lock.lost.wait(DEADLINE)


@row(DIST_LOCK, "`extendLock(resourceName, id, milliseconds, callback)`")
def test_extend_by_name_and_token_takes_and_returns_seconds(
    jobs: LockManager, elsewhere: LockManager, keep: Keep
) -> None:
    lock = keep(jobs.lock("foo"))
    assert lock.token
    assert 2 * LONG - 20 < elsewhere.extend("foo", lock.token, 2 * LONG) <= 2 * LONG


@row(DIST_LOCK, "`false` from `releaseLock()` and `extendLock()`")
def test_release_and_extend_of_another_hold_raise_and_say_whose_it_is(
    jobs: LockManager, theirs: Microlock
) -> None:
    earlier, later = theirs.lock().token, theirs
    later.unlock()
    for free in (lambda: jobs.release("foo", earlier), lambda: jobs.extend("foo", earlier, LONG)):
        with pytest.raises(LockNotOwnedError) as caught:
            free()
        assert caught.value.holder is None
    later.lock()
    for held in (lambda: jobs.release("foo", earlier), lambda: jobs.extend("foo", earlier, LONG)):
        with pytest.raises(LockNotOwnedError) as caught:
            held()
        assert caught.value.holder == standing(later)


@row(DIST_LOCK, "`getAcquiredLock(resourceName, callback)`, `null` if there is none")
def test_holder_is_none_if_there_is_none(
    jobs: LockManager, foo: Microlock, theirs: Microlock
) -> None:
    assert jobs.holder("foo") is None
    theirs.lock()
    assert jobs.holder("foo") == standing(theirs)
    assert foo.waiters() == []
    assert jobs.locks() == [queue("foo", theirs)]


@row(DIST_LOCK, "one Redis, 2.6.12 or newer")
def test_locking_goes_on_when_a_member_dies(cluster: Cluster, key: str) -> None:
    with connect(cluster.endpoints) as etcd, kept() as keep:
        lock = keep(Microlock(etcd, key, "one", LONG))
        assert_works(lock)
        leader = cluster.members[cluster.leader()]
        leader.kill()
        try:
            assert_works(lock)
        finally:
            leader.start()


# distributedlock


@row(
    DISTRIBUTEDLOCK,
    "`new DistributedLock({ key, host, port })` takes the lock, or stands by until it is free",
)
def test_a_lock_stands_by_until_it_is_free(
    etcd: EtcdClient, theirs: Microlock, keep: Keep, asked: list[Request]
) -> None:
    theirs.lock()
    foo = keep(Microlock(etcd, theirs.key, "one", ttl=5, auto_renew=True))
    seen = Recorder(foo, "waiting", "acquired")
    assert asked == []
    standing_by = begin(lambda: foo.lock(timeout=None))
    assert seen.wait_for(1)[0].name == "waiting"
    theirs.unlock()
    assert seen.wait_for(2)[1].name == "acquired"
    assert standing_by.result(DEADLINE).token == foo.token


@row(DISTRIBUTEDLOCK, "`sentinel: { host, port }`")
def test_no_failover_gives_the_lock_to_a_second_holder(cluster: Cluster, key: str) -> None:
    with connect(cluster.endpoints) as etcd, connect(cluster.endpoints) as other, kept() as keep:
        foo, theirs = keep(Microlock(etcd, key, "one", LONG)), keep(Microlock(other, key, "two"))
        token = foo.lock().token
        assert theirs.holder()
        leader = cluster.members[cluster.leader()]
        leader.kill()
        try:
            with pytest.raises(AlreadyLockedError) as caught:
                theirs.lock()
            assert caught.value.holder.token == token
            assert foo.renew() > 0
        finally:
            leader.start()


@row(DISTRIBUTEDLOCK, "`acquired`")
def test_acquired_is_told_with_the_token(foo: Microlock) -> None:
    seen = Recorder(foo, "acquired")
    token = foo.lock().token
    assert seen.told(1) == [("acquired", token)]


@row(DISTRIBUTEDLOCK, "`released`")
def test_released_is_told_of_what_was_given_back_and_not_of_what_was_lost(
    foo: Microlock, elsewhere: LockManager
) -> None:
    seen = Recorder(foo, "released", "lost")
    given_back = foo.lock().token
    foo.unlock()
    lost = foo.lock().token
    elsewhere.break_lock("foo")
    assert seen.told(2) == [("released", given_back), ("lost", lost)]


@row(DISTRIBUTEDLOCK, "`failed`")
def test_failed_is_told_with_the_error(foo: Microlock, theirs: Microlock) -> None:
    theirs.lock()
    seen = Recorder(foo, "failed")
    with pytest.raises(AlreadyLockedError) as caught:
        foo.lock()
    assert [event.error for event in seen.wait_for(1)] == [caught.value]


@row(DISTRIBUTEDLOCK, "`listening`")
def test_waiting_is_told_with_the_place_in_the_queue(foo: Microlock, theirs: Microlock) -> None:
    theirs.lock()
    seen = Recorder(foo, "waiting")
    waiting = begin(lambda: foo.lock(timeout=LONG))
    ((_, place),) = seen.told(1)
    assert [waiter.token for waiter in theirs.waiters()] == [place]
    theirs.unlock()
    assert waiting.result(DEADLINE).token == place


@row(DISTRIBUTEDLOCK, "a handler gets the key")
def test_a_handler_gets_an_event_with_the_key_or_nothing(foo: Microlock) -> None:
    keys: list[str] = []
    called = threading.Event()
    foo.on("acquired", lambda event: keys.append(event.key))
    foo.on("acquired", lambda: called.set())
    foo.lock()
    assert called.wait(DEADLINE)
    assert keys == [foo.key]


@row(DISTRIBUTEDLOCK, "`release()` of a lock that is held")
def test_destroy_gives_back_and_raises_when_etcd_did_not_confirm_it(
    foo: Microlock, jobs: LockManager, own_etcd: Any
) -> None:
    foo.lock()
    foo.destroy()
    assert jobs.holder("foo") is None
    with pytest.raises(DestroyedError):
        foo.lock()
    server = own_etcd()
    with connect(server.endpoint, timeout=1) as etcd:
        lock = Microlock(etcd, "foo", "one", LONG)
        lock.lock()
        hang(server)
        with pytest.raises((StoreError, LockUncertainError)):
            lock.destroy()
        server.resume()


@row(DISTRIBUTEDLOCK, "`release()` while it stands by")
def test_destroy_ends_the_standing_by_at_once(foo: Microlock, theirs: Microlock) -> None:
    theirs.lock()
    standing_by = begin(lambda: foo.lock(timeout=None))
    assert queued(theirs)
    with at_most(AT_ONCE):
        foo.destroy()
        with pytest.raises(DestroyedError):
            standing_by.result(DEADLINE)
    assert theirs.waiters() == []


@row(DISTRIBUTEDLOCK, "`TTL: 10000`")
def test_the_ttl_is_seconds(jobs: LockManager, keep: Keep) -> None:
    hold = keep(jobs.lock("foo", ttl=10)).hold
    assert hold
    assert hold.ttl == 10


@row(DISTRIBUTEDLOCK, "`renewTTL: 5000`")
def test_a_renewal_that_fails_is_suspended_and_a_hold_that_ends_is_lost(own_etcd: Any) -> None:
    server = own_etcd()
    with connect(server.endpoint, timeout=1) as etcd, kept() as keep:
        foo = keep(Microlock(etcd, "foo", "one", ttl=6, auto_renew=True))
        seen = Recorder(foo, "suspended", "lost")
        renewed = Recorder(foo, "renewed")
        token = foo.lock().token
        renewed.wait_for(1)
        server.kill()
        assert seen.told(2) == [("suspended", token), ("lost", token)]
        server.start()


@row(DISTRIBUTEDLOCK, "a high `TTL`, to live through a failover of Sentinel")
def test_a_hold_of_5_s_lives_through_an_election(cluster: Cluster, key: str) -> None:
    with connect(cluster.endpoints) as etcd, kept() as keep:
        foo = keep(Microlock(etcd, key, "one", ttl=5, auto_renew=True))
        seen = Recorder(foo, "lost")
        hold = foo.lock()
        leader = cluster.members[cluster.leader()]
        leader.kill()
        try:
            end = monotonic() + 2 * hold.ttl
            assert eventually(lambda: monotonic() > end)
            assert foo.token == hold.token
            assert foo.renew() > 0
            assert seen.events == []
        finally:
            leader.start()


@row(DISTRIBUTEDLOCK, "a master that comes back is a slave")
def test_a_member_that_comes_back_is_one_of_the_cluster_again(cluster: Cluster, key: str) -> None:
    back = cluster.members[cluster.leader()]
    with connect(cluster.endpoints) as etcd, connect(back.endpoint) as that_one, kept() as keep:
        foo = keep(Microlock(etcd, key, "one", LONG))
        back.kill()
        try:
            token = foo.lock().token
        finally:
            back.start()
        holder = Microlock(that_one, key, "two").holder()
        assert holder
        assert holder.token == token
        assert_works(keep(Microlock(that_one, f"{key}2", "two", LONG)))


@row(DISTRIBUTEDLOCK, "Redlock on one Redis")
def test_one_of_10_wins_on_one_member(etcd: EtcdClient, key: str) -> None:
    start_together = threading.Barrier(10)

    def attempt(number: int) -> bool:
        lock = keep(Microlock(etcd, key, f"node-{number}", LONG))
        start_together.wait()
        try:
            lock.lock()
        except AlreadyLockedError:
            return False
        return True

    with kept() as keep, ThreadPoolExecutor(10) as pool:
        assert sum(pool.map(attempt, range(10))) == 1


@row(
    DISTRIBUTEDLOCK,
    "`notify-keyspace-events KEA`, `dump.rdb`, the settings of slaves and Sentinel",
)
def test_an_etcd_as_it_comes_tells_of_releases_and_of_expiries(own_etcd: Any) -> None:
    server = own_etcd(fast=False)
    with connect(server.endpoint) as etcd, connect(server.endpoint) as other, kept() as keep:
        foo = keep(Microlock(etcd, "foo", "one"))
        seen = Recorder(foo)
        theirs = keep(Microlock(other, "foo", "two"))
        theirs.lock()
        theirs.unlock()
        theirs.lock()
        told = [name for name, _ in seen.told(4)]
    assert told == ["locked", "unlocked"] * 2


@row(
    DISTRIBUTEDLOCK,
    "planned there: tests that shut servers down and bring them back",
)
def test_locking_goes_on_while_each_member_in_turn_is_shut_down_and_brought_back(
    cluster: Cluster, key: str
) -> None:
    with connect(cluster.endpoints) as etcd, kept() as keep:
        lock = keep(Microlock(etcd, key, "one", LONG))
        tokens = []
        for member in cluster.members:
            member.stop()
            try:
                tokens.append(lock.lock().token)
            finally:
                member.start()
            assert lock.renew() > 0
            lock.unlock()
    assert tokens == sorted(set(tokens))


# The document


def test_its_example_runs(etcd_server: Etcd) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    names: dict[str, Any] = {"connect": connect, "LockManager": LockManager}
    exec(example.replace("localhost:2379", etcd_server.endpoint), names)
    with names["etcd"]:
        assert_works(names["foo"])
        names["foo"].destroy()


def test_every_row_of_the_tables_has_a_test_and_every_test_a_row() -> None:
    rows = []
    for section in re.split(r"^## ", DOCUMENT.read_text(), flags=re.MULTILINE)[1:]:
        heading, _, text = section.partition("\n")
        table = [line for line in text.splitlines() if line.startswith("|")]
        assert table[:2] == ["| there | here | what is better |", "|---|---|---|"]
        for line in table[2:]:
            there, here, _ = (cell.strip() for cell in line.strip("|").split("|"))
            assert there
            assert here
            rows.append((heading, there))
    assert len(rows) == len(set(rows))
    assert set(rows) == set(TESTS)
