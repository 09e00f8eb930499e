"""The members of one etcd, for the tasks of one loop of asyncio."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from microlock.core.port import Request
from microlock.engine import clock
from microlock.engine.awaiting import aside
from microlock.errors import StoreAuthenticationError
from microlock.etcd.calls import attempt_on_loop
from microlock.etcd.login import Identity
from microlock.etcd.wire import LoopWire, Metadata, Wire


class EtcdLoopStore:
    """An `AsyncStore`, as `microlock.engine.client` has it."""

    def __init__(
        self, wires: Mapping[str, LoopWire], blocking: Mapping[str, Wire], identity: Identity
    ) -> None:
        self._wires = wires
        self._blocking = blocking  # to log in
        self._identity = identity

    async def attempt(
        self, member: str, request: Request, *, timeout: float, repeated: bool
    ) -> Any:
        wire, end = self._wires[member], clock.now() + timeout
        for renewed in (False, True):
            metadata: Metadata = ()
            try:
                metadata = await self._metadata(member, timeout)
                return await attempt_on_loop(
                    request, wire, timeout=timeout, metadata=metadata, repeated=repeated
                )
            except StoreAuthenticationError:
                # Tokens expire; but a new one that is refused is no good.
                stale = self._identity.refused(metadata)
                timeout = end - clock.now()
                if not stale or renewed or timeout <= 0:
                    raise
        raise AssertionError("the second time it returns or raises")

    async def _metadata(self, member: str, timeout: float) -> Metadata:
        known = self._identity.known()
        if known is not None:
            return known
        log_in = partial(self._identity.metadata, self._blocking[member], timeout)
        return await aside("microlock-login", log_in)

    def close(self) -> None:
        for wire in self._wires.values():
            wire.close()
