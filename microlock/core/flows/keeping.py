"""Keeping a hold, and giving it back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from microlock.core.flows.settling import Flow, discard, doubtful, grant, keep_alive
from microlock.core.keys import Names
from microlock.core.lease import Lease
from microlock.core.place import Lost, Place
from microlock.core.port import Found, Get, KeyValue, Leave, Left, Move, Moved, Read, Revoke
from microlock.core.queue import Holder, holding
from microlock.errors import (
    LeaseNotFoundError,
    LockUncertainError,
    LossReason,
    StoreError,
    StoreNoSpaceError,
)


def release(names: Names, place: Place, ttl: int) -> Flow[Lease | Lost | None]:
    """Gives the lock back. Returns the lease if it can serve the next hold of `ttl` seconds.

    After a StoreError the hold stands as before. After LockUncertainError or an interrupt it counts
    as lost.
    """
    try:
        left: Left = yield Leave(place.entry, place.token, place.others)
    except StoreError as error:
        # When its database is full, etcd 3.5.1 refuses a delete in a transaction, but not a revoke.
        if not error.may_have_happened and not isinstance(error, StoreNoSpaceError):
            raise
        yield from discard(names, *doubtful(place.leases), after=error)
        return None
    except BaseException as error:
        yield from discard(names, *doubtful(place.leases), after=error)
        raise
    lease = place.lease
    if left.done and lease.asked == ttl and not lease.doubtful and not place.next_lease:
        return lease
    yield from discard(names, *place.leases)
    # If a repeated delete finds nothing, most likely its first copy has done it.
    return None if left.done or left.repeated else Lost(LossReason.DELETED)


def renew(names: Names, place: Place) -> Flow[Place | Lost]:
    """Renews the lease, and reads the entry: a keep-alive alone succeeds too if the entry was
    deleted, or if the lease was revoked (etcd before 3.5.23)."""
    if place.next_lease:
        try:
            moved = yield from _move(names, place, place.next_lease)
        except LeaseNotFoundError:
            moved = replace(place, next_lease=None)
        if isinstance(moved, Lost):
            return moved
        place = moved
    try:
        lifetime = yield from keep_alive(place.lease)
        found: Found = yield Get(place.entry, place.others)
        there = {kv.name: kv for kv in found.keys}
        lost = next(filter(None, (_lost(place, there.get(each)) for each in place.entries)), None)
    except LeaseNotFoundError:
        lost = Lost(LossReason.LEASE_GONE)
    if lost:
        yield from discard(names, *place.leases)
        return lost
    return replace(place, lease=place.lease.renewed(lifetime))


def find(place: Place) -> Flow[Found]:
    """Reads the entry of a place."""
    return (yield Get(place.entry))  # type: ignore[no-any-return]


def extend(
    names: Names,
    place: Place,
    ttl: int,
    *,
    lease_ids: Iterator[int],
    keep: Callable[[Place], None] = lambda _: None,
) -> Flow[tuple[Place | Lost, BaseException | None]]:
    """Puts the entry under a new lease. It keeps its place and its token.

    `keep` gets the new place before the request is sent: from then on the entry may be under either
    lease, and certainly lives as long as both do.

    Returns the place, and an error for the caller to raise if the extension is in doubt. The hold
    then stands with `next_lease`, and the next renewal completes the extension.
    """
    if place.next_lease or not place.lease.ttl:  # in doubt, or found in etcd a moment ago
        renewed = yield from renew(names, place)
        if isinstance(renewed, Lost):
            return renewed, None
        place = renewed
    lease = yield from grant(names, ttl, lease_ids)
    between = replace(place, next_lease=lease)
    try:
        keep(between)  # before the request: the entry is moved long before the reply comes
        return (yield from _move(names, place, lease)), None
    except LockUncertainError:
        raise
    except BaseException as error:
        if isinstance(error, StoreError) and not error.may_have_happened:
            keep(place)
            yield from discard(names, lease)
            raise
        return between, error


def _move(names: Names, place: Place, lease: Lease) -> Flow[Place | Lost]:
    """Puts the entry under another lease. Repeating it is harmless."""
    # The request names the old lease, so that a copy that arrives after a later extension does not
    # move the entry back.
    reply: Moved = yield Move(
        place.entry, names.value, place.token, place.lease.id, lease.id, place.others
    )
    moved = replace(place, lease=lease, next_lease=None)
    lost = None if reply.done else _lost(moved, reply.there)
    if lost:
        yield from discard(names, place.lease, lease)
        return lost
    if place.lease.doubtful:
        try:
            yield Revoke(place.lease.id)
        except StoreError as error:
            error.may_have_happened = True  # moved, but the old lease is not revoked
            raise
    else:
        yield from discard(names, place.lease)
    return moved


def _lost(place: Place, mine: KeyValue | None) -> Lost | None:
    """Whether the hold is lost, by its entry as it was read."""
    if mine is None or mine.create_revision != place.token:
        return Lost(LossReason.DELETED)
    if mine.lease_id != place.lease.id:
        return Lost(LossReason.LEASE_GONE)
    return None


def adopt(names: Names, *, now: float) -> Flow[Place | Holder | None]:
    """The hold of our node, whichever object took it; else the holder of the lock."""
    found: Found = yield Read(names.lock)
    held = holding(names.lock, found.keys)
    for kv in held:
        if kv.value == names.value and kv.name.startswith(names.prefix):
            return (yield from _with_others(names, kv, now))
    return Holder.of(held[0], names.lock) if held else None


def _with_others(names: Names, kv: KeyValue, now: float) -> Flow[Place | Holder | None]:
    """The hold with this entry, if it holds the other locks too; else the holder of one of them."""
    others = tuple([lock + kv.name[len(names.prefix) :] for lock in names.others])
    for lock, entry in zip(names.others, others, strict=True):
        found: Found = yield Read(lock)
        held = holding(lock, found.keys)
        if not held or (held[0].name, held[0].create_revision) != (entry, kv.create_revision):
            return Holder.of(held[0], names.lock) if held else None
    return replace(_place(kv, now), others=others)


def seek(names: Names, token: int, *, now: float) -> Flow[tuple[Names, Place] | Holder | None]:
    """The hold with this token, of any node; else the holder of the lock."""
    found: Found = yield Read(names.lock)
    held = holding(names.lock, found.keys)
    for kv in held:
        if kv.create_revision == token:
            place = yield from _with_others(names, kv, now)
            return (replace(names, value=kv.value), place) if isinstance(place, Place) else place
    return Holder.of(held[0], names.lock) if held else None


def _place(kv: KeyValue, now: float) -> Place:
    """The place of another object."""
    lease = Lease(kv.lease_id, asked=None, ttl=0, sent=now)
    return Place(kv.name, kv.create_revision, lease)


def remove(entry: bytes, token: int, others: tuple[bytes, ...] = ()) -> Flow[bool]:
    """Deletes the entries of a hold, and leaves its lease alone. Returns whether this has ended the
    hold."""
    left: Left = yield Leave(entry, token, others)
    return left.done or left.repeated  # an earlier copy may have done it
