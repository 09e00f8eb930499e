"""Connections on blocking sockets: for one thread at a time, or shared by many."""

from __future__ import annotations

import errno
import socket
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from google.protobuf.message import Message

from microlock.engine import clock
from microlock.etcd.wire import M, Sink
from microlock.etcd.wire.connection import Connection, Failure, Rpc
from microlock.etcd.wire.frames import Headers
from microlock.etcd.wire.member import CLOSED, LATE, Member, framed

_CHUNK = 64 * 1024
# The most seconds of one read: then deadlines are checked, and signals that another thread got.
_TICK = 0.5
# Seconds that the shared link stays open with nothing under way.
_LINGER = 30.0
# The most seconds for a dial, and for a peer to read our bytes.
PATIENCE = 3.0
# The most seconds until the peer's system acknowledges our bytes. It does so even while the peer is
# paused, as long as it has room. Otherwise the path is dead, for example because a firewall has
# forgotten the connection.
_UNACKNOWLEDGED = 2.0

_timeval = struct.Struct("@ll").pack


class Link:
    """A connection and its socket, for one thread at a time.

    Attributes:
        heard: when bytes last came.
        of_main: whether the main thread dialled it; then no other thread uses it.
    """

    def __init__(self, sock: socket.socket, connection: Connection, *, of_main: bool) -> None:
        self.sock = sock
        self.connection = connection
        self.of_main = of_main
        self.heard = clock.now()
        # Sockets of the system (not gevent's) use its timeouts: Python's cost a poll each time.
        self._kernels = sys.platform != "win32" and type(sock).__module__ == "socket"
        self._tick = 0.0
        # For `shut` and `close`: a closed file descriptor may belong to another file at once.
        self._ending = threading.RLock()

    def greet(self, deadline: float) -> None:
        """Waits until the peer speaks HTTP/2. Raises the error if it does not."""
        if self.sock.family != getattr(socket, "AF_UNIX", None):
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; elsewhere pings notice it, later
                most = int(_UNACKNOWLEDGED * 1000)
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, most)
        if self._kernels:
            self.sock.settimeout(None)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(0, 500_000))
        self.tick(_TICK)
        now = clock.now()
        self.flush(now, deadline)
        while not self.connection.ready:
            if self.connection.broken:
                raise self.connection.broken
            if now >= deadline:
                raise TimeoutError("it did not begin HTTP/2 in time")
            now = self.listen(now, deadline)

    def tick(self, seconds: float) -> None:
        """Sets the most seconds of one read."""
        if seconds != self._tick:
            self._tick = seconds
            if self._kernels:
                value = _timeval(int(seconds), int(seconds % 1 * 1e6))
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
            else:
                self.sock.settimeout(seconds)

    def call(self, headers: Headers, message: bytes, deadline: float) -> Rpc:
        """Makes a call, and returns it when it has ended."""
        connection, rpc = self.connection, Rpc()
        now = clock.now()
        connection.begin(rpc, headers, message, True, now)
        self.flush(now, deadline)
        while not rpc.ended:
            now = self.listen(now, deadline)
            if not rpc.ended and now >= deadline:
                connection.cancel(rpc, LATE)
                self.flush(now, now)
        return rpc

    def listen(self, now: float, deadline: float) -> float:
        """Reads once, and sends bytes that must not wait. Returns the time."""
        self.tick(min(_TICK, max(deadline - now, 0.001)))
        data = self.read()
        now = clock.now()
        self.hear(data, now)
        if self.connection.wants_taking(now):
            self.flush(now, deadline)
        return now

    def read(self) -> bytes | OSError | None:
        """Returns the bytes that came (none: the peer has closed), None (nothing for a tick), or an
        error."""
        try:
            return self.sock.recv(_CHUNK)
        except OSError as error:
            return None if _is_tick(error) else error

    def hear(self, data: bytes | OSError | None, now: float) -> None:
        if data is None:
            self.connection.tend(now)
        elif isinstance(data, OSError):
            self.connection.fail(data)
        elif self.connection.broken is None:
            self.heard = now
            self.connection.receive(data, now)

    def look(self, now: float) -> None:
        """Processes bytes that came while no thread read."""
        before = self.sock.gettimeout()
        self.sock.settimeout(0)
        while self.connection.broken is None and (data := self.read()) is not None:
            self.hear(data, now)
        self.sock.settimeout(before)

    def flush(self, now: float, deadline: float) -> None:
        try:
            self.send(self.connection.take(now), deadline)
        except OSError as error:
            self.connection.fail(error)

    def send(self, out: bytes, deadline: float) -> None:
        """Raises OSError."""
        while out:
            try:
                sent = self.sock.send(out)
            except OSError as error:
                if not _is_tick(error):
                    raise
                sent = 0
            if sent == len(out):
                return
            out = out[sent:]
            if clock.now() > deadline:
                raise TimeoutError("the peer takes no more data")

    def shut(self) -> None:
        """Shuts the socket down, from any thread: a reading thread gets the end of the data."""
        with self._ending, suppress(OSError):  # it is closed, or the peer has ended it
            self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes the socket. Call it when no other thread reads or sends."""
        self.shut()
        with self._ending:
            self.sock.close()


def _is_tick(error: OSError) -> bool:
    """Whether the time of one read or write is over. ETIMEDOUT, TCP's own, ends the connection."""
    return isinstance(error, BlockingIOError | TimeoutError) and error.errno != errno.ETIMEDOUT


class SharedLink:
    """A link for any number of threads except the main one. One thread reads for all.

    Attributes:
        calls: the calls under way.
    """

    def __init__(self, link: Link, drop: Callable[[Link], object]) -> None:
        """`drop`: closes the link when nobody uses it any more."""
        self._link = link
        self._drop = drop
        self._connection = link.connection
        # Guards the connection and the fields below. Reentrant, for a signal handler that closes
        # the client while the main thread closes it.
        self._lock = threading.RLock()
        self._sending = False  # whether a thread sends: it also sends what comes meanwhile
        self._news: deque[Callable[[], object]] = deque()  # calls of the sinks, in order
        self._read_out = False  # whether reading has ended
        self._used = link.heard
        self.calls: set[Rpc] = set()

    @property
    def usable(self) -> bool:
        return self._connection.usable

    def call(self, headers: Headers, message: bytes, deadline: float) -> Rpc:
        """Makes a call, and returns it when it has ended."""
        alarm = threading.Lock()
        alarm.acquire()
        rpc = Rpc(alarm.release)
        late = True
        self.calls.add(rpc)
        try:
            self.begin(rpc, headers, message, ended=True)
            late = not alarm.acquire(timeout=max(0.0, deadline - clock.now()))
        finally:
            self.calls.discard(rpc)
            if late:  # or its greenlet was killed
                self.cancel(rpc, LATE)
        return rpc

    def begin(self, rpc: Rpc, headers: Headers, message: bytes, *, ended: bool) -> None:
        self._do(lambda now: self._connection.begin(rpc, headers, message, ended, now))

    def more(self, rpc: Rpc, message: bytes, *, ended: bool) -> None:
        self._do(lambda _: self._connection.send(rpc, message, ended=ended))

    def cancel(self, rpc: Rpc, failure: Failure) -> None:
        self._do(lambda _: self._connection.cancel(rpc, failure))

    def news(self, tell: Callable[[], object]) -> None:
        """Queues a call of a sink, which `tell` makes without the lock. Call it under the lock."""
        self._news.append(tell)

    def tell(self) -> None:
        """Calls the sinks. Only the reading thread may: others may hold a lock of a sink."""
        while self._news:
            self._news.popleft()()

    def _do(self, act: Callable[[float], object]) -> None:
        now = clock.now()
        with self._lock:
            act(now)
            out = self._take(now)
        self._send(out)

    def _take(self, now: float) -> bytes:
        """The bytes that this thread must send. Call it under the lock."""
        if self._sending or self._connection.broken:
            return b""
        out = self._connection.take(now)
        self._sending = bool(out)
        return out

    def _send(self, out: bytes) -> None:
        """Sends these bytes, and those that other threads add meanwhile."""
        try:
            while out:
                now = clock.now()
                self._link.send(out, now + PATIENCE)
                with self._lock:
                    self._sending = False
                    out = self._take(now)
        except BaseException as error:
            with self._lock:
                self._sending = False
                self._connection.fail(error)
            if not isinstance(error, OSError):
                raise
            error.__traceback__ = None  # the connection keeps it, and so the callers' locals
        finally:
            if self._connection.broken is not None:
                self._link.shut()  # the reading thread gets the end, and reports it
                # The last user closes it: a closed file descriptor may belong to another at once.
                if self._read_out and not self._sending:
                    self._drop(self._link)

    def read_for_all(self) -> None:
        """Reads until the link has ended: the work of its thread."""
        connection, link = self._connection, self._link
        link.tick(PATIENCE)
        try:
            while connection.broken is None:
                data = link.read()
                now = clock.now()
                with self._lock:
                    link.hear(data, now)
                    if not connection.idle:
                        self._used = now
                    elif connection.retiring or now - self._used > _LINGER:
                        connection.retiring = True
                        return
                    out = self._take(now) if connection.wants_taking(now) else b""
                self._send(out)
                self.tell()
        except BaseException as error:
            with self._lock:
                connection.fail(error)
            raise
        finally:
            with self._lock:
                connection.fail(ConnectionResetError("the connection is no longer used"))
                self._read_out = True
            self._send(b"")
            self.tell()


class SocketStream:
    """A stream on the shared link."""

    def __init__(self, link: SharedLink, member: Member, reply: type[M], sink: Sink[M]) -> None:
        self._link = link
        self._member = member
        self._reply = reply
        self._sink = sink
        self.rpc: Rpc = Rpc(self._ended, self._came)

    def send(self, *messages: Message) -> None:
        self._link.more(self.rpc, b"".join(map(framed, messages)), ended=False)

    def finish(self) -> None:
        self._link.more(self.rpc, b"", ended=True)

    def close(self) -> None:
        self._link.cancel(self.rpc, CLOSED)

    # Called under the lock of the link.

    def _came(self, message: bytes) -> None:
        self._link.news(partial(self._hand, self._reply.FromString(message)))

    def _ended(self) -> None:
        failure = self.rpc.failure or Failure("UNAVAILABLE", "etcd ended the stream")
        if self.rpc.stream:  # it has begun; otherwise `stream()` raises
            self._link.news(partial(self._hand, self._member.error(failure)))

    def _hand(self, told: Any) -> None:
        try:
            self._sink(told)
        except Exception as error:  # noqa: BLE001  it must not end other streams
            self._link.cancel(
                self.rpc, Failure("INTERNAL", f"a message can't be processed: {error!r}")
            )
