"""The members of one etcd: the wires to them, and who calls."""

from __future__ import annotations

from collections.abc import Sequence
from time import sleep
from typing import TYPE_CHECKING, Any

from microlock.core.port import Request
from microlock.core.retry import Pause
from microlock.engine.client import Sink
from microlock.errors import MicrolockError, StoreAuthenticationError
from microlock.etcd import refusals
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.calls import attempt
from microlock.etcd.login import Identity
from microlock.etcd.refusals import LogIn, Send
from microlock.etcd.watching import WATCH, EtcdWatching, watch_reply
from microlock.etcd.wire import HAS_LEADER, Wire

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
        wire, trying = self._wires[member], refusals.attempt(self._identity, timeout)
        step = next(trying)
        try:
            while True:
                try:
                    match step:
                        case Send(metadata, left):
                            reply = attempt(
                                request, wire, timeout=left, metadata=metadata, repeated=repeated
                            )
                        case LogIn(left):
                            reply = self._identity.log_in(wire, left)
                        case Pause(seconds):
                            sleep(seconds)
                            reply = None
                except StoreAuthenticationError as error:
                    step = trying.throw(error)
                else:
                    step = trying.send(reply)
        except StopIteration as answered:
            return answered.value

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
