"""One variant in one scenario, in a process of its own: prints its measures as JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(1, str(HERE.parents[1]))

from grpcio import GrpcioAio  # noqa: E402  found by the line above
from scenarios import Measures, cycles, handover, renewal  # noqa: E402
from variants import VARIANTS  # noqa: E402

SCENARIOS: dict[str, Callable[..., Measures]] = {
    "single": partial(cycles, threads=1),
    "watched": partial(cycles, threads=1, watched=True),
    "threads 8": partial(cycles, threads=8),
    "threads 32": partial(cycles, threads=32),
    "handover": handover,
    "renewal, one stream": partial(renewal, kept=True),
    "renewal, a stream a batch": partial(renewal, kept=False),
}


def main() -> None:
    scenario, variant, address, ca, seconds = sys.argv[1:]
    make = VARIANTS[variant].make
    more = {"on_loop": True} if make is GrpcioAio else {}
    measures = SCENARIOS[scenario](
        lambda: make(address, ca or None), seconds=float(seconds), **more
    )
    print(json.dumps(measures), flush=True)
    os._exit(0)  # threads that read are left alone


if __name__ == "__main__":
    main()
