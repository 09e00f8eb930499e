"""Runs the contenders, in turns; prints medians and ratios, and writes them as JSON and SVG.

    python benchmarks/run.py                       # with the contenders that PyPI gives
    python benchmarks/run.py --peers all           # with all, every scenario, in full size
    python benchmarks/run.py --peers raw,Go --size small --only handover

Each run of a contender is a process of its own, with a server of its own that is new and empty.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

from chart import chart
from contenders import CONTENDERS, FROM_PYPI, Contender
from plans import FULL, SMALL, Run
from report import Results, overview, table
from servers import missing, started

from microlock.server import EtcdServer

HERE = Path(__file__).parent
OURS = ("microlock", "microlock, main thread", "microlock asyncio")


def main() -> None:
    options = _options()
    chosen, left_out = _available(_chosen(options.peers), options.build)
    full = options.size == "full" or (options.size is None and options.peers == "all")
    runs = [run for run in (FULL if full else SMALL) if run.scenario in options.only]
    results = Results(
        about={
            "etcd": EtcdServer().version,
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            "rounds": options.rounds,
        },
        left_out=left_out,
    )
    began = time.monotonic()
    for run in runs:
        for number in range(options.rounds):
            for contender in chosen:
                if run.scenario in contender.scenarios and run.does(contender.name):
                    _say(f"{run.scenario} {run.setting}, round {number + 1}: {contender.name}")
                    _once(run, contender, options.build, results)
    results.about["seconds"] = round(time.monotonic() - began)
    _say("")
    print(table(results, runs))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(results.as_json(), indent=1) + "\n")
    (options.out / "results.svg").write_text(chart(results, runs))
    (options.out / "overview.md").write_text(overview(results, runs))
    print(f"Written to {options.out}: results.json, overview.md, results.svg.")
    if not results.complete("microlock"):
        sys.exit("microlock failed in some of it")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    names = ", ".join(contender.name for contender in CONTENDERS if contender.name not in OURS)
    scenarios = sorted({run.scenario for run in FULL})
    parser.add_argument("--peers", default="pypi", help=f"pypi, all, or some of: {names}")
    parser.add_argument("--size", choices=("small", "full"), help="full with --peers all")
    parser.add_argument("--rounds", type=int, default=3, help="how often, in turns")
    parser.add_argument("--only", nargs="+", choices=scenarios, default=scenarios)
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="for the results")
    parser.add_argument("--build", type=Path, default=Path("build/bench"), help="for Go's program")
    return parser.parse_args()


def _chosen(peers: str) -> list[Contender]:
    known = {contender.name: contender for contender in CONTENDERS}
    if peers == "all":
        return list(CONTENDERS)
    names = FROM_PYPI if peers == "pypi" else [name.strip() for name in peers.split(",")]
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"unknown: {', '.join(unknown)}; there are: {', '.join(known)}")
    return [known[name] for name in (*OURS, *names) if name in known]


def _available(chosen: list[Contender], build: Path) -> tuple[list[Contender], dict[str, str]]:
    there, left_out = [], {}
    for contender in chosen:
        reason = _build_go(build) if not contender.module else missing(contender.server)
        if contender.package and not importlib.util.find_spec(contender.package):
            reason = f"{contender.package} is not installed"
        if reason:
            left_out[contender.name] = reason
        else:
            there.append(contender)
    return there, left_out


def _build_go(build: Path) -> str | None:
    """Why there is no program of Go's; None if there is one now."""
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        return "no go on the PATH, nor in /usr/local/go/bin"
    command = [go, "build", "-o", str((build / "go-mutex").absolute()), "."]
    built = subprocess.run(command, cwd=HERE / "go", capture_output=True, text=True)
    return None if built.returncode == 0 else f"go build failed: {built.stderr.strip()}"


def _once(run: Run, contender: Contender, build: Path, results: Results) -> None:
    with started(contender.server) as endpoint:
        setting = {"scenario": run.scenario, "endpoint": endpoint, **run.setting}
        command = [str((build / "go-mutex").absolute()), json.dumps(setting)]
        if contender.module:
            setting["contender"] = contender.name
            command = [sys.executable, str(HERE / "child.py"), json.dumps(setting)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=run.timeout)
            cells = json.loads(done.stdout)
        except subprocess.TimeoutExpired:
            results.failed(run.scenario, contender.name, f"not done after {run.timeout:g} s")
        except json.JSONDecodeError:
            words = done.stderr.strip().rpartition("\n")[2]
            results.failed(run.scenario, contender.name, words or "it said nothing")
        else:
            for cell, measures in cells.items():
                results.add(run.scenario, cell, contender.name, measures)


def _say(what: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{what}"[: shutil.get_terminal_size().columns], end="", file=sys.stderr)
    elif what:
        print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
