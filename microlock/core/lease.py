"""A lease, as far as we know: its ttl, its deadline, and when to renew it."""

from __future__ import annotations

from dataclasses import dataclass, field

from microlock.core.port import Lifetime


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease, as far as we know.

    Attributes:
        asked: the ttl that we asked for, in seconds; None for a lease found in etcd, granted to
            another object of our node.
        ttl: the ttl that was granted; etcd may grant more.
        sent: when the last answered grant or keep-alive was sent, by the monotonic clock.
        doubtful: a put under this lease may still be on its way.
        deadline: from then on the lease may have ended.
    """

    id: int
    asked: int | None
    ttl: int
    sent: float
    doubtful: bool = False
    deadline: float = field(init=False, compare=False, repr=False)  # asked for at every step

    def __post_init__(self) -> None:
        # The margin is for clocks that run at different speeds.
        deadline = self.sent + self.ttl - max(0.05, self.ttl / 100)
        object.__setattr__(self, "deadline", deadline)

    def fresh(self, now: float) -> bool:
        """Whether it needs no keep-alive now."""
        return now - self.sent <= self.ttl / 10

    def due(self, *, early: float, tried: float) -> float:
        """When to renew it: a third of the ttl after the last renewal; soon after a failure.

        `early`: a factor in 0 to 1 for that time, so that renewals spread. Times within a thirtieth
        of the ttl are rounded together. `tried`: when a renewal failed last.
        """
        due = self.sent + early * self.ttl / 3
        return max(due - due % (self.ttl / 30), tried + early * min(0.5, self.ttl / 20))

    def renewed(self, lifetime: Lifetime) -> Lease:
        if lifetime.sent < self.sent:  # overtaken by a later renewal
            return self
        # Not by replace(), which takes three times as long: a client may renew thousands.
        return Lease(self.id, self.asked, lifetime.ttl, lifetime.sent, self.doubtful)
