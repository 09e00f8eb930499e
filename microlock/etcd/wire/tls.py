"""TLS by OpenSSL, bytes in and bytes out, without a socket.

So all drivers use the same code, and two threads can use a connection, unlike an `SSLSocket`.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from microlock.etcd.wire import forks

_CHUNK = 64 * 1024


class NoHttp2Error(ssl.SSLError):
    """The peer speaks TLS, but does not offer HTTP/2 within it."""


@dataclass(frozen=True, slots=True)
class Security:
    """The settings of TLS. The files are read at each dial, so that they can be replaced.

    Attributes:
        ca, key, cert: paths of PEM files. Without `ca`, the system's CAs are trusted.
    """

    ca: str | None = None
    key: str | None = None
    cert: str | None = None

    def context(self) -> ssl.SSLContext:
        """Raises OSError (ssl.SSLError is one) for a file that can't be used."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
            # As Go and BoringSSL: accepts certificates made by hand, and trusts whatever is given
            # as CA, also an intermediate one. Python's own defaults differ by version.
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            context.hostname_checks_common_name = False
            context.set_alpn_protocols(["h2"])
            if self.cert:
                # Otherwise OpenSSL asks on the terminal for the password of an encrypted key.
                context.load_cert_chain(self.cert, self.key, password="")
        except ssl.SSLError:
            raise
        except OSError as error:  # its text, "No such file", does not say that it is a certificate
            text = f"a file with certificates or a key: {error.strerror}"
            raise OSError(error.errno, text) from error
        return context


class Tls:
    """The client's side of one connection."""

    def __init__(self, security: Security, server_name: str) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        with forks.kept_out:
            try:
                self._tls = security.context().wrap_bio(
                    self._in, self._out, server_hostname=server_name
                )
            except (TypeError, ValueError) as error:
                raise ssl.SSLError(1, f"{server_name!a} is not a valid server name") from error
        self.established = False  # before that it takes nothing to be sealed

    def seal(self, data: bytes) -> bytes:
        """Encrypts bytes. Returns them, with those of the handshake."""
        if not self.established:
            self._shake_hands()
        elif data:
            self._tls.write(data)
        return self._out.read()

    def open(self, data: bytes) -> bytes:
        """Decrypts bytes of the peer. Raises ssl.SSLError."""
        self._in.write(data)
        if not self.established:
            self._shake_hands()
        parts = []
        try:
            while self.established and (part := self._tls.read(_CHUNK)):
                parts.append(part)
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
        return b"".join(parts)

    def _shake_hands(self) -> None:
        try:
            with forks.kept_out:
                self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        if self._tls.selected_alpn_protocol() != "h2":
            raise NoHttp2Error(1, "the peer does not offer HTTP/2 (ALPN)")
        self.established = True
