"""The watch of one lock or of one entry, and what is asked of etcd for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import ref

import pytest

from microlock.core.port import Event, Found, Get, KeyValue, Read
from microlock.core.queue import Change, Standing
from microlock.core.view import View
from microlock.errors import StoreUnavailableError
from microlock.session import Session, Watch

ENTRY = b"foo/a1"
KV = KeyValue(ENTRY, b"alpha", 5, 0xA1)


class Wires:
    """Notes what is sent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, message: Any) -> None:
        self.sent.append(message)


class Listener:
    """Notes where the entry stands, each time it is told."""

    concern = ENTRY

    def __init__(self, watch: Watch) -> None:
        self.told: list[Standing] = []
        self.errors: list[Exception] = []
        watch.watching[id(self)] = ref(self)

    def on_watch(self, view: View, changes: Sequence[Change], *, synthesised: bool) -> None:
        self.told.append(view.standing(ENTRY, 5))

    def on_watch_error(self, error: Exception, *, final: bool) -> None:
        self.errors.append(error)


@pytest.fixture
def wires() -> Wires:
    return Wires()


@pytest.fixture
def session(wires: Wires) -> Session:
    return Session(wires)  # type: ignore[arg-type]


def test_the_watch_of_a_lock_asks_for_all_that_begins_with_its_prefix(session, wires):
    session.create(Watch(b"foo/"))
    (asked,) = wires.sent
    assert (asked.create_request.key, asked.create_request.range_end) == (b"foo/", b"foo0")


def test_the_watch_of_an_entry_asks_for_this_key_alone(session, wires):
    session.create(Watch(ENTRY))
    (asked,) = wires.sent
    assert (asked.create_request.key, asked.create_request.range_end) == (ENTRY, b"")


def test_a_watch_of_which_nothing_is_known_starts_from_now(session, wires):
    session.create(Watch(ENTRY))
    assert wires.sent[0].create_request.start_revision == 0


def test_a_watch_of_which_something_is_known_goes_on_from_there(session, wires):
    watch = Watch(ENTRY)
    watch.rebase(Found(9, (KV,)))
    session.create(watch)
    assert wires.sent[0].create_request.start_revision == 10


def test_a_watch_that_was_never_asked_for_is_cancelled_without_a_word(session, wires):
    session.cancel(Watch(b"foo/", paused=True))
    assert wires.sent == []


@pytest.mark.parametrize(("name", "read"), [(b"foo/", Read(b"foo/")), (ENTRY, Get(ENTRY))])
def test_what_a_watch_reads_is_what_it_watches(name, read):
    assert Watch(name).read == read


# One entry.


@pytest.mark.parametrize(
    ("found", "standing"), [((KV,), Standing.FIRST), ((), Standing.GONE)], ids=["there", "gone"]
)
def test_the_watch_of_an_entry_knows_from_its_read_whether_it_is_there(found, standing):
    watch = Watch(ENTRY)
    watch.rebase(Found(9, found))
    assert watch.look(ENTRY, 5)[0] is standing


def test_the_watch_of_an_entry_knows_nothing_before_its_read():
    assert Watch(ENTRY).look(ENTRY, 5)[0] is Standing.UNKNOWN


def test_the_watch_of_an_entry_of_a_nested_lock_knows_whether_it_is_there():
    name = b"foo/bar/a1"
    watch = Watch(name)
    watch.rebase(Found(9, (KeyValue(name, b"alpha", 5, 0xA1),)))
    assert watch.look(name, 5)[0] is Standing.FIRST


def test_who_listens_to_an_entry_is_told_of_its_end():
    watch = Watch(ENTRY)
    listener = Listener(watch)
    watch.rebase(Found(9, (KV,)))
    watch.apply([Event(10, ENTRY, None)])
    assert listener.told == [Standing.FIRST, Standing.GONE]


def test_who_listens_to_an_entry_that_ended_before_the_read_is_told_by_the_read():
    watch = Watch(ENTRY)
    listener = Listener(watch)
    watch.rebase(Found(9, ()))
    assert listener.told == [Standing.GONE]


def test_who_listens_to_an_entry_is_told_by_the_read_after_changes_were_missed():
    watch = Watch(ENTRY)
    listener = Listener(watch)
    watch.rebase(Found(9, (KV,)))
    watch.forget()
    watch.rebase(Found(12, ()))
    assert listener.told == [Standing.FIRST, Standing.GONE]


def test_an_interruption_does_not_end_the_watch_of_an_entry():
    watch = Watch(ENTRY)
    listener = Listener(watch)
    watch.rebase(Found(9, (KV,)))
    watch.failed(StoreUnavailableError("away"), final=False)
    assert (len(listener.errors), watch.look(ENTRY, 5)[0]) == (1, Standing.FIRST)
