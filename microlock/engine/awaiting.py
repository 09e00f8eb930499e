"""Waits for asyncio tasks, which do not block the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from copy import copy
from math import inf
from typing import Any, Generic, TypeVar

from microlock.engine.clock import REAL, Clock
from microlock.engine.reentrant_event import ReentrantEvent
from microlock.engine.threads import Daemon

T = TypeVar("T")


def runs() -> bool:
    """Whether a loop runs on this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _Waker:
    """A `Waiter` for a `ReentrantEvent`."""

    __slots__ = ("_dropped", "_future", "_loop")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        future: asyncio.Future[None],
        dropped: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._future = future
        self._dropped = dropped

    def put(self, item: None) -> None:
        try:
            # Threadsafe on the loop's own thread too: this may be a signal handler.
            self._loop.call_soon_threadsafe(self.wake)
        except RuntimeError:  # the loop was closed
            self._dropped()

    def wake(self) -> None:
        if not self._future.done():
            self._future.set_result(None)


async def wait(
    event: ReentrantEvent,
    until: float,
    clock: Clock = REAL,
    dropped: Callable[[], object] = lambda: None,
) -> None:
    """Waits until the event is set, or until that time.

    `dropped`: called when the event is set, if the loop was closed during the wait. It may take no
    mutex.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    waker = _Waker(loop, future, dropped)
    event.waiting.append(waker)
    cancel: Callable[[], object] | None = None
    try:
        if until < inf:
            cancel = clock.alarm(until, waker.wake, loop)
        if not event.is_set():  # if it is set after this check, that wakes us
            await future
    finally:
        event.waiting.remove(waker)
        if cancel:
            cancel()


async def to_its_end(act: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Runs `act` to its end, however often the task that waits for it is cancelled meanwhile.

    `asyncio.run()` cancels all tasks when it ends, this one too: then `act` is started again. So it
    must be harmless to run twice, and must end by itself.
    """
    while True:
        task = asyncio.get_running_loop().create_task(act())
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        if not task.cancelled():
            return task.result()


class Shared(Generic[T]):
    """Work that one task does for all its waiters, even if some of them are cancelled.

    Attributes:
        task: the last task.
    """

    def __init__(self) -> None:
        self.task: asyncio.Task[T] | None = None

    async def done(self, act: Callable[[], Coroutine[Any, Any, T]], until: float) -> T:
        """The result of `act`, which is started unless it runs already. Raises TimeoutError."""
        while True:
            if self.task is None or self.task.done():
                self.task = asyncio.get_running_loop().create_task(act())
                self.task.add_done_callback(heed)
            task = self.task
            await asyncio.wait({task}, timeout=max(0.0, until - REAL.now()))
            if not task.done():
                raise TimeoutError
            if not task.cancelled():  # `asyncio.run()` cancels all tasks when it ends
                break
        if error := task.exception():
            raise copy(error)
        return task.result()


def heed(task: asyncio.Task[Any]) -> None:
    """Keeps asyncio from logging an error that was never retrieved."""
    if not task.cancelled():
        task.exception()


async def aside(
    name: str,
    act: Callable[[], T],
    unwanted: Callable[[T], object] = lambda _: None,
    ended: Callable[[], object] = lambda: None,
) -> T:
    """Runs `act` on a new thread, and returns its result: the loop's executor is the user's.

    Args:
        name: the name of the thread.
        act: must end by itself.
        unwanted: gets the result if nobody waits for it any more.
        ended: called on the loop when the thread has ended, whether or not somebody waits.

    Raises:
        RuntimeError: no thread can be started.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        ended()
        if future.done():
            if error is None:
                unwanted(result)
        elif error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def run() -> None:
        result, error = None, None
        try:
            result = act()
        except BaseException as raised:  # noqa: BLE001  it goes on to the task that waits
            error = raised
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:  # the loop has ended
            if error is None:
                unwanted(result)  # type: ignore[arg-type]

    Daemon(name, run).start()
    try:
        return await future
    except asyncio.CancelledError:
        # It may have come after the result, in the same turn of the loop.
        if future.done() and not (future.cancelled() or future.exception()):
            unwanted(future.result())
        raise
