"""More than a mutex: the asyncio face."""

from __future__ import annotations

from microlock.asyncio.lock import Lock
from microlock.core.admission import READER, WRITER
from microlock.kinds_face import MultiFace, SemaphoreFace


class Semaphore(SemaphoreFace, Lock):
    """A lock that up to `limit` objects hold at a time, on any machine.

    It is `microlock.Semaphore` for the tasks of asyncio, as `Microlock` here is the other one.

    Args:
        etcd, key, node_id, ttl, auto_renew, max_hold, min_hold, timeout: as for `Microlock`.
        limit: how many may hold it, 1 or more.

    Raises:
        InvalidArgumentError: an argument is wrong. Its kinds: KeyRequiredError,
            NodeIdRequiredError, InvalidTtlError, ClientRequiredError.
    """


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


class MultiLock(MultiFace, Lock):
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
