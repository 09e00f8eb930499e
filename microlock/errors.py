"""All errors of microlock, in one tree.

    MicrolockError
    ├── InvalidArgumentError            also a ValueError; nothing was sent
    │   ├── KeyRequiredError
    │   ├── NodeIdRequiredError
    │   ├── InvalidTtlError
    │   └── ClientRequiredError
    ├── AlreadyLockedError              another object, or this one, holds the lock: .holder
    ├── LockNotOwnedError               this object does not hold the lock: .holder
    │   └── LockLostError               this object held the lock and lost it: .reason
    ├── LockUncertainError              it is unknown whether the lock is held
    ├── LockCancelledError              cancel() ended the wait for the lock
    ├── DestroyedError                  the lock was destroyed, or its client closed
    ├── ForkedError                     the client was made before os.fork(), used in the child
    └── StoreError                      a request to etcd failed: .may_have_happened
        ├── StoreUnavailableError       no member answered; temporary
        │   └── StoreTimeoutError       no answer in time; temporary, also a TimeoutError
        ├── StoreAuthenticationError    etcd refused the user, password or token
        ├── StorePermissionError        the user may not access this key
        ├── StoreTlsError               certificates or TLS settings do not match
        ├── WrongServerError            the server at this address is not etcd
        ├── StoreNoSpaceError           etcd's database is full
        └── LeaseNotFoundError          the lease has expired or was revoked

Each error carries the data that a handler needs. Its docstring says whether the operation happened.
"""

from __future__ import annotations

import copy
import enum
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from microlock.core.queue import Holder


class LossReason(enum.Enum):
    """Why a hold was lost."""

    EXPIRED = "the deadline passed without a renewal"
    DELETED = "the entry is gone from etcd"
    LEASE_GONE = "its lease was revoked, or ended early"
    REFUSED = "etcd refused to renew it, and the deadline passed"
    FORKED = "this process is a fork: the hold belongs to the parent"


class MicrolockError(Exception):
    """The base class of all errors of this package."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception.__reduce__ calls the class with the message alone; most classes need more.
        return _again, (type(self), self.args), self.__dict__


def _again(kind: type[MicrolockError], args: tuple[Any, ...]) -> MicrolockError:
    """Unpickles an error."""
    error = kind.__new__(kind)
    error.args = args
    return error


class InvalidArgumentError(MicrolockError, ValueError):
    """An argument is wrong; the message names it and its value. Nothing was sent."""


class KeyRequiredError(InvalidArgumentError):
    """`key` must be a non-empty str without NUL, at most 4 KiB in UTF-8."""


class NodeIdRequiredError(InvalidArgumentError):
    """`node_id` must be a non-empty str without NUL, at most 4 KiB in UTF-8."""


class InvalidTtlError(InvalidArgumentError):
    """`ttl` must be a number of seconds, 0 < ttl <= 9,000,000,000."""


class ClientRequiredError(InvalidArgumentError):
    """`etcd` must be a client from `connect()`, or one of python-etcd3 or etcd-sdk-python."""


class AlreadyLockedError(MicrolockError):
    """The lock is held, by another object or by this one. Nothing was changed.

    Attributes:
        key: the name of the lock.
        holder: the `Holder` of the lock.
    """

    def __init__(self, key: str, holder: Holder, *, whose: str = "") -> None:
        super().__init__(f"{key!r} is locked by {holder}{whose and f' ({whose})'}")
        self.key = key
        self.holder = holder


class LockNotOwnedError(MicrolockError):
    """This object does not hold the lock. Nothing was changed.

    Of an object that has never called `lock()`: its node does not hold the lock.

    Attributes:
        key: the name of the lock.
        node_id: the node id of this object.
        holder: the holder of the lock, if the call read it from etcd; else None.
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
    """The hold ended before `unlock()`. Another node may hold the lock by now.

    Attributes:
        reason: the `LossReason`.
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
        why: str = reason.value
        if reason is LossReason.EXPIRED and ttl:
            cure = "call renew() in time, or use auto_renew=True"
            if auto_renew:
                cure = "etcd did not answer, this process was paused, or max_hold was over"
            why = f"the ttl of {ttl} s passed without a renewal ({cure})"
        super().__init__(key, node_id)
        self.args = (f"{node_id!r} lost the lock {key!r}: {why}. Another node may hold it now",)
        self.reason = reason


class LockUncertainError(MicrolockError):
    """It is unknown whether the lock is held: etcd does not answer, or the client was closed.

    The operation may have happened, or may still happen, and could not be undone. This object holds
    nothing, and never uses that lease again. An entry that is left in etcd ends with the lease: at
    most `ttl` seconds after etcd applied the operation, or later if etcd elects a leader meanwhile.
    Another thread tries once more to revoke the lease, which ends the entry earlier.

    Attributes:
        key: the name of the lock.
        node_id: the node id of this object.
        lease_id: the lease in doubt.
    """

    def __init__(self, key: str, node_id: str, lease_id: int, why: object) -> None:
        super().__init__(
            f"{node_id!r} does not hold {key!r}, "
            f"but lease {lease_id:x} may keep it locked for up to a ttl: {why}"
        )
        self.key = key
        self.node_id = node_id
        self.lease_id = lease_id


class LockCancelledError(MicrolockError):
    """`cancel()` ended the wait for the lock. Nothing is held, and no entry is left in etcd.

    The event `failed` has it also where an interrupt or the cancellation of its task ended a
    `lock()`, which raises that.

    Attributes:
        key: the name of the lock.
        node_id: the node id of this object.
    """

    def __init__(self, key: str, node_id: str) -> None:
        super().__init__(f"cancel() ended the wait of {node_id!r} for the lock {key!r}")
        self.key = key
        self.node_id = node_id


class DestroyedError(MicrolockError):
    """The lock was destroyed, or its client was closed. Nothing was sent.

    If the client was closed while the lock was held, the lock is free when its ttl ends.
    """


class ForkedError(MicrolockError):
    """The client was made before `os.fork()`; the child process needs its own. Nothing was sent."""


class StoreError(MicrolockError):
    """etcd refused a request, or could not be reached.

    Attributes:
        key: the name of the lock that the call was for. The text begins with it; `args` does not
            have it. None: the call was for no lock.
        may_have_happened: False: etcd has certainly not done it. True: the request was sent and its
            outcome is unknown; etcd may have done it, or may still do it.
    """

    key: str | None = None

    def __init__(self, message: str, *, may_have_happened: bool = False) -> None:
        super().__init__(message)
        self.may_have_happened = may_have_happened

    def __str__(self) -> str:
        text = super().__str__()
        return text if self.key is None else f"{self.key!r}: {text}"

    def about(self, key: str) -> StoreError:
        """The same error of a call on this lock. A copy, since calls on several locks may get one
        error: of a common login, or of a watch."""
        if self.key is not None:
            return self
        mine = copy.copy(self)
        mine.key = key
        return mine


@contextmanager
def about(key: str) -> Iterator[None]:
    """A `with` block whose StoreErrors name this lock."""
    try:
        yield
    except StoreError as error:
        raise error.about(key) from error.__cause__


class StoreUnavailableError(StoreError):
    """No member of etcd answered, or none has a leader. Temporary: try again."""


class StoreTimeoutError(StoreUnavailableError, TimeoutError):
    """No answer within the timeout. Temporary: try again."""


class StoreAuthenticationError(StoreError):
    """etcd refused the user, the password or the token. The operation did not happen."""


class StorePermissionError(StoreError):
    """The user may not read or write this key. The operation did not happen."""


class StoreTlsError(StoreError):
    """TLS failed: unknown CA, missing or refused certificate. The operation did not happen."""


class WrongServerError(StoreError):
    """The server at this address is not etcd's client port. The operation did not happen."""


class StoreNoSpaceError(StoreError):
    """etcd's database is full: it refuses to write. The operation did not happen.

    https://etcd.io/docs/v3.5/op-guide/maintenance/#space-quota
    """


class LeaseNotFoundError(StoreError):
    """The lease has expired or was revoked. The operation did not happen."""
