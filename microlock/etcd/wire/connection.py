"""gRPC over one HTTP/2 connection: bytes in, bytes out. It uses no socket, thread, loop or clock.

The protocol: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md

One caller at a time. The time is an argument, in seconds by any clock that does not go back.
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
_REFUSED_STREAM = 7  # RFC 9113, 8.7: the request was not processed
_LAST_STREAM = 2**30  # half of the ids that a connection has
LARGEST_MESSAGE = 256 * 2**20

# If a peer is silent for so many seconds while a request is under way, it gets a ping, and must
# answer within so many seconds. etcd ends connections that ping more often than every 5 s
# (--grpc-keepalive-min-time), or with nothing under way.
_PING_AFTER = 6.0
_PONG_WITHIN = 3.0

# etcd's server sends a ping with nearly every reply, to measure the bandwidth. The answer to the
# ping waits so many seconds for the next request, or until so many bytes have come.
_LINGER = 0.2
_UNTAKEN = 2**20


@dataclass(frozen=True, slots=True)
class Failure:
    """The outcome of a call without a reply.

    Attributes:
        status: a name in `STATUS`.
        details: the text of the peer, or ours.
        may_have_happened: False if the call was never sent, or if the peer says that it did not
            process it. It says nothing about a status that the peer sent.
        answer: whether the peer sent this status; otherwise the connection failed.
    """

    status: str
    details: str
    may_have_happened: bool = True
    answer: bool = False


class Rpc:
    """A call or a stream: a request of any number of messages, and replies.

    Attributes:
        reply: the reply to a call, without its prefix of 5 bytes.
        failure: why it failed; None: it has the status OK, or has not ended.
        ended: whether it is over.
    """

    __slots__ = (
        *("ended", "failure", "leading", "notify", "open", "partial", "reply", "sink", "stream"),
    )

    def __init__(
        self,
        notify: Callable[[], object] | None = None,
        sink: Callable[[bytes], object] | None = None,
    ) -> None:
        """`notify`: called once, at the end. `sink`: gets each message of a stream."""
        self.stream = 0
        self.reply: bytes | None = None
        self.failure: Failure | None = None
        self.ended = False
        self.open = False  # whether its request ends only after its answer
        self.notify = notify
        self.sink = sink
        self.leading: Headers = ()
        self.partial: bytearray | None = None


class Connection:
    """The client's side of gRPC on one connection.

    Args:
        tls: encrypts the bytes; None: no TLS.
        streams: the paths of streaming methods that are used as calls. Such a call ends its request
            only after the answer. Otherwise a proxy, which passes it on as a stream, cancels it.

    Attributes:
        ready: whether the peer has shown that it speaks HTTP/2.
        broken: why the connection can't be used any more; None while it works.
        retiring: whether no call may begin. Calls under way go on.
    """

    def __init__(self, tls: Tls | None = None, streams: Iterable[str] = ()) -> None:
        self.ready = False
        self.broken: BaseException | None = None
        self.retiring = False
        self._tls = tls
        self._streams = frozenset((b":path", path.encode()) for path in streams)
        self._frames = Frames()
        self._rpcs: dict[int, Rpc] = {}
        self._fine: Headers = ()  # the last trailers with OK: they are mostly equal
        self._unheard = inf  # since when the peer has been silent, with a request under way
        self._pinged = inf  # when the ping without an answer was sent
        self._taken = -inf  # when bytes were last taken
        self._received = 0  # bytes since then
        self._room = False  # the peer may allow more bytes or streams than before

    @property
    def usable(self) -> bool:
        """Whether a call can begin."""
        return self.broken is None and not self.retiring

    @property
    def idle(self) -> bool:
        return not self._rpcs

    def begin(self, rpc: Rpc, headers: Headers, message: bytes, ended: bool, now: float) -> None:
        """Begins a call or a stream. `ended`: this message is the whole request.

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
        else:  # silent since earlier calls, which were given up
            self.tend(now)

    def send(self, rpc: Rpc, message: bytes, *, ended: bool = False) -> None:
        """Sends another message of a request, unless the call has ended."""
        if not rpc.ended:
            self._frames.send(rpc.stream, message, ended)

    def cancel(self, rpc: Rpc, failure: Failure) -> None:
        """Ends a call with this failure, unless it has ended."""
        if self._rpcs.pop(rpc.stream, None):
            self._frames.reset(rpc.stream)
            self._end(rpc, failure)

    def take(self, now: float) -> bytes:
        """Returns the bytes to send to the peer."""
        self._taken, self._received, self._room = now, 0, False
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
        """Whether the bytes for the peer should be sent now, not with the next request."""
        late = now - self._taken > _LINGER or self._received > _UNTAKEN
        return self._room or late or not self.ready

    def receive(self, data: bytes, now: float) -> None:
        """Processes bytes of the peer. No bytes: the peer has closed the connection."""
        self._pinged = inf
        self._received += len(data)
        try:
            if not data:
                raise ConnectionResetError("the peer closed the connection")
            if self._tls is not None:
                data = self._tls.open(data)
            self._frames.receive(data, self)
            # What came may have opened a window or ended a stream, also one whose call is over.
            self._room |= self._frames.waiting
        except (BrokenFramesError, OSError) as error:  # ssl.SSLError is one
            self.fail(error)
        self._unheard = now if self._rpcs else inf

    def tend(self, now: float) -> None:
        """Pings a silent peer, and fails the connection if an answer to a ping is late.

        Call it now and then while a call is under way.
        """
        if now - self._pinged > _PONG_WITHIN:
            self.fail(TimeoutError("the peer did not answer a ping"))
        elif self._rpcs and self._pinged == inf and now - self._unheard > _PING_AFTER:
            self._pinged = now
            self._frames.ping()

    def fail(self, cause: BaseException) -> None:
        """Marks the connection as broken, and ends all calls under way."""
        if self.broken is None:
            self.broken = cause
            rpcs, self._rpcs = self._rpcs, {}
            for rpc in rpcs.values():
                self._end(rpc, Failure("UNAVAILABLE", _text(cause)))

    # Called by the frames, in the order of what came.

    def on_settings(self) -> None:
        """The peer speaks HTTP/2."""
        self.ready = self._room = True

    def on_headers(self, stream: int, headers: Headers, ended: bool) -> None:
        if rpc := self._rpcs.get(stream):
            rpc.leading = headers
            if ended:
                self.on_trailers(stream, headers)

    def on_data(self, stream: int, data: bytes, ended: bool) -> None:
        rpc = self._rpcs.get(stream)
        if rpc is None:
            return
        # Nearly always a frame is one message.
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
            if rpc.sink is not None:  # our side of it may still be open
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
            begun = bool(rpc.leading)  # then it may have happened, whatever the GOAWAY says
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
        """Joins a message in several frames, or splits several messages in one frame."""
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
            except Exception as error:  # noqa: BLE001  it must not end other calls
                self.cancel(rpc, Failure("INTERNAL", f"a message that can't be read: {error!r}"))
        elif rpc.reply is None:
            rpc.reply = message
            if rpc.open:
                # The end of this request is sent with the next request. If none follows, the peer
                # ends the call when its time is over. Its status does not matter then.
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
    """The size of the message that begins here, with its prefix."""
    return 5 + int.from_bytes(data[1:5], "big")


def _not_grpc(leading: Headers) -> Failure | None:
    """The failure if the headers are not gRPC's, but for example a proxy's; None: they are."""
    said = dict(leading)
    http = said.get(b":status", b"200")
    if http == b"200" and said.get(b"content-type", b"application/grpc").startswith(
        b"application/grpc"
    ):
        return None
    details = f"HTTP status {http.decode('latin-1')}, not gRPC"
    return Failure(_OF_HTTP.get(http, "UNKNOWN"), details)
