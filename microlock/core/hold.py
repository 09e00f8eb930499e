"""One hold: its deadline, its state, and how it ended.

Also what a user sees of it: `Hold`, `State`, `Guard`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from microlock.core.lease import Lease
from microlock.core.place import Place
from microlock.core.port import Lifetime
from microlock.errors import (
    LossReason,
    MicrolockError,
    StoreError,
    StoreTlsError,
    StoreUnavailableError,
    WrongServerError,
)

_NO_ANSWER = (StoreUnavailableError, StoreTlsError, WrongServerError)


class State(enum.Enum):
    """The state of an object's hold, as far as it knows without asking etcd."""

    RELEASED = "holds nothing: never locked, refused, or given back"
    HELD = "holds the lock at least until its deadline"
    SUSPENDED = "holds the lock until its deadline, but etcd does not renew it"
    LOST = "the hold ended without unlock(): see lost_reason"


@dataclass(frozen=True)
class Hold:
    """What `lock()` returns: one hold of a lock.

    Attributes:
        key: the name of the lock.
        node_id: the node that took it.
        token: the fencing token. It rises with each holder: a storage that is written to under the
            lock should refuse a token lower than the highest that it has seen.
        lease_id: the etcd lease that the hold began with.
        ttl: the ttl that etcd granted, in seconds; may be longer than requested.
        attempts: the number of tries; after a wait: how often it joined the queue.
        waited: seconds that `lock()` took.
    """

    key: str
    node_id: str
    token: int
    lease_id: int
    ttl: int
    attempts: int
    waited: float


@dataclass(frozen=True)
class Guard:
    """A comparison for an etcd transaction. It is true as long as the hold stands.

    Attributes:
        key: the entry of the hold in etcd.
        revision: the create_revision that the key must have.
        lock: the name of the lock.
        node_id: the node that holds it.
        others: more keys that must have the same create_revision, for a `MultiLock`.
    """

    key: bytes
    revision: int
    lock: str
    node_id: str
    others: tuple[bytes, ...] = ()


class Event(Protocol):
    """What others wait for: `threading.Event`, or one of asyncio."""

    def is_set(self) -> bool: ...

    def set(self) -> None: ...

    def clear(self) -> None: ...


class HoldState:
    """A hold that lives, or how it ended.

    Methods that change it are called one at a time. `remaining()`, `reason()` and `state()` may be
    called by any thread, at any moment.

    Args:
        place: the entry and its leases.
        now: when it was taken.
        owner: the thread or task that took it.
        ended: set when it was given back, or its loss was noticed.
        hold: what the user got.

    Attributes:
        alive: whether it counts, if its deadline is ahead: not from when it is about to be given
            back, unless that fails.
        refusal: why it was not renewed the last time, if the store refuses that.
    """

    __slots__ = (
        "_expired",
        "_reason",
        "_suspended",
        "alive",
        "ended",
        "hold",
        "owner",
        "place",
        "refusal",
        "since",
    )

    def __init__(
        self, place: Place, *, now: float, owner: object, ended: Event, hold: Hold | None = None
    ) -> None:
        self.place = place
        self.since = now
        self.owner = owner
        self.ended = ended
        self.hold = hold
        self.alive = True  # False <= ended is set
        self.refusal: MicrolockError | None = None
        self._reason: LossReason | None = None  # not None  =>  it is not alive
        self._expired = False  # somebody saw that the deadline has passed
        self._suspended = False  # etcd does not answer the renewals

    @property
    def token(self) -> int:
        return self.place.token

    @property
    def leases(self) -> tuple[Lease, ...]:
        return self.place.leases

    @property
    def returned(self) -> bool:
        """Whether it was given back."""
        return self.ended.is_set() and self._reason is None

    def remaining(self, now: float) -> float:
        """Seconds until its deadline; 0.0 when it is over."""
        if not self.alive or self._over(now):
            return 0.0
        return max(0.0, self.place.deadline - now)

    def reason(self, now: float) -> LossReason | None:
        """Why it is lost, if it is."""
        if not self.alive:
            return self._reason
        return self._late if self._over(now) else None

    @property
    def _late(self) -> LossReason:
        """Why it is lost if its deadline has passed."""
        return LossReason.REFUSED if self.refusal else LossReason.EXPIRED

    def state(self, now: float) -> State:
        if self.reason(now):
            return State.LOST
        if not self.alive:
            return State.RELEASED
        return State.SUSPENDED if self._suspended else State.HELD

    def _over(self, now: float) -> bool:
        """Whether the deadline has passed. Whoever saw that may have acted on it: so it stays, even
        if the reply to a renewal comes afterwards."""
        if now >= self.place.deadline:
            self._expired = True
        return self._expired

    # What happens to it. Each returns whether that is news.

    def renewed(self, lease_id: int, lifetime: Lifetime) -> bool:
        """A lease of this id was renewed."""
        if self._expired or self.ended.is_set():
            return False
        before, self.place = self.place, self.place.renewed(lease_id, lifetime)
        if self.place is before:
            return False
        self._suspended, self.refusal = False, None
        return self.alive  # not while it is given back; it counts if that fails

    def moved(self, place: Place) -> None:
        """A call has renewed or extended it."""
        for lease in self.place.leases:
            if lease.ttl:  # known; and maybe renewed in the background meanwhile
                place = place.renewed(lease.id, Lifetime(lease.ttl, lease.sent, lease.sent))
        self.place = place
        self._suspended, self.refusal = False, None

    def suspend(self, error: MicrolockError) -> bool:
        """etcd did not renew it."""
        if not self._expired:  # after that it is too late to be a reason
            answer = isinstance(error, StoreError) and not isinstance(error, _NO_ANSWER)
            self.refusal = error if answer else None
        news = self.alive and not self._suspended
        self._suspended |= news
        return news

    def lose(self, reason: LossReason) -> LossReason | None:
        """It is lost. One that was lost or given back already stays so. Returns why, if that is
        news."""
        if not self.alive:
            return None
        self.end(reason)
        return self._reason

    def give_back(self) -> None:
        """It does not count any more: the request to give it back is about to go."""
        self.alive = False

    def stand(self) -> None:
        """It was not given back after all."""
        self.alive = not self.ended.is_set()

    def end(self, reason: LossReason | None = None) -> None:
        """It was given back, or was found lost on the way."""
        if reason and self._expired:  # somebody has seen that, and it stays so
            reason = self._late
        self._reason = self._reason or reason  # first: who sees that it ended may ask why
        self.alive = False
        self.ended.set()
