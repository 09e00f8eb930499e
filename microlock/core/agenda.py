"""What is due when: renewals, deadlines, watches to begin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeVar

from microlock.core.lease import Lease

T = TypeVar("T")

# Seconds. What falls due within one tick is done together.
TICK = 0.05
# The most that one request for renewals may take: others fall due meanwhile.
_PATIENCE = 2.0
# What one renewal among many takes on a machine that is busy.
_EACH = 0.002
# What an answer may take: `etcd grpc-proxy` passes renewals on every half a second.
_ANSWER = 0.7
# So many are looked after at a time, as long as etcd answers: what it can't do in time would be
# asked for once more, and cost it twice.
BATCH = 500


class Agenda(Generic[T]):
    """A queue by time. What is put on it again is done at the earlier of both times."""

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, T]] = []  # a heap; some of an item's later times
        self._times: dict[T, float] = {}  # when each is due
        self._numbers = count()

    @property
    def next(self) -> float:
        """When something is due next."""
        while self._entries and not self._stands(self._entries[0]):
            heappop(self._entries)
        return self._entries[0][0] if self._entries else math.inf

    def has(self, item: T, at: float) -> bool:
        """Whether it will be done by then."""
        return self._times.get(item, math.inf) <= at

    def add(self, item: T, at: float) -> None:
        at = math.ceil(at / TICK) * TICK
        if not self.has(item, at):
            self._times[item] = at
            heappush(self._entries, (at, next(self._numbers), item))
            if len(self._entries) > 2 * len(self._times) + 64:  # most were done at earlier times
                self._entries = [each for each in self._entries if self._stands(each)]
                heapify(self._entries)

    def _stands(self, entry: tuple[float, int, T]) -> bool:
        return self._times.get(entry[2]) == entry[0]

    def due(self, now: float, limit: float) -> list[T]:
        """Takes what is due, `limit` items at most, the longest overdue first."""
        found: list[T] = []
        while self._entries and self._entries[0][0] <= now and len(found) < limit:
            entry = heappop(self._entries)
            if self._stands(entry):
                del self._times[entry[2]]
                found.append(entry[2])
        return found

    def drop(self, item: T) -> None:
        """It is not due any more."""
        self._times.pop(item, None)


def patience(leases: Sequence[Lease], now: float, timeout: float) -> float:
    """Seconds that a request to renew these leases may take.

    Half of what is left to the most urgent: there is to be time for another try, if an answer can
    come by then. But one that is late must not have the others cut short, and asked for twice.
    """
    left = min(lease.deadline for lease in leases) - now
    least = len(leases) * _EACH
    return min(_PATIENCE, timeout, max(0.1 + least, left / 2, min(_ANSWER + least, left)))
