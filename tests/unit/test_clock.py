"""The clock of the system, and how a loop waits by it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from microlock.engine.clock import REAL


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 0.01])
def test_an_alarm_wakes_when_its_time_has_come(seconds: float) -> None:
    async def alarmed() -> float:
        loop = asyncio.get_running_loop()
        rang = loop.create_future()
        at = REAL.now() + seconds
        REAL.alarm(at, lambda: rang.set_result(REAL.now()), loop)
        return float(await rang) - at

    assert asyncio.run(alarmed()) >= -0.001  # a loop rounds by its own clock's resolution


def test_an_alarm_that_was_cancelled_wakes_nobody() -> None:
    async def cancelled() -> list[str]:
        loop = asyncio.get_running_loop()
        order: list[str] = []
        at = REAL.now() + 0.01

        def at_that_time(say: str) -> Callable[[], object]:
            return REAL.alarm(at, lambda: order.append(say), loop)

        last = loop.create_future()
        at_that_time("one")
        at_that_time("two")()
        REAL.alarm(at + 0.01, lambda: last.set_result(None), loop)
        await last
        return order

    assert asyncio.run(cancelled()) == ["one"]
