"""What a task of asyncio waits for, without blocking its loop."""

from __future__ import annotations

import asyncio
import threading
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
    """One who waits for an event, as `ReentrantEvent` has them."""

    __slots__ = ("_dropped", "_future", "_loop", "_thread")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        future: asyncio.Future[None],
        dropped: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._future = future
        self._dropped = dropped
        self._thread = threading.get_ident()

    def put(self, item: None) -> None:
        try:
            if threading.get_ident() == self._thread:
                self.wake()
            else:
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
    """Waits until it is set, or that time comes.

    `dropped`: called, by whoever sets it, if the loop was closed in the middle of this. Takes no
    lock.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    waker = _Waker(loop, future, dropped)
    event.waiting.append(waker)
    cancel: Callable[[], object] | None = None
    try:
        if until < inf:
            cancel = clock.alarm(until, waker.wake, loop)
        if not event.is_set():  # whoever sets it after this look wakes us
            await future
    finally:
        event.waiting.remove(waker)
        if cancel:
            cancel()


async def to_its_end(act: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Does it, however often the task that waits for it is cancelled meanwhile.

    `asyncio.run()` cancels all tasks when it ends, this one too: then it is begun anew. So it must
    be harmless to do twice what is not known to be done, and to take an end by itself.
    """
    while True:
        task = asyncio.get_running_loop().create_task(act())
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        if not task.cancelled():
            return task.result()


class Shared(Generic[T]):
    """What one task does for all that wait for it, though some of them be cancelled.

    Attributes:
        task: the last one.
    """

    def __init__(self) -> None:
        self.task: asyncio.Task[T] | None = None

    async def done(self, act: Callable[[], Coroutine[Any, Any, T]], until: float) -> T:
        """What it returns or raises; it is begun if it is not under way. Raises TimeoutError."""
        while True:
            if self.task is None or self.task.done():
                self.task = asyncio.get_running_loop().create_task(act())
                self.task.add_done_callback(heed)
            task = self.task
            await asyncio.wait({task}, timeout=max(0.0, until - REAL.now()))
            if not task.done():
                raise TimeoutError
            if not task.cancelled():  # as `asyncio.run()` does to all tasks when it ends
                break
        if error := task.exception():
            raise copy(error)
        return task.result()


def heed(task: asyncio.Task[Any]) -> None:
    """Has asyncio not log an error that nobody has waited for."""
    if not task.cancelled():
        task.exception()


async def aside(
    name: str, act: Callable[[], T], unwanted: Callable[[T], object] = lambda _: None
) -> T:
    """What it returns or raises, on a thread of its own: the executor of the loop is the user's.

    Args:
        name: of the thread.
        act: it must come to an end by itself.
        unwanted: gets what it returns if nobody waits for it any more.

    Raises:
        RuntimeError: no thread can be started.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
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
    return await future
