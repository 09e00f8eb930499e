"""A store in memory with a clock that one turns, and faults on demand."""

from __future__ import annotations

import math
from collections.abc import Awaitable
from itertools import count
from types import TracebackType
from typing import TypeVar

from microlock.core.hold import Hold
from microlock.core.keys import check_duration, check_int
from microlock.core.port import Revoke
from microlock.engine.client import Client
from microlock.errors import InvalidArgumentError
from microlock.memory.connect import connect, publish
from microlock.memory.state import State
from microlock.memory.store import Memory
from microlock.testing.clock import TurnedClock
from microlock.testing.faults import Fault, Network

T = TypeVar("T")
S = TypeVar("S", bound="MemoryStore")

_numbers = count(1)


class MemoryStore:
    """An etcd in this process, whose time passes when a test says so.

    Locks on it are real ones; only the store, and the clock of all that they do, is the test's.
    What a test does comes to its end before the next line: when a call of a lock or of the store
    returns, all events of it have been told.

    Use it as a context manager, or call `close()`.

    Args:
        clock: that of another store, for two stores of one test. None: one of its own.

    Attributes:
        clock: what leases end by, and locks go by.
        endpoint: for `microlock.connect()`, where the application under test calls that.
    """

    def __init__(self, *, clock: TurnedClock | None = None) -> None:
        if clock is not None and not isinstance(clock, TurnedClock):
            raise InvalidArgumentError(f"clock must be a TurnedClock, not {clock!r}")
        self.clock = clock or TurnedClock()
        self.endpoint = f"memory://test-{next(_numbers)}"
        self._memory = Memory(self.endpoint, clock=self.clock)
        self._network = Network(self._memory, self.clock)
        self._clients: list[Client] = []
        publish(self.endpoint, self._network)

    def __repr__(self) -> str:
        return f"<MemoryStore {self.endpoint} at {self.clock.now():g} s>"

    def __enter__(self: S) -> S:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the clients that `connect()` of this object has made. Twice is fine."""
        for client in self._clients:
            client.close()

    def connect(self, *, timeout: float = 5.0) -> Client:
        """A client, as `microlock.connect(store.endpoint)` makes it: one for each node under test.

        Args:
            timeout: seconds > 0, by the clock of the store, that each call of a lock may take.
        """
        client = connect(self.endpoint, timeout=check_duration("timeout", timeout))
        self._clients.append(client)
        return client

    # Time.

    def advance(self, seconds: float) -> None:
        """Lets time pass. All that falls due meanwhile is done when this returns, in its order:
        leases end, deadlines pass, holds are renewed, handlers are called.

        Args:
            seconds: 0 or more; with 0 what is due now is done.

        Raises:
            TimeoutError: something is not done after 10 s by the clock of the system, such as a
                handler that waits for what never comes.
        """
        self.clock.advance(seconds)

    async def advance_async(self, seconds: float) -> None:
        """As `advance()`, for a task: the other tasks of its loop go on meanwhile."""
        await self.clock.advance_async(seconds)

    async def until(self, awaitable: Awaitable[T]) -> T:
        """Lets time pass until this is done, and returns what it returns: for a call that waits by
        the clock, which nobody turns while a task awaits it.

        Raises:
            TimeoutError: nothing that falls due ends it.
        """
        return await self.clock.until(awaitable)

    # What goes wrong.

    def unavailable(self) -> Fault:
        """Nobody reaches the store, and what is watched breaks off, until the fault ends."""
        fault = self._network.fail("unavailable")
        self.clock.settle()
        return fault

    def slow(self, seconds: float) -> Fault:
        """Each reply takes so many seconds, until the fault ends. What takes longer than a client
        has patience was done all the same, and the client does not know."""
        return self._network.fail("slow", seconds=check_duration("seconds", seconds))

    def lose_reply(self, *, times: int | None = 1) -> Fault:
        """The store does what is asked next, and the reply is lost.

        Args:
            times: how often; None: until the fault ends.
        """
        return self._network.fail("lost reply", times=_times(times))

    def lose_request(self, *, times: int | None = 1) -> Fault:
        """What is asked next does not reach the store, and the client does not know.

        Args:
            times: how often; None: until the fault ends.
        """
        return self._network.fail("lost request", times=_times(times))

    def no_space(self) -> Fault:
        """The store has no room: it refuses to write, and renews and deletes all the same."""
        return self._network.fail("no space")

    def compact(self) -> None:
        """The store forgets what happened so far. A watch that runs misses nothing by that; one
        that broke off before can't be resumed."""
        state = self._memory.state
        if state.revision > state.compacted:
            self._memory.change(lambda state: state.compact(state.revision))

    def revoke(self, what: object) -> None:
        """Ends a lease before its time, as an operator may, and deletes its entry.

        Args:
            what: a lock that is held, a `Hold`, or the id of a lease.

        Raises:
            InvalidArgumentError: it is none of these, or the lock is not held.
        """
        hold = getattr(what, "hold", what)
        lease_id = hold.lease_id if isinstance(hold, Hold) else hold
        if isinstance(lease_id, bool) or not isinstance(lease_id, int):
            raise InvalidArgumentError(f"nothing that has a lease: {what!r}")
        self._memory.change(lambda state: state.apply(Revoke(lease_id)))
        self.clock.settle()

    def backup(self) -> State:
        """What it holds now, for `restore()`."""
        return self._memory.change(State.copy)

    def restore(self, backup: State) -> None:
        """Goes back to what it held then, as an etcd that was restored: revisions too."""
        self._memory.restore(backup)
        self.clock.settle()

    # Keys beside the locks.

    def get(self, key: str) -> bytes | None:
        """The value of a key, such as one that a guarded transaction has put; None: no such key."""
        kv = self._memory.change(lambda state: state.keys.get(key.encode()))
        return kv.value if kv else None

    def put(self, key: str, value: str | bytes) -> None:
        """Somebody puts a key."""
        data = value.encode() if isinstance(value, str) else value
        self._memory.change(lambda state: state.put(key.encode(), data))
        self.clock.settle()


def _times(times: int | None) -> float:
    return math.inf if times is None else check_int("times", times, 1)
