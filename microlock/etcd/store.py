"""The members of one etcd: the wires to them, and who calls."""

from __future__ import annotations

from collections.abc import Sequence
from time import sleep
from typing import Any

from microlock.core.port import Request
from microlock.engine import clock
from microlock.engine.backoff import jitter
from microlock.engine.client import Sink
from microlock.errors import MicrolockError, StoreAuthenticationError
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.calls import attempt
from microlock.etcd.login import Identity
from microlock.etcd.refusals import Refusals, Then, too_late
from microlock.etcd.watching import WATCH, EtcdWatching, watch_reply
from microlock.etcd.wire import HAS_LEADER, Wire


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
        refusals, metadata, fresh = Refusals(), self._identity.known(), False
        while True:
            if metadata is None:
                metadata, fresh = self._identity.log_in(wire, timeout), True
                timeout = end - clock.now()
            try:
                return attempt(request, wire, timeout=timeout, metadata=metadata, repeated=repeated)
            except StoreAuthenticationError as error:
                then = refusals.then(error, metadata, fresh=fresh)
                renewable = then is Then.AGAIN or self._identity.drop(metadata)
                if then is Then.FINAL or not renewable:
                    raise
                pause = jitter(refusals.count - 1) if refusals.count > 1 else 0.0
                timeout = end - clock.now() - pause
                if timeout <= 0:
                    raise too_late(error) from error
            if pause:
                sleep(pause)
            before, metadata = metadata, self._identity.known()
            fresh |= metadata != before

    def open_watch(self, member: str, sink: Sink, *, timeout: float) -> EtcdWatching:
        def replied(reply: pb.WatchResponse | MicrolockError) -> None:
            sink(reply if isinstance(reply, MicrolockError) else watch_reply(reply))

        wire, metadata = self._wires[member], self._identity.known()
        if metadata is None:
            metadata = self._identity.log_in(wire, timeout)
        metadata += HAS_LEADER
        stream = wire.stream(WATCH, pb.WatchResponse, replied, timeout=None, metadata=metadata)
        return EtcdWatching(stream, member)

    def close(self) -> None:
        for wire in self._wires.values():
            wire.close()
