"""The models of the protocol in docs/model, gone through from end to end by spin."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

MODELS = Path(__file__).parents[2] / "docs" / "model"
SPIN, CC = shutil.which("spin"), shutil.which("cc") or shutil.which("gcc")
MIB = 1500  # what one search may take

pytestmark = pytest.mark.skipif(
    not (SPIN and CC and MODELS.exists()), reason="needs spin, a C compiler and docs/model"
)


def search(tmp_path: Path, *defines: str, model: str = "queue") -> tuple[int, int]:
    """How many errors were found, and in how many states. The first error ends it."""
    said = told(tmp_path, model, *defines)
    errors = re.search(r"errors: (\d+)", said)
    states = re.search(r"(\d+) states, stored", said)
    assert errors, said
    assert states, said
    assert "max search depth too small" not in said
    assert "Search not completed" not in said or int(errors[1]), said
    return int(errors[1]), int(states[1])


def told(tmp_path: Path, model: str, *defines: str) -> str:
    """What the search tells."""
    live = "LIVENESS" in defines
    for_pan = ["-DNFAIR=4"] if live else ["-DSAFETY"]
    flags = [f"-D{each}" for each in defines]
    run(tmp_path, [str(SPIN), *flags, "-a", str(MODELS / f"{model}.pml")])
    run(tmp_path, [str(CC), "-O2", "-DCOLLAPSE", f"-DMEMLIM={MIB}", *for_pan, "-o", "pan", "pan.c"])
    return run(tmp_path, ["./pan", "-m100000", *(["-a", "-f"] if live else [])])


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


# Several keys.

NOTHING_HAPPENS = ["LAPSES=0", "BREAKS=0", "GIVE_UPS=0"]


@pytest.mark.parametrize(
    ("defines", "least"),
    [(NOTHING_HAPPENS, 1_000_000), (["CYCLES=1"], 3_000_000)],
    ids=["all goes well", "leases end and entries go"],
)
def test_several_keys_are_never_shared_nor_waited_for_in_a_circle(tmp_path, defines, least):
    errors, states = search(tmp_path, *defines, model="several")
    assert errors == 0
    assert states > least


def test_who_waits_for_several_keys_comes_to_hold_them(tmp_path):
    errors, states = search(tmp_path, "LIVENESS", *NOTHING_HAPPENS, model="several")
    assert errors == 0
    assert states > 1_000_000


@pytest.mark.parametrize(
    ("broken", "found"),
    [
        (["TWO_STEPS", *NOTHING_HAPPENS], "invalid end state"),
        (["ONE_WILL_DO"], "assertion violated"),
        (["KEEPS_THE_REST"], "invalid end state"),
    ],
    ids=lambda each: each[0] if isinstance(each, list) else "",
)
def test_several_keys_that_are_taken_otherwise_are_found_out(tmp_path, broken, found):
    assert found in told(tmp_path, "several", "CYCLES=1", *broken)
