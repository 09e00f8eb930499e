"""Taking the lock: one try, or a place in the queue."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from microlock.core.flows.settling import Flow, discard, grant, keep_alive
from microlock.core.keys import Names, entry_name, is_entry
from microlock.core.lease import Lease
from microlock.core.place import AwaitTurn, Contended, Place, TurnResult
from microlock.core.port import Enter, Entered, Found, Join, Joined, KeyValue, Read
from microlock.core.queue import Holder, Standing
from microlock.errors import LeaseNotFoundError, LockUncertainError, StoreError

Others = tuple[tuple[bytes, bytes], ...]

# So often a try repeats because another entry came first. Then it puts its entry, and looks.
_ATTEMPTS = 8


def try_lock(
    names: Names,
    ttl: int,
    lease: Lease | None,
    *,
    lost: Place | None = None,
    now: float,
    lease_ids: Iterator[int],
) -> Flow[Place | Contended]:
    """One try: takes the lock if it is free.

    `lease` is left from an earlier cycle. `lost` is a hold of this object whose deadline has
    passed: its entry may still exist. If this raises, it leaves no entry in etcd; if that can't be
    confirmed, it raises LockUncertainError. A lease that could not be revoked has no entry, and
    ends by itself.
    """
    granted = False
    # A late copy of the lost hold's put may bring its entry back. Or its entry is not among the
    # rivals, so the reads below would not see it, and only a later writer would.
    if lost and (
        any(each.doubtful for each in lost.leases) or not is_entry(names.rivals, lost.entry)
    ):
        yield from discard(names, *lost.leases)
        lost = None
    while True:
        if lease is None or lease.deadline <= now:
            # Read before the grant, so that a try on a held lock writes nothing.
            before = yield from _rivals(names)
            if lost and any(kv.create_revision == lost.token for kv in before):
                yield from discard(names, *lost.leases)
                lost = None
                continue
            if not names.admission.admits(before):
                return Contended(Holder.of(before[0], names.lock), None)
            lease = yield from grant(names, ttl, lease_ids)
            granted = True
        try:
            entered = yield from _enter(names, lease, _put(names, lease, now))
        except LeaseNotFoundError:
            # The lease ended early: an operator revoked it, etcd took longer than its ttl to
            # answer, or lost it in spite of renewals (etcd before 3.4.31 and 3.5.13).
            lease = None
            continue
        if granted and isinstance(entered, Contended) and entered.lease:
            yield from discard(names, entered.lease)
            return Contended(entered.holder, None)
        return entered


def _rivals(names: Names) -> Flow[Sequence[KeyValue]]:
    """The entries before ours, up to as many as decide that it is not admitted."""
    for lock in (names.rivals, *names.others):
        found: Found = yield Read(lock, limit=names.admission.limit)
        if not names.admission.admits(found.keys):
            break
    return found.keys


def _enter(names: Names, lease: Lease, putting: Flow[Place | Contended]) -> Flow[Place | Contended]:
    """Runs `putting`, which puts our entry under this lease, and undoes it after a doubt."""
    try:
        entered = yield from putting
    except (LeaseNotFoundError, LockUncertainError):
        raise  # the lease is gone, and can have no entry; or it can't be revoked
    except BaseException as error:  # KeyboardInterrupt leaves the same doubt as a lost reply
        doubtful = not isinstance(error, StoreError) or error.may_have_happened
        yield from discard(names, replace(lease, doubtful=doubtful), after=error)
        raise
    if isinstance(entered, Contended) and entered.lease and entered.lease.doubtful:
        yield from discard(names, entered.lease)
        return Contended(entered.holder, None)
    return entered


def _ask(request: AwaitTurn) -> Flow[TurnResult]:
    return (yield request)  # type: ignore[no-any-return]


def wait(
    names: Names,
    ttl: int,
    lease: Lease | None,
    *,
    lost: Place | None = None,
    now: float,
    lease_ids: Iterator[int],
    await_turn: Callable[[AwaitTurn], Flow[TurnResult]] = _ask,
) -> Flow[Place | Contended]:
    """Joins the queue and waits for its turn. If the place is lost, it joins again at the end.

    The arguments are those of `try_lock`. If this raises, or returns Contended because the time is
    over, it leaves in etcd what `try_lock` does. `await_turn` waits until the place is the first.
    """
    if lost:  # its entry may still be there, before ours
        yield from discard(names, *lost.leases)
    if lease and lease.deadline <= now:
        lease = None
    while True:
        if lease is None:
            lease = yield from grant(names, ttl, lease_ids)
        try:
            return (yield from _enter(names, lease, _queue_up(names, lease, await_turn)))
        except LeaseNotFoundError:  # the place is gone with it
            lease = None


def _put(names: Names, lease: Lease, now: float) -> Flow[Place | Contended]:
    """Puts our entry, only if it is admitted at once."""
    entry, admission = entry_name(names.prefix, lease.id), names.admission
    others = _others(names, lease)
    if not lease.fresh(now):
        lease = lease.renewed((yield from keep_alive(lease)))
    since = 0
    for _ in range(_ATTEMPTS):
        entered: Entered = yield Enter(
            names.rivals, entry, names.value, lease.id, admission.limit, since, others
        )
        if entered.repeated:
            lease = replace(lease, doubtful=True)
        if entered.token is not None or not entered.before:
            break
        if not admission.admits(entered.before):
            return Contended(Holder.of(entered.before[0], names.lock), lease)
        if entered.since is None:
            break
        since = entered.since  # no entry may come in between
    try:
        if entered.token is not None:
            lease = yield from _alive(lease, entered.at)
            return _place(entry, entered.token, lease, others)
        return (yield from _look(names, entry, lease))
    except StoreError as error:
        error.may_have_happened = True  # the entry may exist, whatever the last request did
        raise


def _look(names: Names, entry: bytes, lease: Lease) -> Flow[Place | Contended]:
    """No entry of this lock was found: puts ours, and looks whether there is an older one."""
    place, wait, at = yield from _join(names, entry, lease)
    if wait:
        # Our entry exists, and has to be undone.
        return Contended(wait.holder, replace(lease, doubtful=True))
    return place.under((yield from _alive(place.lease, at)))


def _queue_up(
    names: Names, lease: Lease, await_turn: Callable[[AwaitTurn], Flow[TurnResult]]
) -> Flow[Place | Contended]:
    """Puts our entry, and waits until no older one is left."""
    place, wait, at = yield from _join(names, entry_name(names.prefix, lease.id), lease)
    try:
        while wait:
            result = yield from await_turn(wait)
            place, at = place.under(result.lease), result.at
            if result.standing is Standing.FIRST:
                break
            if result.standing is Standing.WAITS:
                return Contended(result.holder, replace(place.lease, doubtful=True))  # to be undone
            if result.standing is Standing.GONE:
                yield from discard(names, place.lease)
                raise LeaseNotFoundError(f"the entry of {names.node_id!r} in the queue is gone")
            # etcd did not answer for a ttl. The lease may have survived all the same.
            place = place.under((yield from _whole(place.lease, at)))
            wait = AwaitTurn(place, result.holder)
        return place.under((yield from _whole(place.lease, at)))
    except StoreError as error:
        error.may_have_happened = True  # our entry may exist
        raise


def _join(names: Names, entry: bytes, lease: Lease) -> Flow[tuple[Place, AwaitTurn | None, float]]:
    """Puts our entry at the end of the queue. Returns our place, what to wait for if it is not the
    first, and the time."""
    admission = names.admission
    others = _others(names, lease)
    joined: Joined = yield Join(names.rivals, entry, names.value, lease.id, admission.near, others)
    token, before, at = joined.token, joined.before, joined.at
    if joined.repeated:
        lease = replace(lease, doubtful=True)
    if before is None:
        try:
            token, before = yield from _older(names, entry, others)
        except StoreError as error:
            error.may_have_happened = True  # our entry exists
            raise
        at = math.inf  # unknown, so a keep-alive follows
    if token is None:
        yield from discard(names, lease)
        raise LeaseNotFoundError(f"the entry {entry!r} is gone, or another client put this key")
    place = _place(entry, token, lease, others)
    if admission.admits(before):
        return place, None, at
    behind = admission.behind(before)
    after = (behind.name, behind.create_revision) if behind else None
    return place, AwaitTurn(place, Holder.of(before[0], names.lock), after), at


def _older(
    names: Names, entry: bytes, others: Others
) -> Flow[tuple[int | None, tuple[KeyValue, ...]]]:
    """The token of our entry, and its older rivals, oldest first."""
    token: int | None = None
    before: list[KeyValue] = []
    for lock, mine in ((names.lock, entry), *others):
        found: Found = yield Read(lock)
        there = [kv.name for kv in found.keys]
        if mine not in there:
            return None, ()
        own = found.keys[there.index(mine)]
        token = own.create_revision
        rivals = lock if lock in names.others else names.rivals
        older = found.keys[: found.keys.index(own)]
        before += [each for each in older if is_entry(rivals, each.name)]
    return token, tuple(sorted(before, key=lambda kv: kv.create_revision))


def _others(names: Names, lease: Lease) -> Others:
    """The other locks that are taken together with it, and our entries there."""
    if not names.others:
        return ()
    return tuple([(lock, entry_name(lock, lease.id)) for lock in names.others])


def _place(entry: bytes, token: int, lease: Lease, others: Others) -> Place:
    if not others:
        return Place(entry, token, lease)
    return Place(entry, token, lease, others=tuple([each for _, each in others]))


def _whole(lease: Lease, at: float) -> Flow[Lease]:
    """The lease with its whole ttl ahead."""
    if not lease.fresh(at):
        lifetime = yield from keep_alive(lease)
        lease, at = lease.renewed(lifetime), lifetime.at
    return (yield from _alive(lease, at))


def _alive(lease: Lease, at: float) -> Flow[Lease]:
    """The lease with its deadline ahead, even if etcd took longer than the ttl to answer."""
    while lease.deadline <= at:
        lifetime = yield from keep_alive(lease)
        lease, at = lease.renewed(lifetime), lifetime.at
    return lease
