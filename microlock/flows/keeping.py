"""Keeping a hold, and giving it back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from microlock.errors import (
    EtcdError,
    EtcdNoSpaceError,
    LeaseNotFoundError,
    LockUncertainError,
    LossReason,
)
from microlock.flows.settling import Flow, discard, doubtful, find, grant, keep_alive
from microlock.queue import Holder, places
from microlock.requests import (
    CreatedAt,
    Delete,
    Found,
    Get,
    KeyValue,
    Outcome,
    Put,
    Read,
    Revoke,
    Txn,
    UnderLease,
)
from microlock.tenure import Keep, Lease, Lost, Names, Tenure


def release(names: Names, tenure: Tenure, ttl: int) -> Flow[Lease | Lost | None]:
    """Gives the lock back. Returns the lease if it can serve the next hold of `ttl` seconds.

    An EtcdError leaves the hold as it was; after LockUncertainError or an interrupt it is not to
    be counted on.
    """
    try:
        outcome: Outcome = yield Txn(
            guards=(CreatedAt(tenure.entry, tenure.token),), then=(Delete(tenure.entry),)
        )
    except EtcdError as error:
        # Out of space, etcd 3.5.1 refuses the delete in a transaction, but no revocation.
        if not error.may_have_happened and not isinstance(error, EtcdNoSpaceError):
            raise
        yield from discard(names, *doubtful(tenure.leases), after=error)
        return None
    except BaseException as error:
        yield from discard(names, *doubtful(tenure.leases), after=error)
        raise
    lease = tenure.lease
    if outcome.succeeded and lease.asked == ttl and not lease.doubtful and not tenure.next_lease:
        return lease
    yield from discard(names, *tenure.leases)
    # A repeated delete that finds nothing has most likely been done by its first copy.
    return None if outcome.succeeded or outcome.repeated else Lost(LossReason.DELETED)


def renew(names: Names, tenure: Tenure) -> Flow[Tenure | Lost]:
    """Puts the whole ttl back, and looks whether the entry is still there: a keep-alive alone may
    succeed for an entry that was deleted, or a lease that was revoked (etcd before 3.5.23)."""
    if tenure.next_lease:
        try:
            moved = yield from _move(names, tenure, tenure.next_lease)
        except LeaseNotFoundError:
            moved = replace(tenure, next_lease=None)
        if isinstance(moved, Lost):
            return moved
        tenure = moved
    try:
        lifetime = yield from keep_alive(tenure.lease)
        found: Found = yield Get(tenure.entry)
        lost = _lost(tenure, found.keys)
    except LeaseNotFoundError:
        lost = Lost(LossReason.LEASE_GONE)
    if lost:
        yield from discard(names, *tenure.leases)
        return lost
    return replace(tenure, lease=tenure.lease.renewed(lifetime))


def extend(
    names: Names, tenure: Tenure, ttl: int, *, lease_ids: Iterator[int]
) -> Flow[tuple[Tenure | Lost, BaseException | None]]:
    """Puts the entry under a new lease. It keeps its place and its token.

    Returns what there is now, and the error that leaves the extension in doubt, to be raised:
    the hold then stands with `next_lease`, and the next renewal finishes what was begun.
    """
    if tenure.next_lease or not tenure.lease.ttl:  # in doubt, or found in etcd a moment ago
        renewed = yield from renew(names, tenure)
        if isinstance(renewed, Lost):
            return renewed, None
        tenure = renewed
    lease = yield from grant(names, ttl, lease_ids)
    between = replace(tenure, next_lease=lease)
    try:
        yield Keep(between)  # from the moment that it is moved, which is long before the reply
        return (yield from _move(names, tenure, lease)), None
    except LockUncertainError:
        raise
    except BaseException as error:
        if isinstance(error, EtcdError) and not error.may_have_happened:
            yield Keep(tenure)
            yield from discard(names, lease)
            raise
        return between, error


def _move(names: Names, tenure: Tenure, lease: Lease) -> Flow[Tenure | Lost]:
    """Puts the entry under another lease, once, however often it is repeated."""
    outcome: Outcome = yield Txn(
        # The old lease is part of the guard: a copy that arrives after a later extension must
        # not move the entry back.
        guards=(
            CreatedAt(tenure.entry, tenure.token),
            UnderLease(tenure.entry, tenure.lease.id),
        ),
        then=(Put(tenure.entry, names.value, lease.id),),
        otherwise=(Get(tenure.entry),),
    )
    moved = replace(tenure, lease=lease, next_lease=None)
    lost = None if outcome.succeeded else _lost(moved, outcome.keys)
    if lost:
        yield from discard(names, tenure.lease, lease)
        return lost
    if tenure.lease.doubtful:
        try:
            yield Revoke(tenure.lease.id)
        except EtcdError as error:
            error.may_have_happened = True  # moved, but not done with the old lease
            raise
    else:
        yield from discard(names, tenure.lease)
    return moved


def _lost(tenure: Tenure, found: tuple[KeyValue, ...]) -> Lost | None:
    """What the entry, as it was read, says of the hold."""
    mine = find(tenure.entry, found)
    if mine is None or mine.create_revision != tenure.token:
        return Lost(LossReason.DELETED)
    if mine.lease_id != tenure.lease.id:
        return Lost(LossReason.LEASE_GONE)
    return None


def adopt(names: Names, *, now: float) -> Flow[Tenure | Holder | None]:
    """The hold of our node, whichever object took it; else who holds the lock."""
    found: Found = yield Read(names.prefix)
    entries = places(names.prefix, found.keys)
    if not entries:
        return None
    (entry, holder), *_ = entries
    if not any(kv.name == entry and kv.value == names.value for kv in found.keys):
        return holder
    return Tenure(entry, holder.token, Lease(holder.lease_id, asked=None, ttl=0, sent=now))


def seek(names: Names, token: int, *, now: float) -> Flow[tuple[Names, Tenure] | Holder | None]:
    """The hold with this token, whoever has it; else who holds the lock."""
    found: Found = yield Read(names.prefix)
    entries = places(names.prefix, found.keys)
    if not entries:
        return None
    (entry, holder), *_ = entries
    if holder.token != token:
        return holder
    kv = find(entry, found.keys)
    assert kv
    lease = Lease(kv.lease_id, asked=None, ttl=0, sent=now)
    return replace(names, value=kv.value), Tenure(entry, token, lease)


def remove(entry: bytes, token: int) -> Flow[bool]:
    """Deletes the entry of a hold, and leaves its lease alone. Returns whether it is this that
    has ended the hold."""
    outcome: Outcome = yield Txn((CreatedAt(entry, token),), (Delete(entry),))
    return outcome.succeeded or outcome.repeated  # a copy without an answer may have been the one
