"""The store in memory: one state, and all clients, threads and watches on it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from microlock.core.port import Entered, Joined, Left, Lifetime, Moved, Request, Transaction
from microlock.engine.client import Sink
from microlock.engine.clock import REAL, Clock
from microlock.errors import StoreError, StoreUnavailableError
from microlock.memory.expiry import Expiry
from microlock.memory.state import State
from microlock.memory.watching import MemoryWatching, Watches

T = TypeVar("T")


class Memory:
    """A `microlock.engine.client.Store`, for any number of clients.

    Attributes:
        address: its address for `connect()`.
        clock: the clock of its leases and of its clients.
        state: its content; guarded by `lock`.
        lock: reentrant, because a signal handler may make a request in the middle of another.
    """

    answered = True

    def __init__(self, address: str, *, clock: Clock = REAL) -> None:
        self.address = address
        self.clock = clock
        self.lock = threading.RLock()
        self.state = State(now=clock.now())
        self._watches = Watches(self.state)
        self._expiry = Expiry(self)

    @property
    def members(self) -> Sequence[str]:
        return (self.address,)

    @property
    def watched(self) -> bool:
        """Whether there is a watch stream."""
        return bool(self._watches.streams)

    def attempt(
        self, member: str, request: Request | Transaction, *, timeout: float, repeated: bool
    ) -> Any:
        reply = self.change(lambda state: state.apply(request))
        return of_another_copy(reply) if repeated else reply

    def change(self, act: Callable[[State], T]) -> T:
        """Applies `act` to the state as of now, and passes the changes to the watches."""
        with self.lock:
            try:
                self.state.go_to(self.clock.now())
                result = act(self.state)
            finally:  # also if it is interrupted
                self._watches.tell()
        self._expiry.plan()
        return result

    def open_watch(self, member: str, sink: Sink, *, timeout: float) -> MemoryWatching:
        return MemoryWatching(self, self._watches, sink)

    def break_watches(self, error: StoreError) -> None:
        """Ends all watch streams."""
        with self.lock:
            self._watches.break_all(error)

    def restore(self, state: State) -> None:
        """Takes the content of that state, as from a backup, and ends all watch streams."""
        with self.lock:
            self.state.restore(state)
            self._watches.restart(StoreUnavailableError(f"{self.address} was restored"))
        self._expiry.plan()

    def on_loop(self) -> MemoryOnLoop:
        return MemoryOnLoop(self)

    def close(self) -> None:
        """A client is closed; its watches are closed already."""


class MemoryOnLoop:
    """The same for an asyncio loop: no request takes long enough to block it."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    async def attempt(
        self, member: str, request: Request | Transaction, *, timeout: float, repeated: bool
    ) -> Any:
        await asyncio.sleep(0)  # or a task that locks and unlocks would block the other tasks
        return self._memory.attempt(member, request, timeout=timeout, repeated=repeated)

    def close(self) -> None: ...


def of_another_copy(reply: Any) -> Any:
    """The reply, if an earlier copy of the request had none."""
    return replace(reply, repeated=True) if isinstance(reply, _COPIED) else reply


_COPIED = Entered | Joined | Left | Moved


def timed(reply: Any, sent: float, at: float) -> Any:
    """The reply with the times of the client."""
    match reply:
        case Lifetime():
            return replace(reply, sent=sent, at=at)
        case Entered() | Joined() | Left() | Moved():
            return replace(reply, at=at)
        case Mapping():
            return {name: timed(each, sent, at) for name, each in reply.items()}
    return reply
