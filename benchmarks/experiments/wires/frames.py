"""Frames of HTTP/2, and blocks of headers, as bytes (RFC 9113, RFC 7541)."""

from __future__ import annotations

import struct
from functools import lru_cache

DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    0, 1, 3, 4, 5, 6, 7, 8, 9,
)  # fmt: skip
END_STREAM = ACK = 1
END_HEADERS, PADDED, PRIORITY = 4, 8, 32
TABLE_SIZE, ENABLE_PUSH, MAX_STREAMS, INITIAL_WINDOW, MAX_FRAME = 1, 2, 3, 4, 5

HEAD = struct.Struct(">HBBBL")
SETTING = struct.Struct(">HL")


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    size = len(payload)
    return HEAD.pack(size >> 8, size & 255, kind, flags, stream) + payload


@lru_cache(maxsize=256)
def header_block(headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    return b"".join(b"\x10" + _text(name) + _text(value) for name, value in headers)


def _text(text: bytes) -> bytes:
    """A string without Huffman coding, after its length as an integer with a prefix of 7 bits."""
    size = len(text)
    if size < 127:
        return bytes((size,)) + text
    size -= 127
    length = bytearray((127,))
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes((*length, size)) + text
