"""TLS by OpenSSL, bytes in and bytes out: beside the socket, since one `SSLSocket` is not for two
threads, and for every driver the same."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from microlock.etcd.wire import forks

_CHUNK = 64 * 1024


class NoHttp2Error(ssl.SSLError):
    """The peer speaks TLS, and does not offer HTTP/2 within it."""


@dataclass(frozen=True, slots=True)
class Security:
    """What TLS is made with; the files are read at each dial, so that they can be replaced.

    Attributes:
        ca, key, cert: paths of PEM files; without a CA those are trusted that the system does.
    """

    ca: str | None = None
    key: str | None = None
    cert: str | None = None

    def context(self) -> ssl.SSLContext:
        """Raises OSError (ssl.SSLError is one) for a file that can't be used."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
            # As Go and BoringSSL: certificates made by hand will do, and whatever is given as CA is
            # trusted, one in the middle of a chain too. Python's own choice differs by version.
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            context.hostname_checks_common_name = False
            context.set_alpn_protocols(["h2"])
            if self.cert:
                # An encrypted key would be asked for on the terminal.
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
        """What is to be sent in place of this, and for the handshake."""
        if not self.established:
            self._shake_hands()
        elif data:
            self._tls.write(data)
        return self._out.read()

    def open(self, data: bytes) -> bytes:
        """What this says. Raises ssl.SSLError."""
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
