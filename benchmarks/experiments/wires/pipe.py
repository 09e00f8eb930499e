"""A blocking socket, with TLS or without, that one thread writes to while another one reads.

OpenSSL does not allow that on one `SSLSocket`. So TLS works on memory here, under the lock of the
connection, and only bytes that are encrypted already pass the socket, outside that lock.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress

CHUNK = 16 * 1024  # a record of TLS
SEND_TIMEOUT = 10.0


class Pipe:
    """`sealed` and `opened` are for one thread at a time, as are `write`, and `receive`."""

    def __init__(self, address: str, ca: str | None = None) -> None:
        host, _, port = address.rpartition(":")
        self._in = socket.create_connection((host, int(port)), timeout=SEND_TIMEOUT)
        self._in.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._out = self._in.dup()  # a timeout is of a Python object: each direction has its own
        self._out.settimeout(SEND_TIMEOUT)
        self._timeout: float | None = SEND_TIMEOUT
        self._tls: ssl.SSLObject | None = None
        if ca:
            context = ssl.create_default_context(cafile=ca)
            context.set_alpn_protocols(["h2"])
            self._encrypted_in, self._encrypted_out = ssl.MemoryBIO(), ssl.MemoryBIO()
            self._tls = context.wrap_bio(
                self._encrypted_in, self._encrypted_out, server_hostname=host
            )
            self._shake_hands(self._tls)

    def _shake_hands(self, tls: ssl.SSLObject) -> None:
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                self.write(self._encrypted_out.read())
                self._encrypted_in.write(self.receive(SEND_TIMEOUT))
            else:
                break
        if tls.selected_alpn_protocol() != "h2":
            raise ConnectionError("the server does not offer HTTP/2")

    def sealed(self, data: bytes) -> bytes:
        """These bytes encrypted, for `write`, and what TLS itself has to say."""
        if self._tls is None:
            return data
        if data:
            self._tls.write(data)
        return self._encrypted_out.read()

    def write(self, data: bytes) -> None:
        if data:
            self._out.sendall(data)

    def receive(self, timeout: float | None) -> bytes:
        """Bytes as they come, for `opened`. Raises TimeoutError, or ConnectionError at the end."""
        if timeout != self._timeout:
            self._timeout = timeout
            self._in.settimeout(timeout)
        data = self._in.recv(CHUNK)
        if not data:
            raise ConnectionResetError("the server has closed the connection")
        return data

    def opened(self, data: bytes) -> bytes:
        """The same without encryption."""
        if self._tls is None:
            return data
        self._encrypted_in.write(data)
        parts = []
        while True:
            try:
                part = self._tls.read(CHUNK)
            except ssl.SSLWantReadError:
                break
            if not part:
                break
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        self._in.close()
        self._out.close()

    def shut(self) -> None:
        """Ends it for whoever reads, on another thread."""
        with suppress(OSError):  # it may have ended
            self._in.shutdown(socket.SHUT_RDWR)
