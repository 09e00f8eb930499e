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
    """A hold: alive, or how it ended.

    Methods that change it are called one at a time. Any thread may call `remaining()`, `reason()`
    and `state()` at any moment.

    Args:
        place: the entry and its leases.
        now: when it was taken.
        owner: the thread or task that took it.
        ended: set when the hold was given back, or its loss was noticed.
        hold: the `Hold` that the user got.

    Attributes:
        alive: whether it counts until its deadline. False from the moment when it is being given
            back; True again if that fails.
        refusal: why the store refused the last renewal, if it did.
        unwanted: its holder has tried in vain to give it back. It is not renewed any more, unless a
            call renews it: a program that went on after the error would keep it for ever.
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
        "unwanted",
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
        self.unwanted = False
        self._reason: LossReason | None = None  # not None  =>  it is not alive
        self._expired = False  # the deadline has passed, and a caller has seen that
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
        """Whether the deadline has passed. The answer stays True, even if the reply to a renewal
        comes later: a caller may have acted on it."""
        if now >= self.place.deadline:
            self._expired = True
        return self._expired

    # Events. Each method returns whether something has changed.

    def renewed(self, lease_id: int, lifetime: Lifetime) -> bool:
        """A lease of this id was renewed."""
        if self._expired or self.ended.is_set():
            return False
        before, self.place = self.place, self.place.renewed(lease_id, lifetime)
        if self.place is before:
            return False
        self._suspended, self.refusal = False, None
        return self.alive  # False while it is being given back; the renewal counts if that fails

    def moved(self, place: Place) -> None:
        """A call has renewed or extended it."""
        for lease in self.place.leases:
            if lease.ttl:  # known, and maybe renewed in the background meanwhile
                place = place.renewed(lease.id, Lifetime(lease.ttl, lease.sent, lease.sent))
        self.place = place
        self._suspended, self.refusal, self.unwanted = False, None, False

    def suspend(self, error: MicrolockError) -> bool:
        """etcd did not renew it."""
        if not self._expired:  # after the deadline it is not the reason of the loss
            answer = isinstance(error, StoreError) and not isinstance(error, _NO_ANSWER)
            self.refusal = error if answer else None
        news = self.alive and not self._suspended
        self._suspended |= news
        return news

    def lose(self, reason: LossReason) -> LossReason | None:
        """Marks it as lost, unless it was lost or given back already. Returns the reason if that is
        news."""
        if not self.alive:
            return None
        self.end(reason)
        return self._reason

    def give_back(self) -> None:
        """It no longer counts: the request to give it back is about to be sent."""
        self.alive = False

    def stand(self) -> None:
        """Giving it back has failed: it counts again, until its deadline."""
        self.alive, self.unwanted = not self.ended.is_set(), True

    def end(self, reason: LossReason | None = None) -> None:
        """It was given back, or found lost meanwhile."""
        if reason and self._expired:  # a caller has seen it expire, and that stays
            reason = self._late
        self._reason = self._reason or reason  # before `ended`: a caller that sees that may ask why
        self.alive = False
        self.ended.set()
