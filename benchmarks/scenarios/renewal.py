"""`renewal`: many holds that are kept."""

from __future__ import annotations

import time

from contenders import Client, Contending
from measuring import count_keys, resident_mib, threads

from scenarios import Cells, Setting

TTL = 10


def renewal(contender: Contending, endpoint: str, setting: Setting) -> Cells:
    return contender.driver.run(_renewal(contender, endpoint, setting))


async def _renewal(contender: Contending, endpoint: str, setting: Setting) -> Cells:
    client, number, seconds = await contender.connect(endpoint), setting["holds"], setting["keep"]

    async def keep(client: Client, key: str) -> None:
        await client.keep(key, TTL)

    began = time.monotonic()
    works = [keep(client, f"kept-{each}") for each in range(number)]
    # With 32 at a time it is their storm that is measured: it leaves the renewals of what is held
    # already too little of the interpreter lock.
    await contender.driver.each(works, at_once=4)
    taken = time.monotonic() - began
    await contender.driver.sleep(1)
    began, cpu = time.monotonic(), time.process_time()
    await contender.driver.sleep(seconds)
    cpu, span = time.process_time() - cpu, time.monotonic() - began
    return {
        f"{number} holds": {
            "CPU % of a core": 100 * cpu / span,
            "lost": number - min(count_keys(endpoint), client.kept()),
            "all taken s": taken,
            "threads": threads(),
            "MiB": resident_mib(),
        }
    }
