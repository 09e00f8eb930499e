"""What can go wrong, each as a block in which it does; after the block it is over, and mended.

A fault is done to a `Ground`: a cluster, and a way for clients to each of its members.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import disk
import network
import requests
from cluster import Cluster, hang
from ctl import Etcdctl
from network import Network
from proxy import Proxy

SLOW_DISK = 0.3  # seconds that each write takes longer
LOSS = 0.2


@dataclass
class Ground:
    """Where faults happen.

    Attributes:
        ways: a proxy before each member; clients go through these.
        network: the machines that the members run on, where there are such.
        near: the member that the client talks to.
    """

    cluster: Cluster
    ways: list[Proxy]
    network: Network | None = None
    near: int = 0

    @property
    def endpoints(self) -> list[str]:
        """For clients; the first one leads to the member that is near."""
        order = [self.near, *(i for i in range(len(self.ways)) if i != self.near)]
        return [self.ways[i].endpoint for i in order]

    @property
    def inside(self) -> list[list[str]] | None:
        """What runs a command on the machine of each member."""
        return self.network and [self.network.inside(i) for i in range(len(self.ways))]

    def etcdctl(self, *command: str) -> str:
        return Etcdctl(",".join(self.cluster.endpoints))(*command)


@contextmanager
def ground(
    binary: object,
    directory: Path,
    *,
    fast: bool = True,
    separate: bool = False,
    flags: Sequence[str] = (),
) -> Iterator[Ground]:
    """Makes one.

    `separate`: each member on a machine of its own, if that can be had here.
    """
    with ExitStack() as stack:
        net = None
        machines = {}
        if separate and not network.why_not():
            net = Network(directory)
            stack.callback(net.close)
            machines = {"machines": net.machines}
        cluster = Cluster(binary, fast=fast, flags=flags, **machines)  # type: ignore[arg-type]
        stack.callback(cluster.close)
        ways = []
        for endpoint in cluster.endpoints:
            ways.append(Proxy(endpoint))
            stack.callback(ways[-1].close)
        yield Ground(cluster, ways, net)


# Members


@contextmanager
def kill_leader(ground: Ground) -> Iterator[None]:
    with _killed(ground, [ground.cluster.leader()]):
        yield


@contextmanager
def kill_near(ground: Ground) -> Iterator[None]:
    with _killed(ground, [ground.near]):
        yield


@contextmanager
def restart_all(ground: Ground) -> Iterator[None]:
    with _killed(ground, range(len(ground.cluster.members))):
        yield


@contextmanager
def _killed(ground: Ground, which: Sequence[int]) -> Iterator[None]:
    try:
        for i in which:
            ground.cluster.members[i].kill()
        yield
    finally:
        ground.cluster.start()


@contextmanager
def pause_leader(ground: Ground) -> Iterator[None]:
    leader = ground.cluster.members[ground.cluster.leader()]
    try:
        hang(leader)
        yield
    finally:
        leader.resume()


@contextmanager
def slow_disk(ground: Ground) -> Iterator[None]:
    with ExitStack() as stack:
        for member in ground.cluster.members:
            assert member.pid
            stack.enter_context(disk.slow_disk(member.pid, SLOW_DISK))
        yield


@contextmanager
def no_space(ground: Ground) -> Iterator[None]:
    """As etcd says when its quota is used up, without using it up."""
    member = int(ground.etcdctl("member", "list").partition(",")[0], 16)
    try:
        _alarm(ground, "ACTIVATE", member)
        yield
    finally:
        _alarm(ground, "DEACTIVATE", member)


def _alarm(ground: Ground, action: str, member: int) -> None:
    # etcdctl can disarm, and not raise, an alarm.
    alarm = {"action": action, "memberID": str(member), "alarm": "NOSPACE"}
    url = f"http://{ground.cluster.endpoints[0]}/v3/maintenance/alarm"
    requests.post(url, json=alarm, timeout=5).raise_for_status()


# The network


@contextmanager
def partition_leader(ground: Ground) -> Iterator[None]:
    """It can't reach the other members; clients can reach all."""
    assert ground.network
    leader = ground.cluster.leader()
    others = [each for i, each in enumerate(ground.network.addresses) if i != leader]
    try:
        ground.network.part(leader, others)
        yield
    finally:
        ground.network.mend()


@contextmanager
def partition_client(ground: Ground) -> Iterator[None]:
    """The members can reach each other; clients can reach none."""
    assert ground.network
    try:
        for i in range(len(ground.ways)):
            ground.network.part(i, [ground.network.here])
        yield
    finally:
        ground.network.mend()


@contextmanager
def loss(ground: Ground) -> Iterator[None]:
    """Packets between clients and members are lost: really, or as TCP makes up for it."""
    if ground.network:
        try:
            for i in range(len(ground.ways)):
                ground.network.lose(i, LOSS)
            yield
        finally:
            ground.network.mend()
    else:
        try:
            for way in ground.ways:
                way.loss = LOSS
            yield
        finally:
            for way in ground.ways:
                way.loss = 0.0


@contextmanager
def black_hole(ground: Ground) -> Iterator[None]:
    """The way to the member that is near takes what is sent, and says nothing."""
    way = ground.ways[ground.near]
    try:
        way.swallow()
        yield
    finally:
        way.reset()


@contextmanager
def drop_requests(ground: Ground) -> Iterator[None]:
    with _dropped(ground, "requests"):
        yield


@contextmanager
def drop_replies(ground: Ground) -> Iterator[None]:
    with _dropped(ground, "replies"):
        yield


@contextmanager
def _dropped(ground: Ground, what: str) -> Iterator[None]:
    try:
        for way in ground.ways:
            getattr(way, what).clear()
        yield
    finally:
        for way in ground.ways:
            way.reset()


@contextmanager
def late_replies(ground: Ground) -> Iterator[None]:
    """What is said in the block arrives after it."""
    try:
        for way in ground.ways:
            way.replies.clear()
        yield
    finally:
        for way in ground.ways:
            way.let_through()


@contextmanager
def reset(ground: Ground) -> Iterator[None]:
    """Every connection breaks, at the beginning of the block."""
    for way in ground.ways:
        way.reset()
    yield


@contextmanager
def compaction(ground: Ground) -> Iterator[None]:
    """Clients can't reach etcd, and what happened in the block is compacted when they can."""
    for way in ground.ways:
        way.cut()
    try:
        yield
    finally:
        fields = ground.etcdctl("put", "compacted", "now", "-w", "fields")
        (revision,) = re.findall(r'"Revision" : (\d+)', fields)
        ground.etcdctl("compact", revision)
        for way in ground.ways:
            way.mend()


# Clients


@contextmanager
def paused(pid: int) -> Iterator[None]:
    """A client that stands still."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def pause_this_process(seconds: float) -> None:
    """Returns after so long, in which no thread of this process has run."""
    script = (
        "import os, signal, sys, time\n"
        "pid, seconds = int(sys.argv[1]), float(sys.argv[2])\n"
        "os.kill(pid, signal.SIGSTOP)\n"
        "time.sleep(seconds)\n"
        "os.kill(pid, signal.SIGCONT)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(os.getpid()), str(seconds)], check=True)
