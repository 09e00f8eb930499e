"""microlock on old and new protobufs and ngh2, and in one process with other clients of etcd.

`make compat` runs this. Each environment is a virtual environment below `.venvs`, made with the
Python that runs this and brought up to date by the next run; `cycle.py` runs in it, with warnings
as errors. It exits with 1 if any of them fails.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CYCLE = str(Path(__file__).with_name("cycle.py"))
CYCLE_TIMEOUT = 120.0
OUTPUT_LINES = 20
PYTHON = "{}.{}".format(*sys.version_info)
WARNINGS = (
    "error",
    # What protobuf itself does at its import on Python >= 3.12: 3.20, and 4.25 in C.
    "ignore:datetime.datetime.utcfromtimestamp:DeprecationWarning",
    "ignore:Type google._upb:DeprecationWarning",
)


@dataclass(frozen=True)
class Environment:
    name: str
    packages: tuple[str, ...]
    imports: tuple[tuple[str, ...], ...] = ((),)  # a cycle for each: what it imports first
    unpinned: tuple[str, ...] = ()  # their newest versions, whatever setup.cfg allows


ENVIRONMENTS = (
    # The oldest of everything that setup.cfg allows.
    Environment(
        "oldest",
        (
            "protobuf==3.20.3",
            "grpcio==1.80.0",
            "ngh2==0.3.0",
            "pyee==13.0.0",
            "tenacity==8.3.0",
        ),
    ),
    Environment("protobuf-3.20.3", ("protobuf==3.20.3",)),
    Environment("protobuf-4.25", ("protobuf==4.25.*",)),
    Environment("protobuf-5.29", ("protobuf==5.29.*",)),
    Environment("protobuf-6.33", ("protobuf==6.33.*",)),
    Environment("protobuf-newest", ("protobuf",)),
    Environment("ngh2-newest", (), unpinned=("ngh2",)),
    # The pins of both leave the newest protobuf in (aetcd 1.0: < 8); the table shows which it is.
    Environment(
        "clients",
        ("protobuf", "etcd-sdk-python", "aetcd"),
        tuple(itertools.permutations(("etcd3", "pyetcd", "aetcd"))),
    ),
)


def main() -> int:
    print(f"Python {PYTHON}")
    print(row("environment", "imported first", "protobuf", "result"), flush=True)
    failures = []
    for environment in ENVIRONMENTS:
        for imports, protobuf, failure in cycles(environment):
            result = "failed" if failure else "ok"
            print(row(environment.name, ", ".join(imports), protobuf, result), flush=True)
            if failure:
                failures.append(f"{environment.name} {', '.join(imports)}\n{failure}")
    for failure in failures:
        print(f"\n{failure}", file=sys.stderr)
    return 1 if failures else 0


def row(environment: str, imports: str, protobuf: str, result: str) -> str:
    return f"{environment:17}{imports:23}{protobuf:15}{result}"


def cycles(environment: Environment) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """For each cycle: what it imported first, its protobuf, and the end of its output if it failed.

    When the environment can't be made, that is the one failure.
    """
    home = REPOSITORY / ".venvs" / f"compat-{PYTHON}-{environment.name}"
    python = str(home / "bin" / "python")
    install = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    newest = [*install, "--upgrade", "--no-deps", *environment.unpinned]
    cycle = [python, "-E", *(f"-W{warning}" for warning in WARNINGS), CYCLE]
    try:
        if not (home / "bin" / "pip").exists():  # the last thing that goes in
            run([sys.executable, "-m", "venv", "--clear", str(home)])
        run([*install, "--upgrade", "--editable", f"{REPOSITORY}[server]", *environment.packages])
        if environment.unpinned:
            run(newest)
    except subprocess.CalledProcessError as error:
        yield (), "not installed", tail(error.output)
        return
    for imports in environment.imports:
        try:
            output = run([*cycle, *imports], timeout=CYCLE_TIMEOUT)
        except subprocess.CalledProcessError as error:
            yield imports, "", tail(error.output)
        except subprocess.TimeoutExpired as error:
            yield imports, "", f"no end after {error.timeout:.0f} s"
        else:
            yield imports, output.splitlines()[-1], ""


def run(command: list[str], timeout: float | None = None) -> str:
    """The output of a command, both kinds together.

    Raises:
        subprocess.CalledProcessError, subprocess.TimeoutExpired: it failed, or did not end.
    """
    # The promise is that it works without this variable.
    env = {k: v for k, v in os.environ.items() if k != "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"}
    return subprocess.run(
        command,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=True,
    ).stdout


def tail(output: str) -> str:
    return "\n".join(output.splitlines()[-OUTPUT_LINES:])


if __name__ == "__main__":
    sys.exit(main())
