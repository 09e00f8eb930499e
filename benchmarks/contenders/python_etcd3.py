"""The Lock of python-etcd3, with the messages of `microlock.etcd3` (protobuf's own in C)."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import tenacity
from driving import Blocking

from contenders import TTL
from microlock import etcd3

driver = Blocking()


def _retry(*, wait: Callable[[int, float], float], **options: Any) -> Any:
    """Its Lock has a `wait` of two arguments, which tenacity calls with one since 6.0."""

    def wait_of(state: tenacity.RetryCallState) -> float:
        return wait(state.attempt_number, state.seconds_since_start or 0.0)

    return tenacity.retry(wait=wait_of, **options)


etcd3.locks.tenacity = SimpleNamespace(**(vars(tenacity) | {"retry": _retry}))


class Lock:
    def __init__(self, lock: Any) -> None:
        self._lock = lock

    async def acquire(self) -> None:
        assert self._lock.acquire(timeout=None)

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
        self._etcd.close()

    async def watch(self, key: str, told: Callable[[], object]) -> None:
        self._etcd.add_watch_callback(f"/locks/{key}", lambda _: told())


async def connect(endpoint: str) -> Client:
    host, _, port = endpoint.rpartition(":")
    return Client(etcd3.client(host, int(port)))
