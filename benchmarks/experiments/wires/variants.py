"""The wires that are compared, and in which scenarios; the others are held against `BASE`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from by_h2 import ByH2
from by_hand import ByHand
from connection import Connection
from framing import Framing
from grpcio import ONE_THREAD, GrpcioAio, GrpcioWire
from pipe import Pipe
from wires import SocketWire

BASE = "grpcio"
SINGLE, WATCHED, THREADS, HANDOVER, RENEWAL = "single", "watched", "threads", "handover", "renewal"
ALL = (SINGLE, WATCHED, THREADS, HANDOVER, RENEWAL)

Make = Callable[[str, str | None], Any]


@dataclass(frozen=True)
class Variant:
    """Attributes:
    make: from the address, and the certificate of the authority if there is TLS.
    tls: whether it is measured with TLS, too.
    environment: of its process.
    """

    make: Make
    scenarios: tuple[str, ...] = ALL
    tls: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)


def _sockets(
    framing: Callable[[], Framing],
    *,
    sockets: int | None = None,
    apart: bool = True,
    reader: bool = False,
    lazy: bool = True,
) -> Make:
    def make(address: str, ca: str | None) -> SocketWire:
        def dial() -> Connection:
            return Connection(Pipe(address, ca), framing(), reader=reader, lazy=lazy)

        return SocketWire(dial, address, tls=ca is not None, sockets=sockets, apart=apart)

    return make


def _grpcio(*options: tuple[str, Any], **more: Any) -> Make:
    return lambda address, ca: GrpcioWire(address, ca, options, **more)


def _option(*options: tuple[str, Any], **more: Any) -> Variant:
    return Variant(_grpcio(*options, **more), (SINGLE,), tls=False)


def _environment(**environment: str) -> Variant:
    return Variant(_grpcio(), (SINGLE,), tls=False, environment=environment)


VARIANTS = {
    BASE: Variant(_grpcio()),
    "grpcio, single-threaded stream": _option(*ONE_THREAD, streaming=True),
    "grpcio, registered methods": _option(registered=True),
    "grpcio, no retries": _option(("grpc.enable_retries", 0)),
    "grpcio, minimal stack": _option(("grpc.minimal_stack", 1)),
    "grpcio, no bdp probe": _option(("grpc.http2.bdp_probe", 0)),
    "grpcio, latency": _option(("grpc.optimization_target", "latency")),
    "grpcio, poll": _environment(GRPC_POLL_STRATEGY="poll"),
    "grpcio, no fork support": _environment(GRPC_ENABLE_FORK_SUPPORT="0"),
    "grpcio, no event engine": _environment(
        GRPC_EXPERIMENTS="-event_engine_client,-event_engine_callback_cq"
    ),
    "grpcio, pollset_alternative": _environment(GRPC_EXPERIMENTS="pollset_alternative"),
    "grpcio, 8 channels": Variant(_grpcio(channels=8), (THREADS,)),
    "grpcio, asyncio": Variant(GrpcioAio, (SINGLE, THREADS)),
    "h2": Variant(_sockets(ByH2)),
    "by hand": Variant(_sockets(ByHand)),
    "by hand, streams on it too": Variant(
        _sockets(ByHand, apart=False), (WATCHED, HANDOVER), tls=False
    ),
    "by hand, prompt pongs": Variant(_sockets(ByHand, lazy=False), (SINGLE, THREADS), tls=False),
    "by hand, reader thread": Variant(_sockets(ByHand, reader=True), tls=False),
    "by hand, 4 sockets": Variant(_sockets(ByHand, sockets=4), (THREADS,)),
    "by hand, 8 sockets": Variant(_sockets(ByHand, sockets=8), (THREADS,)),
    "by hand, 32 sockets": Variant(_sockets(ByHand, sockets=32), (THREADS,), tls=False),
}
