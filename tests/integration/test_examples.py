"""What the examples show is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import Etcd

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, *arguments: str) -> str:
    """What the example prints, run to its end."""
    example = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert example.returncode == 0, example.stderr
    return example.stdout


def in_order(output: str, said: Sequence[tuple[str, str]]) -> bool:
    """Whether each of these nodes says this, in this order; others may speak in between."""
    pattern = ".*".join(rf" s  {who} +{re.escape(what)}" for who, what in said)
    return re.search(pattern, output, re.DOTALL) is not None


@pytest.fixture(scope="module")
def fencing(etcd_server: Etcd) -> str:
    return run("fencing.py", etcd_server.endpoint)


@pytest.fixture(scope="module")
def standby(etcd_server: Etcd) -> str:
    return run("standby.py", etcd_server.endpoint)


def test_a_process_that_was_paused_beyond_its_ttl_is_refused_its_write(fencing: str) -> None:
    said = [
        ("node-a", "locked"),
        ("node-a", "paused"),
        ("node-b", "locked"),
        ("node-b", "written"),
        ("node-a", "goes on"),
        ("node-a", "StaleTokenError"),
        ("node-a", "held: False"),
    ]
    assert in_order(fencing, said), fencing


def test_the_report_is_that_of_the_node_that_took_over(fencing: str) -> None:
    (token,) = re.findall(r"node-b +locked, token (\d+)", fencing)
    assert fencing.splitlines()[-1] == f"The report is by node-b, token {token}"


def test_a_node_that_stands_by_takes_over_when_the_active_one_is_killed(standby: str) -> None:
    said = [
        ("node-a", "active"),
        ("node-b", "stands by"),
        ("node-a", "killed"),
        ("node-b", "active"),
    ]
    assert in_order(standby, said), standby


def test_a_node_that_loses_the_lock_stands_by_and_is_active_again(standby: str) -> None:
    said = [
        ("node-b", "active"),
        ("operator", "took the lock from node-b"),
        ("node-c", "active"),
        ("node-b", "lost: the entry is gone from etcd"),
        ("node-b", "stands by"),
        ("node-c", "ended"),
        ("node-b", "active"),
    ]
    assert in_order(standby, said), standby


@pytest.mark.parametrize("name", ["fencing.py", "standby.py"])
def test_an_example_brings_an_etcd_along_when_none_is_named(name: str) -> None:
    assert run(name)
