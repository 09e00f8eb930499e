"""The two calls of microlock's seam (`microlock/etcd/wire.py`) over sockets of our own."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from connection import Connection
from exchange import OK, UNAVAILABLE, Exchange, RpcFailure
from framing import Headers
from google.protobuf.message import Message

M = TypeVar("M", bound=Message)
Dial = Callable[[], Connection]


class SocketWire:
    """Args:
    dial: gives a new connection.
    sockets: None: one that all threads share; else so many, each of one thread at a time.
    apart: streams have a connection of their own.
    """

    def __init__(
        self, dial: Dial, address: str, *, tls: bool, sockets: int | None = None, apart: bool = True
    ) -> None:
        self._dial = dial
        self.dialled = 0  # connections that threads share
        self._fixed: Headers = (
            (b":method", b"POST"),
            (b":scheme", b"https" if tls else b"http"),
            (b":authority", address.encode()),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
        )
        self._streams = "streams" if apart else "calls"
        self._sockets = sockets
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._shared: dict[str, Connection] = {}
        self._free: list[Connection] = []
        self._turns = threading.Semaphore(self._sockets) if self._sockets else None

    def call(self, method: str, message: Message, reply: type[M], *, timeout: float = 5) -> M:
        deadline = time.monotonic() + timeout
        headers = self._headers(method, timeout)
        with self._connection() as connection:
            exchange = connection.begin(headers, framed(message), end=True)
            connection.wait(exchange, lambda: exchange.ended, deadline)
        if exchange.failure:
            raise exchange.failure
        answer: M = reply.FromString(exchange.replies[0])
        return answer

    def stream(self, method: str, reply: type[Message]) -> SocketStream:
        connection = self._of_all(self._streams)
        return SocketStream(
            connection, connection.begin(self._headers(method), b"", end=False), reply
        )

    def close(self) -> None:
        for connection in (*self._shared.values(), *self._free):
            connection.close()

    def _headers(self, method: str, timeout: float | None = None) -> Headers:
        path = (b":path", f"/etcdserverpb.{method}".encode())
        fixed = self._fixed
        if timeout is None:
            return (fixed[0], fixed[1], path, *fixed[2:])
        limit = (b"grpc-timeout", b"%dm" % (timeout * 1000))
        return (fixed[0], fixed[1], path, *fixed[2:], limit)

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        if self._process != os.getpid():
            self._start()  # a thread of the parent may have had the lock
        if self._turns is None:
            yield self._of_all("calls")
            return
        with self._turns:
            with self._lock:
                connection = self._free.pop() if self._free else None
            if connection is None or not connection.usable():
                connection = self._dial()
            try:
                yield connection
            finally:
                with self._lock:
                    self._free.append(connection)

    def _of_all(self, use: str) -> Connection:
        connection = self._shared.get(use)
        if connection is None or not connection.usable():
            with self._lock:
                connection = self._shared.get(use)
                if connection is None or not connection.usable():
                    try:
                        connection = self._shared[use] = self._dial()
                        self.dialled += 1
                    except OSError as error:
                        raise RpcFailure(UNAVAILABLE, repr(error), processed=False) from error
        return connection


class SocketStream:
    def __init__(self, connection: Connection, exchange: Exchange, reply: type[Message]) -> None:
        self._connection = connection
        self._exchange = exchange
        self._reply = reply

    def send(self, *messages: Message) -> None:
        self._connection.send(self._exchange, b"".join(map(framed, messages)))

    def finish(self) -> None:
        self._connection.send(self._exchange, b"", end=True)

    def receive(self, timeout: float | None = None) -> Any:
        exchange = self._exchange
        if not exchange.replies:
            deadline = None if timeout is None else time.monotonic() + timeout
            self._connection.wait(exchange, lambda: exchange.replies, deadline)
        if exchange.replies:
            return self._reply.FromString(exchange.replies.popleft())
        raise exchange.failure or RpcFailure(OK, "the stream has ended")

    def close(self) -> None:
        self._connection.cancel(self._exchange)


def framed(message: Message) -> bytes:
    data: bytes = message.SerializeToString()
    return b"\0" + len(data).to_bytes(4, "big") + data
