"""HTTP/2 by `ngh2`, which is libnghttp2. The one file that knows it: another library for the frames
has `Frames` to provide."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ngh2 import (
    Configuration,
    Connection,
    DataReceived,
    GoAwayReceived,
    NGH2Error,
    ResponseReceived,
    Role,
    Setting,
    SettingsReceived,
    StreamClosed,
    TrailersReceived,
)

if TYPE_CHECKING:
    from microlock.etcd.wire import connection

Headers = Sequence[tuple[bytes, bytes]]

# Bytes that the peer may send before we have taken them, on a stream and on all of them.
WINDOW = 16 * 2**20

_SETTINGS = {Setting.ENABLE_PUSH: 0, Setting.INITIAL_WINDOW_SIZE: WINDOW}
# What a peer can make us hold is bounded by the limits that libnghttp2 has by itself: it ends the
# connection for floods of frames. Trailers may carry a long text.
_CONFIGURATION = Configuration(max_continuations=16, max_inbound_header_list_size=256 * 1024)


class BrokenFramesError(Exception):
    """What came is no HTTP/2, or violates it: nothing more can be said on this connection."""


class Frames:
    """The client's side of one connection."""

    def __init__(self) -> None:
        connection = self._connection = Connection(Role.CLIENT, _CONFIGURATION)
        connection.initiate_connection(_SETTINGS)
        connection.set_local_window_size(WINDOW)
        self._take = connection.data_to_send
        self._receive, self._events = connection.receive_data, connection.events
        self._request, self._data = connection.send_request, connection.send_data
        self._going = False  # by the peer's GOAWAY

    def open(self, headers: Headers, data: bytes, ended: bool) -> int:
        """Begins a stream, as soon as the peer's limit of streams allows; its number.

        Raises BrokenFramesError: nothing was sent.
        """
        try:
            stream = self._request(headers)
            if data:
                self._data(stream, data, end_stream=ended)
        except NGH2Error as error:
            raise BrokenFramesError(str(error)) from error
        return stream

    def send(self, stream: int, data: bytes, ended: bool) -> None:
        with suppress(NGH2Error):  # it has ended meanwhile
            self._data(stream, data, end_stream=ended)

    def reset(self, stream: int) -> None:
        with suppress(NGH2Error):
            self._connection.reset_stream(stream)

    def ping(self) -> None:
        with suppress(NGH2Error):
            self._connection.ping()

    def take(self, events: connection.Connection) -> bytes:
        """Bytes for the peer. A stream may be over with them, or with those that can't be sent.

        Raises BrokenFramesError.
        """
        try:
            out = self._take()
        except NGH2Error as error:
            raise BrokenFramesError(str(error)) from error
        self._tell(events)
        return out

    def receive(self, data: bytes, events: connection.Connection) -> None:
        """Takes what the peer sent. Raises BrokenFramesError after what could be understood."""
        try:
            self._receive(data)
        except NGH2Error as error:
            raise BrokenFramesError(str(error)) from error
        finally:
            self._tell(events)
        # A violation is no exception: it wants to send a GOAWAY, and nothing else any more.
        if not (self._going or self._connection.can_send_request):
            raise BrokenFramesError("HTTP/2 protocol error")

    def _tell(self, events: connection.Connection) -> None:
        event: Any
        for event in self._events():
            kind = type(event)  # many: one look at each
            if kind is ResponseReceived:
                events.on_headers(event.stream_id, event.headers, event.end_stream)
            elif kind is DataReceived:
                events.on_data(event.stream_id, event.data, event.end_stream)
            elif kind is TrailersReceived:
                events.on_trailers(event.stream_id, event.headers)
            elif kind is StreamClosed:
                events.on_closed(event.stream_id, event.error_code)
            elif kind is GoAwayReceived:
                self._going = True
                events.on_goaway(event.last_stream_id)
            elif kind is SettingsReceived:
                events.on_settings()
