"""The locks of etcd's own client for Go and ours exclude each other, and queue together."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from conftest import Etcd
from kinds import KINDS, LONG, PATIENCE, begin
from nodes import queued

from microlock import AlreadyLockedError, EtcdClient, LockManager, connect

SOURCE = Path(__file__).parent / "go"
GO = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")

pytestmark = pytest.mark.skipif(GO is None, reason="needs Go")


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A node with Go's locks."""
    made = tmp_path_factory.mktemp("go") / "peer"
    built = subprocess.run(
        [str(GO), "build", "-o", str(made), "."], cwd=SOURCE, capture_output=True, text=True
    )
    if built.returncode:
        pytest.skip(f"go build failed: {built.stderr.strip()}")
    return made


class Peer:
    """A node with Go's locks on one key: it does one thing after the other."""

    def __init__(self, program: Path, endpoint: str, key: str) -> None:
        self._process = subprocess.Popen(
            [str(program), endpoint, key],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={name: value for name, value in os.environ.items() if name[:4] != "ETCD"},
        )

    def begin(self, command: str) -> Future[str]:
        """Has it do something. Gives what it says when that is done."""
        stdin = self._process.stdin
        assert stdin
        stdin.write(f"{command}\n")
        stdin.flush()
        return begin(self._line)

    def do(self, command: str) -> str:
        return self.begin(command).result(PATIENCE)

    def hear(self) -> str:
        return begin(self._line).result(PATIENCE)

    def _line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        with self._process as process:
            process.kill()


@pytest.fixture
def peers(program: Path, etcd_server: Etcd, key: str) -> Iterator[Callable[[], Peer]]:
    """Nodes of Go on the key of the test."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(Peer(program, etcd_server.endpoint, key)))


@pytest.fixture
def go(peers: Callable[[], Peer]) -> Peer:
    return peers()


@pytest.fixture
def etcd(etcd_server: Etcd) -> Iterator[EtcdClient]:
    with connect(etcd_server.endpoint) as etcd:
        yield etcd


@pytest.fixture
def ours(etcd: EtcdClient, key: str) -> Iterator[Callable[..., Any]]:
    """Our locks on that key, of the kinds that are named."""
    made: list[Any] = []

    def make(kind: str) -> Any:
        made.append(KINDS[kind].make(etcd, f"node-{len(made)}", key=key, ttl=LONG))
        return made[-1]

    yield make
    for lock in made:
        lock.destroy()


def test_readers_of_both_read_together_and_a_writer_waits_for_all(
    go: Peer, ours: Callable[..., Any]
) -> None:
    reader, writer = ours("ReadLock"), ours("WriteLock")
    assert go.do("read") == "read"
    reader.lock()
    waiting = begin(lambda: writer.lock(timeout=LONG))
    assert queued(writer)
    reader.unlock()
    assert not waiting.done()
    go.do("unlock")
    assert waiting.result(PATIENCE)


@pytest.mark.parametrize("theirs", ["read", "write"])
def test_go_waits_while_we_write(go: Peer, ours: Callable[..., Any], theirs: str) -> None:
    writer = ours("WriteLock")
    writer.lock()
    waiting = go.begin(theirs)
    assert queued(writer)
    assert not waiting.done()
    writer.unlock()
    assert waiting.result(PATIENCE) == theirs


def test_nobody_of_us_has_it_while_go_writes(go: Peer, ours: Callable[..., Any]) -> None:
    go.do("write")
    waiting = []
    for number, kind in enumerate(["ReadLock", "WriteLock"], 1):
        lock = ours(kind)
        with pytest.raises(AlreadyLockedError):
            lock.lock()
        waiting.append(begin(lambda lock=lock: (lock.lock(timeout=LONG), lock.unlock())))
        assert queued(lock, number)
    go.do("unlock")
    for each in waiting:
        each.result(PATIENCE)


def test_a_reader_of_ours_waits_behind_a_writer_of_go_that_waits(
    go: Peer, ours: Callable[..., Any]
) -> None:
    first, later = ours("ReadLock"), ours("ReadLock")
    first.lock()
    writing = go.begin("write")
    assert queued(first)
    with pytest.raises(AlreadyLockedError):
        later.lock()
    waiting = begin(lambda: later.lock(timeout=LONG))
    assert queued(first, 2)
    first.unlock()
    assert writing.result(PATIENCE) == "write"
    assert not waiting.done()
    go.do("unlock")
    assert waiting.result(PATIENCE)


def test_a_mutex_of_go_and_several_keys_exclude_each_other(
    go: Peer, ours: Callable[..., Any]
) -> None:
    several = ours("MultiLock")
    several.lock()
    waiting = go.begin("mutex")
    assert queued(several)
    several.unlock()
    assert waiting.result(PATIENCE) == "mutex"
    ours_waits = begin(lambda: several.lock(timeout=LONG))
    assert queued(several)
    assert not ours_waits.done()
    go.do("unlock")
    assert ours_waits.result(PATIENCE)


def test_a_leader_of_go_is_found_followed_and_succeeded(go: Peer, ours: Callable[..., Any]) -> None:
    office = ours("Election")
    leaders = office.observe()
    go.do("campaign of go")
    assert str(office.leader()) == "of go"
    go.do("proclaim something else")
    waiting = begin(lambda: office.campaign("ours", timeout=LONG))
    assert queued(office)
    go.do("resign")
    assert waiting.result(PATIENCE)
    seen = begin(lambda: [str(next(leaders)) for _ in range(3)])
    assert seen.result(PATIENCE) == ["of go", "something else", "ours"]


def test_go_finds_follows_and_succeeds_a_leader_of_ours(
    peers: Callable[[], Peer], ours: Callable[..., Any]
) -> None:
    office, go, follower = ours("Election"), peers(), peers()
    office.campaign("ours")
    assert go.do("leader") == "ours"
    assert follower.do("observe") == "observes"
    assert follower.hear() == "ours"
    waiting = go.begin("campaign of go")
    assert queued(office)
    office.proclaim("still ours")
    assert follower.hear() == "still ours"
    assert not waiting.done()
    office.resign()
    assert waiting.result(PATIENCE) == "campaign"
    assert follower.hear() == "of go"


def test_an_operator_ends_what_a_writer_of_go_has_left(
    go: Peer, etcd: EtcdClient, ours: Callable[..., Any], key: str
) -> None:
    go.do("write")
    holder = ours("WriteLock").holder()
    assert (holder.node_id, holder.role) == (None, "writer")
    go.close()
    assert LockManager(etcd, "an operator").break_lock(key) == holder
    assert ours("WriteLock").lock()
