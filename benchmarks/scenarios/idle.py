"""`idle`: many locks with a listener each, on one client, and nothing happens; and one event that
very many listen to."""

from __future__ import annotations

import gc
import time

from contenders import Contending
from measuring import resident_mib, threads, watch_streams

from scenarios import Cells, Setting

PATIENCE = 30.0


def idle(contender: Contending, endpoint: str, setting: Setting) -> Cells:
    return contender.driver.run(_idle(contender, endpoint, setting))


async def _idle(contender: Contending, endpoint: str, setting: Setting) -> Cells:
    client = await contender.connect(endpoint)
    await client.watch("first", lambda: None)
    await contender.driver.sleep(0.2)
    gc.collect()
    memory, before = resident_mib(), threads()
    cells: Cells = {}
    number = setting["locks"]
    began = time.monotonic()
    for each in range(number):
        await client.watch(f"idle-{each}", lambda: None)
    watching = time.monotonic() - began
    await contender.driver.sleep(0.5)
    gc.collect()
    cells[f"{number} locks"] = {
        "MiB more than one": resident_mib() - memory,
        "threads more": threads() - before,
        "all watch s": watching,
    }
    if contender.on_etcd:
        cells[f"{number} locks"]["streams"] = watch_streams(endpoint)
    if listeners := setting.get("listeners"):
        told: list[float] = []
        for _ in range(listeners):
            await client.watch("popular", lambda: told.append(time.monotonic()))
        lock = client.lock("popular", "somebody")
        await client.lock("warm", "somebody").acquire()
        began = time.monotonic()
        await lock.acquire()
        while len(told) < listeners and time.monotonic() < began + PATIENCE:
            await contender.driver.sleep(0.002)
        cells[f"an event for {listeners}"] = {
            "all told ms": (max(told) - began) * 1000 if len(told) >= listeners else None,
        }
    return cells
