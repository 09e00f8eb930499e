"""The wire on an asyncio loop, without threads after the dial: calls only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from math import inf
from weakref import WeakSet

from google.protobuf.message import Message

from microlock.engine import clock
from microlock.engine.awaiting import Shared, aside
from microlock.errors import StoreTimeoutError, StoreUnavailableError
from microlock.etcd.wire import M, Metadata
from microlock.etcd.wire.connection import Connection, Failure, Rpc
from microlock.etcd.wire.frames import Headers
from microlock.etcd.wire.links import Link
from microlock.etcd.wire.member import CLOSED, LATE, Member

# Seconds until an idle connection answers a ping, and between two checks of a silent peer.
_TICK = 0.25


class AioWire:
    """A `LoopWire` over a transport of the loop."""

    def __init__(self, member: Member, dial: Callable[[], Link]) -> None:
        """`dial`: makes a connection, on any thread. Raises a MicrolockError."""
        self._member = member
        self._opened = dial
        self._closed = False
        self._link: _Link | None = None  # the newest link
        self._links: WeakSet[_Link] = WeakSet()
        self._dialling = Shared[_Link]()

    async def call(
        self, method: str, message: Message, reply: type[M], *, timeout: float, metadata: Metadata
    ) -> M:
        self._check()
        headers, data, deadline = self._member.request(method, message, timeout, metadata)
        link = self._link
        if link is None or not link.usable:
            link = await self._connected(deadline)
        rpc, ended = link.begin(headers, data, deadline)
        try:
            await ended
        except GeneratorExit:  # the loop has ended
            raise
        except BaseException:
            link.cancel(rpc, CLOSED)
            raise
        finally:
            link.deadlines.pop(rpc, None)
        if rpc.failure is not None:
            self._check()
        return self._member.reply(rpc, reply)

    async def _connected(self, deadline: float) -> _Link:
        try:
            link = await self._dialling.done(self._dial, deadline)
        except TimeoutError:
            text = f"no connection to {self._member.address.text} in time"
            raise StoreTimeoutError(text) from None
        self._check()
        return link

    def close(self) -> None:
        self._closed = True
        if self._dialling.task is not None:
            self._dialling.task.cancel()
        for link in tuple(self._links):
            link.close()

    def _check(self) -> None:
        if self._closed or self._member.closed:
            raise self._member.error(CLOSED)

    async def _dial(self) -> _Link:
        """Dials the link that all tasks use. Raises a MicrolockError: nothing was sent."""
        self._check()
        loop = asyncio.get_running_loop()
        try:
            opened = await aside("microlock-dial", self._opened, Link.close)
        except RuntimeError as error:  # too many threads, or the interpreter exits
            raise StoreUnavailableError(
                f"no thread can be started to connect to {self._member.address.text}"
            ) from error
        make = partial(_Link, opened.connection, loop)
        try:
            _, link = await loop.create_connection(make, sock=opened.sock)
        except OSError as error:
            raise self._member.not_connected(error) from error
        self._link = link
        self._links.add(link)
        return link


class _Link(asyncio.Protocol):
    """A connection and its transport.

    Attributes:
        deadlines: the deadlines of the calls under way.
    """

    def __init__(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._loop = loop
        self._transport: asyncio.Transport  # before anybody gets this
        self._flushing: asyncio.Handle | None = None  # at the end of this turn of the loop
        self._ticking: asyncio.TimerHandle | None = None
        self._ticks_at = inf
        self.deadlines: dict[Rpc, float] = {}

    @property
    def usable(self) -> bool:
        return self._connection.usable

    def begin(
        self, headers: Headers, message: bytes, deadline: float
    ) -> tuple[Rpc, asyncio.Future[None]]:
        """Begins a call. Returns it, and a future that is done when the call has ended."""
        ended = self._loop.create_future()
        rpc = Rpc(partial(_wake, ended))
        now, alone = clock.now(), self._connection.idle
        self._connection.begin(rpc, headers, message, True, now)
        if rpc.ended:
            self._settle()
        elif alone:
            self._flush()
        elif self._flushing is None:  # the calls of other tasks in this turn go with it
            self._flushing = self._loop.call_soon(self._flush)
        self.deadlines[rpc] = deadline
        self._tick_by(deadline, now)
        return rpc, ended

    def cancel(self, rpc: Rpc, failure: Failure) -> None:
        if not rpc.ended:
            self._connection.cancel(rpc, failure)
            self._flush()

    def close(self) -> None:
        self._fail(ConnectionAbortedError("closed here"))

    # Called by the loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        now = clock.now()
        try:
            self._connection.receive(data, now)
        except BaseException as error:  # an interrupt: a part may be lost
            self._fail(error)
            raise
        if self._connection.wants_taking(now):
            self._flush()
        self._settle()

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(error or ConnectionResetError("the peer closed the connection"))

    def _flush(self) -> None:
        self._flushing = None
        if self._connection.broken is None:
            now = clock.now()
            try:
                if out := self._connection.take(now):
                    self._transport.write(out)
            except BaseException as error:  # an interrupt: a part may be lost
                self._fail(error)
                raise
            if not self._connection.idle:
                self._tick_by(now + _TICK, now)

    def _tick_by(self, at: float, now: float) -> None:
        """Ticks at this time or earlier. One timer serves all calls: few reach their deadline."""
        if at < self._ticks_at:
            if self._ticking is not None:
                self._ticking.cancel()
            self._ticks_at = at
            self._ticking = self._loop.call_later(at - now, self._tick)

    def _tick(self) -> None:
        self._ticking, self._ticks_at, now = None, inf, clock.now()
        for rpc, deadline in self.deadlines.copy().items():  # a garbage collection may end some
            if deadline <= now:
                self._connection.cancel(rpc, LATE)
            else:
                self._tick_by(deadline, now)
        self._connection.tend(now)
        self._flush()
        self._settle()

    def _fail(self, cause: BaseException) -> None:
        self._connection.fail(cause)
        self._settle()

    def _settle(self) -> None:
        """Closes a connection that can't be used any more."""
        if self._connection.broken:
            self._transport.abort()  # the peer may no longer read
        elif self._connection.retiring and self._connection.idle:
            self._transport.close()


def _wake(ended: asyncio.Future[None]) -> None:
    if not ended.done():  # it is done if its task was cancelled
        ended.set_result(None)
