"""What readers and writers promise beside what all locks do."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import pytest
from kinds import LONG, MUTEX, PATIENCE, READER, WRITER, Nodes

from microlock import (
    AlreadyLockedError,
    LockManager,
    LockNotOwnedError,
    Microlock,
    ReadLock,
    Semaphore,
    WriteLock,
    connect,
)
from microlock.testing import MemoryStore


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    with MemoryStore() as store:
        yield store


@pytest.fixture
def nodes(store: MemoryStore) -> Nodes:
    return Nodes(store)


def test_readers_hold_it_together(nodes: Nodes) -> None:
    readers = [nodes(READER) for _ in range(5)]
    tokens = [each.lock().token for each in readers]
    assert [each.token for each in readers[0].holders()] == tokens


def test_a_writer_holds_it_alone(nodes: Nodes) -> None:
    nodes(WRITER).lock()
    for kind in (READER, WRITER):
        with pytest.raises(AlreadyLockedError):
            nodes(kind).lock()


def test_a_writer_waits_for_every_reader(nodes: Nodes) -> None:
    readers, writer = [nodes(READER) for _ in range(3)], nodes(WRITER)
    for each in readers:
        each.lock()
    waiting = nodes.waits(writer)
    for each in (readers[1], readers[2]):
        each.unlock()
    assert not waiting.done()
    readers[0].unlock()
    assert waiting.result(PATIENCE)


def test_readers_that_come_after_a_writer_wait_for_it(nodes: Nodes) -> None:
    """However many readers come, the writer gets it."""
    reader, writer, later = nodes(READER), nodes(WRITER), [nodes(READER) for _ in range(3)]
    reader.lock()
    writing = nodes.waits(writer)
    reading = [nodes.waits(each) for each in later]
    reader.unlock()
    writing.result(PATIENCE)
    assert not any(each.done() for each in reading)
    writer.unlock()
    tokens = [each.result(PATIENCE).token for each in reading]
    assert [each.token for each in reader.holders()] == tokens


def test_a_writer_that_gives_up_lets_the_readers_behind_it_in(nodes: Nodes) -> None:
    reader, writer, later = nodes(READER), nodes(WRITER), nodes(READER)
    reader.lock()
    nodes.waits(writer)
    reading = nodes.waits(later)
    writer.cancel()
    assert reading.result(PATIENCE)
    assert reader.held


def test_a_later_writer_is_in_no_readers_way(nodes: Nodes, store: MemoryStore) -> None:
    writer, reader, later = nodes(WRITER), nodes(READER), nodes(WRITER)
    writer.lock()
    reading = nodes.waits(reader)
    nodes.waits(later)
    writer.unlock()
    assert reading.result(PATIENCE)


def test_the_token_of_a_writer_is_higher_than_those_of_all_before_it(nodes: Nodes) -> None:
    reader, writer = nodes(READER), nodes(WRITER)
    before = reader.lock().token
    reader.unlock()
    assert writer.lock().token > before


def test_a_node_that_restarts_as_a_reader_is_no_owner_of_its_write(nodes: Nodes) -> None:
    nodes(WRITER, "me").lock()
    with pytest.raises(LockNotOwnedError):
        nodes(READER, "me").unlock()
    assert nodes(WRITER).holder().node_id == "me"


def test_they_are_in_no_other_locks_way(nodes: Nodes, store: MemoryStore) -> None:
    nodes(WRITER).lock()
    assert Microlock(store.connect(), "foo", "a").lock()
    assert Microlock(store.connect(), "foo/bar", "a").lock()
    assert Semaphore(store.connect(), "foo/baz", "a", 2).lock()


def test_no_other_lock_is_in_their_way(nodes: Nodes, store: MemoryStore) -> None:
    for key in ("foo", "foo/bar", "foo/write/bar"):
        Microlock(store.connect(), key, "a", ttl=LONG).lock()
    nodes(READER, "r").lock()
    with pytest.raises(AlreadyLockedError):
        nodes(WRITER).lock()
    nodes.locks[0].unlock()
    writer = nodes(WRITER)
    assert writer.lock().token == writer.holder().token


@pytest.mark.parametrize(
    ("holds", "asks", "gets_it"),
    [
        ("foo/read", "ReadLock", True),
        ("foo/read", "WriteLock", False),
        ("foo/write", "ReadLock", False),
        ("foo/write", "WriteLock", False),
        ("ReadLock", "foo/read", False),
        ("ReadLock", "foo/write", True),
        ("WriteLock", "foo/read", True),
        ("WriteLock", "foo/write", False),
    ],
)
def test_a_mutex_called_as_the_queue_of_readers_or_writers_is_for_them_one_more_in_it(
    holds: str, asks: str, gets_it: bool, nodes: Nodes
) -> None:
    """docs/kinds.md says: don't. It waits for others in that queue alone, and is waited for."""

    def lock(name: str) -> Any:
        return nodes(MUTEX, key=name) if "/" in name else nodes(name)

    held, asking = lock(holds), lock(asks)
    held.lock()
    if gets_it:
        assert asking.lock()
    else:
        with pytest.raises(AlreadyLockedError):
            asking.lock()
    assert held.held


def test_a_mutex_called_as_the_queue_of_readers_is_listed_as_one_of_them(
    nodes: Nodes, store: MemoryStore
) -> None:
    nodes(MUTEX, key="foo/read").lock()
    (listed,) = LockManager(store.connect(), "operator").locks()
    assert (listed.name, listed.holders[0].role) == ("foo", "reader")


@pytest.mark.parametrize("seed", range(3))
def test_many_threads_read_together_or_write_alone(seed: int) -> None:
    random, reading, writing, wrong = Random(seed), set[int](), set[int](), list[object]()
    with connect("memory://") as etcd:

        def work(number: int) -> None:
            for _ in range(15):
                if random.random() < 0.7:
                    with ReadLock(etcd, "foo", f"node-{number}", ttl=LONG):
                        reading.add(number)
                        wrong.extend(writing)
                        reading.discard(number)
                else:
                    with WriteLock(etcd, "foo", f"node-{number}", ttl=LONG):
                        writing.add(number)
                        wrong.extend(reading | (writing - {number}))
                        writing.discard(number)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
    assert not wrong
