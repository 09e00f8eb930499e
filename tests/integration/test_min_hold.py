"""`min_hold`: nobody else gets the lock before that, however early it is given back."""

from __future__ import annotations

import gc
import math
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from itertools import product
from subprocess import Popen
from time import monotonic, sleep

import pytest
from conftest import Etcd
from ctl import Etcdctl
from faces import BOTH_FACES, ONLY_THREADS, LockManager, Microlock
from nodes import Make, begin, nodes
from test_processes import started
from watching import DEADLINE, Recorder, eventually
from witness import AT_ONCE, at_most, entries

from microlock import (
    AlreadyLockedError,
    EtcdClient,
    InvalidArgumentError,
    LockNotOwnedError,
    State,
    connect,
)

pytestmark = BOTH_FACES

Futures = dict[tuple[str, int], Future[None]]

MIN_HOLD = 3
SOON = 3.5  # for etcd to notice the end of a lease, rounded up to a second, on a busy machine


def in_time(started: float, min_hold: float = MIN_HOLD) -> bool:
    """Whether now is not before the time, and soon after it."""
    return min_hold <= monotonic() - started <= min_hold + SOON


def enter(foo: Microlock) -> None:
    with foo:
        pass


WAYS: dict[str, Callable[[Microlock], object]] = {
    "unlock": lambda foo: (foo.lock(), foo.unlock()),
    "with": enter,
    "decorated": lambda foo: foo(lambda: None)(),
    "destroy": lambda foo: (foo.lock(), foo.destroy()),
    "in a block": lambda foo: (foo.__enter__(), foo.unlock(), foo.__exit__(None, None, None)),
    "extended": lambda foo: (foo.lock(), foo.extend(1), foo.unlock()),
    "unlocked by another thread": lambda foo: (foo.lock(), begin(foo.unlock).result(DEADLINE)),
}


TTLS = [2, 60]


@pytest.fixture(scope="module")
def given_back(face: str, etcd_server: Etcd) -> Iterator[Futures]:
    """Locks that are given back early in every way: waits once for all the tests."""

    def give_back(way: str, foo: Microlock, two: Microlock) -> None:
        started = monotonic()
        with at_most(AT_ONCE):
            WAYS[way](foo)
        assert not foo.held
        with pytest.raises(AlreadyLockedError):
            two.lock()
        two.lock(timeout=DEADLINE)
        assert in_time(started)

    with nodes(etcd_server.endpoint, f"test-{uuid.uuid4().hex[:8]}") as make:
        given = {}
        for way, ttl in product(WAYS, TTLS):
            key = f"test-{uuid.uuid4().hex[:8]}/{way}/{ttl}"
            foo = make(key=key, ttl=ttl, auto_renew=True, min_hold=MIN_HOLD)
            given[way, ttl] = begin(partial(give_back, way, foo, make("two", key=key)))
        yield given


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ttl", TTLS)
def test_nobody_else_gets_it_before_and_somebody_does_soon_after(
    given_back: Futures, way: str, ttl: int
) -> None:
    given_back[way, ttl].result(DEADLINE)


def dropped(etcd: EtcdClient, key: str) -> None:
    Microlock(etcd, key, "one", 60, min_hold=MIN_HOLD).lock()
    gc.collect()


def closed(etcd: EtcdClient, key: str) -> None:
    enter(Microlock(etcd, key, "one", 60, min_hold=MIN_HOLD))
    etcd.close()


LEFT = {"dropped": dropped, "the client is closed": closed}


@pytest.fixture(scope="module")
def left(face: str, etcd_server: Etcd) -> Iterator[dict[str, Future[None]]]:
    """Locks that are left in every way: waits once for all the tests."""

    def leave(way: str, two: Microlock) -> None:
        started = monotonic()
        with connect(etcd_server.endpoint) as etcd:
            LEFT[way](etcd, two.key)
            two.lock(timeout=DEADLINE)
        assert in_time(started)

    with nodes(etcd_server.endpoint, f"test-{uuid.uuid4().hex[:8]}") as make:
        key = f"test-{uuid.uuid4().hex[:8]}"
        yield {way: begin(partial(leave, way, make("two", key=f"{key}/{way}"))) for way in LEFT}


@pytest.mark.parametrize("way", LEFT)
def test_what_nobody_gives_back_stays_taken_until_then(
    left: dict[str, Future[None]], way: str
) -> None:
    left[way].result(DEADLINE)


ENDS = {
    "killed after unlock": "foo.unlock(); os.kill(os.getpid(), 9)",
    "exits after unlock": "foo.unlock()",
    "exits": "",
    "exits by sys.exit": "sys.exit(1)",
    "exits in a block": "with Microlock(foo._etcd, key + '-2', 'one', ttl=1): sys.exit()",
}


@pytest.fixture(scope="module")
def processes_that_end(face: str, etcd_server: Etcd) -> Iterator[Futures]:
    """Processes that end in every way with a lock in their hands, all at the same time."""
    min_hold = 5

    def end(process: Popen[str], two: Microlock) -> None:
        assert process.stdin
        assert process.stdout
        begun = monotonic()
        process.stdin.write("\n")
        process.stdin.flush()
        process.stdout.readline()
        process.wait(DEADLINE)
        two.lock(timeout=DEADLINE)
        assert in_time(begun, min_hold)

    with ExitStack() as stack:
        make = stack.enter_context(nodes(etcd_server.endpoint, "unused"))
        processes = {}
        for way, ttl in product(ENDS, TTLS):
            key = f"test-{uuid.uuid4().hex[:8]}"
            script = f"""
foo = Microlock(connect(endpoint), key, "one", ttl={ttl}, auto_renew=True, min_hold={min_hold})
print(flush=True)
sys.stdin.readline()
foo.lock()
print(flush=True)
{ENDS[way]}
"""
            process = stack.enter_context(started(script, etcd_server.endpoint, key))
            processes[way, ttl] = process, make("two", key=key)
        for process, _ in processes.values():
            assert process.stdout
            process.stdout.readline()  # it has begun
        yield {name: begin(partial(end, *each)) for name, each in processes.items()}


@ONLY_THREADS
@pytest.mark.parametrize("way", ENDS)
@pytest.mark.parametrize("ttl", TTLS)
def test_a_process_that_ends_leaves_it_taken_until_then(
    processes_that_end: Futures, way: str, ttl: int
) -> None:
    processes_that_end[way, ttl].result(2 * DEADLINE)


def test_given_back_later_it_is_free_at_once(make: Make, etcdctl: Etcdctl, key: str) -> None:
    foo = make(ttl=60, min_hold=1)
    foo.lock()
    sleep(1.1)
    foo.unlock()
    assert entries(etcdctl, key) == []


def test_it_does_not_delay_who_gives_back(make: Make) -> None:
    foo = make(min_hold=60)
    foo.on("unlocked", print)
    with at_most(AT_ONCE):
        enter(foo)
        foo.destroy()


@ONLY_THREADS
def test_what_is_left_is_not_renewed_and_not_held(make: Make) -> None:
    foo, two = make(ttl=2, auto_renew=True, min_hold=MIN_HOLD), make("two")
    seen = Recorder(foo, "released", "unlocked")
    begun = monotonic()
    token = foo.lock().token
    foo.unlock()
    assert (foo.held, foo.state, foo.token, foo.remaining) == (False, State.RELEASED, None, 0.0)
    with pytest.raises(LockNotOwnedError):
        foo.unlock()
    with pytest.raises(LockNotOwnedError):
        foo.renew()
    holder = two.holder()
    assert holder
    assert (holder.node_id, holder.token) == ("one", token)
    assert [each.name for each in seen.wait_for(2)] == ["released", "unlocked"]
    assert in_time(begun)


def test_the_object_itself_gets_it_no_sooner(make: Make) -> None:
    foo, begun = make(min_hold=MIN_HOLD), monotonic()
    token = foo.lock().token
    foo.unlock()
    with pytest.raises(AlreadyLockedError) as caught:
        foo.lock()
    assert caught.value.holder.token == token
    assert foo.lock(timeout=DEADLINE).token > token
    assert in_time(begun)


@ONLY_THREADS
def test_an_interrupted_unlock_can_be_tried_again(make: Make, etcdctl: Etcdctl, key: str) -> None:
    foo = make(min_hold=MIN_HOLD)
    foo.lock()
    assert foo.renew() > 0
    assert foo.extend(30) > 2
    foo.unlock()
    assert len(entries(etcdctl, key)) == 1
    assert eventually(lambda: entries(etcdctl, key) == [], MIN_HOLD + SOON)


@ONLY_THREADS
def test_a_manager_makes_such_locks(make: Make, etcd_server: Etcd, key: str) -> None:
    with connect(etcd_server.endpoint) as etcd:
        jobs, begun = LockManager(etcd, "one", ttl=60), monotonic()
        jobs.lock(key, min_hold=MIN_HOLD).unlock()
        with jobs.create(f"{key}-2", min_hold=MIN_HOLD):
            pass
        for lock in (make("two"), make("two", key=f"{key}-2")):
            lock.lock(timeout=DEADLINE)
            assert in_time(begun)


@pytest.mark.parametrize("value", [True, math.nan, math.inf, -1, "5", None, 9_000_000_001, 10**400])
def test_a_wrong_min_hold_is_named(make: Make, value: object) -> None:
    with pytest.raises(InvalidArgumentError, match="min_hold") as caught:
        make(min_hold=value)
    assert ascii(value)[:20] in str(caught.value)
