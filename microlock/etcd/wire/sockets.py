"""The wire over blocking sockets, for any number of threads.

There are two ways to use a connection. A thread has one to itself during a call: it sends, and
reads until its answer has come, without another thread or a lock. A second thread that calls
meanwhile uses the shared connection, as streams do: a thread that sends, sends for all, and one
thread reads for all. The main thread never uses the shared one: a signal handler that raises, as
Ctrl-C does, can end its call on any line, and with it the connection.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from copy import copy
from math import inf
from typing import TYPE_CHECKING

from google.protobuf.message import Message

from microlock.engine import clock
from microlock.engine.reentrant_event import ReentrantEvent
from microlock.engine.threads import Daemon
from microlock.errors import MicrolockError, StoreTimeoutError, StoreUnavailableError
from microlock.etcd.wire import Address, M, Metadata, Sink, Stream
from microlock.etcd.wire.connection import Rpc
from microlock.etcd.wire.dial import Dialler
from microlock.etcd.wire.frames import BrokenFramesError, Headers
from microlock.etcd.wire.links import PATIENCE, Link, SharedLink, SocketStream
from microlock.etcd.wire.member import CLOSED, Member
from microlock.etcd.wire.tls import Security

if TYPE_CHECKING:
    from microlock.etcd.wire.aio import AioWire

# After so many seconds the peer may have closed a link, so it is checked before a call.
_FRESH = 0.05


class SocketWire:
    """A `Wire` over sockets."""

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
        self._dialler = Dialler(address)
        # Unused links; None: a new link may be made. Items are taken out and put back in one step.
        self._free_on_main: list[Link | None] = [None]
        self._free: list[Link | None] = [None]
        self._links: set[Link] = set()  # all links, which `close` shuts
        self._shared: SharedLink | None = None
        self._dialling = threading.Lock()  # held while the shared link is dialled; never on main
        self._dial_failed: tuple[float, MicrolockError] | None = None

    @property
    def answered(self) -> bool:
        return self._member.answered.is_set()

    def call(
        self, method: str, message: Message, reply: type[M], *, timeout: float, metadata: Metadata
    ) -> M:
        request = self._member.request(method, message, timeout, metadata)
        return self._member.reply(self._call(*request), reply)

    def _call(self, headers: Headers, data: bytes, deadline: float) -> Rpc:
        main = _on_main()
        if not main and self._shared and self._shared.calls:  # one link is faster for many than two
            return self._shared_link(deadline).call(headers, data, deadline)
        free = self._free_on_main if main else self._free
        link: Link | None = None
        busy = False
        try:
            link = free.pop()
        except IndexError:
            busy = True  # on main: this is a signal's handler, in the middle of a call
        if busy and not main:  # not in the handler: each error would have the IndexError as context
            return self._shared_link(deadline).call(headers, data, deadline)
        try:
            if link is not None:
                now = clock.now()
                if now - link.heard > _FRESH:
                    link.look(now)
                if not link.connection.usable:
                    self._drop(link)
                    link = None
            if link is None:
                link = self._dial(deadline)
            rpc = link.call(headers, data, deadline)
        except BaseException:
            # First: after a second interrupt the link is lost, but no other call uses it.
            free.append(None)
            if link is not None:
                self._drop(link)
            raise
        free.append(link)
        if self._member.closed:
            self._drop_free()
        return rpc

    def stream(
        self,
        method: str,
        reply: type[M],
        sink: Sink[M],
        *,
        timeout: float | None,
        metadata: Metadata,
    ) -> Stream:
        headers = self._member.headers(method, timeout, metadata)
        patience = PATIENCE if timeout is None else timeout
        link = self._shared_link(clock.now() + patience)
        stream = SocketStream(link, self._member, reply, sink)
        link.begin(stream.rpc, headers, b"", ended=False)
        if stream.rpc.failure is not None and not stream.rpc.stream:
            raise self._member.error(stream.rpc.failure)
        return stream

    def on_loop(self) -> AioWire:
        from microlock.etcd.wire.aio import AioWire  # imports asyncio, which not everybody needs

        return AioWire(self._member, self._dial_for_loop)

    def close(self) -> None:
        self._member.closed = True
        for link in list(self._links):
            if link.of_main and _on_main():
                link.close()  # no other thread uses it; an interrupt may have lost it
            else:
                link.shut()
        self._drop_free()

    def _drop_free(self) -> None:
        for free in (self._free_on_main, self._free):
            with suppress(IndexError):
                while True:  # no other thread uses a link that is taken out
                    if link := free.pop():
                        self._drop(link)

    def _shared_link(self, deadline: float) -> SharedLink:
        asked = clock.now()
        if self._shared is None or not self._shared.usable:
            if not self._dialling.acquire(timeout=max(0.0, deadline - asked)):
                raise StoreTimeoutError(f"no connection to {self.address} in time")
            try:
                if self._shared is None or not self._shared.usable:
                    self._shared = self._share(asked, deadline)
            finally:
                self._dialling.release()
        return self._shared

    def _share(self, asked: float, deadline: float) -> SharedLink:
        if self._dial_failed and self._dial_failed[0] > asked:
            raise copy(self._dial_failed[1])  # we have waited for that dial
        try:
            link = self._dial(deadline)
        except MicrolockError as error:
            now = clock.now()
            if now < deadline:  # otherwise others may have more time
                self._dial_failed = now, copy(error)  # its traceback keeps the callers' locals
            raise
        shared = SharedLink(link, self._drop)
        try:
            Daemon("microlock-wire", shared.read_for_all).start()
        except RuntimeError as error:  # too many threads, or the interpreter exits
            self._drop(link)
            raise StoreUnavailableError(
                f"no thread can be started to read from {self.address}"
            ) from error
        return shared

    def _dial(self, deadline: float) -> Link:
        """Raises a MicrolockError: nothing was sent."""
        if self._member.closed:
            raise self._member.error(CLOSED)
        sock: socket.socket | None = None
        link: Link | None = None
        try:
            connection = self._member.connection()
            deadline = min(deadline, clock.now() + PATIENCE)  # another member may answer
            sock, where = self._dialler.dial(deadline)
            link = Link(sock, connection, of_main=_on_main())
            self._links.add(link)
            if self._member.closed:  # `close()` has not seen this one
                link.shut()
            link.greet(deadline)
        except BaseException as error:
            if link is not None:
                self._drop(link)
            elif sock is not None:
                sock.close()
            if isinstance(error, OSError | BrokenFramesError):
                if sock is not None:
                    self._dialler.avoid(where)
                raise self._member.not_connected(error) from error
            raise
        return link

    def _dial_for_loop(self) -> Link:
        link = self._dial(inf)
        self._links.discard(link)  # it is the loop's now
        return link

    def _drop(self, link: Link) -> None:
        link.close()  # first: interrupted, it is left for `close()`
        self._links.discard(link)


def _on_main() -> bool:
    return threading.get_ident() == threading.main_thread().ident
