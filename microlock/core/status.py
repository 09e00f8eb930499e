"""What one lock object knows without asking etcd: its hold, its wait, and whether it has ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from microlock import events
from microlock.core.call import Kind
from microlock.core.hold import Event, Guard, HoldState, State
from microlock.core.keys import Names
from microlock.core.lease import Lease
from microlock.core.queue import Holder
from microlock.core.wait import Wait
from microlock.errors import (
    AlreadyLockedError,
    DestroyedError,
    LockLostError,
    LockNotOwnedError,
    LossReason,
    MicrolockError,
)

# The most losses that are kept for owners that have not seen them yet.
_REMEMBERED = 100


class Environment(Protocol):
    """The environment of a core.

    Attributes:
        forked: whether this process is a child of the one that made the core.
        lease_ids: new ids for leases.
    """

    @property
    def forked(self) -> bool: ...

    @property
    def lease_ids(self) -> Iterator[int]: ...

    def tell(self, name: str, **fields: Any) -> None:
        """Emits an event."""

    def listened(self, name: str) -> bool:
        """Whether an event has listeners."""

    def warn(self, text: str, *args: object) -> None:
        """Logs a warning; later, since logging may run users' code."""

    def event(self) -> Event:
        """An event to wait for."""

    def random(self) -> float:
        """A random number from 0 to 1."""


class Status:
    """The state of a lock object. Any thread may ask.

    Args:
        names: the names of the lock, and its node id.
        env: the environment of the core.
        auto_renew: whether holds are renewed in the background.

    Attributes:
        hold: the last hold; None: there was none.
        lost_of: the lost holds of other owners; see `remember`.
        left: leases that entries may still be under; another thread revokes them, once.
        wait: the wait of the call that is in the queue, if any.
        destroyed: whether no call begins any more.
        closed: whether there are no more events and watches.
        changed: what is due or should be watched may have changed.
    """

    __slots__ = (
        "auto_renew",
        "changed",
        "closed",
        "destroyed",
        "doubted",
        "env",
        "hold",
        "left",
        "lost_of",
        "names",
        "wait",
    )

    def __init__(self, names: Names, env: Environment, *, auto_renew: bool) -> None:
        self.names = names
        self.env = env
        self.auto_renew = auto_renew
        self.hold: HoldState | None = None
        self.lost_of: dict[object, HoldState] | None = None  # a dict once there is a loss
        self.left: tuple[Lease, ...] = ()
        self.wait: Wait | None = None
        self.destroyed = self.closed = self.changed = False
        self.doubted = False  # only a read can tell whether our entries are still in etcd

    # The hold.

    def hold_of(self, owner: object) -> HoldState | None:
        """The last hold as this thread or task should see it: its own lost hold, if it has one, and
        not a later hold of another owner."""
        return self.lost_of.get(owner, self.hold) if self.lost_of else self.hold

    def present(self, now: float, owner: object = None) -> HoldState | None:
        """The hold, if it is held."""
        hold = self.hold_of(owner)
        if hold is None or self.destroyed or self.env.forked or not hold.remaining(now):
            return None
        return hold

    @property
    def free(self) -> bool:
        """Whether the object holds nothing."""
        return self.hold is None or not self.hold.alive or self.destroyed

    def reason(self, hold: HoldState | None, now: float) -> LossReason | None:
        """Why this hold was lost; None if it was not."""
        if hold is None:
            return None
        return LossReason.FORKED if hold.alive and self.env.forked else hold.reason(now)

    def state(self, now: float, owner: object) -> State:
        hold = self.hold_of(owner)
        if hold is None:
            return State.RELEASED
        return State.LOST if self.reason(hold, now) else hold.state(now)

    def check(self, now: float, owner: object) -> HoldState:
        """Returns the hold. Raises LockLostError, LockNotOwnedError or DestroyedError if it is not
        held."""
        self.check_alive()
        if hold := self.present(now, owner):  # first: the deadline may pass meanwhile
            return hold
        if reason := self.reason(self.hold_of(owner), now):
            raise self.lost(reason)
        raise LockNotOwnedError(self.names.key, self.names.node_id)

    def guard(self, now: float, owner: object) -> Guard:
        hold = self.check(now, owner)
        place, names = hold.place, self.names
        return Guard(place.entry, place.token, names.key, names.node_id, place.others)

    def check_alive(self) -> None:
        """Raises DestroyedError if the object was destroyed."""
        if self.destroyed:
            key, node_id = self.names.key, self.names.node_id
            raise DestroyedError(f"the lock {key!r} of {node_id!r} was destroyed")

    def remember(self, lost: HoldState) -> None:
        """Keeps a lost hold, since another owner has the next hold: the owner of the lost hold sees
        the loss until it locks again. A hold that a handler of this lock took (its owner is None)
        belongs to everybody, and is not kept."""
        if lost.owner is not None:
            lost_of = self.lost_of = self.lost_of or {}
            lost_of[lost.owner] = lost
            for forgotten in list(lost_of)[:-_REMEMBERED]:  # probably of threads that ended
                del lost_of[forgotten]

    # The end of the hold, reported once.

    def lose(self, hold: HoldState, reason: LossReason) -> None:
        """Marks the hold as lost, and emits `lost`."""
        if why := hold.lose(reason):
            self.changed = True
            if hold.place.others:  # one entry may be gone; the others still block the next
                self.left = hold.leases
            error = hold.refusal if why is LossReason.REFUSED else None
            self.tell_of(events.lost, hold, reason=why, error=error)

    def noticed(self, now: float) -> LossReason | None:
        """Why the last hold is lost, if it is. Then `lost` is emitted, unless it was before."""
        hold = self.hold
        reason = hold.reason(now) if hold else None
        if hold and reason:
            self.lose(hold, reason)
        return reason

    def tell_of(self, name: str, hold: HoldState, **fields: Any) -> None:
        self.env.tell(name, node_id=self.names.node_id, token=hold.place.token, **fields)

    # The errors of its calls.

    def lost(self, reason: LossReason) -> LockLostError:
        ttl = self.hold.place.lease.ttl if self.hold else None
        error = LockLostError(
            self.names.key, self.names.node_id, reason, ttl=ttl, auto_renew=self.auto_renew
        )
        if self.hold and reason is LossReason.REFUSED:
            error.__cause__ = self.hold.refusal
        return error

    def not_owned(self, holder: Holder | None, why: str) -> LockNotOwnedError:
        return LockNotOwnedError(self.names.key, self.names.node_id, holder, why=why)

    def locked_by_this(self, hold: HoldState) -> AlreadyLockedError:
        holder = Holder(self.names.node_id, hold.token, hold.place.lease.id)
        return AlreadyLockedError(self.names.key, holder, whose="this object")

    def queued(self, kind: Kind) -> MicrolockError | None:
        """The error of a call of this kind while this object is in the queue; None: it is not."""
        if self.wait is None or self.wait.place is None:
            return None
        if kind is Kind.ACT:
            return self.not_owned(None, "this object still waits in the queue")
        assert self.wait.holder  # known with its first place
        return AlreadyLockedError(
            self.names.key, self.wait.holder, whose="this object waits in the queue"
        )
