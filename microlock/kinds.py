"""The other kinds of locks: semaphore, read and write lock, several locks as one."""

from __future__ import annotations

from microlock.core.admission import READER, WRITER
from microlock.kinds_face import MultiFace, SemaphoreFace
from microlock.lock import Lock


class Semaphore(SemaphoreFace, Lock):
    """A lock that up to `limit` objects hold at a time, on any machine.

    It has all calls and events of a `Microlock`. Waiters get it in the order of arrival. A
    semaphore with limit 1 is the mutex of its key.

    All objects that share a semaphore should have the same limit: each applies its own limit to the
    objects before it in the queue.

    Args:
        etcd, key, node_id, ttl, auto_renew, max_hold, min_hold, timeout: as for `Microlock`.
        limit: how many objects may hold it at a time, 1 or more.

    Raises:
        InvalidArgumentError: an argument is wrong. Its subclasses: KeyRequiredError,
            NodeIdRequiredError, InvalidTtlError, ClientRequiredError.
    """


class ReadLock(Lock):
    """A lock that any number of readers of `key` hold together, while no writer holds it.

    It has all calls and events of a `Microlock`, and so has `WriteLock`. Readers and writers wait
    in one queue, in the order of arrival: a reader waits for the writers before it, a writer waits
    for all before it. So no reader overtakes a waiting writer, and nobody waits for ever. A node
    that holds the read lock has to give it back before it takes the write lock; otherwise it waits
    for itself.

    Args:
        etcd, key, node_id, ttl, auto_renew, max_hold, min_hold, timeout: as for `Microlock`.

    Raises:
        InvalidArgumentError: an argument is wrong. Its subclasses: KeyRequiredError,
            NodeIdRequiredError, InvalidTtlError, ClientRequiredError.
    """

    _admission = READER


class WriteLock(Lock):
    """A lock that one writer of `key` holds alone, without readers and other writers.

    It shares its queue with `ReadLock`; see there.

    Args:
        etcd, key, node_id, ttl, auto_renew, max_hold, min_hold, timeout: as for `Microlock`.

    Raises:
        InvalidArgumentError: an argument is wrong. Its subclasses: KeyRequiredError,
            NodeIdRequiredError, InvalidTtlError, ClientRequiredError.
    """

    _admission = WRITER


class MultiLock(MultiFace, Lock):
    """The locks of several keys, taken and given back together: all of them or none.

    It holds the mutex of each key, and so excludes a `Microlock` of any of them. One transaction
    puts all its entries, so it waits only for objects that came before it. Any number of them, with
    their keys in any order, can't deadlock. Two locks that are taken one after the other still can.

    It has all calls and events of a `Microlock`. All keys have one token. The loss of one key is
    the loss of all. `holders()` and `waiters()` list those of all keys, each once. The events
    `locked` and `unlocked` come for each key: `event.key`.

    Args:
        etcd, node_id, ttl, auto_renew, max_hold, min_hold, timeout: as for `Microlock`.
        keys: the names of 1 to 42 locks, each as for `Microlock`; repeated names count once. More
            do not fit into one etcd transaction by default (`--max-txn-ops`).

    Raises:
        InvalidArgumentError: an argument is wrong. Its subclasses: KeyRequiredError,
            NodeIdRequiredError, InvalidTtlError, ClientRequiredError.
    """
