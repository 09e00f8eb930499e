"""The recipes of kazoo: Lock, ReadLock, WriteLock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from driving import Blocking
from kazoo.client import KazooClient

driver = Blocking()


class Lock:
    def __init__(self, lock: Any) -> None:
        self._lock = lock

    async def acquire(self) -> None:
        assert self._lock.acquire()

    async def release(self) -> None:
        self._lock.release()

    async def discard(self) -> None: ...


class Client:
    def __init__(self, client: KazooClient) -> None:
        self._client = client

    def lock(self, key: str, owner: str, *, waits: bool = False) -> Lock:
        return Lock(self._client.Lock(f"/{key}", owner))

    def reader(self, key: str, owner: str) -> Lock:
        return Lock(self._client.ReadLock(f"/{key}", owner))

    def writer(self, key: str, owner: str) -> Lock:
        return Lock(self._client.WriteLock(f"/{key}", owner))

    async def close(self) -> None:
        self._client.stop()
        self._client.close()

    async def watch(self, key: str, told: Callable[[], object]) -> None:
        first = True

        def changed(_: object) -> None:
            nonlocal first
            if not first:  # it is called once for what there is
                told()
            first = False

        self._client.ensure_path(f"/{key}")
        self._client.ChildrenWatch(f"/{key}", changed)


async def connect(endpoint: str) -> Client:
    client = KazooClient(endpoint, timeout=10)
    client.start()
    return Client(client)
