"""What can go wrong, as one tree.

    MicrolockError
    ├── InvalidArgumentError            also a ValueError; nothing was sent
    │   ├── KeyRequiredError
    │   ├── NodeIdRequiredError
    │   ├── InvalidTtlError
    │   └── ClientRequiredError
    ├── AlreadyLockedError              somebody holds the lock: .holder
    ├── LockNotOwnedError               nothing of ours to act on: .holder
    │   └── LockLostError               it was ours and is no longer: .reason
    ├── LockUncertainError              nobody can say whether the lock is held
    ├── LockCancelledError              cancel() ended the wait for the lock
    ├── DestroyedError                  the lock or its client was destroyed or closed
    ├── ForkedError                     made before os.fork(), used in the child
    └── StoreError                      etcd did not do it: .may_have_happened
        ├── StoreUnavailableError       no member answers; passing
        │   └── StoreTimeoutError       no answer in time; passing, also a TimeoutError
        ├── StoreAuthenticationError    user, password or token refused
        ├── StorePermissionError        the user may not touch this key
        ├── StoreTlsError               certificates or TLS do not match
        ├── WrongServerError            something else answers on this port
        ├── StoreNoSpaceError           the database is full
        └── LeaseNotFoundError          the lease ended or was revoked

Each error carries what a handler needs, and says whether the operation happened.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from microlock.core.queue import Holder


class LossReason(enum.Enum):
    """Why a hold ended without `unlock()`."""

    EXPIRED = "the deadline passed without a renewal"
    DELETED = "the entry is gone from etcd"
    LEASE_GONE = "the lease ended before its time"
    REFUSED = "etcd refused to renew it until the deadline passed"
    FORKED = "the process forked: the hold belongs to the parent"


class MicrolockError(Exception):
    """The root of every error of this package."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own calls the class with the message alone, which most of these do not take.
        return _again, (type(self), self.args), self.__dict__


def _again(kind: type[MicrolockError], args: tuple[Any, ...]) -> MicrolockError:
    """An error that comes from another process."""
    error = kind.__new__(kind)
    error.args = args
    return error


class InvalidArgumentError(MicrolockError, ValueError):
    """An argument is wrong; the message names it and its value. Nothing was sent."""


class KeyRequiredError(InvalidArgumentError):
    """`key` is not a non-empty str without NUL of at most 4 KiB of UTF-8."""


class NodeIdRequiredError(InvalidArgumentError):
    """`node_id` is not a non-empty str without NUL of at most 4 KiB of UTF-8."""


class InvalidTtlError(InvalidArgumentError):
    """`ttl` is not a number of seconds in 0 < ttl <= 9,000,000,000."""


class ClientRequiredError(InvalidArgumentError):
    """`etcd` is not what `connect()` returns, nor a client of python-etcd3 or etcd-sdk-python."""


class AlreadyLockedError(MicrolockError):
    """The lock is held, by another or by this very object. Nothing was changed.

    Attributes:
        key: the lock.
        holder: who holds it, as a `Holder`.
    """

    def __init__(self, key: str, holder: Holder, *, whose: str = "") -> None:
        super().__init__(f"{key!r} is locked by {holder}{whose and f' ({whose})'}")
        self.key = key
        self.holder = holder


class LockNotOwnedError(MicrolockError):
    """This object (or, if it never locked, its node) holds nothing. Nothing was changed.

    Attributes:
        key: the lock.
        node_id: who asked.
        holder: who holds the lock, where that was read from etcd, else None.
    """

    def __init__(
        self, key: str, node_id: str, holder: Holder | None = None, *, why: str = ""
    ) -> None:
        held_by = f"; it is locked by {holder}" if holder else ""
        super().__init__(f"{key!r} is not locked by {node_id!r}{why and ': ' + why}{held_by}")
        self.key = key
        self.node_id = node_id
        self.holder = holder


class LockLostError(LockNotOwnedError):
    """The hold ended before `unlock()`; somebody else may hold the lock by now.

    Attributes:
        reason: why, as a `LossReason`.
    """

    def __init__(
        self,
        key: str,
        node_id: str,
        reason: LossReason,
        *,
        ttl: int | None = None,
        auto_renew: bool = False,
    ) -> None:
        why = f"lost, {reason.value}"
        if reason is LossReason.EXPIRED and ttl:
            cure = "renew() it, take auto_renew=True or a longer ttl"
            if auto_renew:
                cure = "etcd did not answer, this process stood still, or max_hold was over"
            why = f"lost, its ttl of {ttl} s passed without a renewal ({cure})"
        super().__init__(key, node_id, why=why)
        self.reason = reason


class LockUncertainError(MicrolockError):
    """The outcome is unknown, and could not be undone: etcd does not answer, or the client was
    closed.

    The operation may have happened or may still happen. This object holds nothing and never
    uses that lease again, so whatever is left of it ends by itself with the lease, `ttl` seconds
    after etcd applied it at the latest (longer only if etcd elects a leader meanwhile).

    Attributes:
        key: the lock.
        node_id: who asked.
        lease_id: the lease in doubt.
    """

    def __init__(self, key: str, node_id: str, lease_id: int, why: object) -> None:
        super().__init__(
            f"nobody can say whether {node_id!r} holds {key!r}, "
            f"and lease {lease_id:x} could not be revoked: {why}"
        )
        self.key = key
        self.node_id = node_id
        self.lease_id = lease_id


class LockCancelledError(MicrolockError):
    """`cancel()` ended the wait for the lock. Nothing is held, nothing was left behind.

    The event `failed` has it also where an interrupt or the cancellation of its task ended a
    `lock()`, which raises that.

    Attributes:
        key: the lock.
        node_id: who waited.
    """

    def __init__(self, key: str, node_id: str) -> None:
        super().__init__(f"{node_id!r} does not wait for {key!r} any more: cancelled")
        self.key = key
        self.node_id = node_id


class DestroyedError(MicrolockError):
    """The lock was destroyed, or its client closed. Nothing was sent.

    A lock that was held when its client was closed ends with its ttl.
    """


class ForkedError(MicrolockError):
    """The client was made before `os.fork()`; the child needs one of its own. Nothing was sent."""


class StoreError(MicrolockError):
    """etcd refused or could not be reached.

    Attributes:
        may_have_happened: False when etcd certainly did not do what was asked; True when the
            request was sent and its fate is unknown, also in the future.
    """

    def __init__(self, message: str, *, may_have_happened: bool = False) -> None:
        super().__init__(message)
        self.may_have_happened = may_have_happened


class StoreUnavailableError(StoreError):
    """No member of etcd answers, or none has a leader. Passing: worth another try."""


class StoreTimeoutError(StoreUnavailableError, TimeoutError):
    """No answer within the time given. Passing: worth another try."""


class StoreAuthenticationError(StoreError):
    """etcd refused the user, the password or the token. It did not happen."""


class StorePermissionError(StoreError):
    """The user may not read or write this key. It did not happen."""


class StoreTlsError(StoreError):
    """An unknown CA, a missing or refused certificate. It did not happen."""


class WrongServerError(StoreError):
    """Something answers at this address, and it is not etcd's client port. It did not happen."""


class StoreNoSpaceError(StoreError):
    """etcd's database is full: it refuses to write. It did not happen.

    https://etcd.io/docs/v3.5/op-guide/maintenance/#space-quota
    """


class LeaseNotFoundError(StoreError):
    """The lease ended or was revoked. It did not happen."""
