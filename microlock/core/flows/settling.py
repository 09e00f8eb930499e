"""What flows share: leases, and settling doubts."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from microlock.core.keys import Names
from microlock.core.lease import Lease
from microlock.core.port import Grant, KeepAlive, Lifetime, Revoke
from microlock.errors import (
    DestroyedError,
    LeaseNotFoundError,
    LockUncertainError,
    MicrolockError,
    StoreError,
)

T = TypeVar("T")
# Yields requests to a store; `AwaitTurn` too, unless the caller gives a function for that.
Flow = Generator[Any, Any, T]


def grant(names: Names, ttl: int, lease_ids: Iterator[int]) -> Flow[Lease]:
    """A new lease. After a lost reply it tries another id: a late copy of the first grant would
    bring a revoked lease back."""
    first: StoreError | None = None
    while True:
        lease = Lease(next(lease_ids), asked=ttl, ttl=ttl, sent=0.0)
        try:
            lifetime: Lifetime = yield Grant(lease.id, ttl)
        except BaseException as error:
            refused = isinstance(error, StoreError) and not error.may_have_happened
            if not refused:
                yield from discard(names, lease, after=error, granted=False)
            if not isinstance(error, StoreError):
                raise
            # Later errors only say that the time is over. Then nothing is sent any more, so the
            # grant has certainly not happened, which ends the loop.
            first = first or error
            if refused:
                raise first from None
        else:
            return lease.renewed(lifetime)


def keep_alive(lease: Lease) -> Flow[Lifetime]:
    lifetime: Lifetime = yield KeepAlive(lease.id)
    if lifetime.ttl <= 0:
        raise LeaseNotFoundError(f"lease {lease.id:x} has ended")
    return lifetime


def discard(
    names: Names, *leases: Lease, after: BaseException | None = None, granted: bool = True
) -> Flow[None]:
    """Revokes leases, and so deletes their entries, also those that a late copy would put.

    `granted` False: the grant may still be on its way. If the revocation finds no lease, it has
    most likely overtaken the grant, so a second one follows.

    If a lease can't be revoked, it ends by itself. If it is in doubt, this raises
    LockUncertainError, but not in place of an interrupt (`after`). An interrupted revocation is
    made once more.
    """
    if isinstance(after, GeneratorExit):
        return  # the flow was dropped: no request can be made
    uncertain: LockUncertainError | None = None
    for number, lease in enumerate(leases):
        if lease.asked is None and not lease.doubtful:
            continue  # the lease of another object, which keeps or ends it
        try:
            found: bool = yield Revoke(lease.id)
            if not (found or granted):
                yield Revoke(lease.id)
        except (StoreError, DestroyedError) as error:  # the client may be closed meanwhile
            if lease.doubtful:
                uncertain = LockUncertainError(names.key, names.node_id, lease.id, error)
                uncertain.__cause__ = after or error
        except GeneratorExit:
            raise
        except BaseException as interrupt:
            if after is None or isinstance(after, Exception):  # once more; another one ends it
                yield from discard(names, *leases[number:], after=interrupt, granted=granted)
            raise
    if uncertain and (after is None or isinstance(after, MicrolockError)):
        raise uncertain
    if isinstance(after, StoreError):
        after.may_have_happened = False


def doubtful(leases: Iterable[Lease]) -> list[Lease]:
    return [replace(lease, doubtful=True) for lease in leases]
