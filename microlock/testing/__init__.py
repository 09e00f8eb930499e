"""Tests of applications with locks, in milliseconds and without a server.

    from microlock import Microlock
    from microlock.testing import MemoryStore

    with MemoryStore() as store:
        foo = Microlock(store.connect(), "foo", "node-a", ttl=5)
        foo.lock()
        store.advance(5)
        assert not foo.held

For pytest, the fixture `microlock_store` is such a store, and `microlock_etcd` is a real etcd.
"""

from microlock.testing.clock import TurnedClock
from microlock.testing.faults import Fault
from microlock.testing.store import MemoryStore

__all__ = ["Fault", "MemoryStore", "TurnedClock"]
