"""The seam between HTTP/2 and what is carried by it: bytes in, events out. No socket, no thread.

Two modules are behind it: `by_h2` and `by_hand`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

# What we let a server send before we have to say that we took it.
WINDOW = 16 * 2**20
CANCEL = 8  # the error code of a stream that nobody wants any more

Headers = Sequence[tuple[bytes, bytes]]


class HeadersCame(NamedTuple):
    """Leading headers, or trailers, which end the stream."""

    stream: int
    headers: Headers
    ended: bool


class DataCame(NamedTuple):
    stream: int
    data: bytes
    ended: bool


class WasReset(NamedTuple):
    stream: int
    code: int


class GoesAway(NamedTuple):
    """No stream after `last` was looked at by the server; none is welcome from now on."""

    last: int


Event = HeadersCame | DataCame | WasReset | GoesAway


class BrokenProtocolError(Exception):
    """The peer does not speak HTTP/2, or not properly; the connection is of no use any more."""


class Framing(Protocol):
    """One connection of a client. Not for several threads at once."""

    def open(self, headers: Headers) -> int:
        """Begins a stream; its number."""

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Sends now what the windows allow, and the rest as they open."""

    def reset(self, stream: int) -> None: ...

    def feed(self, data: bytes) -> Sequence[Event]:
        """What these bytes of the server mean."""

    def take(self, *, lazily: bool = False) -> bytes:
        """Bytes for the server, also those that `feed` made necessary; `lazily`: none as long as
        there are only answers to pings, which can go with a request that follows."""

    def may_open(self) -> bool:
        """Whether the server allows one more stream."""
