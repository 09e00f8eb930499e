"""`handover`: everybody wants the same lock, all the time."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from itertools import pairwise
from multiprocessing.connection import Connection

from contenders import Client, Contending
from driving import GRACE, WARM_UP, Span, Work, measure, until_over

from scenarios import Cells, Measures, Setting

CONNECTING = 60.0  # seconds, for all processes together


def handover(contender: Contending, endpoint: str, setting: Setting) -> Cells:
    """`setting["clients"]`: "one" for all waiters, one "each", or waiters as "processes"."""
    if setting["clients"] == "processes":
        return {
            f"{number} processes": _processes(contender, endpoint, number, setting["seconds"])
            for number in setting["waiters"]
        }
    return contender.driver.run(_threads(contender, endpoint, setting))


async def _threads(contender: Contending, endpoint: str, setting: Setting) -> Cells:
    cells: Cells = {}
    client = await contender.connect(endpoint)
    for number in setting["waiters"]:
        clients = [client] * number
        name = f"{number} waiters"
        if setting["clients"] == "each":
            clients = [await contender.connect(endpoint) for _ in range(number)]
            name += ", a client each"
        span, holds = Span(setting["seconds"]), [[] for _ in clients]
        works = [
            _wait(contender, client, f"lock-{number}", waiter, span, holds[waiter])
            for waiter, client in enumerate(clients)
        ]
        await measure(contender.driver, span, works)
        cells[name] = _measures(span, holds)
        if setting["clients"] == "each":
            for each in clients:
                await each.close()
    return cells


def _wait(
    contender: Contending, client: Client, key: str, waiter: int, span: Span, holds: list[float]
) -> Work:
    lock = client.lock(key, f"waiter-{waiter}", waits=True)

    async def once() -> None:
        await lock.acquire()
        holds.append(time.monotonic())
        await lock.release()

    return until_over(contender.driver, span, once)


def _processes(contender: Contending, endpoint: str, number: int, seconds: float) -> Measures:
    # Forked before any of them has a connection: fifty interpreters would take long to start.
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe() for _ in range(number)]
    for waiter, (_, theirs) in enumerate(pipes):
        args = (contender, endpoint, f"lock-{number}", waiter, theirs)
        context.Process(target=_process, args=args, daemon=True).start()
    deadline = time.monotonic() + CONNECTING
    for mine, _ in pipes:
        if not mine.poll(max(0.0, deadline - time.monotonic())):
            raise TimeoutError(f"not all of {number} processes have connected")
        mine.recv()
    span = Span(seconds, begins=time.monotonic() + WARM_UP + 0.1)
    for mine, _ in pipes:
        mine.send(span)
    holds = []
    for mine, _ in pipes:  # who is still waiting long after the end has told what it had
        left = span.ends + GRACE - time.monotonic()
        holds.append(mine.recv() if mine.poll(max(0.0, left)) else [])
    return _measures(span, holds)


def _process(contender: Contending, endpoint: str, key: str, waiter: int, pipe: Connection) -> None:
    async def main() -> None:
        client = await contender.connect(endpoint)
        lock = client.lock(f"{key}-of-{waiter}", f"waiter-{waiter}", waits=True)
        await lock.acquire()
        await lock.release()
        pipe.send("connected")
        span: Span = pipe.recv()
        holds: list[float] = []
        work = _wait(contender, client, key, waiter, span, holds)
        left = span.ends + GRACE / 2 - time.monotonic()
        await contender.driver.together([work], timeout=left)
        pipe.send(list(holds))

    contender.driver.run(main())


def _measures(span: Span, holds: Sequence[Sequence[float]]) -> Measures:
    within = sorted(
        (at, waiter)
        for waiter, times in enumerate(holds)
        for at in tuple(times)
        if span.begins <= at <= span.ends
    )
    order = [waiter for _, waiter in within]
    handed = sum(before != after for before, after in pairwise(order))
    measures: Measures = {
        "hand-overs/s": handed / span.seconds,
        "holds/s": len(order) / span.seconds,
        **_fairness(order, len(holds)),
    }
    if span.errors:
        measures["errors"] = len(span.errors)
        measures["error"] = span.errors[0]  # type: ignore[assignment]
    return measures


def _fairness(order: Sequence[int], waiters: int) -> Measures:
    """The most holds of a waiter over the fewest, and how many had none.

    Over whole rounds: a part of one would count against the fairest queue.
    """
    rounds = order[: len(order) - len(order) % waiters]
    if not rounds:
        return {"fairness": None, "starved": None}
    counts = [rounds.count(waiter) for waiter in range(waiters)]
    fewest = min(counts)
    return {
        "fairness": max(counts) / fewest if fewest else None,
        "starved": counts.count(0),
    }
