"""A disk that is slow for one process: strace delays what it writes through to it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache


@cache
def why_not() -> str | None:
    """What is missing for it; None if nothing is."""
    if shutil.which("strace") is None:
        return "a slow disk needs `strace`"
    tried = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True)
    return None if tried.returncode == 0 else f"no strace here: {tried.stderr.strip()}"


@contextmanager
def slow_disk(pid: int, delay: float) -> Iterator[None]:
    """Each fdatasync of the process takes `delay` seconds longer in the block."""
    strace = subprocess.Popen(
        [
            "strace",
            "--follow-forks",
            f"--attach={pid}",
            "--trace=fdatasync",
            f"--inject=fdatasync:delay_enter={delay * 1_000_000:.0f}",
            "--output=/dev/null",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert strace.stderr
        assert "attached" in strace.stderr.readline()
        yield
    finally:
        strace.terminate()  # it detaches
        strace.communicate()
