"""`connect("memory://")`: which store that is, and what locks make of it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any
from uuid import uuid4

import pytest

from microlock import AlreadyLockedError, InvalidArgumentError, LockLostError, Microlock, connect
from microlock.core.port import (
    Grant,
    Join,
    Revoke,
    WatchCancelled,
    WatchCreated,
    WatchEvents,
)
from microlock.memory.store import Memory

LONG = 60
PATIENCE = 20.0


@pytest.fixture
def address() -> str:
    return f"memory://{uuid4()}"


@pytest.fixture
def foo() -> Iterator[Microlock]:
    with connect("memory://") as etcd:
        yield Microlock(etcd, "foo", "node-a", LONG)


# Its address.


def test_those_who_connect_to_a_name_share_its_store(address: str) -> None:
    with connect(address) as one, connect([address]) as two:
        Microlock(one, "foo", "node-a", LONG).lock()
        holder = Microlock(two, "foo", "node-b", LONG).holder()
        assert holder
        assert holder.node_id == "node-a"


def test_threads_that_connect_to_a_name_at_once_share_its_store(address: str) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            for number in range(100):
                begin = threading.Barrier(4)

                def come(begin: threading.Barrier, name: str) -> Any:
                    begin.wait(PATIENCE)
                    return connect(name).store

                names = [f"{address}-{number}"] * 4
                assert len(set(map(id, pool.map(come, [begin] * 4, names)))) == 1
    finally:
        sys.setswitchinterval(interval)


def test_a_store_stays_when_nobody_is_connected(address: str) -> None:
    with connect(address) as one:
        foo = Microlock(one, "foo", "node-a", LONG)
        token = foo.lock().token
    with connect(address) as two:
        holder = Microlock(two, "foo", "node-b", LONG).holder()
        assert holder
        assert holder.token == token


def test_without_a_name_each_client_has_a_store_of_its_own() -> None:
    with connect("memory://") as one, connect("memory://") as two:
        Microlock(one, "foo", "node-a", LONG).lock()
        assert Microlock(two, "foo", "node-b", LONG).holder() is None


@pytest.mark.parametrize(
    "wrong",
    [
        "memory://a b",
        "memory://a/b",
        "memory://a,memory://b",
        "memory://a,localhost",
        "memory://ä",
        "memory://" + 256 * "a",
        "memory:a",
        "localhost,memory://a",
        ["memory://a", "memory://b"],
        ["memory://a", "localhost"],
    ],
)
def test_a_wrong_address_is_named(wrong: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="memory://name"):
        connect(wrong)


@pytest.mark.parametrize(
    "more", [{"user": "me"}, {"password": "x"}, {"ca_cert": "ca.pem"}, {"server_name": "etcd"}]
)
def test_what_it_has_no_use_for_is_named(more: dict[str, str]) -> None:
    with pytest.raises(InvalidArgumentError, match=f"takes no {next(iter(more))}"):
        connect("memory://foo", **more)  # type: ignore[arg-type]


def test_a_timeout_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="timeout"):
        connect("memory://", timeout=0)


@pytest.mark.parametrize("module", ["microlock", "microlock.memory.store"])
def test_nobody_imports_what_he_does_not_use(module: str) -> None:
    """`import microlock` not the store in memory, and that nothing of gRPC beside it."""
    script = f"""
import sys
before = set()
if {module!r} != "microlock":
    import microlock
    before = set(sys.modules)
import {module}
new = sorted(set(sys.modules) - before)
wrong = ("microlock.memory",) if not before else ("grpc", "ngh2", "google", "microlock.etcd")
print([name for name in new if name.startswith(wrong)])
"""
    run = [sys.executable, "-c", script]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_of_the_process_has_none_of_its_stores(address: str) -> None:
    script = f"""
import os
from microlock import Microlock, connect
Microlock(connect({address!r}), "foo", "node-a", 60).lock()
child = os.fork()
if not child:
    there = Microlock(connect({address!r}), "foo", "node-b", 60).holder()
    os._exit(0 if there is None else 1)
raise SystemExit(os.waitpid(child, 0)[1])
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=PATIENCE).returncode == 0


# Locks on it.


def test_a_lock_is_taken_and_given_back(foo: Microlock) -> None:
    tokens = []
    for _ in range(3):
        tokens.append(foo.lock().token)
        with pytest.raises(AlreadyLockedError):
            foo.lock()
        foo.unlock()
    assert tokens == sorted(set(tokens))


def test_200_threads_have_the_lock_one_after_the_other(address: str) -> None:
    inside, most = [0], [0]

    def work(number: int) -> None:
        with connect(address) as etcd, Microlock(etcd, "foo", f"node-{number}", LONG):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            inside[0] -= 1

    with ThreadPoolExecutor(200) as pool:
        list(pool.map(work, range(200)))
    assert most == [1]


def test_a_stale_write_is_refused() -> None:
    with connect("memory://") as etcd:
        foo = Microlock(etcd, "foo", "node-a", LONG)
        foo.lock()
        guard = foo.guard()
        revision = etcd.transaction(guard, put={"report": "1"})
        assert revision == guard.revision + 1
        foo.unlock()
        with pytest.raises(LockLostError):
            etcd.transaction(guard, put={"report": "2"})


def test_no_thread_is_there_for_a_lock_that_nobody_renews_or_watches(foo: Microlock) -> None:
    before = set(threading.enumerate())
    foo.lock()
    foo.unlock()
    new = {thread.name for thread in set(threading.enumerate()) - before}
    assert new <= {"microlock-renewal"}  # which gives back what is dropped


# Watches.


class Told:
    """What a stream tells."""

    def __init__(self) -> None:
        self.told: SimpleQueue[Any] = SimpleQueue()

    def next(self) -> Any:
        return self.told.get(timeout=PATIENCE)


def joined(store: Memory, lease_id: int, lock: bytes = b"foo/") -> Any:
    store.attempt("", Grant(lease_id, LONG), timeout=1, repeated=False)
    entry = b"%s%x" % (lock, lease_id)
    return store.attempt("", Join(lock, entry, b"", lease_id, 0), timeout=1, repeated=False)


def test_a_watch_of_a_lock_tells_of_nested_names_and_not_of_neighbours() -> None:
    store, one = Memory("memory://test"), Told()
    watching = store.open_watch("", one.told.put, timeout=1)
    watching.create(7, b"foo/", None)
    assert one.next() == WatchCreated(7, 1)
    for lease_id, lock in enumerate([b"fop/", b"foo/bar/", b"foo/", b"foo"], 1):
        joined(store, lease_id, lock)
    names = [event.name for _ in range(2) for event in one.next().events]
    assert names == [b"foo/bar/2", b"foo/3"]
    assert one.told.empty()


def test_a_watch_that_starts_in_the_past_tells_of_it_first() -> None:
    store, one = Memory("memory://test"), Told()
    for lease_id in (1, 2):
        joined(store, lease_id)
    watching = store.open_watch("", one.told.put, timeout=1)
    watching.create(7, b"foo/", 3)
    joined(store, 3)
    assert one.next() == WatchCreated(7, 3)
    told = [one.next(), one.next()]
    assert [event.name for each in told for event in each.events] == [b"foo/2", b"foo/3"]


def test_a_watch_that_starts_in_the_future_tells_nothing_before() -> None:
    store, one = Memory("memory://test"), Told()
    watching = store.open_watch("", one.told.put, timeout=1)
    watching.create(7, b"foo/", 4)
    for lease_id in range(1, 5):
        joined(store, lease_id)
    assert one.next() == WatchCreated(7, 1)
    assert [event.revision for _ in range(2) for event in one.next().events] == [4, 5]


def test_a_watch_of_what_is_forgotten_ends() -> None:
    store, one = Memory("memory://test"), Told()
    for lease_id in (1, 2):
        joined(store, lease_id)
    store.change(lambda state: state.compact(3))
    store.open_watch("", one.told.put, timeout=1).create(7, b"foo/", 2)
    assert isinstance(one.next(), WatchCreated)
    ended = one.next()
    assert isinstance(ended, WatchCancelled)
    assert (ended.watch_id, ended.compacted, ended.created) == (7, True, False)


@pytest.mark.parametrize("how", ["cancelled", "closed"])
def test_a_watch_that_ended_tells_nothing_more(how: str) -> None:
    store, one, other = Memory("memory://test"), Told(), Told()
    watching = store.open_watch("", one.told.put, timeout=1)
    watching.create(7, b"foo/", None)
    store.open_watch("", other.told.put, timeout=1).create(7, b"foo/", None)
    one.next()
    if how == "closed":
        watching.close()
        watching.create(8, b"foo/", None)
    else:
        watching.cancel(7)
    joined(store, 1)
    assert isinstance(other.next(), WatchCreated)
    assert isinstance(other.next(), WatchEvents)
    assert one.told.empty()


def test_the_keys_of_a_lease_go_in_one_message() -> None:
    store, one = Memory("memory://test"), Told()
    joined(store, 1)
    store.change(lambda state: state.put(b"foo/a", b"", 1))
    store.open_watch("", one.told.put, timeout=1).create(7, b"foo/", None)
    one.next()
    store.attempt("", Revoke(1), timeout=1, repeated=False)
    assert [event.name for event in one.next().events] == [b"foo/1", b"foo/a"]


def test_what_an_interrupt_has_kept_from_a_watch_is_told_with_the_next_request() -> None:
    store, one, interrupts = Memory("memory://test"), Told(), [2]

    def sink(told: Any) -> None:
        if isinstance(told, WatchEvents) and interrupts[0]:
            interrupts[0] -= 1
            raise KeyboardInterrupt
        one.told.put(told)

    store.open_watch("", sink, timeout=1).create(7, b"foo/", None)
    one.next()
    with pytest.raises(KeyboardInterrupt):
        joined(store, 1)
    with pytest.raises(KeyboardInterrupt):
        joined(store, 2)
    joined(store, 3)
    told = [event.name for _ in range(2) for event in one.next().events]
    assert told == [b"foo/1", b"foo/3"]


def test_a_lease_ends_by_itself_while_somebody_watches(address: str) -> None:
    """By the clock of the system, and in a thread that ends when there is nothing to do."""
    with connect(address) as etcd:
        foo, told = Microlock(etcd, "foo", "node-a", 1), SimpleQueue[Any]()
        foo.on("unlocked", told.put)
        foo.lock()
        assert told.get(timeout=PATIENCE).node_id == "node-a"
