"""The model of the protocol in docs/model, checked from end to end by spin, where spin is there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

MODEL = Path(__file__).parents[2] / "docs" / "model" / "queue.pml"
SPIN, CC = shutil.which("spin"), shutil.which("cc") or shutil.which("gcc")
MIB = 1500  # what one search may take

pytestmark = pytest.mark.skipif(
    not (SPIN and CC and MODEL.exists()), reason="needs spin, a C compiler and docs/model"
)


def search(tmp_path: Path, *defines: str) -> tuple[int, int]:
    """How many errors were found, and in how many states. The first error ends it."""
    live = "LIVENESS" in defines
    for_pan = ["-DNFAIR=4"] if live else ["-DSAFETY"]
    flags = [f"-D{each}" for each in defines]
    run(tmp_path, [str(SPIN), *flags, "-a", str(MODEL)])
    run(tmp_path, [str(CC), "-O2", "-DCOLLAPSE", f"-DMEMLIM={MIB}", *for_pan, "-o", "pan", "pan.c"])
    said = run(tmp_path, ["./pan", "-m100000", *(["-a", "-f"] if live else [])])
    errors = re.search(r"errors: (\d+)", said)
    states = re.search(r"(\d+) states, stored", said)
    assert errors, said
    assert states, said
    assert "max search depth too small" not in said
    assert "Search not completed" not in said or int(errors[1]), said
    return int(errors[1]), int(states[1])


def run(tmp_path: Path, command: list[str]) -> str:
    done = subprocess.run(
        command,
        cwd=tmp_path,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=600,
    )
    return done.stdout


@pytest.mark.parametrize(
    ("defines", "least"),
    [
        (["CLIENTS=2", "CYCLES=2", "LOSSES=2"], 500_000),
        (["CLIENTS=3", "CYCLES=1", "LOSSES=1"], 100_000),
        (["CLIENTS=3", "CYCLES=1", "LOSSES=2"], 1_000_000),
    ],
    ids=["two clients", "three clients", "three clients, two losses"],
)
def test_at_most_one_believes_and_nothing_is_left_behind(tmp_path, defines, least):
    errors, states = search(tmp_path, *defines)
    assert errors == 0
    assert states > least


@pytest.mark.parametrize(
    "defines",
    [["CLIENTS=2"], ["CLIENTS=3", "CYCLES=1", "LOSSES=1"]],
    ids=["two clients", "three clients"],
)
def test_who_waits_comes_to_hold_or_gives_up(tmp_path, defines):
    errors, states = search(tmp_path, "LIVENESS", *defines)
    assert errors == 0
    assert states > 100_000


@pytest.mark.parametrize("broken", ["NO_REVOKE", "NO_GUARD", "REUSE", "BARGE", "LATE_DEADLINE"])
def test_a_protocol_that_is_broken_is_found_out(tmp_path, broken):
    errors, _ = search(tmp_path, broken)
    assert errors


def test_a_queue_where_what_is_left_never_ends_is_found_out(tmp_path):
    errors, _ = search(tmp_path, "LIVENESS", "NO_EXPIRY", "LAPSES=0")
    assert errors
