"""microlock: a distributed lock on etcd v3.

    from socket import gethostname
    from microlock import AlreadyLockedError, Microlock, connect

    foo = Microlock(connect("localhost:2379"), "foo", gethostname(), ttl=5)
    hold = foo.lock()

`microlock.etcd3` is python-etcd3, made to work with the protobuf that is installed.
"""

from __future__ import annotations

from types import ModuleType

from microlock import events
from microlock.core.hold import Guard, Hold, State
from microlock.core.queue import Holder
from microlock.errors import (
    AlreadyLockedError,
    ClientRequiredError,
    DestroyedError,
    ForkedError,
    InvalidArgumentError,
    InvalidTtlError,
    KeyRequiredError,
    LeaseNotFoundError,
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
from microlock.lock import Microlock
from microlock.manager import LockManager

__all__ = [
    "AlreadyLockedError",
    "ClientRequiredError",
    "DestroyedError",
    "EtcdClient",
    "ForkedError",
    "Guard",
    "Hold",
    "Holder",
    "InvalidArgumentError",
    "InvalidTtlError",
    "KeyRequiredError",
    "LeaseNotFoundError",
    "LockEvent",
    "LockLostError",
    "LockManager",
    "LockNotOwnedError",
    "LockUncertainError",
    "LossReason",
    "Microlock",
    "MicrolockError",
    "NodeIdRequiredError",
    "State",
    "StoreAuthenticationError",
    "StoreError",
    "StoreNoSpaceError",
    "StorePermissionError",
    "StoreTimeoutError",
    "StoreTlsError",
    "StoreUnavailableError",
    "WrongServerError",
    "connect",
    "events",
]


def __getattr__(name: str) -> ModuleType:
    if name == "etcd3":  # not imported before it is asked for: most users have no need of it
        from microlock.etcd.python_etcd3 import load

        return load()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
