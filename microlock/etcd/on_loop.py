"""The members of one etcd, for the tasks of one asyncio loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any

from microlock.core.port import Request
from microlock.engine import clock
from microlock.engine.awaiting import Shared, aside
from microlock.errors import StoreTimeoutError, StoreUnavailableError
from microlock.etcd import refusals
from microlock.etcd.calls import attempt
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
        self._logging_in = {member: Shared[Metadata]() for member in blocking}

    def attempt(
        self, member: str, request: Request, *, timeout: float, repeated: bool
    ) -> Coroutine[Any, Any, Any]:
        call = self._wires[member].call

        # Keep-alives of many leases do not come here: the client's thread sends those.
        def send(metadata: Metadata, left: float) -> Coroutine[Any, Any, Any]:
            return attempt(
                request, call, member=member, timeout=left, metadata=metadata, repeated=repeated
            )

        log_in = partial(self._log_in, member)
        return refusals.attempt(
            self._identity, timeout, send=send, log_in=log_in, pause=asyncio.sleep
        )

    async def _log_in(self, member: str, timeout: float) -> Metadata:
        """One thread is enough for all tasks that wait for the same login."""
        log_in = partial(self._identity.log_in, self._blocking[member], timeout)
        act = partial(aside, "microlock-login", log_in)
        try:
            return await self._logging_in[member].done(act, clock.now() + timeout)
        except TimeoutError:
            raise StoreTimeoutError(f"no time was left to log in at {member}") from None
        except RuntimeError as error:  # too many threads, or the interpreter exits
            raise StoreUnavailableError(f"no thread can log in at {member}") from error

    def close(self) -> None:
        for wire in self._wires.values():
            wire.close()
