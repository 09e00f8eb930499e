"""The wire over sockets, to a member in threads of the test's."""

from __future__ import annotations

import errno
import gc
import os
import signal
import socket
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import Any

import http2
import pytest
from member import DEADLINE, Member, grant, serving

import microlock
from microlock.engine import clock
from microlock.engine.threads import Daemon
from microlock.errors import (
    DestroyedError,
    MicrolockError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
    WrongServerError,
)
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.messages import GRANT
from microlock.etcd.watching import WATCH
from microlock.etcd.wire import Address, links
from microlock.etcd.wire.connection import Connection
from microlock.etcd.wire.member import framed
from microlock.etcd.wire.sockets import SocketWire
from microlock.etcd.wire.tls import Security

OURS = str(Path(microlock.__file__).parent)
NEVER = 0  # a ttl that the member has no answer for


@pytest.fixture
def member() -> Iterator[Member]:
    with serving(socket.create_server(("127.0.0.1", 0))) as made:
        yield made


@pytest.fixture
def wire(member: Member) -> Iterator[SocketWire]:
    made = wire_to(member._listening)
    yield made
    made.close()


def wire_to(listening: socket.socket, security: Security | None = None) -> SocketWire:
    host, port = listening.getsockname()
    return SocketWire(Address(f"{host}:{port}", host, port), security=security)


@contextmanager
def script(serve: Callable[[socket.socket], object]) -> Iterator[SocketWire]:
    """A wire to what does this to each of its connections."""
    stopped = threading.Event()

    def run(listening: socket.socket) -> None:
        while True:
            try:
                sock, _ = listening.accept()
            except OSError:
                return
            with sock:
                serve(sock)
                stopped.wait(DEADLINE)

    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor() as pool:
        pool.submit(run, listening)
        made = wire_to(listening)
        try:
            yield made
        finally:
            made.close()
            stopped.set()
            listening.shutdown(socket.SHUT_RDWR)


def aside(call: Callable[[], Any]) -> Any:
    """What it returns or raises on another thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result(DEADLINE)


def watch(wire: SocketWire) -> tuple[Any, SimpleQueue[Any]]:
    seen: SimpleQueue[Any] = SimpleQueue()
    stream = wire.stream(WATCH, pb.WatchResponse, seen.put, timeout=None, metadata=())
    return stream, seen


# Calls


def test_calls_of_one_thread_use_one_connection(wire: SocketWire, member: Member) -> None:
    assert [grant(wire, each) for each in (1, 2, 3)] == [1, 2, 3]
    assert member.accepted == 1


def test_32_threads_on_one_wire_each_get_their_own_answer_on_two_connections(
    wire: SocketWire, member: Member
) -> None:
    def work(first: int) -> bool:
        return all(grant(wire, ttl) == ttl for ttl in range(first, first + 30))

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(work, range(1_000, 33_000, 1_000)))
    assert member.accepted <= 2


def test_a_call_without_an_answer_ends_with_its_deadline_and_the_wire_goes_on(
    wire: SocketWire, member: Member
) -> None:
    began = clock.now()
    with pytest.raises(StoreTimeoutError) as late:
        grant(wire, NEVER, timeout=0.05)
    assert clock.now() - began < 0.5
    assert late.value.may_have_happened
    assert grant(wire, 1) == 1
    assert member.accepted == 1


def test_a_call_on_the_shared_connection_ends_with_its_deadline_too(
    wire: SocketWire, member: Member
) -> None:
    watch(wire)  # it is there
    with ThreadPoolExecutor() as pool:
        held = pool.submit(grant, wire, NEVER, 1.0)
        member.wait(lambda: len(member.requests) == 1)
        began = clock.now()
        with pytest.raises(StoreTimeoutError):
            pool.submit(grant, wire, NEVER, 0.05).result(DEADLINE)
        assert clock.now() - began < 0.5
        assert pool.submit(grant, wire, 7).result(DEADLINE) == 7
        with pytest.raises(StoreTimeoutError):
            held.result(DEADLINE)
    assert member.accepted == 2


@pytest.mark.parametrize("timeout", [0.0, -0.5, -5.0])
def test_a_call_that_has_no_time_is_not_sent(
    wire: SocketWire, member: Member, timeout: float
) -> None:
    grant(wire, 1)
    with pytest.raises(StoreTimeoutError) as late:
        grant(wire, 2, timeout)
    assert not late.value.may_have_happened
    with pytest.raises(StoreTimeoutError) as late:
        aside(lambda: grant(wire, 2, timeout))
    assert not late.value.may_have_happened
    grant(wire, 3)
    assert len(member.requests) == 2


def test_a_time_longer_than_grpc_can_say_is_no_hindrance(wire: SocketWire) -> None:
    assert grant(wire, 1, timeout=1e300) == 1
    assert aside(lambda: grant(wire, 2, timeout=1e300)) == 2
    with ThreadPoolExecutor() as pool:
        assert list(pool.map(lambda ttl: grant(wire, ttl, timeout=1e300), range(1, 9)))


def test_an_answer_that_cannot_be_read_may_have_happened(wire: SocketWire, member: Member) -> None:
    member.answer = lambda _: b"\xff\xff"
    with pytest.raises(StoreError, match="can't be read") as wrong:
        grant(wire, 1)
    assert wrong.value.may_have_happened


# Connections that end


def test_a_connection_that_was_closed_while_idle_is_made_anew_and_nothing_sent_on_it(
    wire: SocketWire, member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("microlock.etcd.wire.sockets._FRESH", -1.0)
    grant(wire, 1)
    (sock,) = member.connections
    member.connections = []
    sock.shutdown(socket.SHUT_WR)  # what comes all the same would be an answered request
    assert grant(wire, 2) == 2
    assert member.accepted == 2
    assert len(member.requests) == 2


def test_a_peer_that_went_away_while_the_wire_was_idle_gets_no_further_call(
    wire: SocketWire, member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("microlock.etcd.wire.sockets._FRESH", -1.0)
    grant(wire, 1)
    member.go_away()
    assert grant(wire, 2) == 2
    assert member.accepted == 2


def test_a_shared_connection_whose_peer_goes_away_finishes_and_the_next_call_has_another(
    wire: SocketWire, member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "PATIENCE", 0.05)
    stream, seen = watch(wire)
    stream.send(pb.WatchRequest(create_request=pb.WatchCreateRequest(key=b"foo")))
    member.wait(lambda: len(member.connections) == 1)
    shared = wire._shared
    assert shared
    grant(wire, 1)  # so the stream's request is read, and its connection at rest
    member.connections[0].sendall(http2.goaway(2**31 - 1))
    until(lambda: not shared.usable)
    assert seen.empty()
    other, _ = watch(wire)
    assert wire._shared is not shared
    stream.close()
    assert isinstance(seen.get(timeout=DEADLINE), DestroyedError)
    other.close()
    until(lambda: member.connections[0].fileno() == -1)  # closed by us, and so by the member


def test_a_stream_that_cannot_begin_is_an_error_and_its_sink_is_told_nothing(
    wire: SocketWire, member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch(wire)
    assert wire._shared
    monkeypatch.setattr(links.SharedLink, "usable", True)  # as a moment ago
    wire._shared._connection.retiring = True
    seen: SimpleQueue[Any] = SimpleQueue()
    with pytest.raises(StoreUnavailableError, match="shutting down") as refused:
        wire.stream(WATCH, pb.WatchResponse, seen.put, timeout=None, metadata=())
    assert not refused.value.may_have_happened
    wire.close()
    until(lambda: not readers())
    assert seen.empty()


def test_a_socket_that_an_interrupt_lost_is_closed_with_the_wire(member: Member) -> None:
    wire = wire_to(member._listening)
    grant(wire, 1)
    (link,) = wire._links
    wire._free_on_main.remove(link)  # taken out by a call that ended before its `try`
    wire.close()
    assert link.sock.fileno() == -1


def until(done: Callable[[], bool]) -> None:
    end = clock.now() + DEADLINE
    while not done():
        assert clock.now() < end
        threading.Event().wait(0.002)


def test_a_peer_that_hangs_up_ends_calls_in_doubt_and_streams_and_the_next_call_works(
    wire: SocketWire, member: Member
) -> None:
    _, seen = watch(wire)
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(grant, wire, NEVER) for _ in range(4)]
        member.wait(lambda: len(member.requests) == 4)
        member.hang_up()
        for each in waiting:
            error = each.exception(DEADLINE)
            assert isinstance(error, StoreUnavailableError)
            assert error.may_have_happened
    assert isinstance(seen.get(timeout=DEADLINE), StoreUnavailableError)
    assert grant(wire, 1) == 1


def test_what_a_read_meets_changes_the_connection_only_when_it_is_heard() -> None:
    """A read takes no lock: a call that began at that moment would never end."""
    here, there = socket.socketpair()
    with there:
        link = links.Link(here, Connection(), of_main=False)
        here.close()  # so a read fails
        met = link.read()
        assert link.connection.broken is None
        link.hear(met, 0.0)
        assert isinstance(met, OSError)
        assert link.connection.broken is met


def test_a_path_that_tcp_gives_up_ends_the_connection_with_that_reason() -> None:
    class DeadPath(socket.socket):
        def recv(self, *_: object) -> bytes:
            raise OSError(errno.ETIMEDOUT, "Connection timed out")

        def send(self, *_: object) -> int:
            return len(self.recv())

    with DeadPath() as sock:
        reading, writing = (links.Link(sock, Connection(), of_main=False) for _ in range(2))
        reading.hear(reading.read(), 0.0)
        writing.flush(0.0, clock.now() + DEADLINE)
        for each in reading, writing:
            assert str(each.connection.broken) == f"[Errno {errno.ETIMEDOUT}] Connection timed out"


def test_the_thread_that_reads_ends_when_nothing_was_under_way_for_a_while(
    wire: SocketWire, member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "_LINGER", 0.01)
    monkeypatch.setattr(links, "PATIENCE", 0.01)
    stream, _ = watch(wire)
    stream.close()
    until(lambda: not readers())
    assert not wire._links
    assert aside(lambda: grant(wire, 1)) == 1
    other, _ = watch(wire)  # on a new connection
    other.close()
    assert member.accepted == 3


def readers() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "microlock-wire"]


# Deadlines in each step


def test_a_peer_that_says_nothing_ends_the_dial_with_the_deadline() -> None:
    with script(lambda _: None) as wire:
        began = clock.now()
        with pytest.raises(StoreTimeoutError, match="HTTP/2") as late:
            grant(wire, 1, timeout=0.1)
        assert clock.now() - began < 1
        assert not late.value.may_have_happened


def test_a_dial_takes_no_longer_than_another_one_should_wait_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("microlock.etcd.wire.sockets.PATIENCE", 0.1)
    with script(lambda _: None) as wire:
        began = clock.now()
        with pytest.raises(StoreTimeoutError) as late:
            grant(wire, 1, timeout=DEADLINE)
        assert clock.now() - began < 2
        assert not late.value.may_have_happened


def test_a_peer_that_says_nothing_to_tls_ends_the_dial_with_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        wire = wire_to(silent, Security())
        with pytest.raises(StoreTimeoutError) as late:
            grant(wire, 1, timeout=0.1)
        assert not late.value.may_have_happened


def test_a_peer_that_reads_nothing_ends_a_large_call_with_the_deadline() -> None:
    hello = http2.HELLO + http2.settings(INITIAL_WINDOW_SIZE=2**30) + http2.window_update(0, 2**30)
    with script(lambda sock: sock.sendall(hello)) as wire:
        request = pb.PutRequest(value=bytes(16 * 2**20))
        with pytest.raises(MicrolockError) as late:
            wire.call(GRANT, request, pb.PutResponse, timeout=1, metadata=())
        assert isinstance(late.value, StoreError)
        assert late.value.may_have_happened


def test_after_an_address_that_connects_and_says_nothing_the_next_dial_tries_another(
    wire: SocketWire, member: Member
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        both = [(socket.AF_INET, each.getsockname()) for each in (mute, member._listening)]
        wire._dialler._places = lambda _: both  # type: ignore[method-assign]
        with pytest.raises(StoreTimeoutError):
            grant(wire, 1, 0.05)
        assert grant(wire, 2) == 2


def test_a_second_call_waits_for_the_dial_of_the_first_until_its_own_deadline() -> None:
    with script(lambda _: None) as wire, ThreadPoolExecutor() as pool:
        first = pool.submit(watch, wire)  # on the shared connection: it has 3 s
        until(wire._dialling.locked)
        wire._free.clear()  # as if another thread used the other connection
        began = clock.now()
        with pytest.raises(StoreTimeoutError) as late:
            pool.submit(grant, wire, 1, 0.05).result(DEADLINE)
        assert clock.now() - began < 1
        assert not late.value.may_have_happened
        wire.close()
        with pytest.raises(DestroyedError):
            first.result(DEADLINE)


def test_a_dial_whose_own_time_was_too_short_fails_no_call_that_has_more(
    wire: SocketWire, member: Member
) -> None:
    late, goes_on = threading.Event(), threading.Event()

    def slow(_: socket.socket) -> None:
        late.set()
        goes_on.wait(DEADLINE)

    member.before_hello = slow
    wire._free.clear()  # as if another thread used the other connection
    with ThreadPoolExecutor() as pool:
        first = pool.submit(grant, wire, 1, 0.2)
        assert late.wait(DEADLINE)
        second = pool.submit(grant, wire, 2)  # waits for the dial of the first
        with pytest.raises(StoreTimeoutError):
            first.result(DEADLINE)
        goes_on.set()
        assert second.result(DEADLINE) == 2


class Object:
    pass


def failing(call: Callable[[], object]) -> weakref.ref[Object]:
    """What its caller had, after the call failed and the caller ended."""

    def caller() -> weakref.ref[Object]:
        mine = Object()
        with pytest.raises(StoreUnavailableError):
            call()
        return weakref.ref(mine)

    left: weakref.ref[Object] = aside(caller)
    gc.collect()
    return left


def test_a_dial_that_failed_keeps_no_object_of_its_caller() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        wire = wire_to(bound)
        assert failing(lambda: watch(wire))() is None


def test_a_connection_that_a_call_broke_keeps_no_object_of_its_caller(
    wire: SocketWire, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send(*_: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    watch(wire)
    wire._free.clear()  # as if another thread used the other connection
    monkeypatch.setattr(links.Link, "send", send)
    assert failing(lambda: grant(wire, 1))() is None


@pytest.mark.parametrize(
    "said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x01\0\x02\x02\x16", b"\xff" * 99]
)
def test_what_speaks_something_else_is_not_etcd(said: bytes) -> None:
    with script(lambda sock: sock.sendall(said + bytes(9))) as wire:
        with pytest.raises(WrongServerError) as wrong:
            grant(wire, 1)
        assert not wrong.value.may_have_happened


def test_a_flood_during_a_call_ends_it_with_an_error_of_ours() -> None:
    def serve(sock: socket.socket) -> None:
        sock.sendall(http2.HELLO)
        request = b""
        while not request.endswith(framed(pb.LeaseGrantRequest(TTL=1))):
            request += sock.recv(65_536)
        with suppress(OSError):
            for _ in range(10_000):
                sock.sendall(http2.frame(http2.PING, 0, 0, bytes(8)) * 1_000)

    with script(serve) as wire:
        with pytest.raises(StoreUnavailableError) as ended:
            grant(wire, 1)
        assert ended.value.may_have_happened


# The end of the wire


def test_close_ends_calls_and_streams_on_other_threads(wire: SocketWire, member: Member) -> None:
    _, seen = watch(wire)
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(grant, wire, NEVER) for _ in range(4)]
        member.wait(lambda: len(member.requests) == 4)
        wire.close()
        for each in waiting:
            assert isinstance(each.exception(DEADLINE), DestroyedError)
    assert isinstance(seen.get(timeout=DEADLINE), DestroyedError)
    until(lambda: not readers())


@pytest.mark.parametrize(
    "call",
    [
        lambda wire: grant(wire, 1),
        lambda wire: aside(lambda: grant(wire, 1)),
        lambda wire: watch(wire),
    ],
)
def test_a_wire_that_is_closed_dials_no_more(
    wire: SocketWire, member: Member, call: Callable[[SocketWire], object]
) -> None:
    wire.close()
    with pytest.raises(DestroyedError):
        call(wire)
    assert not member.accepted
    assert not wire._links


def test_a_dial_that_is_under_way_when_the_wire_is_closed_leaves_no_connection(
    wire: SocketWire, member: Member
) -> None:
    dialled = wire._dialler.dial

    def dial(deadline: float) -> socket.socket:
        sock = dialled(deadline)
        wire.close()  # by another thread, at the worst moment
        return sock

    wire._dialler.dial = dial  # type: ignore[method-assign]
    with pytest.raises(DestroyedError):
        grant(wire, 1)
    assert not wire._links
    assert not member.requests


def test_close_leaves_no_descriptor_behind(member: Member) -> None:
    wire = wire_to(member._listening)
    grant(wire, 1)
    aside(lambda: grant(wire, 1))
    stream, _ = watch(wire)
    socks = [each.sock for each in wire._links]
    assert len(socks) == 3
    wire.close()
    until(lambda: all(each.fileno() == -1 for each in socks))
    stream.close()


def test_a_sender_may_use_the_socket_for_as_long_as_it_sends(
    wire: SocketWire, member: Member
) -> None:
    """A socket that is closed meanwhile could be another's by the time that the bytes go."""
    watch(wire)
    shared = wire._shared
    assert shared
    link = shared._link
    sending, go_on = threading.Event(), threading.Event()
    send = link.send

    def slow(out: bytes, deadline: float) -> None:
        sending.set()
        assert go_on.wait(DEADLINE)
        assert link.sock.fileno() >= 0
        send(out, deadline)

    link.send = slow  # type: ignore[method-assign]
    wire._free.clear()
    with ThreadPoolExecutor() as pool:
        call = pool.submit(grant, wire, 1)
        assert sending.wait(DEADLINE)
        member.hang_up()
        until(lambda: not shared.usable)
        until(lambda: not readers())
        go_on.set()
        assert isinstance(call.exception(DEADLINE), StoreUnavailableError)
    until(lambda: link.sock.fileno() == -1)


def test_1000_calls_to_nobody_leave_nothing() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        wire = wire_to(bound)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(500):
            with pytest.raises(StoreUnavailableError):
                grant(wire, 1)
            with pytest.raises(StoreUnavailableError):
                watch(wire)
        assert not wire._links
        assert len(os.listdir("/proc/self/fd")) == before


# Threads that fail


def test_a_thread_that_cannot_be_started_is_an_error_and_leaves_no_connection(
    wire: SocketWire, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(Daemon, "start", fails)
        with pytest.raises(StoreUnavailableError, match="no thread") as wrong:
            watch(wire)
        assert not wrong.value.may_have_happened
        assert not wire._links
    watch(wire)


def test_an_exception_in_the_middle_of_a_call_leaves_other_threads_alone(
    wire: SocketWire, member: Member
) -> None:
    """As a killed greenlet, or what another thread raises in this one."""
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(grant, wire, NEVER, 0.5)  # has the connection that is not shared
        member.wait(lambda: len(member.requests) == 1)
        ended = threading.Event()

        def killed() -> None:
            alarm = threading.Lock

            class Alarm:
                def __init__(self) -> None:
                    self.lock = alarm()

                def acquire(self, timeout: float = -1) -> bool:
                    if timeout >= 0:
                        raise SystemExit
                    return self.lock.acquire()

                def release(self) -> None:
                    self.lock.release()

            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(links.threading, "Lock", Alarm)
                with pytest.raises(SystemExit):
                    grant(wire, NEVER)
            ended.set()

        pool.submit(grant, wire, 5).result(DEADLINE)  # the shared one is there
        pool.submit(killed).result(DEADLINE)
        assert ended.is_set()
        assert pool.submit(grant, wire, 6).result(DEADLINE) == 6
        assert wire._shared
        assert wire._shared._connection.idle
        assert isinstance(slow.exception(DEADLINE), StoreTimeoutError)
    assert member.accepted == 2


def test_a_message_of_a_stream_that_cannot_be_read_ends_that_stream_alone(
    wire: SocketWire, member: Member
) -> None:
    member.answer = lambda _: b"\xff\xff"
    stream, seen = watch(wire)
    _, others = watch(wire)
    stream.send(pb.WatchRequest())
    stream.finish()
    error = seen.get(timeout=DEADLINE)
    assert isinstance(error, StoreError)
    assert "can't be read" in str(error)
    assert others.empty()
    wire.close()
    assert isinstance(others.get(timeout=DEADLINE), DestroyedError)
    assert member.accepted == 1


# Sinks


def to_stream(number: int, watch_id: int) -> bytes:
    """A message to the stream that was opened as the first, the second and so on."""
    stream = 2 * number - 1
    return http2.data(
        stream, http2.message(pb.WatchResponse(watch_id=watch_id).SerializeToString())
    )


def test_a_sink_may_wait_for_another_thread_that_uses_its_stream(
    wire: SocketWire, member: Member
) -> None:
    told: SimpleQueue[Any] = SimpleQueue()

    def sink(_: object) -> None:
        aside(lambda: stream.send(pb.WatchRequest()))
        told.put("sent")

    stream = wire.stream(WATCH, pb.WatchResponse, sink, timeout=None, metadata=())
    member.send(http2.leading(1) + to_stream(1, 1))
    assert told.get(timeout=DEADLINE) == "sent"


def test_what_comes_while_a_sink_is_busy_is_told_after_it_and_in_order(
    wire: SocketWire, member: Member
) -> None:
    told: SimpleQueue[Any] = SimpleQueue()
    busy, go_on = threading.Event(), threading.Event()

    def sink(reply: Any) -> None:
        if not busy.is_set():
            busy.set()
            assert go_on.wait(DEADLINE)
        told.put(type(reply) if isinstance(reply, MicrolockError) else reply.watch_id)

    stream = wire.stream(WATCH, pb.WatchResponse, sink, timeout=None, metadata=())
    member.send(http2.leading(1) + to_stream(1, 1) + to_stream(1, 2))
    assert busy.wait(DEADLINE)
    stream.close()  # returns, though somebody is told
    assert told.empty()
    go_on.set()
    assert [told.get(timeout=DEADLINE) for _ in range(3)] == [1, 2, DestroyedError]


def test_a_sink_may_close_its_stream_and_hears_of_it_afterwards(
    wire: SocketWire, member: Member
) -> None:
    told: SimpleQueue[Any] = SimpleQueue()

    def sink(reply: Any) -> None:
        stream.close()
        told.put(type(reply))

    stream = wire.stream(WATCH, pb.WatchResponse, sink, timeout=None, metadata=())
    member.send(http2.leading(1) + to_stream(1, 1))
    assert [told.get(timeout=DEADLINE) for _ in range(2)] == [pb.WatchResponse, DestroyedError]


def test_whoever_sends_is_not_told_what_came_for_others(wire: SocketWire, member: Member) -> None:
    """It may hold a lock that the sink takes."""
    tellers: SimpleQueue[str] = SimpleQueue()

    def sink(_: object) -> None:
        tellers.put(threading.current_thread().name)

    stream = wire.stream(WATCH, pb.WatchResponse, sink, timeout=None, metadata=())
    wire._shared._link.send = fail  # type: ignore[union-attr, method-assign]
    aside(lambda: stream.send(pb.WatchRequest()))
    assert tellers.get(timeout=DEADLINE) == "microlock-wire"


def fail(*_: object) -> None:
    raise BrokenPipeError


def test_a_sink_that_fails_ends_its_own_stream_alone(wire: SocketWire, member: Member) -> None:
    told: SimpleQueue[Any] = SimpleQueue()

    def sink(reply: Any) -> None:
        told.put(reply)
        raise ValueError("a bug")

    wire.stream(WATCH, pb.WatchResponse, sink, timeout=None, metadata=())
    _, others = watch(wire)
    member.send(http2.leading(1) + to_stream(1, 1) + http2.leading(3) + to_stream(2, 2))
    assert told.get(timeout=DEADLINE).watch_id == 1
    assert "a bug" in str(told.get(timeout=DEADLINE))
    assert others.get(timeout=DEADLINE).watch_id == 2


# Interrupts


class Interrupter:
    """Raises on a line of the wire that this thread comes to."""

    def __init__(self, number: int, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.left = number
        self.error = error
        self.lines: set[tuple[str, int]] = set()

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        if event == "line":
            line = frame.f_code.co_filename, frame.f_lineno
            self.left -= line not in self.lines
            self.lines.add(line)
            if self.left == 0:
                self.left = -1
                sys.settrace(None)
                raise self.error
        return self


def interrupted(call: Callable[[], object], number: int) -> bool:
    interrupter, tracing = Interrupter(number), sys.gettrace()
    gc.disable()  # it would interrupt a generator that an earlier round has left
    sys.settrace(interrupter)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(tracing)
        gc.enable()
    assert interrupter.left > 0, "the interrupt was swallowed"
    return False


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # of a dial that is interrupted
@pytest.mark.parametrize("state", ["not connected", "connected", "closed by the peer"])
def test_an_interrupt_on_any_line_of_a_call_leaves_the_wire_usable(
    wire: SocketWire, member: Member, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    monkeypatch.setattr("microlock.etcd.wire.sockets._FRESH", -1.0)
    stream, seen = watch(wire)
    number, more = 0, True
    while more:
        number += 1
        if state == "not connected":
            for free in wire._free_on_main:
                if free is not None:
                    wire._drop(free)
            wire._free_on_main[:] = [None]
        elif state == "closed by the peer":
            grant(wire, 1)
            for each in member.connections[1:]:
                with suppress(OSError):  # it has ended before
                    each.shutdown(socket.SHUT_RDWR)
        else:
            grant(wire, 1)
        ttl = 1_000 + number
        more = interrupted(lambda ttl=ttl: grant(wire, ttl), number)  # type: ignore[misc]
        assert grant(wire, 2 * ttl) == 2 * ttl, f"after line {number}"
        assert len(wire._free_on_main) == 1
        if number % 20 == 0:
            assert aside(lambda: grant(wire, 3)) == 3
            assert seen.empty()
    assert number > 30
    stream.close()
    gc.collect()  # now, while that is no error


def test_an_interrupt_in_the_middle_of_the_clean_up_does_not_leave_a_connection_half_read(
    wire: SocketWire, member: Member
) -> None:
    """Ctrl-C twice. A connection that lost bytes must not be used again."""
    grant(wire, 1)
    link = wire._free_on_main[0]
    assert link

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    link.listen = link.close = interrupt  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        grant(wire, 2)
    assert link not in wire._free_on_main
    assert grant(wire, 3) == 3
    member.wait(lambda: len(member.requests) == 3)
    del link.listen, link.close
    wire.close()
    assert link.sock.fileno() == -1


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no signals to itself")
def test_a_signals_handler_may_call_in_the_middle_of_a_call(
    wire: SocketWire, member: Member
) -> None:
    said: list[int] = []

    def handler(*_: object) -> None:
        said.append(grant(wire, 7))
        answered.set()

    answered = threading.Event()

    def answer(request: bytes) -> bytes | None:
        ttl = pb.LeaseGrantRequest.FromString(request[5:]).TTL
        if ttl == 1:  # waits until the handler, on another connection, has its answer
            os.kill(os.getpid(), signal.SIGUSR1)
            assert answered.wait(DEADLINE)
        return pb.LeaseGrantResponse(ID=ttl).SerializeToString()

    member.answer = answer
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        assert grant(wire, 1) == 1
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert said == [7]
    assert grant(wire, 8) == 8
    assert member.accepted == 2


def test_the_main_thread_never_uses_the_shared_connection(wire: SocketWire, member: Member) -> None:
    watch(wire)
    wire._free_on_main.clear()  # as in a signal's handler
    assert grant(wire, 1) == 1
    assert wire._shared
    assert wire._shared._connection.idle is False
    assert member.accepted == 2


def test_a_name_that_tls_cannot_send_is_an_error_of_ours(member: Member) -> None:
    address = Address("127.0.0.1:1", "127.0.0.1", member._listening.getsockname()[1])
    for name in ("x" * 300, "a\0b", ".", "\udcff"):
        wire = SocketWire(address, security=Security(), server_name=name)
        with pytest.raises(MicrolockError):
            grant(wire, 1, timeout=1)
        wire.close()


def test_certificates_that_are_gone_are_an_error_of_ours(member: Member, tmp_path: Path) -> None:
    wire = wire_to(member._listening, Security(ca=str(tmp_path / "gone")))
    with pytest.raises(StoreUnavailableError, match="a file with certificates") as wrong:
        grant(wire, 1)  # it may be there again in a moment
    assert not wrong.value.may_have_happened
    wire.close()
