"""What the README and the demo show is what happens."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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


@pytest.mark.parametrize("page", ["waiting", "keeping", "losing", "fencing"])
def test_the_examples_of_a_page_run_one_after_another(etcd_server: Any, page: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / f"docs/{page}.md").read_text(), re.DOTALL)
    assert blocks
    host, _, port = etcd_server.endpoint.rpartition(":")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        with microlock.connect(etcd_server.endpoint) as etcd:
            names = {name: getattr(microlock, name) for name in microlock.__all__}
            names |= {"etcd": etcd, "host": host, "port": int(port)}
            names |= {"node_id": "node-a", "work": lambda *_, fence=0: None, "pieces": range(3)}
            for block in blocks:
                exec(block, names)
    finally:
        signal.signal(signal.SIGTERM, on_sigterm)


def test_the_readmes_first_example_runs(etcd_server: Any, capsys: Any) -> None:
    fences: list[int] = []
    names: dict[str, Any] = {"work": lambda fence: fences.append(fence)}
    exec(example("from socket", etcd_server.endpoint), names)
    names["etcd"].close()
    assert len(fences) == 2
    assert fences[0] < fences[1]
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


def asyncio_main(etcd: microlock.EtcdClient, key: str, fences: list[int]) -> Any:
    """The `main()` of the README's example."""

    async def work(fence: int) -> None:
        fences.append(fence)

    names = vars(microlock) | {"asyncio": asyncio, "etcd": etcd, "node_id": "node", "work": work}
    exec(example("async def main", "").replace('"foo"', repr(key)), names)
    return names["main"]


def test_the_readmes_asyncio_works_under_the_lock(etcd_server: Any, key: str) -> None:
    fences: list[int] = []
    with microlock.connect(etcd_server.endpoint) as etcd:
        asyncio.run(asyncio_main(etcd, key, fences)())
        assert len(fences) == 1
        assert microlock.Microlock(etcd, key, "other").holder() is None


def test_the_readmes_asyncio_leaves_nothing_when_it_is_cancelled(
    etcd_server: Any, key: str
) -> None:
    fences: list[int] = []
    with microlock.connect(etcd_server.endpoint) as etcd:
        other = microlock.Microlock(etcd, key, "other", ttl=60)
        main = asyncio_main(etcd, key, fences)

        async def cancel() -> None:
            task = asyncio.create_task(main())
            while not await asyncio.to_thread(other.waiters):
                await asyncio.sleep(0.01)
            task.cancel()
            await task

        other.lock()
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(cancel())
        assert (other.waiters(), fences) == ([], [])
        other.destroy()


def test_the_readme_names_every_public_name() -> None:
    missing = [name for name in microlock.__all__ if not re.search(rf"\b{name}\b", README)]
    assert missing == ["EtcdClient"]  # what connect() returns: nobody needs its name
