"""Exit statuses, and the status of each error: from sysexits.h if it has one, else a shell's."""

from __future__ import annotations

from microlock.errors import (
    AlreadyLockedError,
    InvalidArgumentError,
    LockNotOwnedError,
    LockUncertainError,
    MicrolockError,
    StoreError,
)

FAILED = 1
USAGE = 2  # click's
UNAVAILABLE = 69
NOT_OBTAINED = 75
LOST = 76
NOT_EXECUTABLE = 126
NOT_FOUND = 127


def status_of(error: MicrolockError) -> int:
    match error:
        case InvalidArgumentError():
            return USAGE
        case AlreadyLockedError():
            return NOT_OBTAINED
        case LockNotOwnedError():
            return LOST
        case StoreError() | LockUncertainError():
            return UNAVAILABLE
    return FAILED
