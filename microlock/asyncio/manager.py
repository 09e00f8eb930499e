"""Many locks under one prefix: the asyncio face."""

from __future__ import annotations

from collections.abc import Iterable

from microlock.asyncio.election import Election
from microlock.asyncio.kinds import MultiLock, ReadLock, Semaphore, WriteLock
from microlock.asyncio.lock import Microlock
from microlock.core import elsewhere
from microlock.core.keys import check_int, check_ttl
from microlock.core.queue import Holder, LockStatus
from microlock.engine.host import LEASE_IDS
from microlock.engine.loops import look
from microlock.manager_face import ManagerFace


class LockManager(ManagerFace[Microlock, Semaphore, ReadLock, WriteLock, MultiLock, Election]):
    """Makes, lists and breaks locks under a prefix, with defaults for all of them.

    Args:
        etcd, node_id: as for `Microlock`.
        prefix: the beginning of each key; "" for all keys of etcd.
        ttl, auto_renew: as for `Microlock`: the defaults of each lock.
        retries, interval: as for `Microlock.lock()`: the defaults of each `lock()`.

    Raises:
        NodeIdRequiredError, InvalidTtlError, ClientRequiredError, InvalidArgumentError: an
            argument is wrong.
    """

    _mutex = Microlock
    _semaphore = Semaphore
    _reader = ReadLock
    _writer = WriteLock
    _several = MultiLock
    _election = Election

    async def lock(
        self,
        name: str,
        *,
        ttl: float | None = None,
        auto_renew: bool | None = None,
        max_hold: float | None = None,
        min_hold: float = 0,
        timeout: float | None = 0,
        retries: int | None = None,
        interval: float | None = None,
    ) -> Microlock:
        lock = self.create(
            name, ttl=ttl, auto_renew=auto_renew, max_hold=max_hold, min_hold=min_hold
        )
        await lock.lock(**self._taking(timeout, retries, interval))
        return lock

    async def holder(self, name: str) -> Holder | None:
        return await look(self._client, elsewhere.holder(self._kinds(name)))

    async def locks(self) -> list[LockStatus]:
        return await look(self._client, elsewhere.locks(self._prefix.encode()))

    async def remaining(self, holder: Holder) -> float:
        return await look(self._client, elsewhere.remaining(self._lease_of(holder)))

    async def release(self, name: str | Iterable[str], token: int, *, limit: int = 1) -> None:
        kinds, number = self._held(name, limit), check_int("token", token, 1)
        await look(self._client, elsewhere.release(kinds, number))

    async def extend(
        self, name: str | Iterable[str], token: int, ttl: float, *, limit: int = 1
    ) -> float:
        seconds, number = check_ttl(ttl), check_int("token", token, 1)
        steps = elsewhere.extend(self._held(name, limit), number, seconds, lease_ids=LEASE_IDS)
        return await look(self._client, steps)

    async def break_lock(self, name: str) -> Holder | None:
        kinds = self._kinds(name)
        return self._broke(kinds, await look(self._client, elsewhere.break_lock(kinds)))
