"""One wait in the queue of a lock: when it ends, what it watches, and when its lease is renewed.

Far from its turn it watches one entry before its own, and nothing else. When that entry is gone, it
watches the whole lock, as all waiters do that are near their turn, or whose turn may come in any
order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from microlock.core.lease import Lease
from microlock.core.place import AwaitTurn, Place, TurnResult
from microlock.core.port import Lifetime
from microlock.core.queue import Holder, Standing
from microlock.errors import MicrolockError

# This many seconds before its time is over, a waiter watches the lock, to name the holder.
_LAST = 1.0
_NEWS = {Standing.FIRST, Standing.GONE}
# In several queues: gone in one is gone; first means first in all.
_DECIDES = [Standing.GONE, Standing.WAITS, Standing.UNKNOWN, Standing.FIRST]
_NOTHING: tuple[Standing, Holder | None] = Standing.UNKNOWN, None


class Watched(Protocol):
    """What a watch knows."""

    def look(self, entry: bytes, token: int) -> tuple[Standing, Holder | None]:
        """The standing of an entry, and the holder of the lock."""


class Wait:
    """The wait of one `lock()`. If its entry is lost it joins again, so it may have several places.

    Args:
        locks: the names of the locks.
        until: when to give up; None: never.
        early: see `Lease.due`.

    Attributes:
        tokens: the tokens of all its places.
        place: the present place; None between two of them.
        holder: the holder of the lock, as far as known; None before the first place.
        error: the error that has ended the wait, if any.
        after: the entry that it watches, and its token, if it is far from its turn.
    """

    def __init__(self, locks: tuple[bytes, ...], until: float | None, early: float) -> None:
        self.tokens: set[int] = set()
        self.place: Place | None = None
        self.holder: Holder | None = None
        self.error: MicrolockError | None = None
        self._locks = locks
        self._until = until
        self._early = early
        self._tried = 0.0  # when a renewal failed last
        self._ended = False  # etcd has said that the lease has ended
        self.after: tuple[bytes, int] | None = None

    def begin(self, request: AwaitTurn, now: float) -> bool:
        """Waits at this place. Returns whether the place is new."""
        news = request.place.token not in self.tokens
        self.tokens.add(request.place.token)
        self.place, self.holder, self._ended = request.place, request.holder, False
        self.after = None if self._late(now) else request.after
        return news

    def attempts(self, place: Place) -> int:
        """How often it has joined the queue, up to this place."""
        return len(self.tokens | {place.token})

    @property
    def near(self) -> bool:
        """Whether it watches the whole lock."""
        return self.after is None

    @property
    def watches(self) -> tuple[bytes, ...]:
        """The names of the locks or of the entry that it watches."""
        return (self.after[0],) if self.after else self._locks

    def end(self, token: int) -> None:
        """The entry of the place with this token is gone."""
        self._ended |= self.place is not None and self.place.token == token

    @property
    def interest(self) -> Sequence[bytes]:
        """The entries whose changes matter."""
        assert self.place
        return self.after[:1] if self.after else self.place.entries

    def _late(self, now: float) -> bool:
        return self._until is not None and self._until - _LAST <= now

    def result(self, views: Mapping[bytes, Watched], now: float) -> TurnResult | None:
        """The result of the wait at this place, if it has ended."""
        place = self.place
        assert place
        standing = self._standing(views, place, now)
        if self._ended:
            standing = Standing.GONE
        elif standing not in _NEWS:
            if self._until is not None and self._until <= now:
                standing = Standing.WAITS
            elif place.lease.deadline <= now:
                standing = Standing.UNKNOWN
            else:
                return None
        assert self.holder
        return TurnResult(standing, place.lease, now, self.holder)

    def _standing(self, views: Mapping[bytes, Watched], place: Place, now: float) -> Standing:
        if self._locks[0] in views:  # maybe because another object of this client watches the lock
            self.after = None
            found = [
                views[lock].look(entry, place.token) if lock in views else _NOTHING
                for lock, entry in zip(self._locks, place.entries, strict=True)
            ]
            standing, holder = min(found, key=lambda each: _DECIDES.index(each[0]))
            self.holder = holder or self.holder
            return standing
        if self.after:
            view = views.get(self.after[0])
            gone = view is not None and view.look(*self.after)[0] is Standing.GONE
            if gone or self._late(now):
                self.after = None
        return Standing.UNKNOWN

    def wakes(self) -> float:
        """When to check again, if nothing happens before."""
        assert self.place
        deadline = self.place.lease.deadline
        if self._until is None:
            return deadline
        return min(deadline, self._until - _LAST if self.after else self._until)

    # Keeping the lease.

    def due(self) -> float:
        """When to renew it."""
        if self.place is None:
            return math.inf
        return self.place.lease.due(early=self._early, tried=self._tried)

    @property
    def leases(self) -> tuple[Lease, ...]:
        return self.place.leases if self.place else ()

    def renewed(self, lease_id: int, lifetime: Lifetime) -> bool:
        """This lease was renewed, or has ended. Returns whether it is the lease of the place."""
        if self.place is None or lease_id != self.place.lease.id:
            return False
        if lifetime.ttl > 0:
            self.place = self.place.renewed(lease_id, lifetime)
        else:
            self._ended = True
        return True

    def silent(self, now: float) -> None:
        """etcd did not answer a renewal."""
        self._tried = now
