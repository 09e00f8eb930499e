"""A client on asyncio loops. Its calls do not block them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from microlock.core.retry import Budget
from microlock.engine.awaiting import wait

if TYPE_CHECKING:
    from microlock.engine.client import AsyncStore, Client


class Loops:
    """The loops that a client is used on."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[asyncio.AbstractEventLoop, LoopClient] = {}

    def here(self) -> LoopClient:
        """The client on the running loop."""
        loop = asyncio.get_running_loop()
        known = self._known.get(loop)
        if known is None:
            for each in [each for each in list(self._known) if each.is_closed()]:
                if ended := self._known.pop(each, None):
                    ended.dropped()
            known = self._known[loop] = LoopClient(
                self._client, partial(self._known.pop, loop, None)
            )
        return known

    def close(self) -> None:
        """From any thread."""
        for loop, each in list(self._known.items()):
            with suppress(RuntimeError):  # it has ended
                loop.call_soon_threadsafe(each.close)


class LoopClient:
    """A client on one loop, until that ends.

    Attributes:
        calls: callbacks of the running calls of locks. If the loop was closed in the middle of a
            call, its callback is called, on any thread.
    """

    def __init__(self, client: Client, forget: Callable[[], object]) -> None:
        self._client = client
        self._forget = forget
        self._store: AsyncStore = client.store.on_loop()
        self.calls: dict[Callable[[], object], None] = {}  # a set in order
        self._requests = 0  # the number of running requests
        self._ending: AsyncGenerator[None, None] | None = None
        self._ends = False  # the loop is ending
        self._last: set[asyncio.Task[None]] = set()

    async def perform(self, request: Any, budget: Budget) -> Any:
        """As `Client.perform`."""
        if self._ending is None:
            self._ending = self._until_the_loop_ends()
            await anext(self._ending)
        self._requests += 1
        try:
            client = self._client
            return await client.persist(request, budget, self._attempt, self._pause, client.timeout)
        finally:
            self._requests -= 1
            if self._ends:
                self._disconnect()

    def _attempt(
        self, member: str, request: Any, *, timeout: float, repeated: bool
    ) -> Awaitable[Any]:
        self._client.check()
        return self._store.attempt(member, request, timeout=timeout, repeated=repeated)

    def _pause(self, seconds: float) -> Awaitable[None]:
        clock = self._client.clock
        return wait(self._client.closed, clock.now() + seconds, clock)

    async def _until_the_loop_ends(self) -> AsyncGenerator[None, None]:
        """`asyncio.run()` closes this generator before the loop, which connections must not
        outlive."""
        try:
            yield
        finally:
            self._ends = True
            for each in self._last:
                each.cancel()
            # The user's generators are closed at the same time, and may give locks back.
            await asyncio.sleep(0)
            self._disconnect()
            await asyncio.sleep(0)  # in which the transports are closed

    def start(self, run: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None] | None:
        """Starts a task that ends with the loop, also after `asyncio.run()` has begun to end it.
        None: it is too late."""
        if self._ends:
            return None
        task = asyncio.get_running_loop().create_task(run())
        self._last.add(task)
        task.add_done_callback(self._last.discard)
        return task

    def _disconnect(self) -> None:
        """Closes the connections; a later request makes a new one."""
        if not self._requests:
            with suppress(RuntimeError):  # the loop was closed in the middle of a request
                self._store.close()
            self._store = self._client.store.on_loop()

    def close(self) -> None:
        """On its loop."""
        self._forget()
        self._store.close()

    def dropped(self) -> None:
        """The loop was closed without ending this first."""
        for each in list(self.calls):
            each()
