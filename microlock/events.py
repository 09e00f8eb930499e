"""The names of the events, and what a handler is given.

The names are plain strings: `foo.on("unlocked", ...)` and `foo.on(events.unlocked, ...)` are one.
"""

from __future__ import annotations

from dataclasses import dataclass

from microlock.errors import LossReason

# Of the key: somebody's, this node's included.
locked = "locked"
unlocked = "unlocked"

# Of an election: somebody leads, or says something else, or nobody leads any more.
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
        name: one of the names of this module.
        key: the lock.
        node_id: whose hold it is about: who took the lock, who had it. None if that client stores
            no name, as Go's and etcdctl do, or if there is no hold.
        token: the fencing token of that hold, None if there is none. For `waiting`, of the place
            in the queue: the token to be.
        reason: why, for `lost`.
        synthesised: it was not seen as it happened, but found afterwards: the changes in between
            are not known, since etcd had compacted them, or could not be reached when the first
            handler was added. In the latter case it may be no change at all.
        error: what went wrong, for `failed`, `suspended`, `error`, and `lost` for REFUSED. For
            `failed` what `lock()` has raised, but LockCancelledError where that was an interrupt or
            the cancellation of its task.
        waited: seconds it took, for `acquired` and `failed`.
        attempts: as in `Hold`, for `acquired`.
        value: what the leader proclaims, for `leader`; None if nobody leads.
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
