"""The wire to one member of etcd: one request with one answer, and one stream.

sockets, aio    drive a connection: from any number of threads, from a loop of asyncio
dial            makes a socket: addresses, names, the next address after a while
connection      gRPC, bytes in and bytes out: what came of a call, whether it may have happened
tls, frames     what the bytes are wrapped in: TLS by OpenSSL, HTTP/2 by ngh2
forks           which wait until no lock is held that a child needs
grpcio          the same wire over a channel of grpcio that somebody lends
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from microlock.errors import MicrolockError

M = TypeVar("M", bound=Message)

Metadata = tuple[tuple[str, str], ...]

# What takes the replies of a stream as they come, and at last the error that it ended with. It is
# called in their order, on a thread of the wire, and no lock of the wire is held: so it may take
# one, and call streams. It is to return at once, since others wait to be told.
Sink = Callable[[M | MicrolockError], None]

# Without it a stream to a member that is cut off from its leader stays silent for ever.
HAS_LEADER: Metadata = (("hasleader", "true"),)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a member is.

    Attributes:
        text: as it is shown.
        host: a name or an IP address; empty for a socket of Unix.
        port: of TCP.
        path: of a socket of Unix; it begins with NUL if it is abstract.
    """

    text: str
    host: str = ""
    port: int = 0
    path: str = ""


class Stream(Protocol):
    """Requests and replies that flow independently, until one side ends it."""

    def send(self, *messages: Message) -> None:
        """Sends requests together, if the stream has not ended."""

    def finish(self) -> None:
        """No request follows."""

    def close(self) -> None:
        """Ends it. The sink may still get what came before, and an error a while later."""


class Wire(Protocol):
    """The way to one member of etcd.

    Attributes:
        address: where it is, for messages.
        answered: whether it ever gave an answer, or another member of the same etcd did.
    """

    address: str

    @property
    def answered(self) -> bool: ...

    def call(
        self, method: str, message: Message, reply: type[M], *, timeout: float, metadata: Metadata
    ) -> M:
        """One request, one answer, within `timeout` seconds. Raises a StoreError."""

    def stream(
        self,
        method: str,
        reply: type[M],
        sink: Sink[M],
        *,
        timeout: float | None,
        metadata: Metadata,
    ) -> Stream:
        """Opens a stream, whose replies go to `sink`. Raises a MicrolockError if that fails."""

    def on_loop(self) -> LoopWire:
        """The way to the same member for the tasks of the running loop of asyncio."""

    def close(self) -> None: ...


class LoopWire(Protocol):
    """The way to one member of etcd, for the tasks of one loop of asyncio: calls only."""

    async def call(
        self, method: str, message: Message, reply: type[M], *, timeout: float, metadata: Metadata
    ) -> M:
        """As `Wire.call`. A call that is cancelled may have happened."""

    def close(self) -> None: ...
