"""The wire to one member of etcd: calls with one answer, and streams.

sockets, aio    drive a connection: from any number of threads, or from an asyncio loop
dial            makes a socket: looks up the name, tries the addresses one after the other
connection      gRPC, bytes in and bytes out: the outcome of a call, whether it may have happened
tls, frames     the layers below: TLS by OpenSSL, HTTP/2 by ngh2
forks           makes a fork wait until no lock is held that the child needs
grpcio          the same wire over a lent grpcio channel
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from microlock.errors import MicrolockError

M = TypeVar("M", bound=Message)

Metadata = tuple[tuple[str, str], ...]

# Takes the replies of a stream as they come, and at last the error that ended it. It is called in
# the order of the replies, on a thread of the wire. No lock of the wire is held then: it may call
# streams. It must return at once, since other sinks wait.
Sink = Callable[[M | MicrolockError], None]

# Without this header a stream to a member that is cut off from its leader stays silent for ever.
HAS_LEADER: Metadata = (("hasleader", "true"),)


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a member.

    Attributes:
        text: the address as messages show it.
        host: a name or an IP address; empty for a Unix socket.
        port: the TCP port.
        path: the path of a Unix socket; it begins with NUL if the socket is abstract.
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
        """Ends the requests. Replies may still come."""

    def close(self) -> None:
        """Ends the stream. The sink may still get earlier replies, and later an error."""


class Wire(Protocol):
    """The connection to one member of etcd.

    Attributes:
        address: the address of the member, for messages.
        answered: whether this or another member of the same etcd has ever answered.
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
        """The wire to the same member for the tasks of the running asyncio loop."""

    def close(self) -> None: ...


class LoopWire(Protocol):
    """The wire to one member of etcd for the tasks of one asyncio loop: calls only."""

    async def call(
        self, method: str, message: Message, reply: type[M], *, timeout: float, metadata: Metadata
    ) -> M:
        """As `Wire.call`. A cancelled call may have happened."""

    def close(self) -> None: ...
