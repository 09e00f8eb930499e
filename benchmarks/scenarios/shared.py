"""`shared`: readers hold a lock together, and writers hand it over, all the time."""

from __future__ import annotations

import time
from typing import Any

from contenders import Contending
from driving import Span, Work, measure, until_over

from scenarios import Cells, Setting


def shared(contender: Contending, endpoint: str, setting: Setting) -> Cells:
    return contender.driver.run(_shared(contender, endpoint, setting))


async def _shared(contender: Contending, endpoint: str, setting: Setting) -> Cells:
    """`setting["nodes"]`: of each cell how many read and how many write, on one client."""
    client = await contender.connect(endpoint)
    cells: Cells = {}
    for readers, writers in setting["nodes"]:
        key, span = f"shared-{readers}-{writers}", Span(setting["seconds"])
        read, written = list[float](), list[float]()

        def works(lock: Any, times: list[float], span: Span = span) -> Work:
            async def once() -> None:
                await lock.acquire()
                times.append(time.monotonic())
                await lock.release()

            return until_over(contender.driver, span, once)

        nodes = [works(client.reader(key, f"reader-{each}"), read) for each in range(readers)]
        nodes += [works(client.writer(key, f"writer-{each}"), written) for each in range(writers)]
        await measure(contender.driver, span, nodes)
        measures: dict[str, Any] = {
            name: sum(span.begins <= at <= span.ends for at in tuple(times)) / span.seconds
            for name, times in (("holds/s", read + written), ("writes/s", written))
        }
        if span.errors:
            measures |= {"errors": len(span.errors), "error": span.errors[0]}
        cells[f"{readers} readers, {writers} writers"] = measures
    return cells
