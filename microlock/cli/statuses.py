"""Exit statuses, and which error has which: of sysexits.h where it has one, else as of a shell."""

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
