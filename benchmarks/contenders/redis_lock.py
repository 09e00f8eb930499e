"""The Lock of redis-py."""

from __future__ import annotations

from typing import Any

import redis
from driving import Blocking

from contenders import TTL

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
    def __init__(self, server: redis.Redis) -> None:
        self._server = server

    def lock(self, key: str, owner: str, *, waits: bool = False) -> Lock:
        return Lock(self._server.lock(key, timeout=TTL))

    async def close(self) -> None:
        self._server.close()


async def connect(endpoint: str) -> Client:
    host, _, port = endpoint.rpartition(":")
    return Client(redis.Redis(host, int(port)))
