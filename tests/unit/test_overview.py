"""What one watch tells of all locks under a prefix, from a read and the events after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from microlock.core.overview import Overview, Queued, is_overview, watch_name
from microlock.core.port import (
    Event,
    Found,
    KeyValue,
    ReadAll,
    WatchCancelled,
    WatchCreated,
    WatchEvents,
)
from microlock.core.watchstream import Create, Query, Tell, WatchStream

NAME = watch_name(b"jobs/", 1)
ALPHA = KeyValue(b"jobs/foo/a1", b"alpha", 5, 0xA1)
BETA = KeyValue(b"jobs/foo/b2", b"beta", 7, 0xB2)
READER = KeyValue(b"jobs/bar/read/c3", b"reader", 8, 0xC3)


def within(kv: KeyValue) -> KeyValue:
    """As it is called after the prefix."""
    return KeyValue(kv.name[5:], kv.value, kv.create_revision, kv.lease_id)


def put(kv: KeyValue, revision: int = 0) -> Event:
    return Event(revision or kv.create_revision, kv.name, kv)


def gone(kv: KeyValue, revision: int) -> Event:
    return Event(revision, kv.name, None)


def overview(*found: KeyValue, revision: int) -> Overview:
    made = Overview(NAME)
    made.rebase(Found(revision, found))
    return made


def test_a_name_is_that_of_one_watch_of_all_locks_and_of_nothing_else() -> None:
    assert is_overview(watch_name(b"", 1))
    assert watch_name(b"", 1) != watch_name(b"", 2)
    assert not is_overview(b"jobs/foo/")
    assert not is_overview(b"jobs/foo/\x00rw")


def test_what_is_read_first_is_told_by_the_names_after_the_prefix() -> None:
    told = Overview(NAME).rebase(Found(9, (ALPHA, BETA, READER)))
    assert told == [
        Queued(b"foo/", 9, (within(ALPHA), within(BETA))),
        Queued(b"bar/\x00rw", 9, (within(READER),)),
    ]


def test_a_change_tells_the_whole_queue_once_for_all_that_came_together() -> None:
    made = overview(ALPHA, revision=6)
    assert made.apply([put(BETA), gone(ALPHA, 8)]) == [Queued(b"foo/", 8, (within(BETA),))]
    assert made.next_revision == 9
    assert made.apply([gone(BETA, 9)]) == [Queued(b"foo/", 9, ())]


def test_what_was_read_already_and_what_is_no_entry_is_passed_over() -> None:
    made = overview(ALPHA, revision=7)
    assert made.apply([put(BETA, 7)]) == []
    assert made.apply([Event(8, b"jobs/config", KeyValue(b"jobs/config", b"x", 8, 0))]) == []
    assert made.next_revision == 9


def test_an_entry_that_has_lost_its_lease_is_none() -> None:
    without = KeyValue(ALPHA.name, ALPHA.value, ALPHA.create_revision, 0)
    assert overview(ALPHA, revision=5).apply([put(without, 6)]) == [Queued(b"foo/", 6, ())]


def test_after_a_compaction_what_differs_is_told() -> None:
    made = overview(ALPHA, READER, revision=8)
    made.forget()
    assert made.apply([put(BETA, 20)]) == []  # the read that is on its way will know
    assert made.rebase(Found(30, (READER, BETA))) == [Queued(b"foo/", 30, (within(BETA),))]


class Subscriber:
    interest = None

    def __init__(self) -> None:
        self.told: list[tuple[tuple[Any, ...], bool]] = []

    def watched(self, name: bytes, changes: Sequence[Any], *, synthesised: bool) -> None:
        self.told.append((tuple(changes), synthesised))

    def watch_failed(self, name: bytes, error: Exception, *, final: bool) -> None: ...


def test_a_stream_reads_all_once_and_goes_on_after_a_compaction_with_what_differs() -> None:
    machine, one = WatchStream(), Subscriber()

    def performed(commands: Sequence[Any]) -> list[Any]:
        for each in commands:
            if isinstance(each, Tell):
                each.deliver(one)
        return [each for each in commands if not isinstance(each, Tell)]

    machine.subscribe(NAME, one)
    assert performed(machine.opened()) == [Create(1, NAME, None)]
    read = [Query(NAME, ReadAll(b"jobs/"))]
    assert performed(machine.received(WatchCreated(1, 4))) == read
    performed(machine.read(NAME, Found(5, (ALPHA,))))
    performed(machine.received(WatchEvents(1, (put(BETA),))))
    again = performed(machine.received(WatchCancelled(1, compacted=True)))
    assert again == [Create(2, NAME, None)]
    assert performed(machine.received(WatchCreated(2, 9))) == read
    performed(machine.read(NAME, Found(9, (BETA,))))
    assert one.told == [
        ((Queued(b"foo/", 5, (within(ALPHA),)),), True),
        ((Queued(b"foo/", 7, (within(ALPHA), within(BETA))),), False),
        ((Queued(b"foo/", 9, (within(BETA),)),), True),
    ]
