"""A real cluster, and an etcd that hangs."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import requests
from watching import eventually

from microlock.server import EtcdServer, free_ports

if TYPE_CHECKING:
    from conftest import Etcd


class Cluster:
    """Three members, each with its data, which outlives a `kill()`.

    Args:
        binary: of etcd; None for the one that EtcdServer finds.
        fast: a heartbeat of 50 ms and an election timeout of 250 ms, else etcd's defaults.
        machines: what the members run on, an EtcdServer class for each; by default all on this.
        flags: more flags of etcd.
    """

    def __init__(
        self,
        binary: object,
        *,
        fast: bool = True,
        machines: Sequence[type[EtcdServer]] = (EtcdServer,) * 3,
        flags: Sequence[str] = (),
    ) -> None:
        ports = free_ports(len(machines))
        peers = [f"http://{each.host}:{port}" for each, port in zip(machines, ports, strict=True)]
        names = [f"m{i}" for i in range(len(machines))]
        members = ",".join(map("=".join, zip(names, peers, strict=True)))
        timers = ["--heartbeat-interval=50", "--election-timeout=250"] if fast else []
        self.members = [
            machine(
                binary=binary,  # type: ignore[arg-type]
                flags=[
                    *timers,
                    f"--name={name}",
                    f"--listen-peer-urls={peer}",
                    f"--initial-advertise-peer-urls={peer}",
                    f"--initial-cluster={members}",
                    # Members can be added and removed before they have known each other for 5 s.
                    "--strict-reconfig-check=false",
                    *flags,
                ],
            )
            for machine, name, peer in zip(machines, names, peers, strict=True)
        ]
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Starts those who don't run; returns when they are healthy."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(EtcdServer.start, self.members))

    def close(self) -> None:
        for member in self.members:
            member.close()

    @property
    def endpoints(self) -> list[str]:
        return [member.endpoint for member in self.members]

    def leader(self, among: Sequence[int] = (0, 1, 2)) -> int:
        """Which of these members leads, once one does."""
        found: list[int] = []

        def leads() -> list[int]:
            found[:] = [i for i in among if self._leads(i)]
            return found

        assert eventually(leads), "nobody leads"
        return found[0]

    def _leads(self, i: int) -> bool:
        """What it says itself; a member that was cut off may lag behind the truth."""
        url = f"http://{self.endpoints[i]}/v3/maintenance/status"
        try:
            status = requests.post(url, json={}, timeout=0.5).json()
        except requests.RequestException:
            return False
        return bool(status.get("leader") == status["header"]["member_id"])


def keep_logs(cluster: Cluster, directory: Path) -> None:
    """Leaves there what the members have logged."""
    for i, member in enumerate(cluster.members):
        (directory / f"m{i}.log").write_text(member.log())


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
