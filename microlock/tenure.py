"""What is known of a hold: what it is called, the leases it lives by, until when."""

from __future__ import annotations

from dataclasses import dataclass, replace

from microlock.errors import LossReason
from microlock.keys import check_key, check_node_id, entries_prefix
from microlock.queue import Holder
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
        prefix = entries_prefix(check_key(key))
        value = check_node_id(node_id)
        return cls(str(key), str(node_id), prefix, value)


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

    def renewed(self, lifetime: Lifetime) -> Lease:
        return replace(self, ttl=lifetime.ttl, sent=lifetime.sent)


@dataclass(frozen=True)
class Tenure:
    """A hold: the entry, its fencing token, and the lease it lives by.

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
        return min(lease.deadline for lease in self.leases)


@dataclass(frozen=True)
class Refused:
    """Somebody else holds the lock. `lease` is what is left for the next try."""

    holder: Holder
    lease: Lease | None


@dataclass(frozen=True)
class Lost:
    """There is nothing of ours any more."""

    reason: LossReason
