"""Many locks under one prefix: the blocking face."""

from __future__ import annotations

from microlock.core import elsewhere
from microlock.core.keys import check_int, check_ttl
from microlock.core.queue import Holder
from microlock.election import Election
from microlock.engine.host import LEASE_IDS, look
from microlock.kinds import MultiLock, ReadLock, Semaphore, WriteLock
from microlock.lock import Microlock
from microlock.manager_face import ManagerFace


class LockManager(ManagerFace[Microlock, Semaphore, ReadLock, WriteLock, MultiLock, Election]):
    """Locks of one node, with defaults for all of them.

    Args:
        etcd, node_id: as for `Microlock`.
        prefix: what each key begins with; "" for the whole of etcd.
        ttl, auto_renew: as for `Microlock`, for each lock.
        retries, interval: as for `Microlock.lock()`, for each `lock()`.

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

    def lock(
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
        lock.lock(**self._taking(timeout, retries, interval))
        return lock

    def holder(self, name: str) -> Holder | None:
        holders, _ = look(self._client, elsewhere.places(self._names(name)))
        return next(iter(holders), None)

    def locks(self) -> dict[str, Holder]:
        return look(self._client, elsewhere.locks(self._prefix.encode()))

    def release(self, name: str, token: int) -> None:
        number = check_int("token", token, 1)
        look(self._client, elsewhere.release(self._names(name), number))

    def extend(self, name: str, token: int, ttl: float) -> float:
        seconds, number = check_ttl(ttl), check_int("token", token, 1)
        names = self._names(name)
        steps = elsewhere.extend(names, number, seconds, lease_ids=LEASE_IDS)
        return look(self._client, steps)

    def break_lock(self, name: str) -> Holder | None:
        names = self._names(name)
        return self._broke(names, look(self._client, elsewhere.break_lock(names)))
