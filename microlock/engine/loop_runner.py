"""Runs users' handlers on an asyncio loop: those of one lock in order."""

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

    They run on the first loop where the lock is used, until that loop ends.
    """

    __slots__ = ("_client", "_jobs", "_loop", "_running", "_task")

    awaits = True

    def __init__(self, client: Client) -> None:
        self._client = client
        self._jobs: list[_Job] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._running: asyncio.Task[Any] | None = None  # the same, in its steps

    @property
    def here(self) -> bool:
        """Whether the current task runs a handler of this lock."""
        if self._running is None:
            return False
        with suppress(RuntimeError):  # no loop runs here
            return asyncio.current_task() is self._running
        return False

    def bind(self) -> None:
        """Lets the handlers run on the running loop, if they have no loop yet."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop and (self._loop is None or not self._loop.is_running()):
            self._loop = loop
            self._task = self._running = None
            self._start()

    def submit(self, job: _Job) -> None:
        self._jobs.append(job)
        if self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._start)
            except RuntimeError:  # the loop has ended, and its tasks with it
                self._jobs.clear()

    def _start(self) -> None:
        if self._jobs and (self._task is None or self._task.done()):
            try:
                self._task = self._client.one(Loops).here().start(self._run)
            except DestroyedError:  # the client is closed: earlier events are still delivered
                self._task = asyncio.get_running_loop().create_task(self._run())
            if self._task:
                self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        heed(task)  # an interrupt: `asyncio.run()` raises it
        self._start()  # before Python 3.11 a cancelled handler may end the task early

    async def _run(self) -> None:
        self._running = asyncio.current_task()
        try:
            while self._jobs:
                begun = deque(self._jobs.pop(0)())
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
            # If a handler cancels itself, only that handler ends. Before Python 3.11 a task can't
            # tell that from its own cancellation.
            if self._running is None or getattr(self._running, "cancelling", lambda: True)():
                raise

    async def end(self, job: Callable[[], object], timeout: float) -> None:
        """Does the job after the earlier ones, and waits for it, at most `timeout` seconds."""
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
