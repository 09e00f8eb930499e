"""What blocks, done on a thread while a loop of asyncio goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from microlock.engine.threads import Daemon

T = TypeVar("T")


async def aside(
    name: str, act: Callable[[], T], unwanted: Callable[[T], object] = lambda _: None
) -> T:
    """What it returns or raises. Not on the executor of the loop, which is the user's.

    Args:
        name: of the thread.
        act: it must come to an end by itself.
        unwanted: gets what it returns if nobody waits for it any more.

    Raises:
        RuntimeError: no thread can be started.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if error is not None and not future.done():
            future.set_exception(error)
        elif error is None and not future.done():
            future.set_result(result)  # type: ignore[arg-type]
        elif error is None:
            unwanted(result)  # type: ignore[arg-type]

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
