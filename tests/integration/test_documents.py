"""What the README and the demo show is what happens."""

from __future__ import annotations

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


def test_the_readmes_example_runs(etcd_server: Any, capsys: Any) -> None:
    example = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    example = example.replace("localhost:2379", etcd_server.endpoint)
    fences: list[int] = []
    names: dict[str, Any] = {"work": lambda fence: fences.append(fence)}
    exec(example, names)
    names["etcd"].close()
    assert len(fences) == 1
    assert capsys.readouterr().out in ("", "foo is free\n")


def test_the_readme_names_every_public_name() -> None:
    missing = [name for name in microlock.__all__ if not re.search(rf"\b{name}\b", README)]
    assert missing == ["EtcdClient"]  # what connect() returns: nobody needs its name
