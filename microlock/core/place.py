"""Our entry in the queue of a lock, and the leases that keep it alive."""

from __future__ import annotations

from dataclasses import dataclass, replace

from microlock.core.lease import Lease
from microlock.core.port import Lifetime
from microlock.core.queue import Holder, Standing
from microlock.errors import LossReason


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the queue: the entry, its fencing token and its lease. The first place is a hold.

    `others` are entries of other locks, put together with it, with the same token and leases.

    `next_lease` is the lease of an extension in doubt. The entry is under one of the two leases, so
    it certainly lives as long as both do.
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

    def has(self, lease_id: int) -> bool:
        """Whether this is one of its leases."""
        return lease_id == self.lease.id or (
            self.next_lease is not None and lease_id == self.next_lease.id
        )

    def under(self, lease: Lease) -> Place:
        """The same place with this state of its lease."""
        return self if lease is self.lease else replace(self, lease=lease)

    def renewed(self, lease_id: int, lifetime: Lifetime) -> Place:
        """The place after a renewal of this lease; itself, if that changes nothing."""
        lease, next_lease = self.lease, self.next_lease
        if lease_id == lease.id:
            lease = lease.renewed(lifetime)
        elif next_lease and lease_id == next_lease.id:
            next_lease = next_lease.renewed(lifetime)
        if lease is self.lease and next_lease is self.next_lease:
            return self
        return Place(self.entry, self.token, lease, next_lease, self.others)


@dataclass(frozen=True)
class AwaitTurn:
    """A flow's request to its driver: wait until this place is the first, is gone, or the time is
    over; and renew its lease meanwhile. Reply: `TurnResult`.

    Attributes:
        holder: the holder of the lock when the place was taken.
        after: an older entry, and its token. While that entry exists, the place can't be the first,
            so nothing else needs to be watched. None: the turn is near.
    """

    place: Place
    holder: Holder
    after: tuple[bytes, int] | None = None


@dataclass(frozen=True)
class TurnResult:
    """How a wait ended.

    Attributes:
        standing: FIRST or GONE; WAITS if the time is over; UNKNOWN if the lease's deadline has
            passed.
        lease: the lease after its renewals.
        at: when, by the monotonic clock.
        holder: the holder of the lock, as far as known.
    """

    standing: Standing
    lease: Lease
    at: float
    holder: Holder


@dataclass(frozen=True)
class Contended:
    """Another object holds the lock. `lease` can be used for the next try."""

    holder: Holder
    lease: Lease | None


@dataclass(frozen=True)
class Lost:
    """The hold is lost."""

    reason: LossReason
