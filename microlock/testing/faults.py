"""Faults on demand, between a store in memory and its clients."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty
from types import TracebackType
from typing import Any

from microlock.core.port import Enter, Grant, Join, Move, Request, Transaction
from microlock.engine.awaiting import wait
from microlock.engine.client import Sink
from microlock.engine.reentrant_event import ReentrantEvent
from microlock.errors import StoreNoSpaceError, StoreTimeoutError, StoreUnavailableError
from microlock.memory.store import Memory, timed
from microlock.memory.watching import MemoryWatching
from microlock.testing.clock import TurnedClock

# The requests that etcd refuses when its database is full.
_TAKES_SPACE = Enter | Join | Move | Grant

# Seconds, by the clock of the system, that a request waits for earlier work to be done.
_PATIENCE = 1.0


@dataclass
class Fault:
    """A fault, until `end()` or the end of a `with` block.

    Attributes:
        left: the number of requests that it will still hit.
        seconds: how long each reply takes.
    """

    kind: str
    left: float
    seconds: float
    _ended: Callable[[Fault], None]

    def end(self) -> None:
        """Ends the fault. A second call does nothing."""
        self._ended(self)

    def __enter__(self) -> Fault:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()


class Network:
    """A `microlock.engine.client.Store`: the one in memory, and the network to it.

    When a request returns, all its consequences are done, and those of earlier requests.
    """

    answered = True

    def __init__(self, memory: Memory, clock: TurnedClock) -> None:
        self.memory = memory
        self.clock = clock
        self._faults: list[Fault] = []

    @property
    def members(self) -> tuple[str, ...]:
        return (self.memory.address,)

    def fail(self, kind: str, *, times: float = math.inf, seconds: float = 0.0) -> Fault:
        fault = Fault(kind, times, seconds, self._ended)
        self._faults.append(fault)
        if kind == "unavailable":
            self.memory.break_watches(self._away())
        return fault

    def _ended(self, fault: Fault) -> None:
        with suppress(ValueError):
            self._faults.remove(fault)

    def _meets(self, kind: str) -> Fault | None:
        for fault in self._faults:
            if fault.kind == kind and fault.left > 0:
                fault.left -= 1
                return fault
        return None

    def attempt(
        self, member: str, request: Request | Transaction, *, timeout: float, repeated: bool
    ) -> Any:
        self.clock.enter()
        self.clock.settled(_PATIENCE)
        try:
            attempt = self._attempt(member, request, timeout, repeated=repeated)
            try:
                while True:
                    self._wait(next(attempt))
            except StopIteration as answered:
                return answered.value
        finally:
            self.clock.settled(_PATIENCE)

    def on_loop(self) -> NetworkOnLoop:
        return NetworkOnLoop(self)

    def _attempt(
        self, member: str, request: Request | Transaction, timeout: float, *, repeated: bool
    ) -> Generator[float, None, Any]:
        """Yields seconds to wait, and returns the reply."""
        if self._meets("unavailable"):
            raise self._away()
        if self._meets("lost request"):
            raise StoreUnavailableError(f"{member}: the request was lost", may_have_happened=True)
        puts = isinstance(request, Transaction) and request.puts
        if (puts or isinstance(request, _TAKES_SPACE)) and self._meets("no space"):
            raise StoreNoSpaceError(f"{member}: database space exceeded")
        sent = self.clock.now()
        reply = self.memory.attempt(member, request, timeout=timeout, repeated=repeated)
        if slow := self._meets("slow"):
            yield min(slow.seconds, timeout)
            if slow.seconds > timeout:
                raise StoreTimeoutError(f"{member} did not answer in time", may_have_happened=True)
            reply = timed(reply, sent, self.clock.now())
        if self._meets("lost reply"):
            raise StoreUnavailableError(f"{member}: the reply was lost", may_have_happened=True)
        return reply

    def _wait(self, seconds: float) -> None:
        with suppress(Empty):
            self.clock.inbox().get(timeout=seconds)

    def open_watch(self, member: str, sink: Sink, *, timeout: float) -> MemoryWatching:
        self.clock.enter()
        if self._meets("unavailable"):
            raise self._away()
        return self.memory.open_watch(member, sink, timeout=timeout)

    def _away(self) -> StoreUnavailableError:
        return StoreUnavailableError(f"{self.memory.address} is unavailable")

    def close(self) -> None:
        """A client is closed."""


class NetworkOnLoop:
    """The same for the tasks of an event loop."""

    def __init__(self, network: Network) -> None:
        self._network = network

    async def attempt(
        self, member: str, request: Request | Transaction, *, timeout: float, repeated: bool
    ) -> Any:
        clock = self._network.clock
        clock.settled(_PATIENCE)
        attempt = self._network._attempt(member, request, timeout, repeated=repeated)
        try:
            while True:
                await wait(ReentrantEvent(), clock.now() + next(attempt), clock)
        except StopIteration as answered:
            return answered.value
        finally:
            clock.settled(_PATIENCE)

    def close(self) -> None: ...
