"""The wire on a loop of asyncio: calls only, which wait for nothing but the loop."""

from __future__ import annotations

import asyncio
from copy import copy
from functools import partial

from google.protobuf.message import Message

from microlock.engine import clock
from microlock.engine.reentrant_event import ReentrantEvent
from microlock.errors import StoreTimeoutError
from microlock.etcd.wire import Address, M, Metadata
from microlock.etcd.wire.connection import Connection, Failure, Rpc
from microlock.etcd.wire.dial import NEXT_AFTER
from microlock.etcd.wire.frames import BrokenFramesError, Headers
from microlock.etcd.wire.member import CLOSED, LATE, Member, framed
from microlock.etcd.wire.tls import Security

# Seconds after which an idle connection answers a ping, and between two looks at a silent peer.
_TICK = 0.25
# Seconds that a dial may take.
_PATIENCE = 3.0


class AioWire:
    """Calls to one member; of the tasks of one loop."""

    def __init__(
        self,
        address: Address,
        *,
        security: Security | None = None,
        server_name: str | None = None,
        answered: ReentrantEvent | None = None,
    ) -> None:
        self.address = address.text
        self._member = Member(address, security, server_name, answered or ReentrantEvent())
        self._link: _Link | None = None
        self._dialling: asyncio.Task[_Link] | None = None

    async def call(
        self, method: str, message: Message, reply: type[M], *, timeout: float, metadata: Metadata
    ) -> M:
        """As `microlock.etcd.wire.Wire.call`. A call that is cancelled may have happened."""
        if self._member.closed:
            raise self._member.error(CLOSED)
        deadline = clock.now() + timeout
        headers = self._member.headers(method, timeout, metadata)
        link = self._link
        if link is None or not link.usable:
            link = await self._dialled(deadline)
        try:
            rpc = await link.call(headers, framed(message), deadline)
        except Failure as failure:
            raise self._member.error(failure) from None
        return self._member.reply(rpc, reply)

    def close(self) -> None:
        self._member.closed = True
        if self._dialling is not None:
            self._dialling.cancel()
        if self._link is not None:
            self._link.close()

    async def _dialled(self, deadline: float) -> _Link:
        """The link that all tasks use. One dial goes on for all that wait for it."""
        if self._dialling is None:
            self._dialling = asyncio.get_running_loop().create_task(self._dial())
        dialling = self._dialling
        left = max(0.0, deadline - clock.now())
        done, _ = await asyncio.wait({dialling}, timeout=left)
        if not done:
            raise StoreTimeoutError(f"no connection to {self.address} in time")
        if dialling.cancelled():
            raise self._member.error(CLOSED)
        if error := dialling.exception():
            raise copy(error)
        return dialling.result()

    async def _dial(self) -> _Link:
        """Raises a MicrolockError: nothing was sent."""
        loop = asyncio.get_running_loop()
        address = self._member.address
        try:
            # It reads certificates, which may take a while.
            connection = await loop.run_in_executor(None, self._member.connection)
            make = partial(_Link, connection, loop)
            if address.host:
                opening = loop.create_connection(
                    make, address.host, address.port, happy_eyeballs_delay=NEXT_AFTER
                )
            else:
                opening = loop.create_unix_connection(make, address.path)
            _, link = await asyncio.wait_for(opening, _PATIENCE)
            self._link = link
            await link.greet(_PATIENCE)
        except asyncio.TimeoutError:
            raise self._member.not_connected(TimeoutError("the connection timed out")) from None
        except (OSError, BrokenFramesError) as error:
            raise self._member.not_connected(error) from error
        finally:
            self._dialling = None
        return link


class _Link(asyncio.Protocol):
    """A connection and its transport."""

    def __init__(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._greeted = loop.create_future()
        self._flushing: asyncio.Handle | None = None  # at the end of this turn of the loop
        self._ticking: asyncio.TimerHandle | None = None

    @property
    def usable(self) -> bool:
        return self._connection.ready and self._connection.usable

    async def greet(self, patience: float) -> None:
        """Returns when the peer speaks HTTP/2; raises what hinders it."""
        await asyncio.wait({self._greeted}, timeout=patience)
        if not self._connection.ready:
            error = self._connection.broken or TimeoutError("it does not begin to speak HTTP/2")
            self.close()
            raise error

    async def call(self, headers: Headers, message: bytes, deadline: float) -> Rpc:
        """What came of it. Raises Failure: it was not sent."""
        ended = self._loop.create_future()
        rpc = Rpc(partial(_wake, ended))
        now = clock.now()
        self._connection.begin(rpc, headers, message, True, now)
        if self._flushing is None:  # what other tasks ask for in this turn goes with it
            self._flushing = self._loop.call_soon(self._flush)
        timer = self._loop.call_later(deadline - now, self._cancel, rpc, LATE)
        try:
            await ended
        finally:
            timer.cancel()
            self._cancel(rpc, CLOSED)  # if it has not ended
        return rpc

    def close(self) -> None:
        self._connection.fail(ConnectionAbortedError("closed here"))
        self._settle()

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._flush()

    def data_received(self, data: bytes) -> None:
        now = clock.now()
        self._connection.receive(data, now)
        if self._connection.wants_taking(now):
            self._flush()
        self._settle()

    def connection_lost(self, error: Exception | None) -> None:
        self._connection.fail(error or ConnectionResetError("it closed the connection"))
        self._settle()

    def _cancel(self, rpc: Rpc, failure: Failure) -> None:
        if not rpc.ended:
            self._connection.cancel(rpc, failure)
            self._flush()

    def _flush(self) -> None:
        self._flushing = None
        if self._transport is not None and self._connection.broken is None:
            if out := self._connection.take(clock.now()):
                self._transport.write(out)
            if self._ticking is None and not self._connection.idle:
                self._ticking = self._loop.call_later(_TICK, self._tick)

    def _tick(self) -> None:
        self._ticking = None
        self._connection.tend(clock.now())
        self._flush()
        self._settle()

    def _settle(self) -> None:
        """Tells of the greeting, and closes what is of no use any more."""
        connection = self._connection
        if (connection.ready or connection.broken) and not self._greeted.done():
            self._greeted.set_result(None)
        over = connection.broken or (connection.retiring and connection.idle)
        if over and self._transport is not None:
            self._transport.close()


def _wake(ended: asyncio.Future[None]) -> None:
    if not ended.done():  # or its task is cancelled
        ended.set_result(None)
