"""Frames of HTTP/2 as a server sends them (RFC 9113), by hand: so they can be wrong as well."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY = range(8)
WINDOW_UPDATE, CONTINUATION, UNKNOWN = 8, 9, 66
ACK = END_STREAM = 1
END_HEADERS, PADDED = 4, 8

MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 3, 4, 5
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, REFUSED_STREAM, CANCEL = 0, 1, 2, 7, 8

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LARGEST_FRAME = 16_384


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return struct.pack(">HBBBL", size >> 8, size & 255, kind, flags, stream) + payload


def settings(**values: int) -> bytes:
    """`settings(MAX_CONCURRENT_STREAMS=1)`."""
    pairs = [struct.pack(">HL", globals()[name], value) for name, value in values.items()]
    return frame(SETTINGS, 0, 0, b"".join(pairs))


HELLO = settings() + frame(SETTINGS, ACK, 0)


def block(*fields: tuple[str, str | bytes]) -> bytes:
    """Headers as HPACK has them (RFC 7541), none of them in a table."""
    out = b""
    for name, value in fields:
        out += b"\x00" + _text(name.encode()) + _text(_bytes(value))
    return out


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def _text(value: bytes) -> bytes:
    size = len(value)
    if size < 127:
        return bytes((size,)) + value
    out, size = b"\x7f", size - 127
    while size >= 128:
        out, size = out + bytes((size % 128 + 128,)), size // 128
    return out + bytes((size,)) + value


GRPC = (":status", "200"), ("content-type", "application/grpc")


def headers(stream: int, *fields: tuple[str, str | bytes], ended: bool = False) -> bytes:
    return frame(HEADERS, END_HEADERS | ended * END_STREAM, stream, block(*fields))


def leading(stream: int) -> bytes:
    return headers(stream, *GRPC)


def message(content: bytes) -> bytes:
    return b"\0" + struct.pack(">L", len(content)) + content


def data(stream: int, content: bytes, *, ended: bool = False) -> bytes:
    """In as many frames as it takes."""
    parts = [content[at : at + LARGEST_FRAME] for at in range(0, len(content), LARGEST_FRAME)]
    frames = [frame(DATA, 0, stream, each) for each in parts[:-1]]
    return b"".join(frames) + frame(DATA, ended * END_STREAM, stream, (parts or [b""])[-1])


def trailing(stream: int, status: str = "0", *fields: tuple[str, str | bytes]) -> bytes:
    return headers(stream, ("grpc-status", status), *fields, ended=True)


def answer(stream: int, content: bytes) -> bytes:
    """All that answers a call."""
    return leading(stream) + data(stream, message(content)) + trailing(stream)


def reset(stream: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream, struct.pack(">L", code))


def goaway(last: int, code: int = NO_ERROR) -> bytes:
    return frame(GOAWAY, 0, 0, struct.pack(">LL", last, code))


def window_update(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">L", increment))


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


def parse(sent: bytes) -> Iterator[Frame]:
    """The frames that a client sent, all of them whole."""
    sent = sent.removeprefix(PREFACE)
    while sent:
        high, low, kind, flags, stream = struct.unpack_from(">HBBBL", sent)
        end = 9 + (high << 8) + low
        assert len(sent) >= end
        yield Frame(kind, flags, stream, sent[9:end])
        sent = sent[end:]
