"""More than a mutex: locks that several hold at a time."""

from __future__ import annotations

from microlock.core.admission import READER, WRITER, semaphore
from microlock.core.keys import check_int
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
        KeyRequiredError, NodeIdRequiredError, InvalidTtlError, ClientRequiredError,
            InvalidArgumentError: an argument is wrong.
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
        KeyRequiredError, NodeIdRequiredError, InvalidTtlError, ClientRequiredError,
            InvalidArgumentError: an argument is wrong.
    """

    _admission = READER


class WriteLock(Lock):
    """A lock that one writer of `key` holds alone: no reader and no other writer does.

    See `ReadLock`, with which it shares its queue, its arguments and its errors.
    """

    _admission = WRITER
