"""A store in memory with a clock that a test turns, and faults on demand."""

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
    """A simulated etcd in this process. Its time passes only when a test says so.

    The locks are the real ones; only their store and their clock are simulated. When a call of a
    lock or of this store returns, all its consequences are done, and its handlers have run.

    Use it as a context manager, or call `close()`.

    Args:
        clock: the clock of another store, if a test uses two. None: a new one.

    Attributes:
        clock: the clock of the leases and of the locks.
        endpoint: an address for `microlock.connect()`, for an application that calls that.
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
        """Closes the clients that `connect()` of this object made. A second call does nothing."""
        for client in self._clients:
            client.close()

    def connect(self, *, timeout: float = 5.0) -> Client:
        """Makes a client, as `microlock.connect(store.endpoint)` does: one for each node of a test.

        Args:
            timeout: seconds > 0 that each call of a lock may take, by the clock of the store.
        """
        client = connect(self.endpoint, timeout=check_duration("timeout", timeout))
        self._clients.append(client)
        return client

    # Time.

    def advance(self, seconds: float) -> None:
        """Lets time pass, and does everything that falls due meanwhile, in order.

        Leases end, deadlines pass, holds are renewed, handlers are called, before this returns.

        Args:
            seconds: 0 or more; 0 does what is due now.

        Raises:
            TimeoutError: something takes longer than 10 s of real time, such as a handler that
                waits for something that never comes.
        """
        self.clock.advance(seconds)

    async def advance_async(self, seconds: float) -> None:
        """As `advance()`, for a task: the other tasks of its loop go on meanwhile."""
        await self.clock.advance_async(seconds)

    async def until(self, awaitable: Awaitable[T]) -> T:
        """Lets time pass until the awaitable is done, and returns its result.

        Use it for a call that waits: nothing turns the clock while the task awaits the call.

        Raises:
            TimeoutError: nothing that falls due ends the wait.
        """
        return await self.clock.until(awaitable)

    # Faults.

    def unavailable(self) -> Fault:
        """No client reaches the store, and watches break, until the fault ends."""
        fault = self._network.fail("unavailable")
        self.clock.settle()
        return fault

    def slow(self, seconds: float) -> Fault:
        """Each reply takes so many seconds, until the fault ends.

        If a client's timeout is shorter, the store has done the request, and the client does not
        know.
        """
        return self._network.fail("slow", seconds=check_duration("seconds", seconds))

    def lose_reply(self, *, times: int | None = 1) -> Fault:
        """The store does the next request, but its reply is lost.

        Args:
            times: the number of requests; None: all until the fault ends.
        """
        return self._network.fail("lost reply", times=_times(times))

    def lose_request(self, *, times: int | None = 1) -> Fault:
        """The next request does not reach the store, and the client does not know.

        Args:
            times: the number of requests; None: all until the fault ends.
        """
        return self._network.fail("lost request", times=_times(times))

    def no_space(self) -> Fault:
        """The store is full: it refuses to write, but still renews and deletes."""
        return self._network.fail("no space")

    def compact(self) -> None:
        """The store forgets the history until now, as etcd's compaction does.

        A running watch misses nothing. A watch that is broken now can't be resumed.
        """
        state = self._memory.state
        if state.revision > state.compacted:
            self._memory.change(lambda state: state.compact(state.revision))

    def revoke(self, what: object) -> None:
        """Revokes a lease, as an operator may, which deletes its entry.

        Args:
            what: a lock that is held, a `Hold`, or a lease id.

        Raises:
            InvalidArgumentError: `what` is none of these, or the lock is not held.
        """
        hold = getattr(what, "hold", what)
        lease_id = hold.lease_id if isinstance(hold, Hold) else hold
        if isinstance(lease_id, bool) or not isinstance(lease_id, int):
            raise InvalidArgumentError(
                f"what must be a held lock, a Hold or a lease id, not {what!r}"
            )
        self._memory.change(lambda state: state.apply(Revoke(lease_id)))
        self.clock.settle()

    def backup(self) -> State:
        """The present content of the store, for `restore()`."""
        return self._memory.change(State.copy)

    def restore(self, backup: State) -> None:
        """Goes back to an earlier content, with its revisions, as an etcd that was restored."""
        self._memory.restore(backup)
        self.clock.settle()

    # Keys beside the locks.

    def get(self, key: str) -> bytes | None:
        """The value of a key, such as one that a guarded transaction put; None: no such key."""
        kv = self._memory.change(lambda state: state.keys.get(key.encode()))
        return kv.value if kv else None

    def put(self, key: str, value: str | bytes) -> None:
        """Puts a key, as another client would."""
        data = value.encode() if isinstance(value, str) else value
        self._memory.change(lambda state: state.put(key.encode(), data))
        self.clock.settle()


def _times(times: int | None) -> float:
    return math.inf if times is None else check_int("times", times, 1)
