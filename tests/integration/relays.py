"""What etcd has to stand between it and its clients: `etcd grpc-proxy` and `etcd gateway`."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from watching import eventually

from microlock.server import HOST, find_binary, free_ports

KINDS = ("grpc-proxy", "gateway")


@contextmanager
def relay(
    kind: str, *endpoints: str, binary: Path | None = None, port: int | None = None
) -> Iterator[str]:
    """Runs one before these members; where clients connect, `host:port`.

    `binary`: of etcd; None for the one that EtcdServer finds.
    """
    port = port or free_ports(1)[0]
    command = [str(binary or find_binary()), kind, "start", f"--endpoints={','.join(endpoints)}"]
    if kind == "grpc-proxy":  # it ends if it finds nobody there
        command.append(f"--advertise-client-url={HOST}:{port}")
    process = subprocess.Popen(
        [*command, f"--listen-addr={HOST}:{port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert eventually(lambda: _listens(port))
        yield f"{HOST}:{port}"
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with suppress(OSError), closing(socket.create_connection((HOST, port))):
        return True
    return False
