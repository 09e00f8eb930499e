"""Scenarios are written once, as coroutines; this drives them over blocking and asyncio libraries.

The coroutines of a blocking contender never suspend: each runs to its end on a thread of its own,
at the price of one call of Python. Those of an asyncio contender are tasks of one loop.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

# Seconds before the measured time begins, and what waiters have to come to an end after it.
WARM_UP = 0.3
GRACE = 1.0

Work = Coroutine[Any, Any, None]


@dataclass
class Span:
    """The time that is measured, by `time.monotonic`, and the CPU seconds of this process in it."""

    seconds: float
    begins: float = 0.0
    cpu: float = 0.0
    errors: list[str] = field(default_factory=list)

    @property
    def ends(self) -> float:
        return self.begins + self.seconds

    def over(self) -> bool:
        return time.monotonic() >= self.ends


class Driver(Protocol):
    def run(self, main: Coroutine[Any, Any, Any]) -> Any: ...

    async def sleep(self, seconds: float) -> None: ...

    async def together(self, works: Sequence[Work], *, timeout: float) -> None:
        """Does all side by side. What is not done in time is left alone."""

    async def each(self, works: Sequence[Work], at_once: int = 32) -> None:
        """Does all, so many at a time."""


def finish(coroutine: Coroutine[Any, Any, Any]) -> Any:
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("a blocking contender has suspended")


class Blocking:
    """Each work on a thread of its own; the first one on the main thread, if `on_main`."""

    def __init__(self, *, on_main: bool = False) -> None:
        self._on_main = on_main

    def run(self, main: Coroutine[Any, Any, Any]) -> Any:
        return finish(main)

    async def sleep(self, seconds: float) -> None:
        time.sleep(max(0.0, seconds))

    async def together(self, works: Sequence[Work], *, timeout: float) -> None:
        end = time.monotonic() + timeout
        mine, others = (works[:1], works[1:]) if self._on_main else ((), works)
        threads = [threading.Thread(target=finish, args=(each,), daemon=True) for each in others]
        for thread in threads:
            thread.start()
        for each in mine:
            finish(each)
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))

    async def each(self, works: Sequence[Work], at_once: int = 32) -> None:
        with ThreadPoolExecutor(at_once) as pool:
            for _ in pool.map(finish, works):
                pass


class Asyncio:
    def run(self, main: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run(main)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))

    async def together(self, works: Sequence[Work], *, timeout: float) -> None:
        tasks = [asyncio.create_task(each) for each in works]
        _, late = await asyncio.wait(tasks, timeout=timeout)
        for task in late:
            task.cancel()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.gather(*late, return_exceptions=True), 1)

    async def each(self, works: Sequence[Work], at_once: int = 32) -> None:
        turn = asyncio.Semaphore(at_once)

        async def one(work: Work) -> None:
            async with turn:
                await work

        await asyncio.gather(*map(one, works))


async def measure(driver: Driver, span: Span, works: Sequence[Work]) -> None:
    """Does the works until the span is over, and notes the CPU time."""

    async def sample() -> None:
        await driver.sleep(span.begins - time.monotonic())
        before = time.process_time()
        await driver.sleep(span.ends - time.monotonic())
        span.cpu = time.process_time() - before

    span.begins = time.monotonic() + WARM_UP
    limit = WARM_UP + span.seconds + GRACE
    await driver.together([*works, sample()], timeout=limit)


async def until_over(driver: Driver, span: Span, once: Callable[[], Work]) -> None:
    """Does it again and again; an error is noted, and does not end it."""
    while not span.over():
        try:
            await once()
        except Exception as error:  # noqa: BLE001  a contender may raise anything
            span.errors.append(repr(error))
            await driver.sleep(0.01)
