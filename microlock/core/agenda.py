"""What is due when: renewals, deadlines, watches to begin."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    """What is due at each tick. An item that is added again keeps the earlier of the two times.

    A signal handler, or a garbage collection, may `add` or `drop` in the middle of any method.
    """

    def __init__(self) -> None:
        self._times: dict[T, float] = {}  # when each is due; its items are in that tick
        self._ticks: dict[float, dict[T, None]] = {}  # may have items that are not due then

    @property
    def next(self) -> float:
        """When the next item is due."""
        return min([at for at, items in list(self._ticks.items()) if items], default=math.inf)

    def has(self, item: T, at: float) -> bool:
        """Whether the item is due by then."""
        return self._times.get(item, math.inf) <= at

    def add(self, item: T, at: float) -> float:
        """Returns the tick."""
        at = math.ceil(at / TICK) * TICK
        if not self.has(item, at):
            self.drop(item)
            self._ticks.setdefault(at, {})[item] = None
            self._times[item] = at
        return at

    def due(self, now: float, limit: int) -> list[T]:
        """Takes what is due, `limit` items at most, the longest overdue first."""
        found: list[T] = []
        for at in sorted(self._ticks):
            items = self._ticks[at]
            for item in list(items)[: limit - len(found)] if at <= now else ():
                items.pop(item, None)
                if self._times.get(item) == at:
                    del self._times[item]
                    found.append(item)
            if not items:
                del self._ticks[at]
        return found

    def drop(self, item: T) -> None:
        """It is not due any more."""
        at = self._times.pop(item, None)
        if at is not None:
            self._ticks[at].pop(item, None)


def patience(leases: Sequence[Lease], now: float, timeout: float) -> float:
    """Seconds that a request to renew these leases may take.

    It is half of the time left to the most urgent, so that there is time for another try. But one
    late lease must not cut the others short, which would then be sent twice.
    """
    left = min(lease.deadline for lease in leases) - now
    least = len(leases) * _EACH
    return min(_PATIENCE, timeout, max(0.1 + least, left / 2, min(_ANSWER + least, left)))
