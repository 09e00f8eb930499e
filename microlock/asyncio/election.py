"""The election of a leader: the asyncio face."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from microlock.asyncio.lock import SOON, Lock
from microlock.core.hold import Hold
from microlock.core.keys import check_value
from microlock.core.queue import Leader
from microlock.election_face import ElectionFace, Following
from microlock.engine.loops import run
from microlock.events import LockEvent

Told = asyncio.Queue[LockEvent | None]


class Election(ElectionFace, Lock):
    """A lock whose holder leads, and proclaims a value that all clients can read and follow.

    It is `microlock.Election` for asyncio tasks; see there, and `microlock.asyncio.Microlock`.

    Args:
        etcd, key, node_id, ttl, auto_renew, max_hold, min_hold, timeout: as for `Microlock`. A
            leader without a value proclaims its node id.

    Raises:
        InvalidArgumentError: an argument is wrong. Its subclasses: KeyRequiredError,
            NodeIdRequiredError, InvalidTtlError, ClientRequiredError.
    """

    async def campaign(
        self, value: str | bytes | None = None, *, timeout: float | None = None
    ) -> Hold:
        said = None if value is None else check_value(value)
        hold = (await self._acquire(timeout, value=said)).hold
        assert hold
        return hold

    async def proclaim(self, value: str | bytes) -> float:
        said = check_value(value)
        await self._ready(SOON)
        call = self._host.call(self._owner())
        call.value = said
        return await run(self._host, call, self._core.proclaim(call))

    async def resign(self) -> None:
        await self.unlock()

    async def leader(self) -> Leader | None:
        holder = await self.holder()
        return Leader(holder.value, holder.token) if holder else None

    def observe(self) -> AsyncIterator[Leader]:
        told: Told = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def put(event: LockEvent | None) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(told.put_nowait, event)

        return self._observed(told, self._follow(put))

    async def _observed(self, told: Told, following: Following) -> AsyncIterator[Leader]:
        try:
            await self._ready()
            while (event := await told.get()) is not None:
                for leader in following.leaders(event):
                    yield leader
        finally:
            self._leave(following)

    async def destroy(self) -> None:
        try:
            await super().destroy()
        finally:
            self._closed()
