"""`microlock` as a process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

from watching import DEADLINE

# Seconds for a process to end: many may start at the same time on a machine that is busy.
END = 60.0
MICROLOCK = [sys.executable, "-m", "microlock"]
Start = Callable[..., Popen[str]]


def environment(endpoint: str) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if name[:9] != "MICROLOCK"}
    return ours | {"MICROLOCK_ETCD": endpoint}


@contextmanager
def processes(endpoint: str) -> Iterator[Start]:
    """Starts `microlock` with these arguments; what is left of them at the end is killed."""
    with ExitStack() as stack:

        def start(*arguments: str, **options: Any) -> Popen[str]:
            command = [*MICROLOCK, *arguments]
            how = {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE, "env": environment(endpoint)}
            process: Popen[str] = Popen(command, text=True, **(how | options))
            stack.callback(_end, process)
            return process

        yield start


def _end(process: Popen[str]) -> None:
    process.kill()
    process.wait(DEADLINE)
    for each in (process.stdin, process.stdout, process.stderr):
        if each:
            with suppress(BrokenPipeError):  # what was not read
                each.close()


def ended(process: Popen[str]) -> tuple[int, str, str]:
    """Its exit status, and what it has said to both sides."""
    out, err = process.communicate(timeout=END)
    return process.returncode, out, err


def line_of(process: Popen[str]) -> str:
    """The next that it says."""
    assert process.stdout
    return process.stdout.readline().strip()


def state_of(pid: int) -> str:
    """As `ps` has it; "" for one that is gone, or nobody has asked what has become of it."""
    with suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return "" if state in "ZX" else state
    return ""
