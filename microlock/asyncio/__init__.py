"""microlock for asyncio: the same names as in `microlock`, awaited.

    from socket import gethostname
    from microlock import connect
    from microlock.asyncio import Microlock

    foo = Microlock(connect("localhost:2379"), "foo", gethostname(), ttl=5)
    hold = await foo.lock()

The errors, the events and `connect()` are those of `microlock`: one client serves threads and any
number of loops.
"""

from microlock.asyncio.election import Election
from microlock.asyncio.kinds import MultiLock, ReadLock, Semaphore, WriteLock
from microlock.asyncio.lock import Microlock
from microlock.asyncio.manager import LockManager

__all__ = [
    "Election",
    "LockManager",
    "Microlock",
    "MultiLock",
    "ReadLock",
    "Semaphore",
    "WriteLock",
]
