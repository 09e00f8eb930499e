"""Leases that are ready for the next lock: a lock that takes one spares etcd a grant and a read."""

from __future__ import annotations

from microlock.tenure import Lease

# Of one ttl. More are left to their ttl.
_MOST = 64


class Leases:
    """What the locks of one client have left for each other. Nothing is under these leases, and
    nothing can come: one with a doubt is never left here."""

    def __init__(self) -> None:
        # By the ttl that was asked for. Nothing is locked: each operation on a list is one step.
        self._left: dict[int, list[Lease]] = {}

    def take(self, ttl: int, now: float) -> Lease | None:
        """One that has time left, for its taker alone; the one that was left last."""
        left = self._left.get(ttl)
        while left:
            try:
                lease = left.pop()
            except IndexError:  # another thread was faster
                return None
            if lease.deadline > now:
                return lease
        return None

    def leave(self, lease: Lease | None) -> None:
        if lease and lease.asked is not None:
            left = self._left.setdefault(lease.asked, [])
            left.append(lease)
            if len(left) > _MOST:
                del left[0]
