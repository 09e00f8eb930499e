"""Measures the wires, in turns, on one etcd; prints one table for each scenario.

    python benchmarks/experiments/wires/run.py            # about 20 minutes
    python benchmarks/experiments/wires/run.py --quick    # about 5 minutes
    python benchmarks/experiments/wires/run.py --only single "threads 32" --tls no

Each measurement is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from child import SCENARIOS
from variants import BASE, VARIANTS

from microlock.server import EtcdServer

HERE = Path(__file__).parent
sys.path.append(str(HERE.parents[2] / "tests" / "integration"))

from certificates import Authority, tls  # noqa: E402  found by the line above

PATIENCE = 60.0

Rounds = dict[str, list[dict[str, float]]]


@contextmanager
def etcd(secure: bool, *more: str) -> Iterator[tuple[EtcdServer, str]]:
    """Runs one, with fsync; and its authority's certificate, or nothing."""
    with tempfile.TemporaryDirectory(prefix="microlock-wires-") as directory:
        ca, flags = "", []
        if secure:
            authority = Authority(Path(directory), "ca")
            ca, flags = authority.cert, tls(authority.issue("server", "127.0.0.1", "localhost"))
        with EtcdServer(flags=[*flags, *more]) as server:
            yield server, ca


def once(scenario: str, variant: str, address: str, ca: str, seconds: float) -> dict[str, float]:
    command = [sys.executable, str(HERE / "child.py"), scenario, variant, address, ca, str(seconds)]
    environment = {**os.environ, "GRPC_VERBOSITY": "NONE", **VARIANTS[variant].environment}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE + seconds, env=environment
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().rpartition("\n")[2])
    measures: dict[str, float] = json.loads(done.stdout)
    return measures


def measure(scenario: str, options: argparse.Namespace, address: str, ca: str) -> str:
    chosen = [
        name
        for name, variant in VARIANTS.items()
        if scenario.partition(" ")[0].rstrip(",") in variant.scenarios
        and (variant.tls or not ca)
        and (name == BASE or any(name.startswith(each) for each in options.wires))
    ]
    rounds: Rounds = defaultdict(list)
    for number in range(options.rounds):
        for name in chosen if number % 2 == 0 else reversed(chosen):
            try:
                rounds[name].append(once(scenario, name, address, ca, options.seconds))
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                print(f"{scenario}: {name}: {error}", file=sys.stderr)
    return table(rounds)


def table(rounds: Rounds) -> str:
    """Medians; and of the ratios to the base, round by round."""
    measures = list(rounds[BASE][0])
    lines = [f"{'':32}" + "".join(f"{each:>12}" for each in (*measures, "x per s", "x CPU"))]
    for name, mine in rounds.items():
        middles = [median(each[measure] for each in mine) for measure in measures]
        ratios = [
            median(
                us[measure] / base[measure] for us, base in zip(mine, rounds[BASE], strict=False)
            )
            for measure in ("per s", "CPU µs")
        ]
        numbers = [f"{each:12,.0f}" if each >= 100 else f"{each:12.2f}" for each in middles]
        lines.append(f"{name:32}" + "".join((*numbers, *(f"{each:12.2f}" for each in ratios))))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two rounds of a second each")
    parser.add_argument("--seconds", type=float, help="of each measurement; default: 2")
    parser.add_argument("--rounds", type=int, help="how often, in turns; default: 5")
    parser.add_argument("--only", nargs="+", choices=list(SCENARIOS), default=list(SCENARIOS))
    parser.add_argument("--tls", choices=("no", "only", "both"), default="both")
    parser.add_argument("--wires", nargs="+", default=[""], help="what their names begin with")
    options = parser.parse_args()
    options.seconds = options.seconds or (1.0 if options.quick else 2.0)
    options.rounds = options.rounds or (2 if options.quick else 5)
    for secure in {"no": (False,), "only": (True,), "both": (False, True)}[options.tls]:
        with etcd(secure) as (server, ca):
            for scenario in options.only:
                print(f"\n{scenario}{', with TLS' if secure else ''}", flush=True)
                print(measure(scenario, options, server.endpoint, ca), flush=True)


if __name__ == "__main__":
    main()
