"""Many locks under one prefix: the blocking face."""

from __future__ import annotations

from collections.abc import Iterable

from microlock.core import elsewhere
from microlock.core.keys import check_int, check_ttl
from microlock.core.queue import Holder, LockStatus
from microlock.election import Election
from microlock.engine.host import LEASE_IDS, look
from microlock.kinds import MultiLock, ReadLock, Semaphore, WriteLock
from microlock.lock import Microlock
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
        return look(self._client, elsewhere.holder(self._kinds(name)))

    def locks(self) -> list[LockStatus]:
        return look(self._client, elsewhere.locks(self._prefix.encode()))

    def remaining(self, holder: Holder) -> float:
        return look(self._client, elsewhere.remaining(self._lease_of(holder)))

    def release(self, name: str | Iterable[str], token: int, *, limit: int = 1) -> None:
        kinds, number = self._held(name, limit), check_int("token", token, 1)
        look(self._client, elsewhere.release(kinds, number))

    def extend(self, name: str | Iterable[str], token: int, ttl: float, *, limit: int = 1) -> float:
        seconds, number = check_ttl(ttl), check_int("token", token, 1)
        steps = elsewhere.extend(self._held(name, limit), number, seconds, lease_ids=LEASE_IDS)
        return look(self._client, steps)

    def break_lock(self, name: str) -> Holder | None:
        kinds = self._kinds(name)
        return self._broke(kinds, look(self._client, elsewhere.break_lock(kinds)))
