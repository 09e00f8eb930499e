"""gRPC over one HTTP/2 connection: bytes in, bytes out. It knows no socket, thread, loop or clock.

The protocol: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md

One caller at a time; the time is an argument, in seconds by any clock that does not go back.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from urllib.parse import unquote

from microlock.etcd.wire.frames import BrokenFramesError, Frames, Headers
from microlock.etcd.wire.tls import Tls

# https://github.com/grpc/grpc/blob/master/doc/statuscodes.md
STATUS = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND"),
    *("ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION"),
    *("ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"),
    "UNAUTHENTICATED",
)
# https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md
_OF_HTTP = {
    b"400": "INTERNAL",
    b"401": "UNAUTHENTICATED",
    b"403": "PERMISSION_DENIED",
    b"404": "UNIMPLEMENTED",
    b"429": "UNAVAILABLE",
    b"502": "UNAVAILABLE",
    b"503": "UNAVAILABLE",
    b"504": "UNAVAILABLE",
}
_REFUSED_STREAM = 7  # RFC 9113, 8.7: it was not processed
_LAST_STREAM = 2**30  # half of those that a connection has
LARGEST_MESSAGE = 256 * 2**20

# A peer that says nothing for so many seconds, while something is asked of it, gets a ping, and has
# so many to answer. etcd ends connections that ping more often than every 5 s
# (--grpc-keepalive-min-time), or with nothing under way.
_PING_AFTER = 6.0
_PONG_WITHIN = 3.0

# etcd's server sends a ping with nearly every reply, to measure the bandwidth. What answers it
# waits so many seconds for the next request, or until so many bytes have come.
_LINGER = 0.2
_UNTAKEN = 2**20


@dataclass(frozen=True, slots=True)
class Failure:
    """What came of a call that has no reply.

    Attributes:
        status: a name of `STATUS`.
        details: the peer's words, or ours.
        may_have_happened: not for a call that was never sent, or that the peer says it did not
            process; of the status of a peer it is not said.
        answer: the peer said so; no fault of the connection.
    """

    status: str
    details: str
    may_have_happened: bool = True
    answer: bool = False


class Rpc:
    """A call, or a stream: a request of any number of messages, and replies.

    Attributes:
        reply: of a call: the message, after its prefix of 5 bytes.
        failure: what it ended with; None: with the status OK, or not yet.
        ended: nothing follows.
    """

    __slots__ = (
        *("ended", "failure", "leading", "notify", "open", "partial", "reply", "sink", "stream"),
    )

    def __init__(
        self,
        notify: Callable[[], object] | None = None,
        sink: Callable[[bytes], object] | None = None,
    ) -> None:
        """`notify`: called once when it has ended. `sink`: gets each message of a stream."""
        self.stream = 0
        self.reply: bytes | None = None
        self.failure: Failure | None = None
        self.ended = False
        self.open = False  # its request ends after its answer
        self.notify = notify
        self.sink = sink
        self.leading: Headers = ()
        self.partial: bytearray | None = None


class Connection:
    """The client's side of gRPC on one connection.

    Args:
        tls: what the bytes are wrapped in, if anything.
        streams: the paths of methods that are streams, and of use as calls: a call of one ends its
            request after the answer. A proxy that passes it on as a stream cancels it otherwise.

    Attributes:
        ready: the peer has shown that it speaks HTTP/2.
        broken: why nothing can be said or heard any more; None while it works.
        retiring: no call is to begin; those under way go on.
    """

    def __init__(self, tls: Tls | None = None, streams: Iterable[str] = ()) -> None:
        self.ready = False
        self.broken: BaseException | None = None
        self.retiring = False
        self._tls = tls
        self._streams = frozenset((b":path", path.encode()) for path in streams)
        self._frames = Frames()
        self._rpcs: dict[int, Rpc] = {}
        self._fine: Headers = ()  # trailers that say OK: mostly the same ones
        self._unheard = inf  # since when the peer has said nothing to what was asked
        self._pinged = inf  # when it was asked for a sign of life
        self._taken = -inf  # when bytes were taken
        self._received = 0  # bytes since then

    @property
    def usable(self) -> bool:
        """Whether a call can begin."""
        return self.broken is None and not self.retiring

    @property
    def idle(self) -> bool:
        return not self._rpcs

    def begin(self, rpc: Rpc, headers: Headers, message: bytes, ended: bool, now: float) -> None:
        """Asks for something. `ended`: this message is all of the request.

        If no call can begin, it has ended, its `stream` is 0, and nothing was sent.
        """
        self.tend(now)
        rpc.open = ended and rpc.sink is None and not self._streams.isdisjoint(headers)
        if self.usable:
            try:
                rpc.stream = self._frames.open(headers, message, ended and not rpc.open)
            except BrokenFramesError as error:
                self.fail(error)
        if not rpc.stream:
            why = "the peer is shutting down" if self.broken is None else _text(self.broken)
            self._end(rpc, Failure("UNAVAILABLE", why, may_have_happened=False))
            return
        self._rpcs[rpc.stream] = rpc
        self.retiring = rpc.stream > _LAST_STREAM
        if self._unheard == inf:
            self._unheard = now
        else:  # by calls that were given up
            self.tend(now)

    def send(self, rpc: Rpc, message: bytes, *, ended: bool = False) -> None:
        """More of a request, if nobody has ended it."""
        if not rpc.ended:
            self._frames.send(rpc.stream, message, ended)

    def cancel(self, rpc: Rpc, failure: Failure) -> None:
        """Ends it with this, if it has not ended."""
        if self._rpcs.pop(rpc.stream, None):
            self._frames.reset(rpc.stream)
            self._end(rpc, failure)

    def take(self, now: float) -> bytes:
        """Bytes for the peer."""
        self._taken, self._received = now, 0
        if self.broken:
            return b""
        try:
            if self._tls is None:
                return self._frames.take(self)
            return self._tls.seal(self._frames.take(self) if self._tls.established else b"")
        except (BrokenFramesError, ssl.SSLError) as error:
            self.fail(error)
            return b""

    def wants_taking(self, now: float) -> bool:
        """Whether bytes for the peer should not wait for the next request."""
        return not self.ready or now - self._taken > _LINGER or self._received > _UNTAKEN

    def receive(self, data: bytes, now: float) -> None:
        """Takes what the peer sent; nothing is the end of all that it sends."""
        self._pinged = inf
        self._received += len(data)
        try:
            if not data:
                raise ConnectionResetError("the peer closed the connection")
            if self._tls is not None:
                data = self._tls.open(data)
            self._frames.receive(data, self)
        except (BrokenFramesError, OSError) as error:  # ssl.SSLError is one
            self.fail(error)
        self._unheard = now if self._rpcs else inf

    def tend(self, now: float) -> None:
        """Asks a silent peer for a sign of life, and gives up one that owes it.

        To be called now and then while something is under way.
        """
        if now - self._pinged > _PONG_WITHIN:
            self.fail(TimeoutError("the peer did not answer a ping"))
        elif self._rpcs and self._pinged == inf and now - self._unheard > _PING_AFTER:
            self._pinged = now
            self._frames.ping()

    def fail(self, cause: BaseException) -> None:
        """The connection is of no use any more: all that is under way has ended."""
        if self.broken is None:
            self.broken = cause
            rpcs, self._rpcs = self._rpcs, {}
            for rpc in rpcs.values():
                self._end(rpc, Failure("UNAVAILABLE", _text(cause)))

    # What the frames that came say, in their order.

    def on_settings(self) -> None:
        """The peer speaks HTTP/2."""
        self.ready = True

    def on_headers(self, stream: int, headers: Headers, ended: bool) -> None:
        if rpc := self._rpcs.get(stream):
            rpc.leading = headers
            if ended:
                self.on_trailers(stream, headers)

    def on_data(self, stream: int, data: bytes, ended: bool) -> None:
        rpc = self._rpcs.get(stream)
        if rpc is None:
            return
        # One frame, one message: nearly always.
        if rpc.partial is None and data and not data[0] and _size(data) == len(data):
            self._message(rpc, data[5:])
        else:
            self._pieces(rpc, data)
        if ended:
            self.on_closed(stream, 0)

    def on_trailers(self, stream: int, headers: Headers) -> None:
        """The last of a stream."""
        if rpc := self._rpcs.pop(stream, None):
            if headers == self._fine:
                self._end(rpc, None)
            else:
                self._end(rpc, self._status(rpc, headers))
            if rpc.sink is not None:  # our side of it may be open still
                self._frames.reset(stream)

    def on_closed(self, stream: int, code: int) -> None:
        """A stream is over; `code`: of RFC 9113, 7."""
        if rpc := self._rpcs.pop(stream, None):
            refused = code == _REFUSED_STREAM and not rpc.leading
            failure = _not_grpc(rpc.leading) or Failure(
                "UNAVAILABLE" if code else "INTERNAL",
                f"the stream was reset ({code})" if code else "the stream ended without a status",
                may_have_happened=not refused,
            )
            self._end(rpc, failure)

    def on_goaway(self, last: int) -> None:
        """The peer takes no new streams, and none that is above this one."""
        self.retiring = True
        for stream in [each for each in self._rpcs if each > last]:
            rpc = self._rpcs.pop(stream)
            begun = bool(rpc.leading)  # whatever it says
            self._end(
                rpc, Failure("UNAVAILABLE", "the peer is shutting down", may_have_happened=begun)
            )

    def _status(self, rpc: Rpc, trailers: Headers) -> Failure | None:
        said = dict(trailers)
        code = said.get(b"grpc-status", b"")
        if code == b"0":
            self._fine = trailers
            return None
        if not code.isdigit():
            return _not_grpc(rpc.leading) or Failure(
                "INTERNAL", "the stream ended without a status"
            )
        number = int(code[:3])
        status = STATUS[number] if 0 < number < len(STATUS) else "UNKNOWN"
        details = unquote(said.get(b"grpc-message", b"").decode("latin-1"), errors="replace")
        return Failure(status, details, answer=True)

    def _pieces(self, rpc: Rpc, data: bytes) -> None:
        """A message in several frames, or several in one."""
        if rpc.partial is None:
            rpc.partial = bytearray()
        rest = rpc.partial
        rest += data
        while len(rest) >= 5 and not rpc.ended:
            size = _size(rest)
            if rest[0] or size > LARGEST_MESSAGE:
                failure = _not_grpc(rpc.leading)
                self.cancel(rpc, failure or Failure("INTERNAL", "a message that can't be read"))
            elif size > len(rest):
                return
            else:
                self._message(rpc, bytes(rest[5:size]))
                del rest[:size]
        if not rest:
            rpc.partial = None

    def _message(self, rpc: Rpc, message: bytes) -> None:
        if rpc.sink is not None:
            try:
                rpc.sink(message)
            except Exception as error:  # noqa: BLE001  it is to end no other call
                self.cancel(rpc, Failure("INTERNAL", f"a message that can't be read: {error!r}"))
        elif rpc.reply is None:
            rpc.reply = message
            if rpc.open:
                # The end of the request goes with the next one; without one the peer ends it when
                # the call's time is over. What it says then is of no interest.
                del self._rpcs[rpc.stream]
                self._frames.send(rpc.stream, b"", True)
                self._end(rpc, None)
        else:
            self.cancel(rpc, Failure("INTERNAL", "a second reply to one request"))

    def _end(self, rpc: Rpc, failure: Failure | None) -> None:
        if failure is None and rpc.reply is None and rpc.sink is None:
            failure = Failure("INTERNAL", "the stream ended without a reply")
        rpc.failure = failure
        rpc.ended = True
        if rpc.notify is not None:
            rpc.notify()


def _text(cause: BaseException) -> str:
    return getattr(cause, "strerror", None) or str(cause) or repr(cause)


def _size(data: bytes | bytearray) -> int:
    """Of the message that begins here, with its prefix."""
    return 5 + int.from_bytes(data[1:5], "big")


def _not_grpc(leading: Headers) -> Failure | None:
    """What the headers say of who does not speak gRPC: a proxy, for example."""
    said = dict(leading)
    http = said.get(b":status", b"200")
    if http == b"200" and said.get(b"content-type", b"application/grpc").startswith(
        b"application/grpc"
    ):
        return None
    details = f"HTTP status {http.decode('latin-1')}, not gRPC"
    return Failure(_OF_HTTP.get(http, "UNKNOWN"), details)
