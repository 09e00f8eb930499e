"""The names of the events, and the `LockEvent` that a handler gets.

The names are plain strings: `foo.on("unlocked", ...)` and `foo.on(events.unlocked, ...)` do the
same.
"""

from __future__ import annotations

from dataclasses import dataclass

from microlock.errors import LossReason

# Of the key: a node took the lock, or the lock is free. This node counts too.
locked = "locked"
unlocked = "unlocked"

# Of an election: a new leader, a new value of the leader, or no leader any more.
leader = "leader"

# Of this object.
waiting = "waiting"
acquired = "acquired"
released = "released"
failed = "failed"
error = "error"

# Of this object's hold.
renewed = "renewed"
suspended = "suspended"
lost = "lost"

OF_THE_KEY = frozenset({locked, unlocked, leader})
ALL = OF_THE_KEY | {waiting, acquired, released, failed, error, renewed, suspended, lost}


@dataclass(frozen=True, slots=True)
class LockEvent:
    """Something happened to a lock.

    Attributes:
        name: one of the names in this module.
        key: the name of the lock.
        node_id: the node that took the lock, or that held it. None if that client stores no node
            id, as Go's and etcdctl, or if there is no hold.
        token: the fencing token of that hold; None if there is none. For `waiting`: the token that
            the hold will have.
        reason: the reason of the loss, for `lost`.
        synthesised: a read found this change; no watch saw it happen. The changes before it are
            unknown: etcd had compacted them, or could not be reached when the first handler was
            added. In the latter case there may have been no change at all.
        error: the error, for `failed`, `suspended`, `error`, and for `lost` with REFUSED. If Ctrl-C
            or the cancellation of the task ended `lock()`, `failed` has LockCancelledError.
        waited: seconds that the call took, for `acquired` and `failed`.
        attempts: as in `Hold`, for `acquired`.
        value: the value that the leader proclaims, for `leader`; None if nobody leads.
    """

    name: str
    key: str
    node_id: str | None = None
    token: int | None = None
    reason: LossReason | None = None
    synthesised: bool = False
    error: Exception | None = None
    waited: float | None = None
    attempts: int | None = None
    value: bytes | None = None
