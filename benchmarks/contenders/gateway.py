"""The Lock of etcd3gw, over HTTP and JSON. It can't wait, so it is asked again every 10 ms."""

from __future__ import annotations

import time
from typing import Any

import etcd3gw
from driving import Blocking

from contenders import TTL

driver = Blocking()


class Lock:
    def __init__(self, lock: Any) -> None:
        self._lock = lock

    async def acquire(self) -> None:
        while not self._lock.acquire():
            self._lock.lease.revoke()
            time.sleep(0.01)

    async def release(self) -> None:
        assert self._lock.release()

    async def discard(self) -> None:
        self._lock.lease.revoke()


class Client:
    def __init__(self, etcd: Any) -> None:
        self._etcd = etcd

    def lock(self, key: str, owner: str, *, waits: bool = False) -> Lock:
        return Lock(self._etcd.lock(key, ttl=TTL))

    async def close(self) -> None:
        self._etcd.session.close()


async def connect(endpoint: str) -> Client:
    host, _, port = endpoint.rpartition(":")
    return Client(etcd3gw.client(host, int(port), api_path="/v3/"))
