"""More than a mutex: locks that several hold at a time, and several locks in one."""

from __future__ import annotations

from microlock.core.admission import READER, WRITER
from microlock.kinds_face import MultiFace, SemaphoreFace
from microlock.lock import Lock


class Semaphore(SemaphoreFace, Lock):
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


class MultiLock(MultiFace, Lock):
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
