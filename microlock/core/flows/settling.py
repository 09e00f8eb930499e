"""What flows share: leases, and settling what is in doubt."""

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
# Requests of a store; `AwaitTurn` where nothing is given that awaits it.
Flow = Generator[Any, Any, T]


def grant(names: Names, ttl: int, lease_ids: Iterator[int]) -> Flow[Lease]:
    """A new lease; after a lost reply one with another id, since a late copy of the first grant
    would bring a revoked lease back."""
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
            # Later ones tell that the time is over. Then nothing is sent any more, and so nothing
            # may have happened: which ends this.
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
    """Revokes leases, and with them the entry that is there, or may yet come.

    If they are not known to be `granted` the grant may be on its way still. Then a revocation that
    finds nothing has overtaken it, most likely, and another one comes after it.

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
            found: bool = yield Revoke(lease.id)
            if not (found or granted):
                yield Revoke(lease.id)
        except (StoreError, DestroyedError) as error:  # the client may be closed meanwhile
            if lease.doubtful:
                uncertain = LockUncertainError(names.key, names.node_id, lease.id, error)
                uncertain.__cause__ = after or error
    if uncertain and (after is None or isinstance(after, MicrolockError)):
        raise uncertain
    if isinstance(after, StoreError):
        after.may_have_happened = False


def doubtful(leases: Iterable[Lease]) -> list[Lease]:
    return [replace(lease, doubtful=True) for lease in leases]
