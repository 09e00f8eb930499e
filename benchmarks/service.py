"""The lock service under load: requests a second, p99, memory.

    python benchmarks/service.py --clients 1000 --seconds 60
    python benchmarks/service.py --memory          # without etcd
    python benchmarks/service.py --etcd host:2379  # one that runs

The service is a process of its own, and so are the clients, some of them in each of `--drivers`
processes: each client on a connection that stays takes one of `--keys` locks, and gives it back.
With fewer keys than clients some are refused; with `--wait` they queue.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx

from microlock.server import EtcdServer, free_ports

# Seconds until what is measured begins: connections are made meanwhile.
WARM = 3.0


class Client:
    """One client: a connection, and HTTP by hand, since what drives is not to be what is measured.

    Attributes:
        times: seconds that each request took, by its path and status.
    """

    def __init__(self, port: int, number: int, options: argparse.Namespace) -> None:
        self._port = port
        self._uid = f"client-{number}"
        self._key = f"bench-{number % options.keys}"
        self._how = {"exp": options.exp, "wait": options.wait}
        self.times: list[tuple[str, float]] = []

    async def run(self, begins: float, ends: float) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            while (now := monotonic()) < ends:
                seen = len(self.times)
                asked = {"uid": self._uid, "keys": self._key, **self._how}
                answer = await self._post("/lock", asked)
                if tokens := answer.get("tokens"):
                    await self._post("/unlock", {"uid": self._uid, "tokens": tokens})
                if now < begins:
                    del self.times[seen:]
        finally:
            self._writer.close()

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        content = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\n\r\n"
        )
        began = monotonic()
        self._writer.write(head.encode() + content)
        status, *headers = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        (length,) = (int(each[15:]) for each in headers if each.startswith("content-length:"))
        answer = json.loads(await self._reader.readexactly(length))
        self.times.append((f"{path} {status.split()[1]}", monotonic() - began))
        return answer


def drive(options: argparse.Namespace) -> None:
    """One process of clients: prints the times of their requests as JSON."""

    async def main() -> list[tuple[str, float]]:
        begins = monotonic() + WARM
        numbers = range(options.first, options.clients, options.drivers)
        clients = [Client(options.port, number, options) for number in numbers]
        ends = begins + options.seconds
        await asyncio.gather(*(each.run(begins, ends) for each in clients))
        return [time for each in clients for time in each.times]

    json.dump(asyncio.run(main()), sys.stdout)


@contextmanager
def served(options: argparse.Namespace) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The service as a process, and its port."""
    with ExitStack() as stack:
        (port,) = free_ports(1)
        store = ["--memory"]
        if not options.memory:
            endpoint = options.etcd
            if endpoint is None:
                etcd = stack.enter_context(EtcdServer())
                endpoint = etcd.endpoint
            store = ["--etcd", endpoint]
        code = "from microlock.service.command import serve; serve.main()"
        run = [sys.executable, "-c", code, "--port", str(port), "--host", "127.0.0.1", *store]
        process = stack.enter_context(subprocess.Popen(run, stderr=subprocess.DEVNULL))
        stack.callback(process.terminate)
        while not answers(port):
            sleep(0.05)
        yield process, port


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def listening(port: int, count: int) -> Iterator[None]:
    """So many listeners of /events, which take nothing after the first piece."""
    with ExitStack() as stack:
        for _ in range(count):
            http = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}"))
            stack.enter_context(http.stream("GET", "/events"))
        yield


def memory_of(process: subprocess.Popen[bytes]) -> dict[str, float]:
    """MiB that are resident, now and at most."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    fields = dict(each.split(":", 1) for each in lines if ":" in each)
    return {name: int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")}


def cpu_of(process: subprocess.Popen[bytes]) -> float:
    """Seconds of CPU that a process has taken."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def report(times: list[tuple[str, float]], seconds: float) -> None:
    print(f"{len(times) / seconds:>10,.0f} requests/s")
    for kind, count in sorted(Counter(kind for kind, _ in times).items()):
        took = sorted(each for known, each in times if known == kind)
        p50, p99 = took[count // 2] * 1e3, took[min(count - 1, count * 99 // 100)] * 1e3
        print(f"{count / seconds:>10,.0f} {kind:<12} p50 {p50:8.1f} ms   p99 {p99:8.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--keys", type=int, default=None, help="default: one for each client")
    parser.add_argument("--exp", type=float, default=10_000, help="ms")
    parser.add_argument("--wait", type=float, default=0, help="ms")
    parser.add_argument("--listeners", type=int, default=0, help="of /events, that take nothing")
    parser.add_argument("--drivers", type=int, default=2, help="processes of clients")
    parser.add_argument("--memory", action="store_true", help="without etcd")
    parser.add_argument("--etcd", help="default: one that is started")
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.keys = options.keys or options.clients
    if options.first is not None:
        drive(options)
        return
    with served(options) as (process, port), listening(port, options.listeners):
        before, cpu = memory_of(process)["VmRSS"], cpu_of(process)
        drivers = [
            subprocess.Popen(
                [sys.executable, __file__, *sys.argv[1:], "--port", str(port), "--first", str(n)],
                stdout=subprocess.PIPE,
            )
            for n in range(options.drivers)
        ]
        times = [tuple(each) for one in drivers for each in json.loads(one.communicate()[0])]
        report(times, options.seconds)
        at_most = memory_of(process)["VmHWM"]
        share = (cpu_of(process) - cpu) / (options.seconds + WARM)
        print(f"{before:>10,.0f} MiB before, {at_most:,.0f} MiB at most; {share:.2f} cores")


if __name__ == "__main__":
    main()
