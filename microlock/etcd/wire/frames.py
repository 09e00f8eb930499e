"""HTTP/2 frames by `ngh2` (libnghttp2).

Only this file uses it: to use another library, write another `Frames`.
"""

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

# Bytes that the peer may send before we have read them, on one stream and on all together.
WINDOW = 16 * 2**20

_SETTINGS = {Setting.ENABLE_PUSH: 0, Setting.INITIAL_WINDOW_SIZE: WINDOW}
# libnghttp2's own limits bound the memory that a peer can make us use: it ends the connection at a
# flood of frames. Trailers may contain a long text.
_CONFIGURATION = Configuration(max_continuations=16, max_inbound_header_list_size=256 * 1024)


class BrokenFramesError(Exception):
    """The peer does not speak HTTP/2, or violates it. The connection can't be used any more."""


class Frames:
    """The client's side of one connection."""

    def __init__(self) -> None:
        connection = self._connection = Connection(Role.CLIENT, _CONFIGURATION)
        connection.initiate_connection(_SETTINGS)
        connection.set_local_window_size(WINDOW)
        self._take = connection.data_to_send
        self._receive, self._events = connection.receive_data, connection.events
        self._request, self._data = connection.send_request, connection.send_data
        self._going = False  # whether the peer has sent GOAWAY

    def open(self, headers: Headers, data: bytes, ended: bool) -> int:
        """Begins a stream, when the peer's limit of streams allows. Returns its number.

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

    @property
    def waiting(self) -> bool:
        """Whether data waits for a window or a stream of the peer, or for `take`."""
        return bool(self._connection.queued_body_size())

    def ping(self) -> None:
        with suppress(NGH2Error):
            self._connection.ping()

    def take(self, events: connection.Connection) -> bytes:
        """Returns the bytes for the peer. These, or bytes that can't be sent, may end a stream.

        Raises BrokenFramesError.
        """
        try:
            out = self._take()
        except NGH2Error as error:
            raise BrokenFramesError(str(error)) from error
        self._tell(events)
        return out

    def receive(self, data: bytes, events: connection.Connection) -> None:
        """Processes bytes of the peer. Raises BrokenFramesError after the events before it."""
        try:
            self._receive(data)
        except NGH2Error as error:
            raise BrokenFramesError(str(error)) from error
        finally:
            self._tell(events)
        # ngh2 raises nothing for a violation: it only wants to send a GOAWAY, and nothing else.
        if not (self._going or self._connection.can_send_request):
            raise BrokenFramesError("HTTP/2 protocol error")

    def _tell(self, events: connection.Connection) -> None:
        event: Any
        for event in self._events():
            kind = type(event)  # fast: there are many events
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
