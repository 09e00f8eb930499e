"""The thread that reads for all the watches of a client."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from typing import Any

import pytest
from watching import eventually

from microlock.core.port import Event, Found, KeyValue, WatchCancelled, WatchCreated, WatchEvents
from microlock.core.queue import Change, Holder, Standing
from microlock.engine import clock
from microlock.engine import reader as reader_module
from microlock.engine.backoff import jitter
from microlock.engine.reader import Reader, Watched
from microlock.errors import (
    DestroyedError,
    MicrolockError,
    StorePermissionError,
    StoreTimeoutError,
    StoreUnavailableError,
)

LOCK, ENTRY = b"foo/", b"foo/a1"
NOBODY: Any = object()
ALPHA = KeyValue(ENTRY, b"alpha", 5, 0xA1)
GONE = Event(10, ENTRY, None)


class Stream:
    """Notes what is sent, and has each watch made at once, unless it is `mute`."""

    member = "etcd0:2379"

    def __init__(self, sink: Callable[[Any], None], *, mute: bool = False) -> None:
        self.mute = mute
        self.sink = sink
        self.sent: list[Any] = []
        self.closed = threading.Event()

    def create(self, watch_id: int, name: bytes, start: int | None) -> None:
        self.sent.append(("create", name, start))
        if not self.mute:
            self.sink(WatchCreated(watch_id, 9))

    def cancel(self, watch_id: int) -> None:
        self.sent.append(("cancel", watch_id))

    def close(self) -> None:
        self.closed.set()
        self.sink(DestroyedError("closed by us"))


class Client:
    """Opens such streams, and answers every read with one holder.

    Attributes:
        refusals: the errors that opening a stream meets, one after the other.
        mute: how many of the streams answer nothing.
        moves: how often another member was turned to.
    """

    timeout = 5.0
    forked = False
    clock = clock.REAL
    jitter = staticmethod(jitter)

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self.refusals: list[Exception] = []
        self.mute = 0
        self.moves = 0
        self.read: Callable[[], Found] = lambda: Found(9, (ALPHA,))

    def check(self) -> None: ...

    def perform(self, request: Any, budget: Any) -> Found:
        return self.read()

    def open_watch(self, sink: Callable[[Any], None]) -> Stream:
        if self.refusals:
            raise self.refusals.pop(0)
        self.streams.append(Stream(sink, mute=len(self.streams) < self.mute))
        return self.streams[-1]

    def move_on(self, member: str) -> None:
        self.moves += 1


class Subscriber:
    """Notes what it is notified of, and by which thread."""

    interest = None

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.calls = 0
        self.failures: list[tuple[Exception, bool]] = []
        self.threads: set[str] = set()

    def watched(self, name: bytes, changes: Sequence[Change], *, synthesised: bool) -> None:
        self.threads.add(threading.current_thread().name)
        self.changes += changes
        self.calls += 1

    def watch_failed(self, name: bytes, error: Exception, *, final: bool) -> None:
        self.failures.append((error, final))


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def reader(client: Client, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    monkeypatch.setattr(reader_module, "_LINGER", 0.05)
    with closing(Reader(client)) as reader:  # type: ignore[arg-type]
        yield reader


@pytest.fixture
def one() -> Subscriber:
    return Subscriber()


def threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "microlock-watch"]


def stream_of(client: Client, number: int = 1) -> Stream:
    assert eventually(lambda: len(client.streams) >= number)
    return client.streams[number - 1]


# What a subscriber gets.


def settle(reader: Reader, timeout: float = 5) -> None:
    with reader.settling(LOCK) as settled:
        settled.wait(timeout)


def test_a_subscriber_is_notified_of_what_is_there_and_of_what_changes(client, reader, one):
    watched = reader.watch(LOCK, one)
    settle(reader)
    assert watched.look(ENTRY, 5) == (Standing.FIRST, Holder("alpha", 5, 0xA1))
    stream_of(client).sink(WatchEvents(1, (GONE,)))
    assert eventually(lambda: one.changes == [Change(False, Holder("alpha", 5, 0xA1))])
    assert watched.look(ENTRY, 5)[0] is Standing.GONE
    assert one.threads == {"microlock-watch"}


def test_what_happens_while_a_read_is_under_way_is_told_once(client, reader, one):
    def read() -> Found:
        client.streams[0].sink(WatchEvents(1, (Event(9, b"foo/c3", None),)))  # in the read too
        client.streams[0].sink(WatchEvents(1, (GONE,)))  # after it
        return Found(9, (ALPHA,))

    client.read = read
    watched = reader.watch(LOCK, one)
    assert eventually(lambda: one.calls == 3)
    assert one.changes == [Change(False, Holder("alpha", 5, 0xA1))]
    assert watched.look(ENTRY, 5)[0] is Standing.GONE


def test_what_a_stream_tells_after_its_end_is_not_heard(client, reader, one):
    reader.watch(LOCK, one)
    settle(reader)
    old = stream_of(client)
    old.sink(StoreUnavailableError("away"))
    old.sink(WatchEvents(1, (GONE,)))
    stream_of(client, 2)
    assert eventually(lambda: reader._machine.error(LOCK) is None)
    assert one.changes == []


def test_a_subscriber_that_raises_ends_nothing(client, reader, one, caplog):
    class Failing(Subscriber):
        def watched(self, *args: Any, **kwargs: Any) -> None:
            raise SystemExit

    reader.watch(LOCK, Failing())
    reader.watch(LOCK, one)
    settle(reader)
    stream_of(client).sink(WatchEvents(1, (GONE,)))
    assert eventually(lambda: one.changes)
    assert "failed to handle a change" in caplog.text


def test_nothing_is_locked_while_a_subscriber_is_notified(reader):
    free: list[bool] = []

    class Asking(Subscriber):
        def watched(self, *args: Any, **kwargs: Any) -> None:
            aside = threading.Thread(target=lambda: reader.watching(LOCK, besides=NOBODY))
            aside.start()
            aside.join(5)
            free.append(not aside.is_alive())

    reader.watch(LOCK, Asking())
    settle(reader)
    assert free == [True]


# Who comes and who goes.


def test_one_who_left_is_not_watched_for_and_nothing_is_sent_to_wake_the_thread(
    client, reader, one
):
    reader.watch(LOCK, one)
    settle(reader)
    reader.unwatch(LOCK, one)
    assert (reader.watching(LOCK, besides=NOBODY), reader.names) == (False, [])
    stream = stream_of(client)
    assert stream.closed.wait(5)
    assert [what for what, *_ in stream.sent] == [
        "create",
        "cancel",
    ]


def test_the_thread_and_its_stream_end_a_little_after_the_last_watch(client, reader, one):
    reader.watch(LOCK, one)
    settle(reader)
    reader.unwatch(LOCK, one)
    assert eventually(lambda: not threads())
    assert stream_of(client).closed.is_set()
    assert reader._thread is None


def test_the_stream_stays_for_those_who_come_soon(client, reader, one, monkeypatch):
    monkeypatch.setattr(reader_module, "_LINGER", 60)
    for _ in range(3):
        reader.watch(LOCK, one)
        settle(reader)
        reader.unwatch(LOCK, one)
    assert len(client.streams) == 1


def test_a_watch_after_the_end_of_the_thread_starts_another(client, reader, one):
    for number in (1, 2):
        watched = reader.watch(LOCK, one)
        settle(reader)
        assert watched.look(ENTRY, 5)[0] is Standing.FIRST
        reader.unwatch(LOCK, one)
        assert stream_of(client, number).closed.wait(5)
        assert eventually(lambda: not threads())


def test_a_signals_handler_in_the_middle_of_a_watch_leaves_one_that_is_told_of(client, reader, one):
    machine, other = reader._machine, Subscriber()
    subscribe = machine.subscribe

    def interrupted(*args: Any) -> None:
        machine.subscribe = subscribe
        reader.watch(LOCK, other)
        settle(reader, 0.01)
        reader.unwatch(LOCK, other)
        subscribe(*args)

    machine.subscribe = interrupted
    watched = reader.watch(LOCK, one)
    settle(reader)
    assert watched.look(ENTRY, 5)[0] is Standing.FIRST


def test_many_threads_that_come_and_go_leave_what_they_want_watched(client, reader):
    stay = [Subscriber() for _ in range(4)]

    def work(subscriber: Subscriber) -> None:
        for _ in range(200):
            reader.watch(LOCK, subscriber)
            reader.unwatch(LOCK, subscriber)
        reader.watch(LOCK, subscriber)

    workers = [threading.Thread(target=work, args=(each,)) for each in stay]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    assert eventually(lambda: Watched(reader, LOCK).look(ENTRY, 5)[0] is Standing.FIRST)
    assert len(threads()) == 1
    for each in stay:
        reader.unwatch(LOCK, each)
    assert eventually(lambda: not threads())


def test_without_a_thread_nothing_is_watched(reader, one, monkeypatch):
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError):
            reader.watch(LOCK, one)
    assert reader.names == []
    reader.watch(LOCK, one)
    settle(reader)
    assert one.calls == 1


def test_a_thread_that_was_replaced_in_its_start_ends_at_once(reader, one):
    reader.watch(LOCK, one)
    settle(reader)
    extra = threading.Thread(target=reader._run)
    extra.start()
    extra.join(5)
    assert not extra.is_alive()
    assert len(threads()) == 1


def test_in_a_child_of_the_process_nobody_waits_for_a_lock_of_the_parent(client, reader, one):
    held, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with reader._lock:
            held.set()
            leave.wait(5)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(5)
    client.forked = True
    reader.unwatch(LOCK, one)
    client.forked = False
    leave.set()
    holder.join()


# Waiting until it runs.


def test_a_refusal_is_raised_to_who_waits_for_the_watch(client, reader, one):
    client.refusals = [StorePermissionError("no")]
    reader.watch(LOCK, one)
    with pytest.raises(StorePermissionError):
        settle(reader)
    assert [final for _, final in one.failures] == [True]


def test_who_waits_for_a_watch_that_fails_at_first_has_been_told(client, reader, one):
    away = StoreUnavailableError("away")
    client.refusals = [away]
    reader.watch(LOCK, one)
    settle(reader)
    assert one.failures == [(away, False)]
    assert eventually(lambda: one.changes == [Change(True, Holder("alpha", 5, 0xA1))])


def test_who_waits_for_a_watch_that_does_not_begin_is_told_after_its_time(client, reader, one):
    leave = threading.Event()

    def read() -> Found:
        leave.wait(5)
        return Found(9, (ALPHA,))

    client.read = read
    reader.watch(LOCK, one)
    settle(reader, 0.02)
    assert [(type(error), final) for error, final in one.failures] == [(StoreTimeoutError, False)]
    leave.set()
    assert eventually(lambda: one.changes == [Change(True, Holder("alpha", 5, 0xA1))])


def test_nobody_waits_for_what_is_not_watched(reader):
    settle(reader)


# Failures.


def test_after_a_failure_it_goes_on_with_another_member(client, reader, one):
    reader.watch(LOCK, one)
    settle(reader)
    stream_of(client).sink(StoreUnavailableError("away"))
    again = stream_of(client, 2)
    assert eventually(lambda: again.sent)
    assert again.sent[0] == ("create", LOCK, 10)
    assert client.moves == 1


@pytest.mark.parametrize("mute", [1, 2])
def test_a_member_that_does_not_begin_a_watch_is_left_for_another(
    client, reader, one, mute, monkeypatch
):
    monkeypatch.setattr("microlock.engine.reader._PATIENCE", 0.04)
    client.timeout, client.mute = 0.02, mute
    reader.watch(LOCK, one)
    assert eventually(lambda: one.calls)
    assert (len(client.streams), client.moves) == (mute + 1, mute)
    ((error, final),) = one.failures
    assert (type(error), final) == (StoreTimeoutError, False)


def test_a_member_that_had_nothing_to_answer_for_long_has_all_its_time_for_the_next_watch(
    client, reader, one, monkeypatch
):
    reader.watch(LOCK, one)
    settle(reader)
    now = clock.now()
    monkeypatch.setattr(clock.REAL, "now", lambda: now + 3600)
    stream = stream_of(client)
    stream.mute = True
    reader.watch(ENTRY, one)
    assert eventually(lambda: len(stream.sent) == 2)
    stream.sink(WatchCreated(2, 9))
    assert eventually(lambda: one.calls == 2)
    assert (len(client.streams), one.failures) == (1, [])


def test_after_a_login_that_expired_it_goes_on_with_the_same_member(client, reader, one):
    reader.watch(LOCK, one)
    settle(reader)
    stream_of(client).sink(WatchCancelled(1, refused=True))
    stream_of(client, 2)
    assert (client.moves, one.failures) == (0, [])


def test_a_stream_that_somebody_else_closed_is_opened_again(client, reader, one):
    reader.watch(LOCK, one)
    settle(reader)
    stream_of(client).sink(DestroyedError("closed"))
    stream_of(client, 2)
    assert one.failures == []


def test_a_read_that_fails_is_told_and_tried_again_on_another_stream(client, reader, one):
    failures = [StoreUnavailableError("away")]

    def read() -> Found:
        if failures:
            raise failures.pop()
        return Found(9, (ALPHA,))

    client.read = read
    reader.watch(LOCK, one)
    assert eventually(lambda: one.changes == [Change(True, Holder("alpha", 5, 0xA1))])
    assert len(one.failures) == 1


@pytest.mark.parametrize("error", [RuntimeError("a fault of ours"), DestroyedError("closed")])
def test_the_thread_tells_why_it_ends(client, reader, one, error, caplog):
    def read() -> Found:
        raise error

    client.read = read
    reader.watch(LOCK, one)
    assert eventually(lambda: one.failures)
    ((told, final),) = one.failures
    assert (isinstance(told, MicrolockError), final, reader.names) == (True, True, [])
    assert eventually(lambda: not threads())
    with suppress(MicrolockError):
        settle(reader)
    client.read = lambda: Found(9, (ALPHA,))
    reader.watch(LOCK, one)
    assert eventually(lambda: one.calls)


def test_closing_it_ends_the_thread_and_tells_all(client, reader, one):
    reader.watch(LOCK, one)
    settle(reader)
    reader.close()
    ((error, final),) = one.failures
    assert (type(error), final) == (DestroyedError, True)
    assert eventually(lambda: not threads())
    assert stream_of(client).closed.is_set()
    with pytest.raises(DestroyedError):
        settle(reader)


def test_a_stream_that_opens_as_the_reader_is_closed_is_closed_too(client, reader, one):
    opening, leave, open_watch = threading.Event(), threading.Event(), client.open_watch

    def slowly(sink: Callable[[Any], None]) -> Stream:
        opening.set()
        leave.wait(5)
        return open_watch(sink)

    client.open_watch = slowly
    reader.watch(LOCK, one)
    assert opening.wait(5)
    closing_it = threading.Thread(target=reader.close)
    closing_it.start()
    assert eventually(lambda: one.failures)
    leave.set()
    closing_it.join(5)
    assert stream_of(client).closed.wait(5)
    assert eventually(lambda: not threads())
