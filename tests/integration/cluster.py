"""A real cluster, and an etcd that hangs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from conftest import Etcd, Etcdctl
from watching import eventually

from microlock.server import HOST, EtcdServer, free_ports


class Cluster:
    """Three members."""

    def __init__(self, binary: object) -> None:
        peers = [f"http://{HOST}:{port}" for port in free_ports(3)]
        members = ",".join(f"m{i}={peer}" for i, peer in enumerate(peers))
        self.members = [
            EtcdServer(
                binary=binary,  # type: ignore[arg-type]
                flags=[
                    "--heartbeat-interval=50",
                    "--election-timeout=500",
                    f"--name=m{i}",
                    f"--listen-peer-urls={peer}",
                    f"--initial-advertise-peer-urls={peer}",
                    f"--initial-cluster={members}",
                ],
            )
            for i, peer in enumerate(peers)
        ]
        try:
            with ThreadPoolExecutor() as pool:
                list(pool.map(EtcdServer.start, self.members))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for member in self.members:
            member.close()

    @property
    def endpoints(self) -> list[str]:
        return [member.endpoint for member in self.members]

    def leader(self) -> int:
        """Which member leads."""
        for i, endpoint in enumerate(self.endpoints):
            fields = Etcdctl(endpoint)("endpoint", "status").split(", ")
            if fields[4] == "true":
                return i
        raise AssertionError("nobody leads")


def hang(etcd: Etcd) -> None:
    """Pauses it, and returns when all its threads stand still: a signal takes its time."""
    etcd.pause()
    tasks = Path(f"/proc/{getattr(etcd, 'pid', None)}/task")
    assert eventually(
        lambda: all(
            (task / "stat").read_text().rpartition(")")[2].split()[0] in "Tt"
            for task in tasks.glob("*")
        )
    )
