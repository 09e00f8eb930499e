"""microlock for asyncio: the same names as in `microlock`, with `await`.

    from socket import gethostname
    from microlock.asyncio import AlreadyLockedError, Microlock, connect

    foo = Microlock(connect("localhost:2379"), "foo", gethostname(), ttl=5)
    hold = await foo.lock()

The errors, the events and `connect()` are those of `microlock`. One client serves threads and any
number of event loops.
"""

from microlock import events
from microlock.asyncio.election import Election
from microlock.asyncio.kinds import MultiLock, ReadLock, Semaphore, WriteLock
from microlock.asyncio.lock import Microlock
from microlock.asyncio.manager import LockManager
from microlock.core.hold import Guard, Hold, State
from microlock.core.queue import Holder, Leader, LockStatus
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
