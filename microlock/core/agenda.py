"""What is due when: renewals, deadlines, watches to begin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeVar

from microlock.core.lease import Lease

T = TypeVar("T")

# Seconds. Items that are due within one tick are done together.
TICK = 0.05
# The longest request for renewals: others become due meanwhile.
_PATIENCE = 2.0
# The time of one renewal among many on a busy machine.
_EACH = 0.002
# The time of an answer: `etcd grpc-proxy` forwards renewals every half second.
_ANSWER = 0.7
# The most renewals at a time while etcd answers. Those that it can't do in time would be sent
# again, and cost it twice.
BATCH = 500


class Agenda(Generic[T]):
    """A queue ordered by time. An item that is added again keeps the earlier of the two times."""

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, T]] = []  # a heap, with outdated times too
        self._times: dict[T, float] = {}  # when each is due
        self._numbers = count()

    @property
    def next(self) -> float:
        """When the next item is due."""
        while self._entries and not self._stands(self._entries[0]):
            heappop(self._entries)
        return self._entries[0][0] if self._entries else math.inf

    def has(self, item: T, at: float) -> bool:
        """Whether the item is due by then."""
        return self._times.get(item, math.inf) <= at

    def add(self, item: T, at: float) -> None:
        at = math.ceil(at / TICK) * TICK
        if not self.has(item, at):
            self._times[item] = at
            heappush(self._entries, (at, next(self._numbers), item))
            if len(self._entries) > 2 * len(self._times) + 64:  # most times are outdated
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

    It is half of the time left to the most urgent, so that there is time for another try. But one
    late lease must not cut the others short, which would then be sent twice.
    """
    left = min(lease.deadline for lease in leases) - now
    least = len(leases) * _EACH
    return min(_PATIENCE, timeout, max(0.1 + least, left / 2, min(_ANSWER + least, left)))
