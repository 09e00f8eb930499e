"""More than a mutex: the asyncio face."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from microlock.asyncio.lock import Lock
from microlock.core.admission import READER, WRITER, semaphore
from microlock.core.keys import Names, check_int


class Semaphore(Lock):
    """A lock that up to `limit` objects hold at a time, on any machine.

    It is `microlock.Semaphore` for the tasks of asyncio, as `Microlock` here is the other one.

    Args:
        etcd, key, node_id, ttl, auto_renew, max_hold, min_hold, timeout: as for `Microlock`.
        limit: how many may hold it, 1 or more.

    Raises:
        InvalidArgumentError: an argument is wrong. Its kinds: KeyRequiredError,
            NodeIdRequiredError, InvalidTtlError, ClientRequiredError.
    """

    def __init__(
        self,
        etcd: object,
        key: str,
        node_id: str,
        limit: int,
        ttl: float = 1,
        *,
        auto_renew: bool = False,
        max_hold: float | None = None,
        min_hold: float = 0,
        timeout: float | None = None,
    ) -> None:
        self._admission = semaphore(check_int("limit", limit, 1))
        super().__init__(
            etcd,
            key,
            node_id,
            ttl,
            auto_renew=auto_renew,
            max_hold=max_hold,
            min_hold=min_hold,
            timeout=timeout,
        )

    @property
    def limit(self) -> int:
        """How many may hold it at a time."""
        return self._admission.limit


class ReadLock(Lock):
    """A lock that readers of `key` hold together, while no writer does.

    It is `microlock.ReadLock` for the tasks of asyncio, as `Microlock` here is the other one.

    Args:
        etcd, key, node_id, ttl, auto_renew, max_hold, min_hold, timeout: as for `Microlock`.

    Raises:
        InvalidArgumentError: an argument is wrong. Its kinds: KeyRequiredError,
            NodeIdRequiredError, InvalidTtlError, ClientRequiredError.
    """

    _admission = READER


class WriteLock(Lock):
    """A lock that one writer of `key` holds alone: no reader and no other writer does.

    It is `microlock.WriteLock` for the tasks of asyncio, as `Microlock` here is the other one.

    Args:
        etcd, key, node_id, ttl, auto_renew, max_hold, min_hold, timeout: as for `Microlock`.

    Raises:
        InvalidArgumentError: an argument is wrong. Its kinds: KeyRequiredError,
            NodeIdRequiredError, InvalidTtlError, ClientRequiredError.
    """

    _admission = WRITER


class MultiLock(Lock):
    """Locks of several keys, taken and given back in one: all of them or none.

    It is `microlock.MultiLock` for the tasks of asyncio, as `Microlock` here is the other one.

    Args:
        etcd, node_id, ttl, auto_renew, max_hold, min_hold, timeout: as for `Microlock`.
        keys: 1 to 42 different names of locks, each as for `Microlock`; repeated ones count once.
            etcd takes no more in one transaction, unless it was told to (`--max-txn-ops`).

    Raises:
        InvalidArgumentError: an argument is wrong. Its kinds: KeyRequiredError,
            NodeIdRequiredError, InvalidTtlError, ClientRequiredError.
    """

    def __init__(
        self,
        etcd: object,
        keys: Iterable[str],
        node_id: str,
        ttl: float = 1,
        *,
        auto_renew: bool = False,
        max_hold: float | None = None,
        min_hold: float = 0,
        timeout: float | None = None,
    ) -> None:
        super().__init__(
            etcd,
            keys,  # type: ignore[arg-type]  # `_named` takes them
            node_id,
            ttl,
            auto_renew=auto_renew,
            max_hold=max_hold,
            min_hold=min_hold,
            timeout=timeout,
        )

    def _named(self, key: Any, node_id: str) -> Names:
        return Names.of_all(key, node_id)

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of the locks."""
        names = self._core.names
        return tuple(map(names.of_lock, names.locks))
