"""One hold, from the moment it is taken to its end: until when it lasts, and how it ended.

It is told what happens by the calls of a lock, by the renewals and by the watch, on their threads.
What it is, at a moment, it says without asking etcd. The time is an argument.
"""

from __future__ import annotations

import os
import threading

from microlock.core.hold import Hold, State
from microlock.core.lease import Lease
from microlock.core.place import Place
from microlock.core.port import Lifetime
from microlock.engine.reentrant_event import ReentrantEvent
from microlock.errors import LossReason


class Holding:
    """A hold that lives, or how it ended.

    Args:
        place: the entry and its leases.
        now: when it was taken, by the monotonic clock.
        hold: what the user was told of it.

    Attributes:
        since: when it was taken.
        thread: that it was taken on.
        ended: set when it was given back, or its loss was noticed.
    """

    def __init__(self, place: Place, *, now: float, hold: Hold | None = None) -> None:
        self.hold = hold
        self.since = now
        self.thread = threading.get_ident()
        self.ended = ReentrantEvent()
        self._pid = os.getpid()
        self._lock = threading.RLock()
        # Written under the lock, and read without it:
        self._tenure = place
        self._reason: LossReason | None = None  # not None  =>  ended is set
        self._expired = False  # somebody was told that the deadline has passed
        self._suspended = False  # etcd does not answer the renewals
        self._giving_back = False  # from before the request until its outcome is known
        # A call is about to change the lease: what etcd says of the old one counts no more.
        self.in_call = False

    @property
    def place(self) -> Place:
        return self._tenure

    @property
    def token(self) -> int:
        return self._tenure.token

    @property
    def alive(self) -> bool:
        """Whether it may be counted on, if its deadline is ahead."""
        return not (self._giving_back or self.ended.is_set())

    @property
    def returned(self) -> bool:
        """Whether it was given back."""
        return self.ended.is_set() and self._reason is None

    def remaining(self, now: float) -> float:
        """Seconds until its deadline; 0.0 when it is over."""
        if not self.alive or self._forked or self._over(now):
            return 0.0
        return max(0.0, self._tenure.deadline - now)

    def reason(self, now: float) -> LossReason | None:
        """Why it is lost, if it is."""
        if not self.alive:
            return self._reason
        if self._forked:
            return LossReason.FORKED
        return LossReason.EXPIRED if self._over(now) else None

    def state(self, now: float) -> State:
        if self.reason(now):
            return State.LOST
        if not self.alive:
            return State.RELEASED
        return State.SUSPENDED if self._suspended else State.HELD

    def _over(self, now: float) -> bool:
        """Whether the deadline has passed. Who was told so may have acted on it: it stays so,
        though the reply to a renewal comes after that."""
        if not self._expired and now >= self._tenure.deadline:
            with self._lock:  # or a renewal could come in between
                self._expired = now >= self._tenure.deadline
        return self._expired

    @property
    def _forked(self) -> bool:
        return os.getpid() != self._pid

    # What happens to it. Each tells whether that is news.

    def renewed(self, lease_id: int, lifetime: Lifetime) -> bool:
        """A lease of this id was renewed."""
        with self._lock:
            if self._expired:
                return False
            before, self._tenure = self._tenure, self._tenure.renewed(lease_id, lifetime)
            if self._tenure is before or not self.alive:
                return False
            self._suspended = False
            return True

    def moved(self, place: Place) -> None:
        """A call has renewed or extended it."""
        with self._lock:
            for lease in self._tenure.leases:
                if lease.ttl:  # known; and maybe renewed in the background meanwhile
                    renewed = Lifetime(lease.ttl, lease.sent, lease.sent)
                    place = place.renewed(lease.id, renewed)
            self._tenure = place
            self._suspended = False

    def suspend(self) -> bool:
        """etcd does not answer."""
        with self._lock:
            news = self.alive and not self._suspended
            self._suspended |= news
            return news

    def lose(self, reason: LossReason) -> bool:
        """It is lost. One that was lost or given back already stays so."""
        with self._lock:
            if not self.alive:
                return False
            self._reason = reason
            self.ended.set()
            return True

    def give_back(self) -> bool:
        """It is not to be counted on any more: the request to give it back is about to go."""
        with self._lock:
            if not self.alive:
                return False
            self._giving_back = True
            return True

    def stand(self) -> None:
        """It was not given back after all."""
        with self._lock:
            self._giving_back = False

    def end(self, reason: LossReason | None = None) -> None:
        """It was given back, or was found lost on the way."""
        with self._lock:
            self._reason = self._reason or reason
            self._giving_back = True
            self.ended.set()

    def surrender(self, now: float) -> tuple[Lease, ...]:
        """The process ends. Returns the leases to revoke."""
        if not self.remaining(now):
            return ()
        self.end()
        return self._tenure.leases
