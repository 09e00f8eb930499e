"""What is ours in etcd: a place in the queue of a lock, and the leases it lives by."""

from __future__ import annotations

from dataclasses import dataclass, replace

from microlock.core.lease import Lease
from microlock.core.port import Lifetime
from microlock.core.queue import Holder, Standing
from microlock.errors import LossReason


@dataclass(frozen=True)
class Place:
    """A place in the queue: the entry, its fencing token, and the lease it lives by. The first
    place is a hold.

    `others` are entries of other locks that were put with it, and have its token and its leases.

    `next_lease` is the lease of an extension in doubt: the entry is under one of the two, so it
    is sure to live as long as both do.
    """

    entry: bytes
    token: int
    lease: Lease
    next_lease: Lease | None = None
    others: tuple[bytes, ...] = ()

    @property
    def entries(self) -> tuple[bytes, ...]:
        return (self.entry, *self.others)

    @property
    def leases(self) -> tuple[Lease, ...]:
        return (self.lease, self.next_lease) if self.next_lease else (self.lease,)

    @property
    def deadline(self) -> float:
        deadline = self.lease.deadline
        return min(deadline, self.next_lease.deadline) if self.next_lease else deadline

    def under(self, lease: Lease) -> Place:
        """With its lease as it is now."""
        return self if lease is self.lease else replace(self, lease=lease)

    def renewed(self, lease_id: int, lifetime: Lifetime) -> Place:
        """With a lease of this id renewed; itself, if that changes nothing."""
        lease, next_lease = self.lease, self.next_lease
        if lease_id == lease.id:
            lease = lease.renewed(lifetime)
        elif next_lease and lease_id == next_lease.id:
            next_lease = next_lease.renewed(lifetime)
        if lease is self.lease and next_lease is self.next_lease:
            return self
        return replace(self, lease=lease, next_lease=next_lease)


@dataclass(frozen=True)
class AwaitTurn:
    """What a flow asks of whoever drives it: wait until this place is the first, or is gone, or
    the time is over; and renew its lease meanwhile. Reply: `TurnResult`.

    Attributes:
        holder: who held the lock when the place was taken.
        after: an older entry, and its token. While it is there the place can't be the first, so
            that nothing else needs to be heard. None: the turn is near.
    """

    place: Place
    holder: Holder
    after: tuple[bytes, int] | None = None


@dataclass(frozen=True)
class TurnResult:
    """How waiting ended.

    Attributes:
        standing: FIRST, GONE; WAITS if the time is over, UNKNOWN if the lease's is.
        lease: as it was renewed meanwhile.
        at: the moment, by the monotonic clock.
        holder: who holds the lock, as far as known.
    """

    standing: Standing
    lease: Lease
    at: float
    holder: Holder


@dataclass(frozen=True)
class Contended:
    """Somebody else holds the lock. `lease` is what is left for the next try."""

    holder: Holder
    lease: Lease | None


@dataclass(frozen=True)
class Lost:
    """There is nothing of ours any more."""

    reason: LossReason
