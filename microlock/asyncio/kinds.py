"""The other kinds of locks: the asyncio face."""

from __future__ import annotations

from microlock.asyncio.lock import Lock
from microlock.core.admission import READER, WRITER
from microlock.kinds_face import MultiFace, SemaphoreFace


class Semaphore(SemaphoreFace, Lock):
    """A lock that up to `limit` objects hold at a time, on any machine.

    It is `microlock.Semaphore` for asyncio tasks; see there, and `microlock.asyncio.Microlock`.

    Args:
        etcd, key, node_id, ttl, auto_renew, max_hold, min_hold, timeout: as for `Microlock`.
        limit: how many objects may hold it at a time, 1 or more.

    Raises:
        InvalidArgumentError: an argument is wrong. Its subclasses: KeyRequiredError,
            NodeIdRequiredError, InvalidTtlError, ClientRequiredError.
    """


class ReadLock(Lock):
    """A lock that any number of readers of `key` hold together, while no writer holds it.

    It is `microlock.ReadLock` for asyncio tasks; see there, and `microlock.asyncio.Microlock`.

    Args:
        etcd, key, node_id, ttl, auto_renew, max_hold, min_hold, timeout: as for `Microlock`.

    Raises:
        InvalidArgumentError: an argument is wrong. Its subclasses: KeyRequiredError,
            NodeIdRequiredError, InvalidTtlError, ClientRequiredError.
    """

    _admission = READER


class WriteLock(Lock):
    """A lock that one writer of `key` holds alone, without readers and other writers.

    It is `microlock.WriteLock` for asyncio tasks; see there, and `microlock.asyncio.Microlock`.

    Args:
        etcd, key, node_id, ttl, auto_renew, max_hold, min_hold, timeout: as for `Microlock`.

    Raises:
        InvalidArgumentError: an argument is wrong. Its subclasses: KeyRequiredError,
            NodeIdRequiredError, InvalidTtlError, ClientRequiredError.
    """

    _admission = WRITER


class MultiLock(MultiFace, Lock):
    """The locks of several keys, taken and given back together: all of them or none.

    It is `microlock.MultiLock` for asyncio tasks; see there, and `microlock.asyncio.Microlock`.

    Args:
        etcd, node_id, ttl, auto_renew, max_hold, min_hold, timeout: as for `Microlock`.
        keys: the names of 1 to 42 locks, each as for `Microlock`; repeated names count once. More
            do not fit into one etcd transaction by default (`--max-txn-ops`).

    Raises:
        InvalidArgumentError: an argument is wrong. Its subclasses: KeyRequiredError,
            NodeIdRequiredError, InvalidTtlError, ClientRequiredError.
    """
