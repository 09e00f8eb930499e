"""What every kind of lock promises, in both faces, on a real etcd, and beside other clients."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
from conftest import Etcd
from ctl import Etcdctl
from faces import ONLY_THREADS, THREADS
from kinds import KINDS, LIMIT, LONG, MUTEX, PATIENCE, READER, SEMAPHORE, WRITER, Kind, begin
from loop_face import TaskLock
from nodes import queued
from watching import Recorder, eventually

from microlock import (
    AlreadyLockedError,
    Election,
    Hold,
    LockLostError,
    LockManager,
    MultiLock,
    connect,
)
from microlock.core.keys import MAX_KEYS

SHORT = 2


class Nodes:
    """Locks of one key, each with a client of its own, of the face under test."""

    def __init__(self, endpoint: str, key: str, stack: ExitStack, face: str) -> None:
        self._endpoint, self._key, self._stack, self._face = endpoint, key, stack, face
        self._count = 0

    def __call__(self, kind: Kind | str, node_id: str = "", **options: Any) -> Any:
        made = KINDS[kind] if isinstance(kind, str) else kind
        self._count += 1
        etcd = self._stack.enter_context(connect(self._endpoint))
        node_id = node_id or f"node-{self._count}"
        how = {"key": self._key, "ttl": LONG} | options
        lock: Any
        if self._face == THREADS:
            lock = made.make(etcd, node_id, **how)
        else:
            lock = TaskLock(made.make_async(etcd, node_id, **how))
        self._stack.callback(lock.destroy)
        return lock

    def rivals(self, kind: Kind, **options: Any) -> list[Any]:
        locks = [self(kind.rival, **options) for _ in range(kind.rivals)]
        for lock in locks:
            lock.lock()
        return locks


@pytest.fixture
def nodes(etcd_server: Etcd, key: str, face: str) -> Iterator[Nodes]:
    with ExitStack() as stack:
        yield Nodes(etcd_server.endpoint, key, stack, face)


@pytest.fixture(params=KINDS.values(), ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


def test_a_refused_try_writes_nothing(kind: Kind, nodes: Nodes, etcdctl: Etcdctl, key: str) -> None:
    nodes.rivals(kind)
    foo, before = nodes(kind), etcdctl("get", "--prefix", key)
    with pytest.raises(AlreadyLockedError):
        foo.lock()
    assert etcdctl("get", "--prefix", key) == before


def test_rivals_that_go_let_the_next_in_in_the_order_of_arrival(kind: Kind, nodes: Nodes) -> None:
    rivals, locks = nodes.rivals(kind), [nodes(kind) for _ in range(4)]
    waiting = []
    for number, lock in enumerate(locks, 1):
        waiting.append(begin(lambda lock=lock: lock.lock(timeout=LONG)))
        assert queued(lock, number)
    for lock in rivals:
        lock.unlock()
    tokens = []
    for lock, wait in zip(locks, waiting, strict=True):
        tokens.append(wait.result(PATIENCE).token)
        lock.unlock()
    assert tokens == sorted(tokens)


@pytest.fixture(scope="module")
def next_in(etcd_server: Etcd, face: str) -> Iterator[dict[str, Future[Hold]]]:
    """What waits for rivals that crash, one of each kind: waits once for all the tests."""
    with ExitStack() as stack:
        waiting = {}
        for kind in KINDS.values():
            nodes = Nodes(etcd_server.endpoint, f"test-{uuid.uuid4().hex[:8]}", stack, face)
            nodes.rivals(kind, ttl=1)
            waiting[str(kind)] = begin(partial(nodes(kind).lock, timeout=LONG))
        yield waiting


def test_rivals_that_crash_let_the_next_in(kind: Kind, next_in: dict[str, Future[Hold]]) -> None:
    assert next_in[str(kind)].result(PATIENCE)


def test_a_hold_is_renewed_extended_and_lost(kind: Kind, nodes: Nodes, etcdctl: Etcdctl) -> None:
    foo = nodes(kind, ttl=SHORT, auto_renew=True)
    token, lost = foo.lock().token, Recorder(foo, "lost")
    foo.extend(LONG)
    assert (foo.token, foo.holder().token) == (token, token)
    etcdctl("lease", "revoke", f"{foo.holder().lease_id:x}")
    assert lost.wait_for(1)
    with pytest.raises(LockLostError):
        foo.unlock()


def test_each_holder_is_told_of(kind: Kind, nodes: Nodes, key: str) -> None:
    listens = nodes(kind)
    told = Recorder(listens)
    rivals = nodes.rivals(kind)
    tokens = [each.token for each in rivals]
    for lock in rivals:
        lock.unlock()
    told.wait_for(2 * len(rivals) * kind.entries)
    of_the_first = [(each.name, each.token) for each in told.events if each.key == key]
    assert of_the_first == [
        *(("locked", each) for each in tokens),
        *(("unlocked", each) for each in tokens),
    ]


@pytest.mark.parametrize("wait", [False, True], ids=["tries", "waits"])
def test_never_more_than_the_limit_of_processes_are_under_a_semaphore(
    nodes: Nodes, wait: bool
) -> None:
    holding, most = set[int](), [0]

    def work(number: int) -> None:
        lock = nodes(SEMAPHORE)
        for _ in range(10):
            try:
                lock.lock(timeout=LONG if wait else 0)
            except AlreadyLockedError:
                continue
            holding.add(number)
            most.append(len(holding))
            holding.discard(number)
            lock.unlock()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert 0 < max(most) <= LIMIT


@ONLY_THREADS
def test_etcdctl_lock_waits_for_all_holders_of_a_semaphore(nodes: Nodes, etcdctl_lock: Any) -> None:
    holders = nodes.rivals(SEMAPHORE)
    process = etcdctl_lock()
    assert queued(holders[0])
    for lock in holders:
        assert process.poll() is None
        lock.unlock()
    assert eventually(lambda: nodes(MUTEX).holder() is not None)
    assert process.stdout.readline()


@ONLY_THREADS
@pytest.mark.parametrize("theirs", ["read", "write"])
def test_a_reader_or_writer_of_go_is_one_of_ours(
    nodes: Nodes, etcdctl: Etcdctl, key: str, theirs: str
) -> None:
    """Go's RWMutex names its entries by its clock, in nanoseconds, under a lease of its session."""
    lease = etcdctl("lease", "grant", str(LONG)).split()[1]
    etcdctl("put", f"{key}/{theirs}/1764409620123456789", "", f"--lease={lease}")
    reader, writer = nodes(READER), nodes(WRITER)
    with pytest.raises(AlreadyLockedError):
        writer.lock()
    waiting = begin(lambda: writer.lock(timeout=LONG))
    assert queued(reader)
    assert len(reader.holders()) == 1
    etcdctl("lease", "revoke", lease)
    assert waiting.result(PATIENCE)


def test_as_many_keys_as_are_allowed_are_within_what_etcd_takes(
    etcd_server: Etcd, prefix: str
) -> None:
    keys = [f"{prefix}{number}" for number in range(MAX_KEYS)]
    with connect(etcd_server.endpoint) as etcd:
        foo, bar = (MultiLock(etcd, keys, node_id, LONG) for node_id in ("a", "b"))
        foo.lock()
        waiting = begin(lambda: bar.lock(timeout=LONG))
        assert queued(bar)
        foo.extend(LONG)
        foo.renew()
        etcd.transaction(foo.guard(), put={f"{prefix}done": "1"})
        foo.unlock()
        assert waiting.result(PATIENCE)
        bar.destroy()


def test_what_is_left_of_several_keys_is_given_back_when_one_is_lost(
    etcd_server: Etcd, etcdctl: Etcdctl, key: str
) -> None:
    keys = [key, f"{key}-2", f"{key}-3"]
    with connect(etcd_server.endpoint) as etcd:
        foo = MultiLock(etcd, keys, "many", LONG, auto_renew=True)
        foo.lock()
        lost = Recorder(foo, "lost")
        LockManager(etcd, "an operator").break_lock(keys[1])
        assert lost.wait_for(1)
        assert eventually(lambda: not etcdctl("get", "--prefix", key))
        foo.lock()
        foo.destroy()


def test_etcdctl_lock_and_several_keys_exclude_each_other(
    etcd_server: Etcd, key: str, etcdctl_lock: Any
) -> None:
    with connect(etcd_server.endpoint) as etcd:
        foo = MultiLock(etcd, [f"{key}-2", key], "many", LONG)
        foo.lock()
        process = etcdctl_lock()
        assert queued(foo)
        foo.unlock()
        assert process.stdout.readline()
        with pytest.raises(AlreadyLockedError):
            foo.lock()
        waiting = begin(lambda: foo.lock(timeout=LONG))
        assert queued(foo)
        process.terminate()
        assert waiting.result(PATIENCE)
        foo.destroy()


def test_an_election_and_etcdctl_elect_stand_for_the_same_office(
    etcd_server: Etcd, etcdctl: Etcdctl, key: str
) -> None:
    with connect(etcd_server.endpoint) as etcd, ExitStack() as stack:
        foo = Election(etcd, key, "me", LONG)
        observed, seen = foo.observe(), list[str]()
        following = begin(lambda: seen.extend(map(str, observed)))
        foo.campaign("ours")
        theirs = stack.enter_context(etcdctl.start("elect", key, "theirs"))
        stack.callback(theirs.kill)
        assert queued(foo)
        listens = stack.enter_context(etcdctl.start("elect", "-l", key))
        stack.callback(listens.kill)
        assert listens.stdout.readline().startswith(key)
        assert listens.stdout.readline().strip() == "ours"
        foo.proclaim("ours too")
        assert listens.stdout.readline().startswith(key)
        assert listens.stdout.readline().strip() == "ours too"
        foo.resign()
        assert theirs.stdout.readline().startswith(key)
        assert str(foo.leader()) == "theirs"
        waiting = begin(lambda: foo.campaign(timeout=LONG))
        assert queued(foo)
        theirs.terminate()
        waiting.result(PATIENCE)
        assert str(foo.leader()) == "ours too"
        assert eventually(lambda: foo.held)
        foo.destroy()
        following.result(PATIENCE)
        assert seen == ["ours", "ours too", "theirs", "ours too"]
