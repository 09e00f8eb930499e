"""Machines with a network of their own, made of network namespaces: for real partitions and losses.

Needs root, `ip` and `ss` of iproute2, and `iptables`. Nothing is left of them at the end.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

from microlock.server import EtcdServer, find_binary

_COUNT = 3


@cache
def why_not() -> str | None:
    """What is missing for it; None if nothing is."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for tool in ("ip", "ss", "iptables"):
        if shutil.which(tool) is None:
            return f"network namespaces need `{tool}`"
    try:
        with _namespace(f"mlk{os.getpid()}-try") as name:
            _run("ip", "netns", "exec", name, "iptables", "-L")
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.strip()}"
    return None


class Network:
    """Three machines and this one on a switch; `machines` are to be given to a `Cluster`."""

    def __init__(self, directory: Path) -> None:
        pid = os.getpid()
        subnet = f"10.{64 + pid // 250 % 128}.{pid % 250}"
        self.here = f"{subnet}.254"
        self.addresses = [f"{subnet}.{i + 1}" for i in range(_COUNT)]
        self._names = [f"mlk{pid}-{i}" for i in range(_COUNT)]
        self._stack = ExitStack()
        _sweep()
        try:
            self._build(f"mlk{pid}")
        except BaseException:
            self.close()
            raise
        self.machines = [
            _machine(address, name, directory)
            for address, name in zip(self.addresses, self._names, strict=True)
        ]

    def close(self) -> None:
        self._stack.close()

    def inside(self, i: int) -> list[str]:
        """What runs a command on machine `i`: `[*network.inside(0), "etcdctl", ...]`."""
        return ["ip", "netns", "exec", self._names[i]]

    def part(self, i: int, addresses: list[str]) -> None:
        """From now on nothing passes between machine `i` and these addresses."""
        for address in addresses:
            self._filter(i, "INPUT", "--source", address)
            self._filter(i, "OUTPUT", "--destination", address)

    def lose(self, i: int, share: float) -> None:
        """From now on this part of the packets between machine `i` and here is lost."""
        chance = ["--match", "statistic", "--mode", "random", "--probability", str(share)]
        self._filter(i, "INPUT", "--source", self.here, *chance)
        self._filter(i, "OUTPUT", "--destination", self.here, *chance)

    def forget(self, i: int) -> None:
        """From now on nothing passes on the connections that are open between machine `i` and here;
        new ones work. As when a firewall on the way has forgotten them."""
        listed = subprocess.run(
            ["ss", "--tcp", "--numeric", "--no-header", "dst", self.addresses[i]],
            check=True,
            capture_output=True,
            text=True,
        )
        for line in listed.stdout.splitlines():
            port = line.split()[3].rpartition(":")[2]
            self._filter(i, "INPUT", "--protocol", "tcp", "--source-port", port)
            self._filter(i, "OUTPUT", "--protocol", "tcp", "--destination-port", port)

    def mend(self) -> None:
        """Everything passes again."""
        for name in self._names:
            _run("ip", "netns", "exec", name, "iptables", "--flush")

    def _filter(self, i: int, chain: str, *rule: str) -> None:
        command = ["iptables", "--append", chain, *rule, "--jump", "DROP"]
        _run("ip", "netns", "exec", self._names[i], *command)

    def _build(self, here: str) -> None:
        # The bridge has a namespace of its own, out of reach of this machine's firewall.
        hub = self._stack.enter_context(_namespace(f"{here}-hub"))
        _run("ip", "-n", hub, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", hub, "link", "set", "bridge", "up")

        def plug(port: str, *device: str) -> None:
            _run("ip", "-n", hub, "link", "add", port, "type", "veth", "peer", *device)
            _run("ip", "-n", hub, "link", "set", port, "master", "bridge", "up")

        plug("here", here, "netns", str(os.getpid()))
        self._stack.callback(_run, "ip", "link", "delete", here)
        _run("ip", "address", "add", f"{self.here}/24", "dev", here)
        _run("ip", "link", "set", here, "up")
        for name, address in zip(self._names, self.addresses, strict=True):
            self._stack.enter_context(_namespace(name))
            plug(name, "eth0", "netns", name)
            _run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _run("ip", "-n", name, "link", "set", device, "up")


def _machine(address: str, namespace: str, directory: Path) -> type[EtcdServer]:
    """An EtcdServer whose etcd runs in this namespace."""

    class Machine(EtcdServer):
        host = address

        def __init__(self, *, binary: object, flags: list[str]) -> None:
            etcd = directory / f"etcd-{namespace}"  # runs it there, as the same process
            etcd.write_text(
                f'#!/bin/sh\nexec ip netns exec {namespace} {binary or find_binary()} "$@"\n'
            )
            etcd.chmod(0o700)
            super().__init__(binary=etcd, flags=flags)

    return Machine


def _sweep() -> None:
    """Removes what was left by a process that was killed."""
    listed = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True)
    for name in re.findall(r"^mlk\d+-\w+", listed.stdout, flags=re.MULTILINE):
        if not Path(f"/proc/{name[3:].partition('-')[0]}").exists():
            _run("ip", "netns", "delete", name)


@contextmanager
def _namespace(name: str) -> Iterator[str]:
    _run("ip", "netns", "add", name)
    try:
        yield name
    finally:
        _run("ip", "netns", "delete", name)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
