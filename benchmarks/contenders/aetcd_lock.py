"""The Lock of aetcd, on one asyncio loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aetcd
from driving import Asyncio

from contenders import TTL

driver = Asyncio()


class Lock:
    def __init__(self, lock: Any) -> None:
        self._lock = lock

    async def acquire(self) -> None:
        assert await self._lock.acquire(timeout=None)

    async def release(self) -> None:
        assert await self._lock.release()

    async def discard(self) -> None:
        await self._lock.lease.revoke()


class Client:
    def __init__(self, etcd: aetcd.Client) -> None:
        self._etcd = etcd
        self._tasks: list[asyncio.Task[None]] = []

    def lock(self, key: str, owner: str, *, waits: bool = False) -> Lock:
        return Lock(self._etcd.lock(key.encode(), ttl=TTL))

    async def close(self) -> None:
        await self._etcd.close()

    async def watch(self, key: str, told: Callable[[], object]) -> None:
        watch = await self._etcd.watch(key.encode())

        async def follow() -> None:
            async for _ in watch:
                told()

        self._tasks.append(asyncio.create_task(follow()))


async def connect(endpoint: str) -> Client:
    host, _, port = endpoint.rpartition(":")
    client = aetcd.Client(host, int(port))
    await client.connect()
    return Client(client)
