"""HTTP/2 framing of a client, as far as gRPC needs it (RFC 9113, RFC 7541).

Header blocks are stateless both ways. Ours are literals that are never indexed, so a block is the
same bytes each time. The server is told to keep no table, so one of its blocks means the same each
time: it is decoded once, by `hpack`, and then looked up.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from frames import (
    ACK,
    CONTINUATION,
    DATA,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEAD,
    HEADERS,
    INITIAL_WINDOW,
    MAX_FRAME,
    MAX_STREAMS,
    PADDED,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTING,
    SETTINGS,
    TABLE_SIZE,
    WINDOW_UPDATE,
    frame,
    header_block,
)
from framing import (
    CANCEL,
    WINDOW,
    BrokenProtocolError,
    DataCame,
    Event,
    GoesAway,
    Headers,
    HeadersCame,
    WasReset,
)
from hpack import Decoder, HPACKError

DEFAULT_WINDOW = 65_535
LARGEST_FRAME = 16_384  # that we accept, and that any server does
MOST_HEADERS = 256 * 1024
KNOWN_BLOCKS = 64


class ByHand:
    def __init__(self) -> None:
        settings = ((TABLE_SIZE, 0), (ENABLE_PUSH, 0), (INITIAL_WINDOW, WINDOW))
        self._out = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            frame(SETTINGS, 0, 0, b"".join(SETTING.pack(*each) for each in settings)),
            frame(WINDOW_UPDATE, 0, 0, struct.pack(">L", WINDOW - DEFAULT_WINDOW)),
        ]
        self._pongs: list[bytes] = []  # answers to pings
        self._partial = b""  # of a frame
        self._block: tuple[int, int, bytearray] | None = None  # one that CONTINUATION goes on with
        self._decoder = Decoder(MOST_HEADERS)
        self._known: dict[bytes, Headers] = {}
        self._next = 1
        self._peer_window = DEFAULT_WINDOW  # of a new stream
        self._peer_frame = LARGEST_FRAME
        self._peer_streams = 2**31
        self._window = DEFAULT_WINDOW  # to send, of all streams together
        self._windows: dict[int, int] = {}  # to send, by open stream
        self._unsent: dict[int, tuple[bytes, bool]] = {}  # what waits for a window
        self._taken = 0  # not yet told to the server
        self._taken_of: dict[int, int] = {}

    # To the server

    def open(self, headers: Headers) -> int:
        stream, self._next = self._next, self._next + 2
        self._windows[stream] = self._peer_window
        block = header_block(tuple(headers))
        first, rest = block[: self._peer_frame], block[self._peer_frame :]
        self._out.append(frame(HEADERS, 0 if rest else END_HEADERS, stream, first))
        while rest:
            first, rest = rest[: self._peer_frame], rest[self._peer_frame :]
            self._out.append(frame(CONTINUATION, 0 if rest else END_HEADERS, stream, first))
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        if stream not in self._windows:  # the server has ended it meanwhile
            return
        if waiting := self._unsent.pop(stream, None):
            data = waiting[0] + data
        while data or end:
            size = min(len(data), self._window, self._windows[stream], self._peer_frame)
            if data and size <= 0:
                self._unsent[stream] = (data, end)
                return
            last = end and size == len(data)
            self._out.append(frame(DATA, END_STREAM if last else 0, stream, data[:size]))
            self._window -= size
            self._windows[stream] -= size
            if size == len(data):
                return
            data = data[size:]

    def reset(self, stream: int) -> None:
        if stream in self._windows:
            self._out.append(frame(RST_STREAM, 0, stream, struct.pack(">L", CANCEL)))
            self._forget(stream)

    def take(self, *, lazily: bool = False) -> bytes:
        if lazily and not self._out:
            return b""
        out, self._out, self._pongs = self._out + self._pongs, [], []
        return b"".join(out)

    def may_open(self) -> bool:
        return len(self._windows) < self._peer_streams

    def _forget(self, stream: int) -> None:
        self._windows.pop(stream, None)
        self._unsent.pop(stream, None)
        self._taken_of.pop(stream, None)

    # From the server

    def feed(self, data: bytes) -> Sequence[Event]:
        data = self._partial + data if self._partial else data
        events: list[Event] = []
        at, size = 0, len(data)
        try:
            while size - at >= 9:
                high, low, kind, flags, stream = HEAD.unpack_from(data, at)
                end = at + 9 + (high << 8) + low
                if end - at - 9 > LARGEST_FRAME:
                    raise BrokenProtocolError("a frame is larger than allowed")
                if end > size:
                    break
                self._came(kind, flags, stream & 0x7FFFFFFF, data[at + 9 : end], events)
                at = end
        except (struct.error, HPACKError, IndexError) as error:
            raise BrokenProtocolError(repr(error)) from error
        self._partial = data[at:]
        return events

    def _came(
        self, kind: int, flags: int, stream: int, payload: bytes, events: list[Event]
    ) -> None:
        if self._block is not None and (kind != CONTINUATION or stream != self._block[0]):
            raise BrokenProtocolError("headers were left unfinished")
        if kind == DATA:
            self._data_came(flags, stream, payload, events)
        elif kind == HEADERS:
            payload = _unpadded(flags, payload)
            payload = payload[5:] if flags & PRIORITY else payload
            if flags & END_HEADERS:
                self._headers_came(flags, stream, payload, events)
            else:
                self._block = stream, flags, bytearray(payload)
        elif kind == CONTINUATION:
            if self._block is None:
                raise BrokenProtocolError("headers go on that never began")
            _, first_flags, block = self._block
            block += payload
            if len(block) > MOST_HEADERS:
                raise BrokenProtocolError("headers are too long")
            if flags & END_HEADERS:
                self._block = None
                self._headers_came(first_flags, stream, bytes(block), events)
        elif kind == WINDOW_UPDATE:
            self._window_opens(stream, struct.unpack(">L", payload)[0] & 0x7FFFFFFF)
        elif kind == PING:
            if not flags & ACK:
                self._pongs.append(frame(PING, ACK, 0, payload))
        elif kind == SETTINGS:
            self._settings_came(flags, payload)
        elif kind == RST_STREAM:
            self._forget(stream)
            events.append(WasReset(stream, struct.unpack(">L", payload)[0]))
        elif kind == GOAWAY:
            events.append(GoesAway(struct.unpack_from(">L", payload)[0] & 0x7FFFFFFF))
        elif kind == PUSH_PROMISE:
            raise BrokenProtocolError("a promise, which we have forbidden")
        # Frames of an unknown kind are to be ignored.

    def _data_came(self, flags: int, stream: int, payload: bytes, events: list[Event]) -> None:
        self._taken += len(payload)  # with its padding, and also if nobody wants it any more
        if self._taken > WINDOW // 2:
            self._out.append(frame(WINDOW_UPDATE, 0, 0, struct.pack(">L", self._taken)))
            self._taken = 0
        if stream not in self._windows:
            return
        ended = bool(flags & END_STREAM)
        if not ended:
            taken = self._taken_of.get(stream, 0) + len(payload)
            if taken > WINDOW // 2:
                self._out.append(frame(WINDOW_UPDATE, 0, stream, struct.pack(">L", taken)))
                taken = 0
            self._taken_of[stream] = taken
        events.append(DataCame(stream, _unpadded(flags, payload), ended))
        if ended:
            self._forget(stream)

    def _headers_came(self, flags: int, stream: int, block: bytes, events: list[Event]) -> None:
        headers = self._known.get(block)
        if headers is None:
            # Also if nobody wants them any more, for the decoder may still have a table.
            headers = tuple(self._decoder.decode(block, raw=True))
            if self._decoder.header_table_size == 0 and len(self._known) < KNOWN_BLOCKS:
                self._known[block] = headers
        if stream in self._windows:
            ended = bool(flags & END_STREAM)
            events.append(HeadersCame(stream, headers, ended))
            if ended:
                self._forget(stream)

    def _settings_came(self, flags: int, payload: bytes) -> None:
        if flags & ACK:
            self._decoder.max_allowed_table_size = 0
            return
        for name, value in SETTING.iter_unpack(payload):
            if name == INITIAL_WINDOW:
                for stream in self._windows:
                    self._windows[stream] += value - self._peer_window
                self._peer_window = value
            elif name == MAX_FRAME:
                self._peer_frame = value
            elif name == MAX_STREAMS:
                self._peer_streams = value
        self._out.append(frame(SETTINGS, ACK, 0, b""))
        self._send_waiting()

    def _window_opens(self, stream: int, size: int) -> None:
        if stream == 0:
            self._window += size
        elif stream in self._windows:
            self._windows[stream] += size
        self._send_waiting()

    def _send_waiting(self) -> None:
        for stream, (data, end) in tuple(self._unsent.items()):
            del self._unsent[stream]
            self.send(stream, data, end=end)


def _unpadded(flags: int, payload: bytes) -> bytes:
    return payload[1 : len(payload) - payload[0]] if flags & PADDED else payload
