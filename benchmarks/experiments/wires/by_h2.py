"""HTTP/2 framing by the library `h2`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

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
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import H2Error, ProtocolError
from h2.settings import SettingCodes

DEFAULT_WINDOW = 65_535


class ByH2:
    def __init__(self) -> None:
        # Our own headers are right; the server's are checked.
        config = H2Configuration(
            client_side=True,
            header_encoding=None,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self._h2 = H2Connection(config)
        self._h2.initiate_connection()
        self._h2.update_settings(
            {SettingCodes.ENABLE_PUSH: 0, SettingCodes.INITIAL_WINDOW_SIZE: WINDOW}
        )
        self._h2.increment_flow_control_window(WINDOW - DEFAULT_WINDOW)
        self._unsent: dict[int, tuple[bytes, bool]] = {}  # what waits for a window

    def open(self, headers: Headers) -> int:
        stream = self._h2.get_next_available_stream_id()
        self._h2.send_headers(stream, headers)
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        if waiting := self._unsent.pop(stream, None):
            data = waiting[0] + data
        while data or end:
            window = self._h2.local_flow_control_window(stream)
            size = min(len(data), window, self._h2.max_outbound_frame_size)
            if data and size <= 0:
                self._unsent[stream] = (data, end)
                return
            last = end and size == len(data)
            self._h2.send_data(stream, data[:size], end_stream=last)
            if size == len(data):
                return
            data = data[size:]

    def reset(self, stream: int) -> None:
        self._unsent.pop(stream, None)
        with suppress(ProtocolError):  # it may have ended meanwhile
            self._h2.reset_stream(stream, CANCEL)

    def take(self, *, lazily: bool = False) -> bytes:
        return self._h2.data_to_send()  # h2 does not say which bytes could wait

    def may_open(self) -> bool:
        return self._h2.open_outbound_streams < self._h2.remote_settings.max_concurrent_streams

    def feed(self, data: bytes) -> Sequence[Event]:
        try:
            came = self._h2.receive_data(data)
        except H2Error as error:
            raise BrokenProtocolError(repr(error)) from error
        events: list[Event] = []
        for event in came:
            if isinstance(event, DataReceived):
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                events.append(DataCame(event.stream_id, event.data, event.stream_ended is not None))
            elif isinstance(event, (ResponseReceived, TrailersReceived)):
                ended = event.stream_ended is not None
                events.append(HeadersCame(event.stream_id, event.headers, ended))
            elif isinstance(event, StreamReset):
                self._unsent.pop(event.stream_id, None)
                events.append(WasReset(event.stream_id, event.error_code))
            elif isinstance(event, ConnectionTerminated):
                events.append(GoesAway(event.last_stream_id or 0))
            elif isinstance(event, (WindowUpdated, RemoteSettingsChanged)):
                self._send_waiting()
        return events

    def _send_waiting(self) -> None:
        for stream, (data, end) in tuple(self._unsent.items()):
            del self._unsent[stream]
            self.send(stream, data, end=end)
