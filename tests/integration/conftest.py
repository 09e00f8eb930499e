"""The etcd under test, and what every integration test needs around it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import cache
from pathlib import Path
from subprocess import STDOUT, Popen, check_output
from typing import Any, Protocol

import docker_etcd
import etcds
import faces
import loop_face
import pytest
from cluster import Cluster, keep_logs
from ctl import Etcdctl
from nodes import Make, nodes

from microlock.engine import handlers, reader
from microlock.etcd.wire import connection
from microlock.server import EtcdServer, binaries, binary_version, find_binary

UNDER_TEST = pytest.StashKey[str]()
FAILED = pytest.StashKey[bool]()


class Etcd(Protocol):
    """What `EtcdServer` and `DockerEtcd` have in common."""

    @property
    def endpoint(self) -> str: ...
    @property
    def version(self) -> str: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def close(self) -> None: ...


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Says which etcd it was."""
    if etcd := config.stash.get(UNDER_TEST, None):
        terminalreporter.write_line(f"etcd under test: {etcd}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Lets a fixture know that its test has failed."""
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


@pytest.fixture(scope="session")
def etcd_choice(request: pytest.FixtureRequest) -> etcds.Choice:
    """Which etcd `$ETCD_VERSION` selects; ends the run when there is none."""
    try:
        choice = etcds.choose(
            os.environ.get("ETCD_VERSION", ""),
            local_tags=docker_etcd.local_tags,
            pull=docker_etcd.pull,
            binaries=binaries(),
            version=binary_version,
        )
    except etcds.NoEtcdError as error:
        pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)
    if choice.tag is not None:
        request.config.stash[UNDER_TEST] = f"{choice.tag} in Docker"
    else:
        binary = choice.binary or find_binary()
        request.config.stash[UNDER_TEST] = f"v{binary_version(binary)}, {binary}"
    return choice


@pytest.fixture(scope="session")
def etcd_server(etcd_choice: etcds.Choice) -> Iterator[Etcd]:
    """The etcd that the tests share, with fast timers."""
    etcd = _made(etcd_choice, fast=True)
    try:
        etcd.start()
        yield etcd
    finally:
        etcd.close()


@pytest.fixture
def own_etcd(etcd_choice: etcds.Choice) -> Iterator[Callable[..., Etcd]]:
    """Starts an etcd for one test, which may kill, pause and restart it.

    `own_etcd(fast=True, flags=())`. Flags that name files name them as `--flag=/absolute/path`.
    """
    with ExitStack() as stack:

        def start(*, fast: bool = True, flags: Sequence[str] = ()) -> Etcd:
            etcd = _made(etcd_choice, fast=fast, flags=flags)
            stack.callback(etcd.close)
            etcd.start()
            return etcd

        yield start


@pytest.fixture
def cluster(
    etcd_choice: etcds.Choice, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Cluster]:
    """Three members with fast timers; what they logged is kept if the test fails."""
    if etcd_choice.tag is not None:
        pytest.skip("a cluster is made of processes, not of containers")
    with closing(Cluster(etcd_choice.binary, flags=_unsynced(etcd_choice.binary))) as made:
        yield made
        if request.node.stash[FAILED]:
            keep_logs(made, tmp_path)
            print(f"what etcd has logged is in {tmp_path}")


def _made(choice: etcds.Choice, *, fast: bool, flags: Sequence[str] = ()) -> Etcd:
    flags = ["--bcrypt-cost=4", *flags]  # a login of the default's takes a core for 0.1 s
    if choice.tag is not None:
        return docker_etcd.DockerEtcd(choice.tag, fast=fast, flags=flags)
    flags = [*_unsynced(choice.binary), *flags]
    return EtcdServer(binary=choice.binary, fast=fast, flags=flags)


@cache
def _unsynced(binary: Path | None) -> list[str]:
    """Has etcd, where it can (from 3.5 on), not wait for the disk, which may stand still for long.

    Only a machine that crashes loses what it wrote, not a process that is killed. What a slow disk
    does to a lock is for tests/faults.
    """
    told = check_output([binary or find_binary(), "--help"], text=True, stderr=STDOUT)
    return ["--unsafe-no-fsync"] if "--unsafe-no-fsync" in told else []


@pytest.fixture
def etcdctl(etcd_server: Etcd) -> Etcdctl:
    """`etcdctl("get", "foo")` on the shared etcd."""
    return Etcdctl(etcd_server.endpoint)


@pytest.fixture
def prefix() -> str:
    """For the keys of one test, so that no test sees another's."""
    return f"test-{uuid.uuid4().hex[:8]}/"


@pytest.fixture
def key(prefix: str) -> str:
    return f"{prefix}foo"


@pytest.fixture(scope="session")
def task_loop() -> Iterator[None]:
    """On which the tasks are that the asyncio face is tested with."""
    with loop_face.running():
        yield


@pytest.fixture(scope="module", params=faces.FACES)
def face(request: pytest.FixtureRequest) -> Iterator[str]:
    """The face under test: `faces.Microlock` makes its locks."""
    if request.param == faces.TASKS:
        request.getfixturevalue("task_loop")
    with faces.under_test(request.param) as face:
        yield face


@pytest.fixture
def make(etcd_server: Etcd, key: str) -> Iterator[Make]:
    """Makes locks on the shared etcd, as `nodes` does."""
    with nodes(etcd_server.endpoint, key) as make:
        yield make


@pytest.fixture
def no_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads and streams that have nothing to do any more end soon, not after two seconds."""
    monkeypatch.setattr(reader, "_LINGER", 0.1)
    monkeypatch.setattr(handlers, "_IDLE", 0.1)


@pytest.fixture
def soon_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection is given up when its peer has been silent for 3 s, not for 9."""
    monkeypatch.setattr(connection, "_PING_AFTER", 1.5)
    monkeypatch.setattr(connection, "_PONG_WITHIN", 1.5)


@pytest.fixture
def etcdctl_lock(etcdctl: Etcdctl, key: str) -> Iterator[Callable[[], Popen[str]]]:
    """Starts `etcdctl lock`, which prints the name of its entry when it has the lock."""
    with ExitStack() as stack:

        def start() -> Popen[str]:
            process = stack.enter_context(etcdctl.start("lock", key))
            stack.callback(process.kill)
            return process

        yield start
