"""Uses a blocking wire on an asyncio loop: each call runs on a thread."""

from __future__ import annotations

import asyncio

from google.protobuf.message import Message

from microlock.engine import clock
from microlock.engine.awaiting import aside
from microlock.errors import StoreTimeoutError, StoreUnavailableError
from microlock.etcd.wire import M, Metadata, Wire

# The most calls of one loop at the same time.
_AT_ONCE = 32


class ThreadsWire:
    """A `LoopWire` whose calls block one thread each."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def call(
        self, method: str, message: Message, reply: type[M], *, timeout: float, metadata: Metadata
    ) -> M:
        end, late = clock.now() + timeout, f"no time was left for a call to {self._wire.address}"

        def call() -> M:
            if (left := end - clock.now()) <= 0:
                raise StoreTimeoutError(late)
            return self._wire.call(method, message, reply, timeout=left, metadata=metadata)

        try:
            await asyncio.wait_for(self._turns.acquire(), max(0.0, timeout))
        except asyncio.TimeoutError:
            raise StoreTimeoutError(late) from None
        try:  # the turn ends with the thread, not with the task that waits for it
            return await aside("microlock-calls", call, ended=self._turns.release)
        except RuntimeError as error:  # too many threads, or the interpreter exits
            self._turns.release()
            raise StoreUnavailableError(
                f"no thread can be started to call {self._wire.address}"
            ) from error

    def close(self) -> None:
        pass  # the channel belongs to the blocking wire
