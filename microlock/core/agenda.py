"""What is due when: renewals, deadlines, watches to begin."""

from __future__ import annotations

import math
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, Protocol, TypeVar

from microlock.core.lease import Lease

# Seconds. What falls due within one tick is done together.
TICK = 0.05
# The most that one request for renewals may take: others fall due meanwhile.
_PATIENCE = 2.0
# What one renewal among many takes on a machine that is busy.
_EACH = 0.002
# So many are looked after at a time, as long as etcd answers: what it can't do in time would be
# asked for once more, and cost it twice.
BATCH = 500


class Due(Protocol):
    """Something that is done at a certain time.

    Attributes:
        next_due: when, by the agenda; None if it is not on it.
    """

    next_due: float | None


D = TypeVar("D", bound=Due)


class Agenda(Generic[D]):
    """A queue by time. What is put on it again is done at the earlier of both times."""

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, D]] = []  # a heap
        self._numbers = count()

    @property
    def next(self) -> float | None:
        """When something is due next."""
        return self._entries[0][0] if self._entries else None

    def add(self, item: D, at: float) -> bool:
        """Returns whether that is earlier than everything else."""
        at = math.ceil(at / TICK) * TICK
        if item.next_due is not None and item.next_due <= at:
            return False
        item.next_due = at
        heappush(self._entries, (at, next(self._numbers), item))
        return self._entries[0][2] is item

    def due(self, now: float, limit: float) -> list[D]:
        """Takes what is due, `limit` items at most, the longest overdue first."""
        found: list[D] = []
        while self._entries and self._entries[0][0] <= now and len(found) < limit:
            at, _, item = heappop(self._entries)
            if item.next_due == at:  # otherwise it has an earlier time
                item.next_due = None
                found.append(item)
        return found

    def prune(self, items: int) -> None:
        """Drops what has been done at an earlier time, if that is most of it.

        `items`: how many are on it at most.
        """
        if len(self._entries) > 2 * items + 64:
            self._entries = [each for each in self._entries if each[2].next_due == each[0]]
            heapify(self._entries)


def patience(leases: list[Lease], now: float, timeout: float) -> float:
    """Seconds that a request to renew these leases may take.

    Half of what is left to the most urgent: there is to be time for another try. But one that is
    late must not have the others cut short, and asked for twice.
    """
    left = min(lease.deadline for lease in leases) - now
    least = 0.1 + len(leases) * _EACH
    return min(_PATIENCE, timeout, max(least, left / 2))
