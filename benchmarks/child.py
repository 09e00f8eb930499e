"""One contender in one scenario, in a fresh process: prints its measures as JSON.

    python benchmarks/child.py '{"contender": "raw", "scenario": "single", "endpoint": ..., ...}'

The rest of the argument is the setting of the scenario.
"""

from __future__ import annotations

import json
import os
import sys

from contenders import Contending, named
from scenarios.handover import handover
from scenarios.idle import idle
from scenarios.renewal import renewal
from scenarios.several import several
from scenarios.shared import shared
from scenarios.single import single, workers

SCENARIOS = {
    "single": single,
    "workers": workers,
    "handover": handover,
    "idle": idle,
    "renewal": renewal,
    "shared": shared,
    "several": several,
}


def main() -> None:
    setting = json.loads(sys.argv[1])
    contender = Contending(named(setting["contender"]))
    setting["on_main"] = setting["contender"].endswith("main thread")
    cells = SCENARIOS[setting["scenario"]](contender, setting["endpoint"], setting)
    print(json.dumps(cells), flush=True)
    os._exit(0)  # some contenders wait for threads that never end


if __name__ == "__main__":
    main()
