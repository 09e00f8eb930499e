"""`several`: nodes that need several keys at once, taken in one or one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from contenders import Client, Contending, Lock
from driving import Span, measure, until_over

from scenarios import Cells, Measures, Setting

Take = Callable[[Sequence[str], str], Lock]


class OneByOne:
    """A lock of each key, taken in the order of the keys, so that nobody waits in a circle."""

    def __init__(self, client: Client, keys: Sequence[str], owner: str) -> None:
        self._locks = [client.lock(key, owner, waits=True) for key in sorted(keys)]

    async def acquire(self) -> None:
        for lock in self._locks:
            await lock.acquire()

    async def release(self) -> None:
        for lock in reversed(self._locks):
            await lock.release()

    async def discard(self) -> None:
        for lock in self._locks:
            await lock.discard()


def several(contender: Contending, endpoint: str, setting: Setting) -> Cells:
    return contender.driver.run(_several(contender, endpoint, setting))


async def _several(contender: Contending, endpoint: str, setting: Setting) -> Cells:
    """`setting["numbers"]`: of keys that one node wants; `setting["wanted"]`: the keys that each
    of those wants who contend."""
    client = await contender.connect(endpoint)
    ways: dict[str, Take] = {"one by one": partial(OneByOne, client)}
    if hasattr(client, "several"):
        ways["in one"] = client.several
    cells: Cells = {}
    for way, take in ways.items():
        for number in setting["numbers"]:
            mine = [take([f"mine-{number}-{each}" for each in range(number)], "node")]
            cells[f"{number} keys, {way}"] = await _cycles(contender, mine, setting["seconds"])
        wanted = setting["wanted"]
        locks = [
            take([f"shared-{key}" for key in keys], f"node-{node}")
            for node, keys in enumerate(wanted)
        ]
        cells[f"{len(wanted)} nodes, {len(wanted[0])} keys each, {way}"] = await _cycles(
            contender, locks, setting["seconds"]
        )
    return cells


async def _cycles(contender: Contending, locks: Sequence[Lock], seconds: float) -> Measures:
    """Each of these is taken and given back, all the time, by somebody of its own."""
    span, done = Span(seconds), list[float]()

    async def once(lock: Lock) -> None:
        await lock.acquire()
        await lock.release()
        done.append(time.monotonic())

    await contender.driver.each([once(lock) for lock in locks], at_once=1)
    works = [until_over(contender.driver, span, partial(once, lock)) for lock in locks]
    await measure(contender.driver, span, works)
    within = sum(span.begins <= at <= span.ends for at in tuple(done))
    measures: dict[str, Any] = {
        "cycles/s": within / span.seconds,
        "CPU us": span.cpu / within * 1e6 if within else None,
    }
    if span.errors:
        measures |= {"errors": len(span.errors), "error": span.errors[0]}
    return measures
