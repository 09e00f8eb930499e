"""What one lock object knows of itself, without asking etcd: its hold, its wait, its end."""

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

# So many losses are kept for those who have not learned of them yet.
_REMEMBERED = 100


class Environment(Protocol):
    """What a core runs in.

    Attributes:
        forked: whether this is a child of the process that made it.
        lease_ids: new ids for leases.
    """

    @property
    def forked(self) -> bool: ...

    @property
    def lease_ids(self) -> Iterator[int]: ...

    def tell(self, name: str, **fields: Any) -> None:
        """Emits an event."""

    def listened(self, name: str) -> bool:
        """Whether somebody listens to an event."""

    def warn(self, text: str, *args: object) -> None:
        """Logs a warning; not at once, since users' code may run then."""

    def event(self) -> Event:
        """An event to wait for."""

    def random(self) -> float:
        """A number in 0 to 1."""


class Status:
    """The state of a lock object. Any thread may ask.

    Args:
        names: the lock, and whose it is.
        env: what it runs in.
        auto_renew: whether holds are renewed in the background.

    Attributes:
        hold: the last one.
        lost_of: see `remember`.
        left: leases of a lost hold that other entries may still live by.
        wait: that of the call that waits in the queue, if one does.
        destroyed: no call begins any more.
        closed: nothing is told or watched any more.
        changed: what is due or watched may be another than before.
    """

    __slots__ = (
        "auto_renew",
        "changed",
        "closed",
        "destroyed",
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
        self.lost_of: dict[object, HoldState] | None = None  # until there is one
        self.left: tuple[Lease, ...] = ()
        self.wait: Wait | None = None
        self.destroyed = self.closed = self.changed = False

    # Of the hold.

    def hold_of(self, owner: object) -> HoldState | None:
        """The last hold, as this thread or task is to see it: if it has lost its own, that one,
        and not what others got afterwards."""
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
        """The hold. Raises LockLostError, LockNotOwnedError or DestroyedError if there is none."""
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
        """Raises DestroyedError if it was destroyed."""
        if self.destroyed:
            key, node_id = self.names.key, self.names.node_id
            raise DestroyedError(f"the lock {key!r} of {node_id!r} was destroyed")

    def remember(self, lost: HoldState) -> None:
        """A hold was lost, and another owner has the next: until the first locks again it sees the
        loss. What a handler of this lock takes, for which the owner is None, is everybody's."""
        if lost.owner is not None:
            lost_of = self.lost_of = self.lost_of or {}
            lost_of[lost.owner] = lost
            for forgotten in list(lost_of)[:-_REMEMBERED]:  # of threads that ended, most likely
                del lost_of[forgotten]

    # What becomes of the hold, told once.

    def lose(self, hold: HoldState, reason: LossReason) -> None:
        """Notes that it is lost, and tells so."""
        if why := hold.lose(reason):
            self.changed = True
            if hold.place.others:  # one may be gone, and the others hold up whoever is next
                self.left = hold.leases
            error = hold.refusal if why is LossReason.REFUSED else None
            self.tell_of(events.lost, hold, reason=why, error=error)

    def noticed(self, now: float) -> LossReason | None:
        """Why the last hold is lost, if it is; the loss is told by now."""
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
        """Why a call of this kind is of no use while this object waits in the queue, if it does."""
        if self.wait is None or self.wait.place is None:
            return None
        if kind is Kind.ACT:
            return self.not_owned(None, "this object still waits in the queue")
        assert self.wait.holder  # known with its first place
        return AlreadyLockedError(
            self.names.key, self.wait.holder, whose="this object waits in the queue"
        )
