"""A wire that blocks, for a loop of asyncio: each call on a thread."""

from __future__ import annotations

import asyncio

from google.protobuf.message import Message

from microlock.engine import clock
from microlock.engine.awaiting import aside
from microlock.etcd.wire import M, Metadata, Wire

# So many calls of one loop wait at the same time.
_AT_ONCE = 32


class ThreadsWire:
    """A `LoopWire`, whose calls block a thread each."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def call(
        self, method: str, message: Message, reply: type[M], *, timeout: float, metadata: Metadata
    ) -> M:
        end = clock.now() + timeout

        def call() -> M:
            left = end - clock.now()
            return self._wire.call(method, message, reply, timeout=left, metadata=metadata)

        async with self._turns:
            return await aside("microlock-calls", call)

    def close(self) -> None:
        pass  # the channel is that of the threads
