"""One member of etcd, for all drivers: the headers of calls, and the meaning of their outcomes."""

from __future__ import annotations

from google.protobuf.message import DecodeError, Message

from microlock.engine import clock
from microlock.engine.reentrant_event import ReentrantEvent
from microlock.errors import DestroyedError, MicrolockError, StoreError, StoreTimeoutError
from microlock.etcd.messages import KEEP_ALIVE
from microlock.etcd.translate import not_connected, translate
from microlock.etcd.wire import Address, M, Metadata
from microlock.etcd.wire.connection import Connection, Failure, Rpc
from microlock.etcd.wire.frames import BrokenFramesError, Headers
from microlock.etcd.wire.tls import Security, Tls

# The most seconds for a call: waits and gRPC accept no larger number.
_LONGEST = 1e6

# The failures of calls that end on our side.
LATE = Failure("DEADLINE_EXCEEDED", "no answer in time")
CLOSED = Failure("CANCELLED", "closed here")


class Member:
    """One member of etcd.

    Attributes:
        address: the address of the member.
        answered: set when this or another member of the same etcd has answered.
        closed: whether the client is closed, so that no connection may be made.
    """

    def __init__(
        self,
        address: Address,
        security: Security | None,
        server_name: str | None,
        answered: ReentrantEvent,
    ) -> None:
        self.address = address
        self.answered = answered
        self.closed = False
        self._security = security
        self._server_name = server_name or address.host or "localhost"
        authority = address.text if address.host and not server_name else self._server_name
        self._begin = (b":method", b"POST"), (b":scheme", b"https" if security else b"http")
        self._end = (
            (b":authority", authority.encode(errors="replace")),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"user-agent", b"microlock"),
        )
        self._headers: dict[tuple[str, int, Metadata], Headers] = {}

    def connection(self) -> Connection:
        """A new connection, before its first byte. Raises OSError: a certificate can't be used."""
        tls = Tls(self._security, self._server_name) if self._security else None
        return Connection(tls, streams=(KEEP_ALIVE,))

    def request(
        self, method: str, message: Message, timeout: float, metadata: Metadata
    ) -> tuple[Headers, bytes, float]:
        """What a call sends, and its deadline. Raises StoreTimeoutError if no time is left."""
        if timeout <= 0:
            raise StoreTimeoutError(f"no time was left for a call to {self.address.text}")
        timeout = min(timeout, _LONGEST)
        deadline = clock.now() + timeout
        return self.headers(method, timeout, metadata), framed(message), deadline

    def headers(self, method: str, timeout: float | None, metadata: Metadata) -> Headers:
        # Whole seconds: a little longer than the caller waits, and few different ones.
        seconds = -1 if timeout is None else int(timeout) + 1
        key = method, seconds, metadata
        headers = self._headers.get(key)
        if headers is None:
            headers = (*self._begin, (b":path", method.encode()), *self._end)
            if timeout is not None:
                headers += ((b"grpc-timeout", b"%dS" % seconds),)
            headers += tuple((name.encode(), value.encode()) for name, value in metadata)
            if len(self._headers) > 100:  # tokens come and go
                self._headers.clear()
            self._headers[key] = headers
        return headers

    def reply(self, rpc: Rpc, kind: type[M]) -> M:
        """The reply to a call. Raises a MicrolockError if it failed."""
        if rpc.failure is not None:
            raise self.error(rpc.failure)
        self.answered.set()
        try:
            return kind.FromString(rpc.reply or b"")
        except DecodeError as error:
            raise StoreError(
                f"the reply of {self.address.text} can't be read: {error}", may_have_happened=True
            ) from error

    def error(self, failure: Failure) -> MicrolockError:
        """The error for the failure of a call."""
        if self.closed or failure is CLOSED:
            return DestroyedError(f"the connection to {self.address.text} was closed")
        answered = self.answered.is_set()
        if failure.answer and failure.status != "UNIMPLEMENTED":
            self.answered.set()  # a refusal is an answer; a fault of the connection is not
        return translate(
            failure.status,
            failure.details,
            self.address.text,
            answered=answered,
            may_have_happened=failure.may_have_happened,
        )

    def not_connected(self, error: OSError | BrokenFramesError) -> MicrolockError:
        """The error if there is no connection."""
        if self.closed:
            return self.error(CLOSED)
        return not_connected(error, self.address.text, answered=self.answered.is_set())


def framed(message: Message) -> bytes:
    """A message as gRPC sends it: a flag for "not compressed", the size, the message."""
    data = message.SerializeToString()
    return b"\0" + len(data).to_bytes(4, "big") + data
