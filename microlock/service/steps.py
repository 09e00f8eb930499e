"""Calls on holds that any service has taken, found by node id and token.

They are calls like those of `core.elsewhere`: the store has the only state.
"""

from __future__ import annotations

from collections.abc import Iterator

from microlock.core import flows
from microlock.core.admission import READER, lock_name
from microlock.core.call import NOW, Steps
from microlock.core.keys import Names
from microlock.core.lease import Lease
from microlock.core.place import Place
from microlock.core.port import Found, KeyValue, Leave, Left, Read, Revoke

# The entries of a hold, by lock.
Entries = dict[bytes, KeyValue]


def unlock(names: Names, token: int) -> Steps[Entries]:
    """Gives back those of these locks that this node holds with this token.

    Returns their former entries.
    """
    mine = yield from _find(names, token)
    if not mine:
        return {}
    entry, *others = [kv.name for kv in mine.values()]
    left: Left = yield Leave(entry, token, tuple(others))
    if left.done or left.repeated:  # an earlier copy without an answer may have done it
        return mine
    gone = {}
    for lock, kv in mine.items() if others else ():  # one of them has ended meanwhile
        if (yield from flows.remove(kv.name, token)):
            gone[lock] = kv
    return gone


def renew(
    names: Names, token: int, ttl: int, *, lease_ids: Iterator[int]
) -> Steps[list[tuple[Entries, int]]]:
    """Puts those of these locks that this node holds with this token under a new lease.

    The old lease stays: other locks may be under it.

    Returns, for each old lease, its former entries and the id of the new lease.
    """
    by_lease: dict[int, Entries] = {}
    for lock, kv in (yield from _find(names, token)).items():
        by_lease.setdefault(kv.lease_id, {})[lock] = kv
    renewed = []
    for lease_id, mine in by_lease.items():
        entry, *others = [kv.name for kv in mine.values()]
        # The ttl of another's lease is not known, and not needed.
        lease = Lease(lease_id, asked=None, ttl=1, sent=(yield NOW))
        place = Place(entry, token, lease, others=tuple(others))
        left, error = yield from flows.extend(names, place, ttl, lease_ids=lease_ids)
        if error:
            raise error
        if isinstance(left, Place):
            renewed.append((mine, left.lease.id))
    return renewed


def is_locked(names: Names) -> Steps[bool]:
    """Whether one of these keys is locked, by a lock of any kind: the oldest entry holds it."""
    for mutex in names.locks:
        for lock in (mutex, lock_name(mutex, READER)):
            if (yield from _oldest(lock)):
                return True
    return False


def end(lease_id: int) -> Steps[None]:
    """Ends the holds that are still under this lease."""
    yield Revoke(lease_id)


def _find(names: Names, token: int) -> Steps[Entries]:
    """The entries of this node with this token, in these locks."""
    mine = {}
    for lock in names.locks:
        kv = yield from _oldest(lock)
        if kv and kv.create_revision == token and kv.value == names.value:
            mine[lock] = kv
    return mine


def _oldest(lock: bytes) -> Steps[KeyValue | None]:
    """The entry that holds a lock."""
    found: Found = yield Read(lock, limit=1)
    if not found.keys:  # it may be behind many older nested names
        found = yield Read(lock)
    return next(iter(found.keys), None)
