"""What a call sends: headers and a message."""

from __future__ import annotations

from google.protobuf.message import Message

from microlock.etcd.wire import Metadata
from microlock.etcd.wire.frames import Headers


class RequestHeaders:
    """Of the calls to one member; made once for many."""

    def __init__(self, authority: str, scheme: str) -> None:
        self._begin = (b":method", b"POST"), (b":scheme", scheme.encode())
        self._end = (
            (b":authority", authority.encode(errors="replace")),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"user-agent", b"microlock"),
        )
        self._made: dict[tuple[str, int, Metadata], Headers] = {}

    def of(self, method: str, timeout: float | None, metadata: Metadata) -> Headers:
        # Whole seconds: a little longer than the caller waits, and few different ones.
        seconds = -1 if timeout is None else int(timeout) + 1
        key = method, seconds, metadata
        made = self._made.get(key)
        if made is None:
            made = (*self._begin, (b":path", method.encode()), *self._end)
            if timeout is not None:
                made += ((b"grpc-timeout", b"%dS" % seconds),)
            made += tuple((name.encode(), value.encode()) for name, value in metadata)
            if len(self._made) > 100:  # tokens come and go
                self._made.clear()
            self._made[key] = made
        return made


def framed(message: Message) -> bytes:
    """As gRPC sends it: not compressed, its size, itself."""
    data = message.SerializeToString()
    return b"\0" + len(data).to_bytes(4, "big") + data
