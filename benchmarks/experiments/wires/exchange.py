"""One call of gRPC as its caller sees it: messages, and what it ended with."""

from __future__ import annotations

import threading
from collections import deque
from urllib.parse import unquote

from framing import BrokenProtocolError, Headers

OK, CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE = 0, 1, 2, 4, 13, 14
REFUSED_STREAM = 7  # the code of HTTP/2 for: the server has not looked at it
LARGEST_MESSAGE = 64 * 2**20
# What a status of HTTP means, where gRPC gives none.
HTTP_STATUS = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}


class RpcFailure(Exception):
    """Attributes:
    code: gRPC's.
    processed: False: the server never looked at it; it did not happen.
    """

    def __init__(self, code: int, details: str, *, processed: bool = True) -> None:
        super().__init__(f"{code}: {details}")
        self.code, self.details, self.processed = code, details, processed


class Exchange:
    """One stream: what has come of it, and who sleeps until more does."""

    def __init__(self) -> None:
        self.stream = 0
        self.replies: deque[bytes] = deque()
        self.ended = False
        self.failure: RpcFailure | None = None  # not None  =>  ended
        self.partial = bytearray()  # of a message
        self.asleep = False  # someone waits for `alarm`, which is locked
        self.alarm = threading.Lock()
        self.alarm.acquire()

    def wake(self) -> None:
        if self.asleep:
            self.asleep = False
            self.alarm.release()

    def end(self, failure: RpcFailure | None) -> None:
        self.ended, self.failure = True, failure
        self.wake()

    def take(self, data: bytes) -> None:
        """Messages: a flag that it is compressed, its length, itself."""
        partial = self.partial
        partial += data
        at = 0
        while len(partial) - at >= 5:
            size = int.from_bytes(partial[at + 1 : at + 5], "big")
            if partial[at] or size > LARGEST_MESSAGE:
                raise BrokenProtocolError("a message is compressed, or too large")
            if len(partial) - at - 5 < size:
                break
            self.replies.append(bytes(partial[at + 5 : at + 5 + size]))
            at += 5 + size
        del partial[:at]
        if self.replies:
            self.wake()


def status(headers: Headers) -> RpcFailure | None:
    """What trailers say; None if all went well."""
    known = dict(headers)
    code = known.get(b"grpc-status")
    if code == b"0":
        return None
    if code is None:
        http = int(known.get(b":status", b"200"))
        return RpcFailure(HTTP_STATUS.get(http, UNKNOWN), f"HTTP {http}, and no status of gRPC")
    details = unquote(known.get(b"grpc-message", b"").decode("latin-1"), errors="replace")
    return RpcFailure(int(code), details)


def refusal(headers: Headers) -> RpcFailure | None:
    """What leading headers say, if it is not gRPC that follows: of a proxy, for example."""
    known = dict(headers)
    http = int(known.get(b":status", b"0"))
    content = known.get(b"content-type", b"")
    if http < 200 or (http == 200 and content.startswith(b"application/grpc")):
        return None
    return RpcFailure(HTTP_STATUS.get(http, UNKNOWN), f"HTTP {http}, and not gRPC")
