"""What is known of a place in the queue: what it is called, the leases it lives by, until when."""

from __future__ import annotations

from dataclasses import dataclass, replace

from microlock.errors import LossReason
from microlock.keys import check_key, check_node_id, entries_prefix
from microlock.queue import Holder, Standing
from microlock.requests import Lifetime


@dataclass(frozen=True)
class Names:
    """What a lock is called, and by whom."""

    key: str
    node_id: str
    prefix: bytes
    value: bytes

    @classmethod
    def of(cls, key: object, node_id: object) -> Names:
        """Checks both; raises KeyRequiredError or NodeIdRequiredError."""
        name, value = check_key(key), check_node_id(node_id)
        # Not str(): that of an enum's member is its name.
        return cls(name.decode(), value.decode(), entries_prefix(name), value)


@dataclass(frozen=True)
class Lease:
    """A lease, as far as we know.

    Attributes:
        asked: the ttl that we asked for, in seconds; None for a lease found in etcd, granted to
            another object of our node.
        ttl: the ttl that was granted; etcd may grant more.
        sent: when the last grant or keep-alive that had an answer left, by the monotonic clock.
        doubtful: a put under it may still be on its way.
    """

    id: int
    asked: int | None
    ttl: int
    sent: float
    doubtful: bool = False

    @property
    def deadline(self) -> float:
        # The margin is for clocks that run at different speeds.
        return self.sent + self.ttl - max(0.05, self.ttl / 100)

    def fresh(self, now: float) -> bool:
        """Whether a keep-alive can be spared."""
        return now - self.sent <= self.ttl / 10

    def due(self, *, early: float, tried: float) -> float:
        """When to renew it: a third of the ttl after the last time; soon after a failure.

        `early`: how much of that time to take, in 0 to 1, so that not all come at once; though
        those that come within a thirtieth of the ttl come together. `tried`: when a renewal
        failed last.
        """
        due = self.sent + early * self.ttl / 3
        return max(due - due % (self.ttl / 30), tried + early * min(0.5, self.ttl / 20))

    def renewed(self, lifetime: Lifetime) -> Lease:
        if lifetime.sent < self.sent:  # overtaken by a later renewal
            return self
        return replace(self, ttl=lifetime.ttl, sent=lifetime.sent)


@dataclass(frozen=True)
class Tenure:
    """A place in the queue: the entry, its fencing token, and the lease it lives by. The first
    place is a hold.

    `next_lease` is the lease of an extension in doubt: the entry is under one of the two, so it
    is sure to live as long as both do.
    """

    entry: bytes
    token: int
    lease: Lease
    next_lease: Lease | None = None

    @property
    def leases(self) -> tuple[Lease, ...]:
        return (self.lease, self.next_lease) if self.next_lease else (self.lease,)

    @property
    def deadline(self) -> float:
        deadline = self.lease.deadline
        return min(deadline, self.next_lease.deadline) if self.next_lease else deadline

    def under(self, lease: Lease) -> Tenure:
        """With its lease as it is now."""
        return self if lease is self.lease else replace(self, lease=lease)

    def renewed(self, lease_id: int, lifetime: Lifetime) -> Tenure:
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
class Await:
    """What a flow asks of whoever drives it: wait until this place is the first, or is gone, or
    the time is over; and renew its lease meanwhile. Reply: `Stood`.

    Attributes:
        holder: who held the lock when the place was taken.
        after: an older entry, and its token. While it is there the place can't be the first, so
            that nothing else needs to be heard. None: the turn is near.
    """

    place: Tenure
    holder: Holder
    after: tuple[bytes, int] | None = None


@dataclass(frozen=True)
class Keep:
    """What a flow tells whoever drives it: from here on the place is this, and lives as long as
    all of its leases do. No reply."""

    place: Tenure


@dataclass(frozen=True)
class Stood:
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
class Refused:
    """Somebody else holds the lock. `lease` is what is left for the next try."""

    holder: Holder
    lease: Lease | None


@dataclass(frozen=True)
class Lost:
    """There is nothing of ours any more."""

    reason: LossReason
