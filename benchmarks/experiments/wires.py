"""The wires side by side: the two transactions of a cycle and no lock around them, in rounds that
take turns, each wire in a process of its own.

    python benchmarks/experiments/wires.py               # sockets and asyncio beside grpcio's
    python benchmarks/experiments/wires.py --tls         # over TLS (needs cryptography)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from microlock.core.port import Enter, Leave
from microlock.engine.reentrant_event import ReentrantEvent
from microlock.etcd import messages
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.wire import Address
from microlock.etcd.wire.tls import Security
from microlock.server import EtcdServer

AT_ONCE = (1, 8, 32)
CALL = {"timeout": 5, "metadata": ()}
GRANT = messages.GRANT, pb.LeaseGrantRequest(TTL=600), pb.LeaseGrantResponse


def cycles(lease: int, name: int) -> tuple[Any, Callable[[int], Any]]:
    lock = b"wires/%d/" % name
    entry = lock + b"%x" % lease
    put = messages.encode(Enter(lock, entry, b"me", lease))
    return put, lambda token: messages.encode(Leave(entry, token))


def threads(wire: Any, count: int, seconds: float) -> tuple[int, float]:
    done = [0] * count
    begin = threading.Barrier(count + 1)

    def one(name: int) -> None:
        put, delete = cycles(wire.call(*GRANT, **CALL).ID, name)
        begin.wait()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            wire.call(*delete(wire.call(*put, **CALL).header.revision), **CALL)
            done[name] += 1

    running = [threading.Thread(target=one, args=(name,)) for name in range(count)]
    for each in running:
        each.start()
    begin.wait()
    before = time.process_time()
    for each in running:
        each.join()
    return sum(done), time.process_time() - before


async def tasks(call: Any, count: int, seconds: float) -> tuple[int, float]:
    async def one(name: int) -> int:
        put, delete = cycles((await call(*GRANT)).ID, name)
        end, done = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            await call(*delete((await call(*put)).header.revision))
            done += 1
        return done

    before = time.process_time()
    done = await asyncio.gather(*map(one, range(count)))
    return sum(done), time.process_time() - before


def child(kind: str, endpoint: str, ca: str | None, seconds: float) -> list[tuple[int, float]]:
    host, _, port = endpoint.rpartition(":")
    address, security = Address(endpoint, host, int(port)), Security(ca) if ca else None
    if kind == "sockets":
        from microlock.etcd.wire.sockets import SocketWire

        wire: Any = SocketWire(address, security=security)
        return [threads(wire, count, seconds) for count in AT_ONCE]
    if kind == "grpcio":
        from microlock.etcd.wire.grpcio import dialled

        wire = dialled(address, security, None, ReentrantEvent())
        return [threads(wire, count, seconds) for count in AT_ONCE]
    return asyncio.run(on_loop(kind, address, security, seconds))


async def on_loop(
    kind: str, address: Address, security: Security | None, seconds: float
) -> list[tuple[int, float]]:
    if kind == "asyncio":
        from microlock.etcd.wire.sockets import SocketWire

        wire = SocketWire(address, security=security).on_loop()

        async def call(method: str, message: Any, reply: Any) -> Any:
            return await wire.call(method, message, reply, **CALL)
    else:
        import grpc.aio

        if security and security.ca:
            credentials = grpc.ssl_channel_credentials(Path(security.ca).read_bytes())
            channel = grpc.aio.secure_channel(address.text, credentials)
        else:
            channel = grpc.aio.insecure_channel(address.text)
        stubs: dict[str, Any] = {}

        async def call(method: str, message: Any, reply: Any) -> Any:
            stub = stubs.get(method)
            if stub is None:
                stub = stubs[method] = channel.unary_unary(
                    method, type(message).SerializeToString, reply.FromString
                )
            return await stub(message, timeout=5)

    return [await tasks(call, count, seconds) for count in AT_ONCE]


KINDS = ("sockets", "grpcio", "asyncio", "grpcio's asyncio")
BESIDE = {"sockets": "grpcio", "asyncio": "grpcio's asyncio"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, endpoint, ca = options.child
        print(json.dumps(child(kind, endpoint, ca or None, options.seconds)))
        return
    rates: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
    costs: dict[str, list[list[float]]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        flags, ca = [], ""
        if options.tls:
            sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "integration"))
            from certificates import Pki, tls

            pki = Pki.made_in(Path(folder))
            flags, ca = tls(pki.server), str(pki.ca)
        with EtcdServer(flags=flags) as server:
            for number in range(options.rounds):
                for kind in KINDS if number % 2 else KINDS[::-1]:
                    command = [sys.executable, __file__, "--seconds", str(options.seconds)]
                    command += ["--child", kind, server.endpoint, ca]
                    ran = subprocess.run(command, check=True, capture_output=True, text=True)
                    measured = json.loads(ran.stdout)
                    rates[kind].append([done / options.seconds for done, _ in measured])
                    costs[kind].append([cpu / done * 1e6 for done, cpu in measured])
    print("cycles/s (CPU us a cycle; over grpcio's: the median of the rounds' ratios)")
    for kind in KINDS:
        cells = []
        for at in range(len(AT_ONCE)):
            rate = statistics.median(each[at] for each in rates[kind])
            cost = statistics.median(each[at] for each in costs[kind])
            cell = f"{AT_ONCE[at]}: {rate:,.0f} ({cost:,.0f}"
            if beside := BESIDE.get(kind):
                pairs = zip(rates[kind], rates[beside], strict=True)
                cell += f"; {statistics.median(a[at] / b[at] for a, b in pairs):.2f}"
            cells.append(cell + ")")
        print(f"{kind:>18}  " + "   ".join(cells))


if __name__ == "__main__":
    main()
