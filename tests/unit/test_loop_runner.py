"""Where handlers run on a loop of asyncio: on the first one, until that ends, then on the next."""

from __future__ import annotations

import asyncio

import pytest

from microlock import connect
from microlock.engine.loop_runner import LoopRunner


@pytest.mark.parametrize("how", ["closed", "stopped"])
def test_a_handler_that_its_loop_left_in_the_middle_holds_up_none_on_the_next_loop(
    how: str,
) -> None:
    runner = LoopRunner(connect("memory://"))
    entered = False

    async def never_ends() -> None:
        nonlocal entered
        entered = True
        await asyncio.get_running_loop().create_future()

    async def begin() -> None:
        runner.bind()
        runner.submit(lambda: [never_ends()])
        while not entered:
            await asyncio.sleep(0)

    async def go_on() -> None:
        called = asyncio.Event()
        runner.bind()
        runner.submit(lambda: called.set() or ())  # type: ignore[func-returns-value]
        await asyncio.wait_for(called.wait(), 5)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    if how == "closed":  # without an end of its tasks, which `asyncio.run` would have cancelled
        loop.close()
    asyncio.run(go_on())
    loop.close()
