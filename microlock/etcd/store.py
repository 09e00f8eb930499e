"""The members of one etcd: the wires to them, and the identity of the caller."""

from __future__ import annotations

from collections.abc import Sequence
from time import sleep
from typing import TYPE_CHECKING, Any

from microlock.core.port import KeepAlives, Request
from microlock.engine.client import Sink
from microlock.engine.drive import finished
from microlock.errors import MicrolockError
from microlock.etcd import refusals
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.calls import attempt, keep_alives
from microlock.etcd.login import Identity
from microlock.etcd.watching import WATCH, EtcdWatching, watch_reply
from microlock.etcd.wire import HAS_LEADER, Metadata, Wire

if TYPE_CHECKING:
    from microlock.etcd.on_loop import EtcdLoopStore


class EtcdStore:
    """The `microlock.engine.client.Store` for etcd."""

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
        wire = self._wires[member]

        async def call(*asked: Any, **options: Any) -> Any:
            return wire.call(*asked, **options)

        async def send(metadata: Metadata, left: float) -> Any:
            if isinstance(request, KeepAlives) and len(request.lease_ids) > 1:
                return keep_alives(request.lease_ids, wire, timeout=left, metadata=metadata)
            return await attempt(
                request, call, member=member, timeout=left, metadata=metadata, repeated=repeated
            )

        async def log_in(left: float) -> Metadata:
            return self._identity.log_in(wire, left)

        async def pause(seconds: float) -> None:
            sleep(seconds)

        return finished(
            refusals.attempt, self._identity, timeout, send=send, log_in=log_in, pause=pause
        )

    def open_watch(self, member: str, sink: Sink, *, timeout: float) -> EtcdWatching:
        def replied(reply: pb.WatchResponse | MicrolockError) -> None:
            sink(reply if isinstance(reply, MicrolockError) else watch_reply(reply))

        wire, metadata = self._wires[member], self._identity.known()
        if metadata is None:
            metadata = self._identity.log_in(wire, timeout)
        metadata += HAS_LEADER
        stream = wire.stream(WATCH, pb.WatchResponse, replied, timeout=None, metadata=metadata)
        return EtcdWatching(stream, member)

    def on_loop(self) -> EtcdLoopStore:
        from microlock.etcd.on_loop import EtcdLoopStore  # asyncio: not for everybody

        wires = {name: wire.on_loop() for name, wire in self._wires.items()}
        return EtcdLoopStore(wires, self._wires, self._identity)

    def close(self) -> None:
        for wire in self._wires.values():
            wire.close()
