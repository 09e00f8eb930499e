"""`microlock watch` and `microlock status --watch`, as processes."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
from collections.abc import Iterator
from subprocess import Popen
from time import monotonic

import pytest
from commands import Start, ended, line_of, processes
from conftest import Etcd
from nodes import Make
from watching import DEADLINE


@pytest.fixture
def start(etcd_server: Etcd) -> Iterator[Start]:
    with processes(etcd_server.endpoint) as start:
        yield start


def test_watch_tells_who_takes_a_lock_and_who_gives_it_back(start: Start, make: Make) -> None:
    foo = make("two\n")
    lines, objects = start("watch", foo.key), start("watch", foo.key, "--json")
    _take_until_it_speaks(foo, lines)
    _take_until_it_speaks(foo, objects)
    hold = foo.lock()
    foo.unlock()
    told = {"key": foo.key, "node_id": "two\n", "token": hold.token, "synthesised": False}
    ended_with = f"unlocked {foo.key} two\\n, token {hold.token}"
    while not (line := line_of(lines)).endswith(ended_with):
        assert line
    while (event := json.loads(line_of(objects)))["token"] != hold.token:
        pass
    assert event | {"time": ""} == {"time": "", "event": "locked", **told}
    for watcher in (lines, objects):
        watcher.send_signal(signal.SIGINT)
        assert ended(watcher)[::2] == (-signal.SIGINT, "")


def _take_until_it_speaks(foo: object, watcher: Popen[str]) -> None:
    """Nobody knows from when on it watches."""
    while not select.select([watcher.stdout], [], [], 0.1)[0]:
        with foo:  # type: ignore[attr-defined]
            pass


def test_a_status_that_watches_shows_what_becomes_of_it(start: Start, make: Make) -> None:
    foo = make("two")
    status = start("status", foo.key, "--watch", "--interval", "0.1", "--json")
    assert line_of(status) == "[]"
    hold = foo.lock()
    while not (shown := json.loads(line_of(status))):
        pass
    assert shown[0]["holders"][0]["token"] == hold.token


def test_at_a_terminal_the_status_is_coloured_and_as_high_as_the_screen(
    start: Start, make: Make, prefix: str
) -> None:
    held = [make("two", key=f"{prefix}{number:02}") for number in range(30)]
    for each in held:
        each.lock()
    ours, theirs = pty.openpty()
    status = start("status", prefix, "--watch", stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown, end = "", monotonic() + DEADLINE
    while "more" not in shown:
        assert select.select([ours], [], [], end - monotonic())[0]
        shown += os.read(ours, 65536).decode()
    status.terminate()
    status.wait(DEADLINE)
    os.close(ours)
    first, *others = shown.splitlines()
    assert first.startswith("\x1b[H\x1b[J\x1b[1mLOCK")
    assert others[0].startswith(f"\x1b[1m{prefix}00\x1b[0m  \x1b[32mheld \x1b[0m  two")
    assert (len(others), others[-1]) == (22, "... and 9 more")
