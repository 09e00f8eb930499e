"""microlock's asyncio face."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from driving import Asyncio

from contenders import TTL
from microlock import EtcdClient
from microlock import connect as connect_to
from microlock.asyncio import Microlock, MultiLock, ReadLock, WriteLock

driver = Asyncio()


class Lock:
    def __init__(self, lock: Any, *, waits: bool) -> None:
        self._lock = lock
        self._timeout = None if waits else 0

    async def acquire(self) -> None:
        await self._lock.lock(timeout=self._timeout)

    async def release(self) -> None:
        await self._lock.unlock()

    async def discard(self) -> None:
        await self._lock.destroy()


class Client:
    def __init__(self, etcd: EtcdClient) -> None:
        self._etcd = etcd

    def lock(self, key: str, owner: str, *, waits: bool = False) -> Lock:
        return Lock(Microlock(self._etcd, key, owner, ttl=TTL), waits=waits)

    def reader(self, key: str, owner: str) -> Lock:
        return Lock(ReadLock(self._etcd, key, owner, ttl=TTL), waits=True)

    def writer(self, key: str, owner: str) -> Lock:
        return Lock(WriteLock(self._etcd, key, owner, ttl=TTL), waits=True)

    def several(self, keys: Sequence[str], owner: str) -> Lock:
        return Lock(MultiLock(self._etcd, keys, owner, ttl=TTL), waits=True)

    async def close(self) -> None:
        self._etcd.close()


async def connect(endpoint: str) -> Client:
    return Client(connect_to(endpoint))
