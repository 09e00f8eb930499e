"""Calls on any lock, without a lock object: list locks, end or extend a hold by its token.

Each is a generator, like the calls of `core.lock`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from microlock.core import flows
from microlock.core.admission import READER
from microlock.core.call import NOW, Steps
from microlock.core.keys import Names, lock_of
from microlock.core.place import Lost, Place
from microlock.core.port import Found, Get, Lifetime, Read, ReadAll, TimeToLive
from microlock.core.queue import Holder, LockStatus, holding, statuses
from microlock.errors import LockLostError, LockNotOwnedError, LossReason, about

P = ParamSpec("P")
T = TypeVar("T")


def places(names: Names) -> Steps[tuple[list[Holder], list[Holder]]]:
    """The holders and the waiters of the lock, each in order."""
    holders: list[Holder] = []
    waiters: list[Holder] = []
    for lock in names.locks:
        with about(names.key):
            found: Found = yield Read(lock)
        held = holding(lock, found.keys)
        holders += [Holder.of(kv, lock) for kv in held]
        waiters += [Holder.of(kv, lock) for kv in found.keys if kv not in held]
    # A node with entries in several queues counts once. It waits if it waits in any of them.
    waiters = _each_once(waiters)
    return [each for each in _each_once(holders) if each not in waiters], waiters


def _each_once(places: list[Holder]) -> list[Holder]:
    return sorted(dict.fromkeys(places), key=lambda place: place.token)


def locks(prefix: bytes) -> Steps[list[LockStatus]]:
    """The status of all locks under the prefix. Their names are given without the prefix."""
    found: Found = yield ReadAll(prefix)
    return statuses(replace(kv, name=kv.name[len(prefix) :]) for kv in found.keys)


def remaining(lease_id: int) -> Steps[float]:
    """Seconds that a lease has left."""
    left: Lifetime = yield TimeToLive(lease_id)
    return max(0.0, float(left.ttl))


# `kinds`: the kind of a lock is unknown, so these are its names in all layouts.


def _named(
    act: Callable[Concatenate[Sequence[Names], P], Steps[T]],
) -> Callable[Concatenate[Sequence[Names], P], Steps[T]]:
    """A decorator: StoreErrors of the call name the lock."""

    @wraps(act)
    def whole(kinds: Sequence[Names], /, *args: P.args, **kwargs: P.kwargs) -> Steps[T]:
        with about(kinds[0].key):
            return (yield from act(kinds, *args, **kwargs))

    return whole


def holder(kinds: Sequence[Names]) -> Steps[Holder | None]:
    """The first holder of the lock."""
    for names in kinds:
        holders, _ = yield from places(names)
        if holders:
            return holders[0]
    return None


@_named
def release(kinds: Sequence[Names], token: int) -> Steps[None]:
    """Gives back the hold with this token."""
    names, place = yield from _seek(kinds, token)
    if not (yield from flows.remove(place.entry, place.token, place.others)):
        raise _not_held(names, token)


@_named
def extend(
    kinds: Sequence[Names], token: int, ttl: int, *, lease_ids: Iterator[int]
) -> Steps[float]:
    """Gives the hold with this token a new ttl. Returns the seconds left."""
    theirs, place = yield from _seek(kinds, token)
    alone = False
    if theirs.value:  # without a node id it may be Go's, whose lease may serve other locks too
        place, alone = yield from _whole(theirs, place)
    left, error = yield from flows.extend(theirs, place, ttl, lease_ids=lease_ids)
    if error:
        raise error
    if isinstance(left, Lost):
        raise _not_held(theirs, token)
    if alone:
        yield from flows.discard(theirs, replace(place.lease, asked=0))
    remaining: float = left.deadline - (yield NOW)
    if remaining <= 0:
        raise LockLostError(theirs.key, theirs.node_id, LossReason.EXPIRED, ttl=ttl)
    return remaining


@_named
def break_lock(kinds: Sequence[Names]) -> Steps[Holder | None]:
    """Ends the first hold, of any node. Returns its holder."""
    for names in kinds:
        found: Found = yield Read(names.lock)
        for kv in found.keys[:1]:
            if (yield from flows.remove(kv.name, kv.create_revision)):
                return Holder.of(kv, names.lock)
    return None


def _seek(kinds: Sequence[Names], token: int) -> Steps[tuple[Names, Place]]:
    by: Holder | None = None
    for names in kinds:
        found = yield from flows.seek(names, token, now=(yield NOW))
        if isinstance(found, tuple):
            return found
        by = by or found
    raise _not_held(kinds[0], token, by)


def _whole(names: Names, place: Place) -> Steps[tuple[Place, bool]]:
    """The hold with its entries in other locks, and whether its lease has no other entries.

    A hold of several keys is extended as a whole: otherwise the object that took it would renew the
    entries that stayed behind, and believe that it still holds all.
    """
    lease: Lifetime = yield TimeToLive(place.lease.id, names=True)
    beside = [name for name in lease.names if name != place.entry and lock_of(name)]
    if not beside:
        return place, True
    found: Found = yield Get(beside[0], tuple(beside[1:]))
    hold = names.value, place.token
    others = [kv.name for kv in found.keys if (kv.value, kv.create_revision) == hold]
    return replace(place, others=tuple(others)), len(others) == len(beside)


def _not_held(names: Names, token: int, by: Holder | None = None) -> LockNotOwnedError:
    return LockNotOwnedError(names.key, names.node_id, by, why=f"no hold has token {token}")


def break_place(key: str, node_id: str, token: int) -> Steps[Holder | None]:
    """Ends the hold with this token, or removes the waiter, of any node.

    Returns its holder; None: there is no such entry.
    """
    for names in (Names.of(key, node_id), Names.of(key, node_id, READER)):
        found: Found = yield Read(names.lock)
        for kv in found.keys:
            if kv.create_revision == token and (yield from flows.remove(kv.name, token)):
                return Holder.of(kv, names.lock)
    return None
