"""Cycles on greenlets, beside one that ticks: does a wire let the others go on?"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402  gevent patches first
import time  # noqa: E402
from pathlib import Path  # noqa: E402

import gevent  # noqa: E402

sys.path.insert(1, str(Path(__file__).parents[2]))

from driving import finish  # noqa: E402
from scenarios import entry_of  # noqa: E402
from variants import VARIANTS  # noqa: E402

SECONDS = 1.0


def main() -> None:
    variant, address, ca = sys.argv[1:]
    wire = VARIANTS[variant].make(address, ca or None)
    end = time.monotonic() + SECONDS
    done = ticks = 0

    def work(number: int) -> None:
        nonlocal done
        entry = finish(entry_of(wire, f"greenlet-{number}"))
        while time.monotonic() < end:
            finish(entry.acquire())
            finish(entry.release())
            done += 1

    def tick() -> None:
        nonlocal ticks
        while time.monotonic() < end:
            gevent.sleep(0.01)
            ticks += 1

    gevent.joinall([gevent.spawn(tick), *(gevent.spawn(work, each) for each in range(8))])
    print(f"{variant}: {done} cycles, {ticks} ticks of {SECONDS / 0.01:.0f}", flush=True)


if __name__ == "__main__":
    main()
