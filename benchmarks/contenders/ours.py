"""microlock itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from driving import Blocking

from contenders import TTL
from microlock import EtcdClient, Microlock, MultiLock, ReadLock, WriteLock
from microlock import connect as connect_to

driver = Blocking()


class Lock:
    def __init__(self, lock: Any, *, waits: bool) -> None:
        self._lock = lock
        self._timeout = None if waits else 0

    async def acquire(self) -> None:
        self._lock.lock(timeout=self._timeout)

    async def release(self) -> None:
        self._lock.unlock()

    async def discard(self) -> None:
        self._lock.destroy()


class Client:
    def __init__(self, etcd: EtcdClient) -> None:
        self._etcd = etcd
        self._locks: list[Microlock] = []

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

    async def watch(self, key: str, told: Callable[[], object]) -> None:
        lock = Microlock(self._etcd, key, "listener", ttl=TTL)
        lock.on("locked", told)
        self._locks.append(lock)

    async def keep(self, key: str, ttl: int) -> None:
        lock = Microlock(self._etcd, key, "keeper", ttl=ttl, auto_renew=True)
        lock.lock()
        self._locks.append(lock)

    def kept(self) -> int:
        return sum(lock.held for lock in self._locks)


async def connect(endpoint: str) -> Client:
    return Client(connect_to(endpoint))
