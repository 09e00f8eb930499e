"""What the README and the demo show is what happens."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import microlock

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_demo_runs_to_its_end(etcd_server: Any) -> None:
    demo = subprocess.run(
        [sys.executable, str(ROOT / "examples/demo.py"), etcd_server.endpoint],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert demo.returncode == 0, demo.stderr
    assert "AlreadyLockedError: held by node-c, dead or not" in demo.stdout
    assert "LockLostError" in demo.stdout
    assert "rose with every holder" in demo.stdout


def example(containing: str, endpoint: str) -> str:
    """The one example of the README with these words in it, for this etcd."""
    (found,) = (
        each for each in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if containing in each
    )
    return found.replace("localhost:2379", endpoint)


def test_the_readmes_first_example_runs(etcd_server: Any, capsys: Any) -> None:
    fences: list[int] = []
    names: dict[str, Any] = {"work": lambda fence: fences.append(fence)}
    exec(example("from socket", etcd_server.endpoint), names)
    names["etcd"].close()
    assert len(fences) == 1
    assert capsys.readouterr().out in ("", "foo is free\n")


def test_the_readmes_restart_carries_on(etcd_server: Any, prefix: str) -> None:
    with microlock.connect(etcd_server.endpoint) as etcd:
        token = microlock.Microlock(etcd, prefix, "node-a", ttl=30).lock().token
        for restarted in ("node-a", "node-b"):
            foo = microlock.Microlock(etcd, prefix, restarted, ttl=30)
            names = {"foo": foo, "LockNotOwnedError": microlock.LockNotOwnedError}
            if restarted == "node-b":
                microlock.Microlock(etcd, prefix, "node-a").unlock()
            exec(example("before any lock()", etcd_server.endpoint), names)
            assert foo.held
            assert (foo.token == token) == (restarted == "node-a")
        foo.destroy()


def test_the_readmes_renewals_keep_the_lock(etcd_server: Any, prefix: str) -> None:
    clock = itertools.count(step=1.5)
    fences: list[int] = []
    names: dict[str, Any] = {
        "connect": microlock.connect,
        "Microlock": microlock.Microlock,
        "monotonic": lambda: next(clock),
        "node_id": "node-a",
        "pieces": range(5),
        "work": lambda piece, fence: fences.append(fence),
    }
    exec(example("for piece in pieces", etcd_server.endpoint), names)
    assert names["foo"].held
    assert fences == [names["hold"].token] * 5
    names["foo"].destroy()
    names["etcd"].close()


def test_the_readme_names_every_public_name() -> None:
    missing = [name for name in microlock.__all__ if not re.search(rf"\b{name}\b", README)]
    assert missing == ["EtcdClient"]  # what connect() returns: nobody needs its name
