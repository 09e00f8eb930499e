"""Each row of docs/coming-from.md is what happens: on a store in memory, unless etcd matters."""

from __future__ import annotations

import asyncio
import inspect
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import pytest
from conftest import Etcd
from managers import noted, queue, standing, tries
from nodes import begin, queued
from proxy import Proxy
from watching import DEADLINE
from witness import assert_works

import microlock
import microlock.asyncio
from microlock import (
    AlreadyLockedError,
    Client,
    DestroyedError,
    InvalidArgumentError,
    LockCancelledError,
    LockEvent,
    LockLostError,
    LockManager,
    LockNotOwnedError,
    LossReason,
    Microlock,
    Semaphore,
    StoreError,
    connect,
    events,
)
from microlock.core.port import Request
from microlock.testing import MemoryStore

DOCUMENT = Path(__file__).parents[2] / "docs/coming-from.md"

F = TypeVar("F", bound=Callable[..., None])
TESTS: dict[tuple[str, str], Callable[..., None]] = {}


def row(table: str, there: str) -> Callable[[F], F]:
    """The test of the row of this table that has this in its first cell."""

    def register(test: F) -> F:
        assert (table, there) not in TESTS
        TESTS[table, there] = test
        return test

    return register


@pytest.fixture
def store(microlock_store: MemoryStore) -> MemoryStore:
    return microlock_store


@pytest.fixture
def etcd(store: MemoryStore) -> Client:
    return store.connect()


@pytest.fixture
def jobs(etcd: Client) -> LockManager:
    return LockManager(etcd, "node-a", prefix="jobs/", ttl=10)


@pytest.fixture
def foo(jobs: LockManager) -> Microlock:
    """A lock that is not taken yet."""
    return jobs.create("foo")


@pytest.fixture
def elsewhere(store: MemoryStore) -> LockManager:
    """A manager of another node, over a client of its own."""
    return LockManager(store.connect(), "node-b", prefix="jobs/", ttl=10)


@pytest.fixture
def theirs(elsewhere: LockManager) -> Microlock:
    """The same lock, of another node; not taken yet either."""
    return elsewhere.create("foo")


@pytest.fixture
def asked(etcd: Client, monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """What is asked of the store over the client of `jobs`."""
    return noted(etcd, monkeypatch)


def told(lock: Microlock, *names: str) -> list[LockEvent]:
    """What the lock tells of these events from now on."""
    seen: list[LockEvent] = []
    for name in names:
        lock.on(name, seen.append)
    return seen


def names(seen: list[LockEvent]) -> list[str]:
    return [event.name for event in seen]


# To make a lock


@row("redis-py", '`redis.lock("foo", timeout=10)`')
@row("python-redis-lock", '`Lock(redis, "foo", expire=10, id="node-a")`')
@row("pottery", '`Redlock(key="foo", masters={r1, r2, r3})`')
def test_a_hold_that_nobody_renews_ends_with_its_ttl(etcd: Client, store: MemoryStore) -> None:
    foo = Microlock(etcd, "foo", "node-a", ttl=10)
    foo.lock()
    store.advance(9)
    assert foo.held
    store.advance(1)
    assert not foo.held
    assert foo.holder() is None


@row("kazoo", '`client.Lock("/foo", "node-a")`')
@row("filelock", '`FileLock("foo.lock")`')
@row("threading", "`Lock()`")
@row("npm: dist-lock", "`ttl: 30000`, the default")
def test_a_renewed_hold_lasts_and_after_a_crash_ends_with_its_ttl(
    etcd: Client, store: MemoryStore
) -> None:
    for ttl in (10, 30):
        foo = Microlock(etcd, "foo", "node-a", ttl=ttl, auto_renew=True)
        foo.lock()
        store.advance(10 * ttl)
        assert foo.held
        foo.unlock()
    foo = Microlock(etcd, "foo", "node-a", ttl=10, auto_renew=True)
    foo.lock()
    elsewhere = Microlock(store.connect(), "foo", "node-b")
    with pytest.raises(AlreadyLockedError):
        elsewhere.lock()
    etcd.close()  # as if its process was killed
    store.advance(10)
    assert elsewhere.lock()


@row("python-redis-lock", "`auto_renewal=True`")
@row("npm: distributedlock", "`renewTTL: 5000`")
def test_a_renewal_comes_after_a_third_of_the_ttl_and_again_when_it_failed(
    jobs: LockManager, store: MemoryStore
) -> None:
    foo = jobs.create("foo", ttl=9, auto_renew=True)
    seen = told(foo, "renewed", "suspended", "lost")
    foo.lock()
    store.advance(2)
    assert names(seen) == []
    store.advance(1.5)
    assert names(seen) == ["renewed"]
    with store.unavailable():
        store.advance(4)
    store.advance(1)
    assert names(seen) == ["renewed", "suspended", "renewed"]
    with store.unavailable():
        store.advance(9)
    assert names(seen)[-2:] == ["suspended", "lost"]


@row("python-etcd3", '`client.lock("foo", ttl=60)`')
@row("python-etcd3", "the value of `lock.key`, compared in a transaction")
def test_a_client_of_python_etcd3_will_do_for_locks_and_for_guarded_transactions(
    etcd_server: Etcd, key: str
) -> None:
    host, _, port = etcd_server.endpoint.rpartition(":")
    client = microlock.etcd3.client(host, int(port))
    lock = client.lock(key, ttl=60)
    assert lock.acquire()
    foo = Microlock(client, key, "node-a", ttl=60)
    foo.lock()  # they do not exclude each other
    guard = foo.guard()

    def write() -> bool:
        done, _ = client.transaction(
            compare=[client.transactions.create(guard.key) == guard.revision],
            success=[client.transactions.put(f"{key}/written", "")],
            failure=[],
        )
        return bool(done)

    assert write()
    foo.unlock()
    assert not write()
    foo.destroy()
    assert lock.release()
    client.close()


@row("tooz", '`get_coordinator(url, b"node-a")`, `start(start_heart=True)`')
@row("npm: distributed-locks", "`new LocksFactory(storage)`")
@row("npm: dist-lock", "`require('dist-lock')(redis, options)`")
def test_a_manager_makes_locks_with_its_node_and_its_options(
    etcd: Client, store: MemoryStore, asked: list[Request]
) -> None:
    node_id = "node-a"
    jobs = LockManager(etcd, node_id)
    jobs = LockManager(etcd, "node-a", ttl=30, auto_renew=True)
    assert asked == []
    foo = jobs.lock("foo")
    assert (foo.node_id, foo.ttl) == (node_id, 30)
    store.advance(100)
    assert foo.held


@row("tooz", '`get_lock(b"foo")`')
@row("npm: distributed-locks", "`createLock('my-key')`")
def test_what_create_makes_can_be_listened_to_before_it_is_taken(jobs: LockManager) -> None:
    for lock in (jobs.create("foo"), jobs.create("my-key")):
        assert not lock.held
        seen = told(lock, "acquired")
        token = lock.lock().token
        assert [event.token for event in seen] == [token]
    with pytest.raises(InvalidArgumentError):
        jobs.create(b"foo")  # type: ignore[arg-type]


@row("npm: microlock", "`new Microlock(etcd, key, id, ttl)`")
def test_the_constructor_takes_the_same_arguments_and_checks_them(etcd: Client) -> None:
    key, node_id, ttl = "foo", "one", 5
    lock = Microlock(etcd, key, node_id, ttl)
    assert (lock.key, lock.node_id, lock.ttl) == (key, node_id, ttl)
    with pytest.raises(InvalidArgumentError):
        Microlock(etcd, "", node_id, ttl)


@row("npm: microlock", "a connection for each lock")
def test_all_locks_of_a_client_hear_of_their_events_on_one_stream(
    etcd_server: Etcd, prefix: str
) -> None:
    with closing(Proxy(etcd_server.endpoint)) as proxy, connect(proxy.endpoint) as etcd:
        locks = [Microlock(etcd, f"{prefix}{i}", "one") for i in range(5)]
        for lock in locks:
            lock.on("locked", lambda: None)
        assert proxy.accepted == 2  # one for calls, and one for the watches


@row("npm: distributed-locks", "`new RedisStorage({ url })`")
def test_a_client_of_several_members_finds_one_that_lives(etcd_server: Etcd, key: str) -> None:
    with connect(["127.0.0.1:1", etcd_server.endpoint]) as etcd:
        foo = Microlock(etcd, key, "one", 60)
        assert_works(foo)
        foo.destroy()


@row("npm: distributed-locks", "`keyPrefix: 'my-locks'`")
def test_a_prefix_is_put_before_the_name_as_it_is(etcd: Client) -> None:
    jobs = LockManager(etcd, "node-a", prefix="my-locks/")
    lock = jobs.lock("foo")
    assert lock.key == "my-locks/foo"
    assert jobs.locks() == [queue("foo", lock)]
    assert LockManager(etcd, "node-a").create("foo").key == "foo"


# To take it


@row("redis-py", "`acquire(blocking=False)`")
@row("python-redis-lock", "`acquire(blocking=False)`")
@row("pottery", "`acquire(blocking=False)`")
@row("kazoo", "`acquire(blocking=False)`, `release()`")
@row("tooz", "`acquire(blocking=False)`, `release()`")
@row("filelock", "`acquire(blocking=False)`")
@row("npm: microlock", "`AlreadyLockedError`")
def test_a_try_raises_who_holds_it_and_never_waits(
    foo: Microlock, theirs: Microlock, store: MemoryStore
) -> None:
    theirs.lock()
    before = store.clock.now()
    with pytest.raises(AlreadyLockedError) as caught:
        foo.lock()
    assert store.clock.now() == before
    assert caught.value.holder == standing(theirs)
    with pytest.raises(LockNotOwnedError):
        foo.unlock()


@row("redis-py", "`acquire()`, `acquire(blocking_timeout=5)`")
@row("python-redis-lock", "`acquire(timeout=5)`")
@row("pottery", "`acquire()`, `acquire(timeout=5)`")
@row("kazoo", "`acquire()`, `acquire(timeout=5)`")
@row("python-etcd3", "`acquire()`, `acquire(timeout=None)`")
@row("tooz", "`acquire()`, `acquire(blocking=5)`")
@row("filelock", "`acquire()`, `acquire(timeout=5)`")
@row("threading", "`acquire()`, `acquire(timeout=5)`")
@row("npm: dist-lock", "`maxRetries: -1`, the default")
def test_a_waiter_queues_until_its_turn_or_until_its_time_is_over(
    foo: Microlock, elsewhere: LockManager
) -> None:
    theirs = elsewhere.create("foo", ttl=60)
    theirs.lock()
    for seconds in (0.5, 5, 10, 15):  # the last is longer than its own ttl
        with pytest.raises(AlreadyLockedError) as caught:
            foo.lock(timeout=seconds)
        assert caught.value.holder == standing(theirs)
        assert theirs.waiters() == []
    waiting = begin(lambda: foo.lock(timeout=None))
    assert queued(theirs)
    theirs.unlock()
    with pytest.raises(AlreadyLockedError):
        theirs.lock()  # does not overtake
    assert waiting.result(DEADLINE).ttl == 10  # whatever the timeout


@row("redis-py", '`with redis.lock("foo", blocking_timeout=5):`')
@row("pottery", "`with Redlock(..., context_manager_timeout=5):`")
@row("tooz", "`with lock(blocking=False):`")
@row("python-etcd3", "`with lock:`")
def test_with_holds_the_lock_or_raises(jobs: LockManager, elsewhere: LockManager) -> None:
    with jobs.create("foo", timeout=5) as foo:
        assert foo.held
    assert not foo.held
    theirs = elsewhere.lock("foo")
    with pytest.raises(AlreadyLockedError), jobs.create("foo", timeout=5):
        pytest.fail("somebody else holds it")
    with pytest.raises(AlreadyLockedError), jobs.create("foo", timeout=0):
        pytest.fail("somebody else holds it")
    foo = jobs.create("foo")
    with foo:  # waits, until the ttl of the other is over
        assert foo.held
        assert not theirs.held


@row("threading", "`with lock:`")
def test_with_raises_at_its_end_if_the_lock_was_lost(foo: Microlock, store: MemoryStore) -> None:
    with foo:
        assert foo.held
    assert foo.holder() is None
    with pytest.raises(LockLostError), foo:
        store.advance(10)


@row("pottery", '`@synchronize(key="foo", masters=...)`')
@row("filelock", "`@lock`")
def test_threads_take_turns_on_one_object(foo: Microlock) -> None:
    inside: list[int] = []
    go_on = threading.Event()

    @foo
    def work() -> None:
        inside.append(1)
        go_on.wait(DEADLINE)
        assert len(inside) == 1
        inside.clear()

    threads = [begin(work) for _ in range(4)]
    go_on.set()
    for thread in threads:
        thread.result(DEADLINE)


@row("filelock", "`with lock:` within `with lock:`")
@row("threading", "`RLock()`")
def test_a_thread_that_asks_again_is_refused_and_another_one_waits(foo: Microlock) -> None:
    with foo:
        with pytest.raises(AlreadyLockedError), foo:
            pytest.fail("it is not re-entrant")
        waiting = begin(lambda: foo.lock(timeout=None))
        assert not waiting.done()
    assert waiting.result(DEADLINE)


@row("pottery", "`raise_on_redis_errors=True`")
@row("npm: distributed-locks", "`FailedToObtainKey`")
@row("npm: dist-lock", "`err` when Redis fails")
def test_a_store_that_fails_is_not_a_lock_that_is_held(
    foo: Microlock, theirs: Microlock, store: MemoryStore
) -> None:
    with store.unavailable(), pytest.raises(StoreError) as caught:
        foo.lock()
    assert caught.value.may_have_happened is False
    theirs.lock()
    with pytest.raises(AlreadyLockedError):
        foo.lock()


@row("kazoo", "`cancel()`")
def test_cancel_ends_the_wait(foo: Microlock, theirs: Microlock) -> None:
    theirs.lock()
    waiting = begin(lambda: foo.lock(timeout=None))
    assert queued(theirs)
    foo.cancel()
    with pytest.raises(LockCancelledError):
        waiting.result(DEADLINE)
    assert theirs.waiters() == []


@row("npm: distributed-locks", "`lock({ ttl, interval, retries })`")
@row("npm: distributed-locks", "`retries: 3`: tries in all")
@row("npm: dist-lock", "`maxRetries: 3`")
def test_retries_follow_the_first_try(
    jobs: LockManager, theirs: Microlock, asked: list[Request]
) -> None:
    lock = jobs.lock("my-key", ttl=10, interval=1, retries=2)
    assert lock.hold
    assert lock.hold.ttl == 10
    theirs.lock()
    for retries, how in ((2, {"retries": 2}), (3, {"retries": 3}), (0, {})):
        asked.clear()
        with pytest.raises(AlreadyLockedError):
            jobs.lock("foo", **how)
        assert tries(asked) == retries + 1


@row("npm: distributed-locks", "`interval: 5`")
@row("npm: dist-lock", "`retryDelay: 50`, the default")
def test_the_interval_is_seconds_and_1_by_default(
    jobs: LockManager, theirs: Microlock, store: MemoryStore
) -> None:
    theirs.lock()
    for interval, how in ((1, {}), (0.05, {"interval": 0.05}), (5, {"interval": 5})):
        before = store.clock.now()
        with pytest.raises(AlreadyLockedError):
            jobs.lock("foo", retries=1, **how)
        assert store.clock.now() - before == pytest.approx(interval)


@row("npm: microlock", "`lock().then(...)`")
@row("npm: dist-lock", "`acquire(resourceName, owner, callback)`")
@row("npm: dist-lock", "`lock.id`")
def test_a_token_rises_from_hold_to_hold(jobs: LockManager, elsewhere: LockManager) -> None:
    name = "foo"
    lock = jobs.lock(name)
    tokens = [lock.token]
    with pytest.raises(AlreadyLockedError):
        elsewhere.lock(name)
    lock.unlock()
    foo = elsewhere.create(name)
    tokens.append(foo.lock().token)
    assert tokens == sorted({token for token in tokens if token})
    assert foo.token == tokens[-1]


@row("npm: dist-lock", "`lock.acquiredOnAttempt`, `lock.acquireDelay`")
def test_a_hold_knows_how_many_tries_and_how_long_it_took(
    jobs: LockManager, elsewhere: LockManager, store: MemoryStore, asked: list[Request]
) -> None:
    theirs = elsewhere.lock("foo", ttl=3)
    before = store.clock.now()
    lock = jobs.lock("foo", retries=100)
    assert not theirs.held
    assert lock.hold
    assert lock.hold.attempts == tries(asked) > 2
    assert lock.hold.waited == pytest.approx(store.clock.now() - before)


@row("npm: distributedlock", "`new DistributedLock({ key, host, port })`")
@row("npm: distributedlock", "`acquired`")
@row("npm: distributedlock", "`listening`")
@row("npm: distributedlock", "a handler gets the key")
def test_handlers_that_are_there_first_learn_that_it_waits_and_that_it_holds(
    etcd: Client, theirs: Microlock, asked: list[Request]
) -> None:
    theirs.lock()
    key, node_id = theirs.key, "node-a"
    foo = Microlock(etcd, key, node_id, auto_renew=True)
    waits, holds = threading.Event(), threading.Event()
    seen: list[LockEvent] = []
    foo.on("waiting", seen.append)
    foo.on("waiting", lambda: waits.set())
    foo.on("acquired", seen.append)
    foo.on("acquired", lambda: holds.set())
    assert asked == []
    waiting = begin(lambda: foo.lock(timeout=None))
    assert waits.wait(DEADLINE)
    place = theirs.waiters()[0].token
    theirs.unlock()
    assert holds.wait(DEADLINE)
    assert [(event.name, event.key, event.token) for event in seen] == [
        ("waiting", key, place),
        ("acquired", key, place),
    ]
    assert waiting.result(DEADLINE).token == place


@row("npm: distributedlock", "`failed`")
def test_failed_has_the_error(foo: Microlock, theirs: Microlock) -> None:
    theirs.lock()
    seen: list[LockEvent] = []
    foo.on("failed", seen.append)
    with pytest.raises(AlreadyLockedError) as caught:
        foo.lock()
    assert [event.error for event in seen] == [caught.value]


@row("npm: distributedlock", "`TTL: 10000`")
def test_a_hold_has_the_ttl_that_was_granted(jobs: LockManager) -> None:
    hold = jobs.lock("foo", ttl=10).hold
    assert hold
    assert hold.ttl == 10


# To give it back


@row("redis-py", "`release()`")
@row("python-redis-lock", "`release()`")
@row("pottery", "`release()`")
@row("python-etcd3", "`release()`")
@row("filelock", "`release()`")
@row("threading", "`release()`")
@row("npm: distributed-locks", "`unlock()` after the ttl")
def test_any_thread_may_unlock_and_it_raises_when_nothing_is_held(
    foo: Microlock, theirs: Microlock, store: MemoryStore
) -> None:
    foo.lock()
    begin(foo.unlock).result(DEADLINE)
    assert foo.holder() is None
    with pytest.raises(LockNotOwnedError):
        foo.unlock()
    foo.lock()
    store.advance(10)
    theirs.lock()
    with pytest.raises(LockLostError):
        foo.unlock()
    assert theirs.holder() == standing(theirs)


@row("npm: distributed-locks", "`unlock()`")
@row("npm: dist-lock", "`lock.release(callback)`")
def test_what_a_manager_locked_is_given_back_by_unlock(
    jobs: LockManager, elsewhere: LockManager
) -> None:
    lock = jobs.lock("foo")
    lock.unlock()
    assert jobs.holder("foo") is None
    with pytest.raises(LockNotOwnedError):
        lock.unlock()
    lock.lock()
    elsewhere.break_lock("foo")
    with pytest.raises(LockLostError):
        lock.unlock()


@row("npm: microlock", "`unlock()`")
def test_an_object_does_not_unlock_another_one_of_its_node(
    foo: Microlock, jobs: LockManager
) -> None:
    foo.lock()
    same_node = jobs.create("foo")
    with pytest.raises(AlreadyLockedError):
        same_node.lock()
    with pytest.raises(LockNotOwnedError):
        same_node.unlock()
    assert jobs.holder("foo") == standing(foo)
    foo.unlock()
    assert jobs.holder("foo") is None


@row("npm: microlock", "`LockNotOwnedError`")
def test_the_error_of_a_lock_that_is_not_owned_says_whose_it_is(
    foo: Microlock, theirs: Microlock
) -> None:
    theirs.lock()
    for call in (foo.unlock, foo.renew):
        with pytest.raises(LockNotOwnedError) as caught:
            call()
        assert caught.value.holder == standing(theirs)


@row("npm: microlock", "`destroy()`")
@row("npm: distributedlock", "`release()`")
def test_destroy_frees_the_hold_and_its_lease(
    foo: Microlock, jobs: LockManager, store: MemoryStore
) -> None:
    foo.lock()
    foo.destroy()
    assert jobs.holder("foo") is None
    assert store.backup().leases == {}
    with pytest.raises(DestroyedError):
        foo.lock()


@row("npm: distributedlock", "`release()` while it stands by")
def test_destroy_ends_the_wait(foo: Microlock, theirs: Microlock) -> None:
    theirs.lock()
    waiting = begin(lambda: foo.lock(timeout=None))
    assert queued(theirs)
    foo.destroy()
    with pytest.raises(DestroyedError):
        waiting.result(DEADLINE)
    assert theirs.waiters() == []


@row("npm: distributedlock", "`released`")
def test_released_is_not_told_of_what_was_lost(foo: Microlock, elsewhere: LockManager) -> None:
    seen: list[LockEvent] = []
    foo.on("released", seen.append)
    foo.on("lost", seen.append)
    foo.lock()
    foo.unlock()
    foo.lock()
    elsewhere.break_lock("foo")
    assert foo.lost.wait(DEADLINE)
    assert names(seen) == ["released", "lost"]


# To keep it


@row("redis-py", "`extend(5, replace_ttl=True)`")
@row("redis-py", "`reacquire()`")
@row("python-redis-lock", "`extend(expire=20)`, `extend()`")
@row("pottery", "`extend()`")
@row("python-etcd3", "`refresh()`")
@row("tooz", "`heartbeat()`")
@row("npm: dist-lock", "`lock.extend(milliseconds, callback)`")
def test_renew_and_extend_return_the_seconds_left(
    foo: Microlock, jobs: LockManager, store: MemoryStore
) -> None:
    foo.lock()
    for _ in range(5):
        store.advance(5)
        assert 9 < foo.renew() <= 10
    assert 19 < foo.extend(20) <= 20
    assert 4 < foo.extend(5) <= 5
    lock, seconds = jobs.lock("bar"), 60
    assert 59 < lock.extend(seconds) <= 60


@row("npm: microlock", "`renew()`")
def test_renew_says_why_the_lock_was_lost(foo: Microlock, elsewhere: LockManager) -> None:
    foo.lock()
    assert 9 < foo.renew() <= 10
    elsewhere.break_lock("foo")
    with pytest.raises(LockLostError) as caught:
        foo.renew()
    assert caught.value.reason is LossReason.DELETED


# To ask


@row("redis-py", "`owned()`, `locked()`")
@row("python-redis-lock", "`get_owner_id()`")
@row("python-etcd3", "`is_acquired()`")
@row("filelock", "`is_locked`")
@row("threading", "`locked()`")
@row("npm: dist-lock", "`getAcquiredLock(resourceName, callback)`")
def test_held_is_of_this_object_and_holder_of_anybody(
    foo: Microlock, theirs: Microlock, jobs: LockManager, store: MemoryStore
) -> None:
    name = "foo"
    foo.lock()
    with store.unavailable():
        assert foo.held
        store.advance(10)
        assert not foo.held
    store.advance(1)
    assert foo.holder() is None
    assert jobs.holder(name) is None
    theirs.lock()
    assert not foo.held
    holder = foo.holder()
    assert holder
    assert (holder.node_id, holder.token) == ("node-b", theirs.token)
    assert jobs.holder(name) == holder


@row("pottery", "`locked()`")
@row("tooz", "`is_still_owner()`")
def test_remaining_and_check_need_no_network(foo: Microlock, store: MemoryStore) -> None:
    foo.lock()
    with store.unavailable():
        assert 9 < foo.remaining <= 10
        foo.check()
        store.advance(10)
        assert foo.remaining == 0
        with pytest.raises(LockLostError):
            foo.check()


@row("kazoo", "`contenders()`")
def test_holders_and_waiters_are_all_who_contend(foo: Microlock, theirs: Microlock) -> None:
    theirs.lock()
    waiting = begin(lambda: foo.lock(timeout=None))
    assert queued(theirs)
    assert foo.holders() == [standing(theirs)]
    place = foo.waiters()
    theirs.unlock()
    waiting.result(DEADLINE)
    assert place == foo.holders() == [standing(foo)]


@row("kazoo", "`client.add_listener(...)`: `SUSPENDED`, `LOST`")
def test_a_hold_is_suspended_while_the_store_is_away_and_lost_when_its_entry_is_deleted(
    jobs: LockManager, elsewhere: LockManager, store: MemoryStore
) -> None:
    foo = jobs.create("foo", auto_renew=True)
    seen: list[LockEvent] = []
    foo.on("suspended", seen.append)
    foo.on("lost", seen.append)
    foo.lock()
    with store.unavailable():
        store.advance(5)
    store.advance(1)
    assert names(seen) == ["suspended"]
    elsewhere.break_lock("foo")
    assert foo.lost.wait(DEADLINE)
    assert names(seen) == ["suspended", "lost"]


@row("npm: microlock", "`'unlocked'` on release")
@row("npm: microlock", "`'locked'`")
@row("npm: microlock", "`Microlock.events.unlocked`")
def test_unlocked_is_told_of_release_expiry_and_revocation_and_nothing_of_a_renewal(
    foo: Microlock, theirs: Microlock, store: MemoryStore
) -> None:
    assert Microlock.events.unlocked == events.unlocked == "unlocked"
    seen = told(foo, "locked", "unlocked")
    theirs.lock()
    theirs.renew()
    theirs.unlock()
    assert names(seen) == ["locked", "unlocked"]
    theirs.lock()
    store.advance(11)
    assert names(seen) == ["locked", "unlocked"] * 2
    theirs.lock()
    store.revoke(theirs)
    assert names(seen) == ["locked", "unlocked"] * 3


# The holds of others


@row("python-redis-lock", '`Lock(redis, "foo", id=id).release()` elsewhere')
@row("npm: dist-lock", "`releaseLock(resourceName, id, callback)`")
@row("npm: dist-lock", "`extendLock(resourceName, id, milliseconds, callback)`")
def test_a_token_is_enough_to_extend_and_release_a_hold(
    jobs: LockManager, theirs: Microlock
) -> None:
    name, seconds = "foo", 60
    token = theirs.lock().token
    assert 59 < jobs.extend(name, token, seconds) <= seconds
    jobs.release("foo", token)
    assert theirs.lost.wait(DEADLINE)
    assert jobs.holder(name) is None
    with pytest.raises(LockNotOwnedError):
        jobs.release(name, token)
    with pytest.raises(LockNotOwnedError):
        jobs.extend(name, token, seconds)


@row("python-redis-lock", "`reset()`")
@row("tooz", "`break_()`")
def test_break_lock_returns_whose_it_was(jobs: LockManager, theirs: Microlock) -> None:
    theirs.lock()
    whose = standing(theirs)
    assert jobs.break_lock("foo") == whose
    assert jobs.break_lock("foo") is None


# Other kinds


@row("kazoo", '`client.ReadLock("/foo")`, `client.WriteLock("/foo")`')
@row("tooz", "`acquire(shared=True)`")
def test_readers_share_and_a_writer_excludes(jobs: LockManager, elsewhere: LockManager) -> None:
    one, two = jobs.read("foo"), elsewhere.read("foo")
    one.lock()
    two.lock()
    writer = jobs.write("foo")
    with pytest.raises(AlreadyLockedError):
        writer.lock()
    waiting = begin(lambda: writer.lock(timeout=None))
    assert queued(one)
    late = elsewhere.read("foo")
    with pytest.raises(AlreadyLockedError):
        late.lock()  # the writer came first
    one.unlock()
    two.unlock()
    assert waiting.result(DEADLINE)


@row("kazoo", '`client.Semaphore("/foo", max_leases=3)`')
@row("threading", "`Semaphore(3)`")
def test_each_object_of_a_semaphore_takes_one_place(jobs: LockManager, etcd: Client) -> None:
    places = [jobs.semaphore("foo", 3) for _ in range(4)]
    for place in places[:3]:
        place.lock()
    with pytest.raises(AlreadyLockedError):
        places[3].lock()
    assert jobs.semaphore("foo", 4).lock()  # who says so gets in: the limit is not stored
    one = Semaphore(etcd, "foo", "node-a", 3, ttl=10)
    one.lock()
    with pytest.raises(AlreadyLockedError):
        one.lock()


@row("kazoo", '`client.Election("/foo", "node-a").run(lead)`')
def test_a_leader_proclaims_a_value_that_others_read(
    jobs: LockManager, elsewhere: LockManager
) -> None:
    others = elsewhere.election("foo")
    with jobs.election("foo", auto_renew=True) as boss:
        boss.proclaim("http://node-a")
        leader = others.leader()
        assert leader
        assert leader.value == b"http://node-a"
    assert others.leader() is None


# asyncio


@row("redis-py", "`await lock.acquire()` of `redis.asyncio`")
@row("asyncio", "`Lock()`")
@row("asyncio", "`await lock.acquire()`")
@row("asyncio", "`release()`")
@row("asyncio", "`locked()`")
def test_tasks_take_turns_and_one_that_is_cancelled_leaves_the_queue(store: MemoryStore) -> None:
    Microlock = microlock.asyncio.Microlock

    async def main() -> None:
        etcd = store.connect()
        foo = Microlock(etcd, "foo", "node-a", ttl=10, auto_renew=True)
        theirs = Microlock(store.connect(), "foo", "node-b", ttl=10)
        await theirs.lock()
        assert not foo.held
        assert (await foo.holder()).node_id == "node-b"
        waiting = asyncio.create_task(foo.lock(timeout=None))
        while not await theirs.waiters():
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await theirs.waiters() == []
        await theirs.unlock()
        await foo.lock(timeout=None)
        assert foo.held
        other_task = asyncio.create_task(foo.lock(timeout=None))
        await asyncio.sleep(0)
        await foo.unlock()
        await other_task
        assert (await foo.holder()).token == foo.token

    asyncio.run(main())


@row("asyncio", "`wait_for(lock.acquire(), 5)`")
@row("asyncio", "a task that acquires it twice waits for ever")
def test_a_task_that_asks_again_or_whose_time_is_over_is_refused(store: MemoryStore) -> None:
    async def main() -> None:
        theirs = microlock.asyncio.Microlock(store.connect(), "foo", "node-b", ttl=10)
        foo = microlock.asyncio.Microlock(store.connect(), "foo", "node-a", ttl=10)
        await theirs.lock()
        with pytest.raises(AlreadyLockedError):
            await store.until(foo.lock(timeout=5))
        with pytest.raises(AlreadyLockedError):
            await theirs.lock(timeout=None)

    asyncio.run(main())


@row("asyncio", "`async with lock:`")
def test_a_block_that_is_bound_is_cancelled_when_the_lock_is_lost(store: MemoryStore) -> None:
    async def main() -> None:
        foo = microlock.asyncio.Microlock(store.connect(), "foo", "node-a", ttl=10)
        reached = []

        async def work() -> None:
            async with foo.bound():
                reached.append("the block")
                await store.advance_async(10)
                reached.append("its end")

        with pytest.raises(LockLostError):
            await work()
        assert reached == ["the block"]

    asyncio.run(main())


# The document


def test_its_example_runs(etcd_server: Etcd) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    names: dict[str, Any] = {"connect": connect, "LockManager": LockManager}
    exec(example.replace("localhost:2379", etcd_server.endpoint), names)
    with names["etcd"]:
        assert_works(names["foo"])
        names["foo"].destroy()


def tables() -> Iterator[tuple[tuple[str, str], str]]:
    """The heading and the first cell of each row, and its second one."""
    for section in re.split(r"^## ", DOCUMENT.read_text(), flags=re.MULTILINE)[1:]:
        heading, _, text = section.partition("\n")
        table = [line for line in text.splitlines() if line.startswith("|")]
        assert table[:2] == ["| there | here | what changes |", "|---|---|---|"]
        for line in table[2:]:
            there, here, _ = (cell.strip() for cell in line.strip("|").split("|"))
            yield (heading, there), here


def test_every_row_of_the_tables_has_a_test_and_every_test_a_row() -> None:
    rows = [row for row, _ in tables()]
    assert len(rows) == len(set(rows))
    assert set(rows) == set(TESTS)


def test_the_test_of_a_row_has_the_words_of_its_code() -> None:
    def words(code: str) -> set[str]:
        return set(re.findall(r"\w+", code))

    missing = {}
    for row, here in tables():
        _, _, body = inspect.getsource(TESTS[row]).partition("\ndef ")
        code = " ".join(re.findall(r"`(.*?)`", here))
        assert code, row
        if lacks := words(code) - words(body):
            missing[row] = lacks
    assert missing == {}
