"""Running users' handlers on a loop of asyncio: those of one lock in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from microlock.engine.awaiting import heed, wait
from microlock.engine.clock import now
from microlock.engine.handlers import PATIENCE
from microlock.engine.loop_client import Loops
from microlock.engine.reentrant_event import ReentrantEvent
from microlock.errors import DestroyedError

if TYPE_CHECKING:
    from microlock.engine.client import Client

_Job = Callable[[], Sequence[Coroutine[Any, Any, None]]]


class LoopRunner:
    """Runs the handlers of one lock; see `microlock.engine.emitter`.

    They run on the first loop that the lock is used on, until that ends.
    """

    __slots__ = ("_client", "_jobs", "_loop", "_running", "_task")

    awaits = True

    def __init__(self, client: Client) -> None:
        self._client = client
        self._jobs: deque[_Job] | None = None  # until there is one
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._running: asyncio.Task[Any] | None = None  # the same, in its steps

    @property
    def here(self) -> bool:
        """Whether the task that asks runs a handler of this lock."""
        if self._running is None:
            return False
        with suppress(RuntimeError):  # no loop runs here
            return asyncio.current_task() is self._running
        return False

    def bind(self) -> None:
        """Has them run on the running loop, if they have none."""
        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.get_running_loop()
            self._task = self._running = None
            self._start()

    def submit(self, job: _Job) -> None:
        if self._jobs is None:
            self._jobs = deque()
        self._jobs.append(job)
        if self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._start)
            except RuntimeError:  # it has ended, and so have those who wanted to know
                self._jobs = None

    def _start(self) -> None:
        if self._jobs and (self._task is None or self._task.done()):
            try:
                self._task = self._client.one(Loops).here().start(self._run)
            except DestroyedError:  # the client is closed: what it told before is told
                self._task = asyncio.get_running_loop().create_task(self._run())
            if self._task:
                self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        heed(task)  # of an interrupt, which `asyncio.run()` raises
        self._start()  # before Python 3.11 a handler that is cancelled may end it early

    async def _run(self) -> None:
        self._running = asyncio.current_task()
        try:
            while self._jobs:
                begun = deque(self._jobs.popleft()())
                try:
                    while begun:
                        await self._finish(begun.popleft())
                finally:
                    for each in begun:
                        each.close()
        finally:
            self._running = None

    async def _finish(self, begun: Coroutine[Any, Any, None]) -> None:
        try:
            await begun
        except asyncio.CancelledError:
            # A handler's own ends only that one. Before Python 3.11 no task can tell.
            if self._running is None or getattr(self._running, "cancelling", lambda: True)():
                raise

    async def end(self, job: Callable[[], object], timeout: float) -> None:
        """Does it after those before it, and waits for that, `timeout` seconds at most."""
        done = ReentrantEvent()

        def last() -> tuple[()]:
            job()
            done.set()
            return ()

        here = self.here
        self.bind()
        self.submit(last)
        if not here:
            await wait(done, now() + min(timeout, PATIENCE))
