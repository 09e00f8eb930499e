"""Cancelling a task at one of its awaits, and not somewhere in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class CancelledAt(Generic[T]):
    """A coroutine, to be awaited by a task that is cancelled at its n-th await.

    Args:
        coro: it is closed with this.
        ats: at which of its awaits the task is cancelled, counted from 1.
        late: what it waits for comes first, and the cancellation in the same turn of the loop.
        meanwhile: called just before the first cancellation.

    Attributes:
        awaits: how many it has come to.
    """

    def __init__(
        self,
        coro: Coroutine[Any, Any, T],
        *ats: int,
        late: bool = False,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        self._coro = coro
        self._ats = ats
        self._late = late
        self._meanwhile = meanwhile
        self.awaits = 0

    def __await__(self) -> Generator[Any, Any, T]:
        task = asyncio.current_task()
        assert task
        resume, value = self._coro.send, None
        try:
            while True:
                try:
                    waited = resume(value)  # type: ignore[arg-type]
                except StopIteration as done:
                    result: T = done.value
                    return result
                self.awaits += 1
                cancelled = self.awaits in self._ats
                if self.awaits == self._ats[0]:
                    self._meanwhile()
                if cancelled and not self._late:
                    asyncio.get_running_loop().call_soon(task.cancel)
                try:
                    value = yield waited
                    resume = self._coro.send
                except BaseException as error:  # noqa: BLE001  it is the coroutine's
                    resume, value = self._coro.throw, error  # type: ignore[assignment]
                else:
                    if cancelled and self._late:
                        resume, value = self._coro.throw, asyncio.CancelledError()  # type: ignore[assignment]
        finally:
            self._coro.close()


async def cancelled_at(coro: Coroutine[Any, Any, T], *ats: int, **how: Any) -> bool:
    """Whether it came to the last of these awaits. If it came to the first, it must have ended by
    that cancellation.

    The arguments are those of `CancelledAt`.
    """
    steps = CancelledAt(coro, *ats, **how)

    async def run() -> T:
        return await steps

    task = asyncio.ensure_future(run())
    await asyncio.wait({task})
    if steps.awaits < ats[0]:
        task.result()
    elif not task.cancelled():
        raise AssertionError(f"cancelled at {ats}, it went on") from task.exception()
    return steps.awaits >= ats[-1]
