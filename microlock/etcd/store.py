"""The members of one etcd: the wires to them, and who calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from microlock.core.port import Request
from microlock.engine import clock
from microlock.engine.client import Sink
from microlock.errors import MicrolockError, StoreAuthenticationError
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.calls import attempt
from microlock.etcd.login import Identity
from microlock.etcd.watching import WATCH, EtcdWatching, watch_reply
from microlock.etcd.wire import HAS_LEADER, Metadata, Wire

if TYPE_CHECKING:
    from microlock.etcd.on_loop import EtcdLoopStore


class EtcdStore:
    """A `Store`, as `microlock.engine.client` has it."""

    def __init__(self, wires: Sequence[Wire], identity: Identity) -> None:
        self._wires = {wire.address: wire for wire in wires}
        self._identity = identity

    @property
    def members(self) -> Sequence[str]:
        return tuple(self._wires)

    @property
    def answered(self) -> bool:
        return any(wire.answered for wire in self._wires.values())

    def attempt(self, member: str, request: Request, *, timeout: float, repeated: bool) -> Any:
        wire, end = self._wires[member], clock.now() + timeout
        for renewed in (False, True):
            metadata: Metadata = ()
            try:
                metadata = self._identity.metadata(wire, timeout)
                return attempt(request, wire, timeout=timeout, metadata=metadata, repeated=repeated)
            except StoreAuthenticationError:
                # Tokens expire; but a new one that is refused is no good.
                stale = self._identity.refused(metadata)
                timeout = end - clock.now()
                if not stale or renewed or timeout <= 0:
                    raise
        raise AssertionError("the second time it returns or raises")

    def open_watch(self, member: str, sink: Sink, *, timeout: float) -> EtcdWatching:
        def replied(reply: pb.WatchResponse | MicrolockError) -> None:
            sink(reply if isinstance(reply, MicrolockError) else watch_reply(reply))

        wire = self._wires[member]
        metadata = self._identity.metadata(wire, timeout) + HAS_LEADER
        stream = wire.stream(WATCH, pb.WatchResponse, replied, timeout=None, metadata=metadata)
        return EtcdWatching(stream, member)

    def on_loop(self) -> EtcdLoopStore:
        from microlock.etcd.on_loop import EtcdLoopStore  # asyncio: not for everybody

        wires = {name: wire.on_loop() for name, wire in self._wires.items()}
        return EtcdLoopStore(wires, self._wires, self._identity)

    def close(self) -> None:
        for wire in self._wires.values():
            wire.close()
