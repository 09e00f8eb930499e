"""The members of one etcd, for the tasks of one loop of asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

from microlock.core.port import Request
from microlock.core.retry import Pause
from microlock.engine import clock
from microlock.engine.awaiting import Shared, aside
from microlock.errors import StoreAuthenticationError, StoreTimeoutError
from microlock.etcd import refusals
from microlock.etcd.calls import attempt_on_loop
from microlock.etcd.login import Identity
from microlock.etcd.refusals import LogIn, Send
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

    async def attempt(
        self, member: str, request: Request, *, timeout: float, repeated: bool
    ) -> Any:
        wire, trying = self._wires[member], refusals.attempt(self._identity, timeout)
        step = next(trying)
        try:
            while True:
                try:
                    match step:
                        case Send(metadata, left):
                            reply = await attempt_on_loop(
                                request, wire, timeout=left, metadata=metadata, repeated=repeated
                            )
                        case LogIn(left):
                            reply = await self._log_in(member, left)
                        case Pause(seconds):
                            await asyncio.sleep(seconds)
                            reply = None
                except StoreAuthenticationError as error:
                    step = trying.throw(error)
                else:
                    step = trying.send(reply)
        except StopIteration as answered:
            return answered.value

    async def _log_in(self, member: str, timeout: float) -> Metadata:
        """One thread is enough for all tasks that wait for the same login."""
        log_in = partial(self._identity.log_in, self._blocking[member], timeout)
        act = partial(aside, "microlock-login", log_in)
        try:
            return await self._logging_in[member].done(act, clock.now() + timeout)
        except TimeoutError:
            raise StoreTimeoutError(f"no time was left to log in at {member}") from None

    def close(self) -> None:
        for wire in self._wires.values():
            wire.close()
