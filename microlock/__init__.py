"""microlock: a distributed lock on etcd v3.

    from socket import gethostname
    from microlock import AlreadyLockedError, Microlock, connect

    foo = Microlock(connect("localhost:2379"), "foo", gethostname(), ttl=5)
    hold = foo.lock()

`microlock.etcd3` is python-etcd3, patched to work with the installed protobuf.
"""

from __future__ import annotations

from typing import Any

from microlock import events
from microlock.core.hold import Guard, Hold, State
from microlock.core.queue import Holder, Leader, LockStatus
from microlock.election import Election
from microlock.engine.client import Client
from microlock.errors import (
    AlreadyLockedError,
    ClientRequiredError,
    DestroyedError,
    ForkedError,
    InvalidArgumentError,
    InvalidTtlError,
    KeyRequiredError,
    LeaseNotFoundError,
    LockCancelledError,
    LockLostError,
    LockNotOwnedError,
    LockUncertainError,
    LossReason,
    MicrolockError,
    NodeIdRequiredError,
    StoreAuthenticationError,
    StoreError,
    StoreNoSpaceError,
    StorePermissionError,
    StoreTimeoutError,
    StoreTlsError,
    StoreUnavailableError,
    WrongServerError,
)
from microlock.etcd.client import EtcdClient
from microlock.etcd.connect import connect
from microlock.events import LockEvent
from microlock.kinds import MultiLock, ReadLock, Semaphore, WriteLock
from microlock.lock import Microlock
from microlock.manager import LockManager

__all__ = [
    "AlreadyLockedError",
    "Client",
    "ClientRequiredError",
    "DestroyedError",
    "Election",
    "EtcdClient",
    "ForkedError",
    "Guard",
    "Hold",
    "Holder",
    "InvalidArgumentError",
    "InvalidTtlError",
    "KeyRequiredError",
    "Leader",
    "LeaseNotFoundError",
    "LockCancelledError",
    "LockEvent",
    "LockLostError",
    "LockManager",
    "LockNotOwnedError",
    "LockStatus",
    "LockUncertainError",
    "LossReason",
    "Microlock",
    "MicrolockError",
    "MultiLock",
    "NodeIdRequiredError",
    "ReadLock",
    "Semaphore",
    "State",
    "StoreAuthenticationError",
    "StoreError",
    "StoreNoSpaceError",
    "StorePermissionError",
    "StoreTimeoutError",
    "StoreTlsError",
    "StoreUnavailableError",
    "WriteLock",
    "WrongServerError",
    "connect",
    "events",
]


__version__: str


# Imported at first use: most users do not need them.
def __getattr__(name: str) -> Any:
    if name == "etcd3":
        from microlock.etcd.python_etcd3 import load

        return load()
    if name == "__version__":
        from importlib.metadata import version

        return version("microlock")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
