"""The servers that contenders speak to: a new and empty one for each run, with data on disk."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from microlock.server import EtcdServer, free_ports

START_TIMEOUT = 30.0
JARS = "/usr/share/java/*"  # where Debian's package `zookeeper` and what it needs are
ZOOKEEPER = Path("/usr/share/java/zookeeper.jar")


def missing(server: str) -> str | None:
    """Why there is no such server on this machine."""
    if server == "redis-server" and not shutil.which("redis-server"):
        return "no redis-server on the PATH (Debian: apt install redis-server)"
    if server == "zookeeper" and not (shutil.which("java") and ZOOKEEPER.exists()):
        return f"no java or no {ZOOKEEPER} (Debian: apt install zookeeper)"
    return None


@contextmanager
def started(server: str) -> Iterator[str]:
    """Runs one; yields `host:port`. Every write is on disk before it is answered."""
    if server == "etcd":
        with EtcdServer() as etcd:
            yield etcd.endpoint
        return
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="microlock-bench-") as directory:
        command = _redis(port) if server == "redis-server" else _zookeeper(port, directory)
        process = subprocess.Popen(
            command, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            _wait_for(port, process)
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def _redis(port: int) -> list[str]:
    options = {"port": port, "appendonly": "yes", "appendfsync": "always", "save": ""}
    return [
        "redis-server",
        *(part for key, value in options.items() for part in (f"--{key}", str(value))),
    ]


def _zookeeper(port: int, directory: str) -> list[str]:
    config = Path(directory) / "zoo.cfg"
    config.write_text(
        f"tickTime=2000\ndataDir={directory}\nclientPort={port}\nclientPortAddress=127.0.0.1\n"
        "maxClientCnxns=0\nadmin.enableServer=false\n"
    )
    main = "org.apache.zookeeper.server.ZooKeeperServerMain"
    return ["java", "-cp", JARS, main, str(config)]


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{process.args[0]} does not serve")  # type: ignore[index]
