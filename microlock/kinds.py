"""More than a mutex: locks that several hold at a time, and several locks in one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from microlock.core.admission import READER, WRITER, semaphore
from microlock.core.keys import Names, check_int
from microlock.lock import Lock


class Semaphore(Lock):
    """A lock that up to `limit` objects hold at a time, on any machine.

    It does all that a `Microlock` does, in the same way. Those who wait get it in the order of
    arrival. A semaphore of 1 is the mutex of its key.

    All who share a semaphore should have the same limit. One with a lower limit waits until as few
    older ones are left; others don't wait for it.

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

    It does all that a `Microlock` does, in the same way, and so does `WriteLock`. Both wait in one
    queue, in the order of arrival: a reader for the writers before it, a writer for all before it.
    So no reader overtakes a writer that waits, and nobody waits for ever. A node that reads and
    asks to write waits for itself: it has to give back the first lock before.

    Args:
        etcd, key, node_id, ttl, auto_renew, max_hold, min_hold, timeout: as for `Microlock`.

    Raises:
        InvalidArgumentError: an argument is wrong. Its kinds: KeyRequiredError,
            NodeIdRequiredError, InvalidTtlError, ClientRequiredError.
    """

    _admission = READER


class WriteLock(Lock):
    """A lock that one writer of `key` holds alone: no reader and no other writer does.

    See `ReadLock`, with which it shares its queue.

    Args:
        etcd, key, node_id, ttl, auto_renew, max_hold, min_hold, timeout: as for `Microlock`.

    Raises:
        InvalidArgumentError: an argument is wrong. Its kinds: KeyRequiredError,
            NodeIdRequiredError, InvalidTtlError, ClientRequiredError.
    """

    _admission = WRITER


class MultiLock(Lock):
    """Locks of several keys, taken and given back in one: all of them or none.

    It holds the mutex of each key, as a `Microlock` of that key does, and excludes those. All its
    entries come at one moment, so whoever waits for several keys waits for those who came before:
    any number of them, in any order of the keys, never wait for each other in a circle. Two holds
    that are taken one after the other still can.

    It does all that a `Microlock` does, in the same way. There is one token for all keys. The loss
    of one key is the loss of all. `holders()` and `waiters()` are those of all keys, each once; the
    events `locked` and `unlocked` come for each key, which is `event.key`.

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
