"""The decisions of a lock: try, release, renew, extend, and settling what is in doubt.

Each flow is a generator: it yields a request, is sent the reply (or thrown the error), and returns
what came of it. It knows no thread, no clock and no network, so that every branch can be walked
by a test, and other faces than the blocking one can drive it.

A doubt is a request whose reply was lost: etcd may apply it seconds later, even after a read that
did not see it. So nothing is reported as not done before its lease is revoked, and a lease with a
doubt on it is never used for another hold.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from microlock.errors import (
    DestroyedError,
    EtcdError,
    EtcdNoSpaceError,
    LeaseNotFoundError,
    LockUncertainError,
    LossReason,
    MicrolockError,
)
from microlock.keys import entry_name
from microlock.queue import Holder, holder_of, places
from microlock.requests import (
    CreatedAt,
    Delete,
    Empty,
    Found,
    Get,
    Grant,
    KeepAlive,
    KeyValue,
    Lifetime,
    Outcome,
    Put,
    Read,
    Request,
    Revoke,
    Txn,
    UnderLease,
)
from microlock.tenure import Lease, Lost, Names, Refused, Tenure

T = TypeVar("T")
Flow = Generator[Request, Any, T]

# Enough to find the holder, unless this many nested names are older: then `_look` reads them all.
OLDEST = 16


def try_lock(
    names: Names,
    ttl: int,
    lease: Lease | None,
    *,
    lost: Tenure | None = None,
    now: float,
    lease_ids: Iterator[int],
) -> Flow[Tenure | Refused]:
    """One try: takes the lock if nobody holds it.

    `lease` is what an earlier cycle left, `lost` a hold of this object whose deadline has passed:
    its entry may still be there. When this raises, no entry that it made is left in etcd; where
    that can't be confirmed, it raises LockUncertainError. A lease that etcd could not be asked to
    revoke has nothing under it, and ends by itself.
    """
    granted = False
    while True:
        if lease is None or lease.deadline <= now:
            # Look before the grant, so that a try on a held lock writes nothing.
            found: Found = yield Read(names.prefix, OLDEST)
            holder = holder_of(names.prefix, found.keys)
            if holder and lost and holder.token == lost.token:
                yield from discard(names, *lost.leases)
                lost = None
                continue
            if holder:
                return Refused(holder, None)
            lease = yield from _grant(names, ttl, lease_ids)
            granted = True
        try:
            entered = yield from _enter(names, lease, now)
        except LeaseNotFoundError:
            # It ended early: revoked by an operator, shorter than etcd took to answer, or lost
            # though it was renewed (etcd before 3.4.31 and 3.5.13).
            lease = None
            continue
        if granted and isinstance(entered, Refused) and entered.lease:
            yield from discard(names, entered.lease)
            return Refused(entered.holder, None)
        return entered


def _enter(names: Names, lease: Lease, now: float) -> Flow[Tenure | Refused]:
    """Puts our entry if there is none, under a lease that exists; undoes what is in doubt."""
    try:
        entered = yield from _put(names, lease, now)
    except LeaseNotFoundError:
        raise  # nothing is under it, and nothing can be any more
    except BaseException as error:  # KeyboardInterrupt leaves the same doubt as a lost reply
        doubtful = not isinstance(error, EtcdError) or error.may_have_happened
        yield from discard(names, replace(lease, doubtful=doubtful), after=error)
        raise
    if isinstance(entered, Refused) and entered.lease and entered.lease.doubtful:
        yield from discard(names, entered.lease)
        return Refused(entered.holder, None)
    return entered


def _put(names: Names, lease: Lease, now: float) -> Flow[Tenure | Refused]:
    entry = entry_name(names.prefix, lease.id)
    txn = Txn(
        guards=(Empty(names.prefix),),
        then=(Put(entry, names.value, lease.id),),
        otherwise=(Read(names.prefix, OLDEST),),
    )
    if not lease.fresh(now):
        lease = lease.renewed((yield from _keep_alive(lease)))
    outcome: Outcome = yield txn
    lease = replace(lease, doubtful=outcome.repeated)
    mine = _find(entry, outcome.keys)
    if not outcome.succeeded and not mine:
        holder = holder_of(names.prefix, outcome.keys)
        if holder:
            return Refused(holder, lease)
    try:
        if outcome.succeeded or mine:  # by this copy of the transaction or by an earlier one
            token = mine.create_revision if mine else outcome.revision
            return Tenure(entry, token, (yield from _alive(lease, outcome.at)))
        return (yield from _look(names, entry, lease))
    except EtcdError as error:
        error.may_have_happened = True  # whatever became of the last request, the entry may stand
        raise


def _look(names: Names, entry: bytes, lease: Lease) -> Flow[Tenure | Refused]:
    """Only nested names are in the way: puts our entry, and looks who is older."""
    outcome: Outcome = yield Txn((), (Put(entry, names.value, lease.id), Read(names.prefix)))
    (oldest, holder), *_ = places(names.prefix, outcome.keys)
    if oldest != entry:
        return Refused(holder, replace(lease, doubtful=True))  # our entry is there, to be undone
    lease = replace(lease, doubtful=lease.doubtful or outcome.repeated)
    return Tenure(entry, holder.token, (yield from _alive(lease, outcome.at)))


def _alive(lease: Lease, at: float) -> Flow[Lease]:
    """The lease with its deadline ahead, also where etcd took longer to answer than the ttl."""
    while lease.deadline <= at:
        lifetime = yield from _keep_alive(lease)
        lease, at = lease.renewed(lifetime), lifetime.at
    return lease


def _keep_alive(lease: Lease) -> Flow[Lifetime]:
    lifetime: Lifetime = yield KeepAlive(lease.id)
    if lifetime.ttl <= 0:
        raise LeaseNotFoundError(f"lease {lease.id:x} has ended")
    return lifetime


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
        yield from discard(names, *_doubtful(tenure.leases), after=error)
        return None
    except BaseException as error:
        yield from discard(names, *_doubtful(tenure.leases), after=error)
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
        lifetime = yield from _keep_alive(tenure.lease)
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
    lease = yield from _grant(names, ttl, lease_ids)
    try:
        return (yield from _move(names, tenure, lease)), None
    except LockUncertainError:
        raise
    except BaseException as error:
        if isinstance(error, EtcdError) and not error.may_have_happened:
            yield from discard(names, lease)
            raise
        return replace(tenure, next_lease=lease), error


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
    mine = _find(tenure.entry, found)
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


def discard(names: Names, *leases: Lease, after: BaseException | None = None) -> Flow[None]:
    """Revokes leases, and with them the entry that is there, or may yet come.

    A lease without a doubt that can't be revoked ends by itself. With one it raises
    LockUncertainError, but never in place of the interrupt that it comes `after`.
    """
    if isinstance(after, GeneratorExit):
        return  # the flow was dropped: there is nobody to ask
    uncertain: LockUncertainError | None = None
    for lease in leases:
        if lease.asked is None and not lease.doubtful:
            continue  # another object's, to end or to keep
        try:
            yield Revoke(lease.id)
        except (EtcdError, DestroyedError) as error:  # the client may be closed meanwhile
            if lease.doubtful:
                uncertain = LockUncertainError(names.key, names.node_id, lease.id)
                uncertain.__cause__ = after or error
    if uncertain and (after is None or isinstance(after, MicrolockError)):
        raise uncertain
    if isinstance(after, EtcdError):
        after.may_have_happened = False


def _doubtful(leases: Iterable[Lease]) -> list[Lease]:
    return [replace(lease, doubtful=True) for lease in leases]


def _grant(names: Names, ttl: int, lease_ids: Iterator[int]) -> Flow[Lease]:
    """A new lease; after a lost reply one with another id, since a late copy of the first grant
    would bring a revoked lease back."""
    first: EtcdError | None = None
    while True:
        lease = Lease(next(lease_ids), asked=ttl, ttl=ttl, sent=0.0)
        try:
            lifetime: Lifetime = yield Grant(lease.id, ttl)
        except BaseException as error:
            no_answer = isinstance(error, EtcdError) and error.may_have_happened
            yield from discard(names, lease, after=error)
            if not isinstance(error, EtcdError):
                raise
            first = first or error  # later ones tell that the time is over
            if not no_answer:
                raise first from None
        else:
            return lease.renewed(lifetime)


def _find(name: bytes, found: tuple[KeyValue, ...]) -> KeyValue | None:
    return next((kv for kv in found if kv.name == name), None)
