"""What the README, the pages and the demo show is what happens."""

from __future__ import annotations

import inspect
import pydoc
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyee
import pytest

import microlock

ROOT = Path(__file__).parents[2]
CALLS = (ROOT / "docs/calls.md").read_text()


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


def examples(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def example(page: str, containing: str, endpoint: str) -> str:
    """The one example of the page with these words in it, for this etcd."""
    (found,) = (each for each in examples(page) if containing in each)
    return found.replace("localhost:2379", endpoint)


@pytest.mark.parametrize("store", ["etcd", "memory"])
@pytest.mark.parametrize("face", ["microlock", "microlock.asyncio"])
def test_the_readmes_examples_run_as_pasted(
    etcd_server: Any, store: str, face: str, capsys: Any
) -> None:
    endpoint = etcd_server.endpoint if store == "etcd" else "memory://"
    names: dict[str, Any] = {}
    exec(example("README.md", f"from {face} import", endpoint), names)
    if face == "microlock":
        names["etcd"].close()
    assert capsys.readouterr().out.startswith("locked; token ")


def test_the_tutorial_prints_what_it_shows(etcd_server: Any, capsys: Any) -> None:
    page = (ROOT / "docs/tutorial.md").read_text()
    names: dict[str, Any] = {}
    for block, shown in re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", page, re.DOTALL):
        exec(block.replace("localhost:2379", etcd_server.endpoint), names)
        assert capsys.readouterr().out == shown
    assert page.count("```python") == page.count("```text") == 4


def test_the_example_of_events_runs(capsys: Any) -> None:
    (block,) = examples("docs/events.md")
    exec(block, {})
    assert capsys.readouterr().out == "foo is free\n"


def test_connect_takes_the_arguments_of_its_page() -> None:
    page = (ROOT / "docs/connecting.md").read_text()
    named = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    told = {name for cell in named for name in re.findall(r"`(\w+)`", cell)}
    assert told == set(inspect.signature(microlock.connect).parameters)


@pytest.mark.parametrize("page", ["kinds", "waiting", "keeping", "losing", "fencing"])
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


def test_the_examples_of_testing_are_tests_that_pass(tmp_path: Path) -> None:
    """With the plugin as an application has it, and warnings as errors."""
    page = (ROOT / "docs/testing.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for number, block in enumerate(blocks):
        (tmp_path / f"test_{number}.py").write_text(block)
    run = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "."]
    ran = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout
    assert f"{sum(block.count('def test_') for block in blocks)} passed" in ran.stdout


def test_the_tutorials_first_example_tells_that_foo_is_free_in_each_of_10_processes(
    etcd_server: Any,
) -> None:
    script = example("docs/tutorial.md", "from socket", etcd_server.endpoint)

    def run(_: int) -> str:
        return subprocess.run(
            [sys.executable, "-c", script.replace('"foo"', f'"foo-{uuid4()}"')],
            stdout=subprocess.PIPE,
            text=True,
            timeout=60,
            check=True,
        ).stdout

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(run, range(10))) == ["locked\nfoo is free\n"] * 10


def test_a_restarted_process_carries_on_as_the_page_of_calls_says(
    etcd_server: Any, prefix: str
) -> None:
    with microlock.connect(etcd_server.endpoint) as etcd:
        killed = microlock.Microlock(etcd, prefix, "node-a", ttl=30)
        token = killed.lock().token
        for restarted in ("node-a", "node-b"):
            if restarted == "node-b":
                killed.unlock()
            foo = microlock.Microlock(etcd, prefix, restarted, ttl=30)
            names = {"foo": foo, "LockNotOwnedError": microlock.LockNotOwnedError}
            exec(example("docs/calls.md", "before any lock()", etcd_server.endpoint), names)
            assert foo.held
            assert (foo.token == token) == (restarted == "node-a")
        foo.destroy()


def test_the_pages_of_reference_name_every_public_name() -> None:
    pages = ("README", *(f"docs/{page}" for page in ("calls", "connecting", "errors", "events")))
    text = "".join((ROOT / f"{page}.md").read_text() for page in pages)
    missing = [name for name in microlock.__all__ if not re.search(rf"\b{name}\b", text)]
    assert missing == ["Leader"]  # what Election.leader() returns: the page of kinds has it


def in_first_column(section: str) -> set[str]:
    """The names in the first column of the table of a section."""
    text = CALLS.split(f"\n{section}\n", 1)[1].split("\n#", 1)[0]
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall(r"[`(, ](\w+)(?=[`(.,])", cell)}


@pytest.mark.parametrize("of", ["the class", "an object"])
def test_the_public_names_of_a_lock_are_those_of_the_table_of_calls(
    etcd_server: Any, of: str
) -> None:
    with microlock.connect(etcd_server.endpoint) as etcd:
        one = microlock.Microlock if of == "the class" else microlock.Microlock(etcd, "foo", "one")
        names = {name for name in dir(one) if not name.startswith("_")}
    told = {name for name in in_first_column("## The lock") if hasattr(microlock.Microlock, name)}
    constructor = {"key", "node_id", "ttl"}
    assert names - set(dir(pyee.EventEmitter)) == told - set(
        dir(pyee.EventEmitter)
    ) | constructor | {"events"}


def test_help_shows_the_names_of_the_table_of_calls_and_nothing_else() -> None:
    shown = pydoc.render_doc(microlock.Microlock, renderer=pydoc.plaintext)
    names = set(re.findall(r"^ \|  ([a-z]\w*)(?:\(.*| = .*)?$", shown, re.MULTILINE))
    told = {name for name in in_first_column("## The lock") if hasattr(microlock.Microlock, name)}
    assert told - {"mro"} <= names
    assert names - told <= {"key", "node_id", "ttl", "events", *dir(pyee.EventEmitter)}


def test_the_public_names_of_a_manager_are_those_of_the_table_of_calls() -> None:
    names = {name for name in dir(microlock.LockManager) if not name.startswith("_")}
    told = in_first_column("## Many locks")
    assert names == {name for name in told if hasattr(microlock.LockManager, name)}


def test_the_version_is_that_of_the_package() -> None:
    assert microlock.__version__ == metadata.version("microlock")
