"""`single`: one thread locks and unlocks; `workers`: many do, each on a key of its own."""

from __future__ import annotations

import time
from itertools import count, cycle
from typing import Any

from contenders import Client, Contending, Lock
from driving import Blocking, Driver, Span, Work, measure, until_over
from measuring import PROPOSALS, metrics, percentile

from scenarios import Cells, Measures, Setting

EXACT = 50  # cycles, for what is counted and not timed

Times = tuple[float, float, float]  # of a cycle: before it, locked, unlocked


def single(contender: Contending, endpoint: str, setting: Setting) -> Cells:
    on_main = bool(setting.get("on_main"))
    driver = Blocking(on_main=True) if on_main else contender.driver
    return driver.run(_single(driver, contender, endpoint, setting))


async def _single(driver: Driver, contender: Contending, endpoint: str, setting: Setting) -> Cells:
    client = await contender.connect(endpoint)
    same = [client.lock("same", "me")]
    keys = setting["keys"]
    distinct = [client.lock(f"distinct-{number}", "me") for number in range(keys)]
    await driver.each([_cycle(lock, []) for lock in same + distinct])
    seconds = setting["seconds"]
    cells = {"one key": await _cycles(driver, [same], seconds)}
    if distinct:
        cells[f"{keys} keys in turn"] = await _cycles(driver, [distinct], seconds)
    cells["a new object each"] = await _new_objects(driver, client, seconds)
    if contender.on_etcd:
        before = metrics(endpoint, PROPOSALS)
        for _ in range(EXACT):
            await _cycle(same[0], [])
        cells["one key"]["raft writes"] = (metrics(endpoint, PROPOSALS) - before) / EXACT
    return cells


def workers(contender: Contending, endpoint: str, setting: Setting) -> Cells:
    return contender.driver.run(_workers(contender, endpoint, setting))


async def _workers(contender: Contending, endpoint: str, setting: Setting) -> Cells:
    client = await contender.connect(endpoint)
    cells: Cells = {}
    for number in setting["workers"]:
        locks = [[client.lock(f"{number}-{each}", f"worker-{each}")] for each in range(number)]
        await contender.driver.each([_cycle(lock, []) for (lock,) in locks])
        cells[f"{number} workers"] = await _cycles(contender.driver, locks, setting["seconds"])
    return cells


async def _cycles(driver: Driver, locks: list[list[Lock]], seconds: float) -> Measures:
    """One worker for each list, which takes its locks in turn."""
    span, times = Span(seconds), []

    def worker(mine: list[Lock]) -> Work:
        turn = cycle(mine)
        return until_over(driver, span, lambda: _cycle(next(turn), times))

    await measure(driver, span, [worker(mine) for mine in locks])
    return _measures(span, times)


async def _new_objects(driver: Driver, client: Client, seconds: float) -> Measures:
    span, times, numbers = Span(seconds), [], count()

    async def once() -> None:
        began = time.monotonic()
        lock = client.lock(f"new-{next(numbers)}", "me")
        await lock.acquire()
        locked = time.monotonic()
        await lock.release()
        await lock.discard()
        times.append((began, locked, time.monotonic()))

    await measure(driver, span, [until_over(driver, span, once)])
    return _measures(span, times)


async def _cycle(lock: Lock, times: list[Times]) -> None:
    began = time.monotonic()
    await lock.acquire()
    locked = time.monotonic()
    await lock.release()
    times.append((began, locked, time.monotonic()))


def _measures(span: Span, times: list[Times]) -> Measures:
    within = [each for each in times if each[0] >= span.begins and each[2] <= span.ends]
    locking = [(locked - began) * 1000 for began, locked, _ in within]
    unlocking = [(unlocked - locked) * 1000 for _, locked, unlocked in within]
    measures: dict[str, Any] = {
        "cycles/s": len(within) / span.seconds,
        "lock p50 ms": percentile(locking, 0.5),
        "lock p99 ms": percentile(locking, 0.99),
        "unlock p50 ms": percentile(unlocking, 0.5),
        "unlock p99 ms": percentile(unlocking, 0.99),
        "CPU us": span.cpu / len(within) * 1e6 if within else None,
    }
    if span.errors:
        measures["errors"] = len(span.errors)
        measures["error"] = span.errors[0]
    return measures
