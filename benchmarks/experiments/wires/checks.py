"""What the wires do when things go wrong: prints what came of each check.

    python benchmarks/experiments/wires/checks.py

A check says what it saw. It raises AssertionError where that is not what a lock needs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(1, str(HERE.parents[1]))

from driving import finish  # noqa: E402  found by the line above
from exchange import RpcFailure  # noqa: E402
from run import etcd  # noqa: E402
from scenarios import entry_of  # noqa: E402
from scripted import SCRIPTS, serve  # noqa: E402
from variants import VARIANTS  # noqa: E402

from microlock.etcd import rpc_pb2 as pb  # noqa: E402
from microlock.server import EtcdServer  # noqa: E402

WIRES = ("by hand", "h2")
MIB = 2**20
ALIVE = "--grpc-keepalive-interval=1s", "--grpc-keepalive-timeout=1s"


def grant(wire: Any, timeout: float = 3) -> Any:
    request = pb.LeaseGrantRequest(TTL=60)
    return wire.call("Lease/LeaseGrant", request, pb.LeaseGrantResponse, timeout=timeout)


def outcome(call: Callable[[], Any]) -> str:
    try:
        call()
    except RpcFailure as error:
        happened = "may have happened" if error.processed else "did not happen"
        return f"{error.code}, {happened}: {error.details}"
    return "reply"


def soon(wire: Any, seconds: float = 5) -> float:
    """How long it takes until a call succeeds."""
    began = time.monotonic()
    while outcome(lambda: grant(wire, 1)) != "reply":
        assert time.monotonic() < began + seconds
        time.sleep(0.05)
    return time.monotonic() - began


def large(wire: Any, _: EtcdServer) -> str:
    """One reply of 24 MiB, and requests of 1 MiB: each more than a window."""
    for number in range(24):
        put = pb.PutRequest(key=b"large/%d" % number, value=bytes(MIB))
        request = pb.TxnRequest(success=[pb.RequestOp(request_put=put)])
        wire.call("KV/Txn", request, pb.TxnResponse)
    everything = pb.RangeRequest(key=b"large/", range_end=b"large0")
    request = pb.TxnRequest(success=[pb.RequestOp(request_range=everything)])
    for _turn in range(3):
        reply = wire.call("KV/Txn", request, pb.TxnResponse, timeout=20)
        assert len(reply.responses[0].response_range.kvs) == 24
    return f"{3 * reply.ByteSize() // MIB} MiB in 3 replies"


def refused_by_etcd(wire: Any, _: EtcdServer) -> str:
    revoke = pb.LeaseRevokeRequest(ID=12345)
    method, reply = "Lease/LeaseRevoke", pb.LeaseRevokeResponse
    return "; ".join(
        outcome(lambda each=each: wire.call(each, revoke, reply))  # type: ignore[misc]
        for each in (method, "KV/caf\u00e9%")
    )


def paused(wire: Any, server: EtcdServer) -> str:
    """8 threads of one connection have their deadlines, and then it goes on."""
    grant(wire)
    server.pause()
    times, outcomes = [], set()

    def one() -> None:
        began = time.monotonic()
        outcomes.add(outcome(lambda: grant(wire, 0.5))[:2])
        times.append(time.monotonic() - began)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.resume()
    assert outcomes == {"4,"}
    return f"given up after {min(times):.2f} to {max(times):.2f} s; then {soon(wire):.2f} s"


def ended(wire: Any, server: EtcdServer, end: Callable[[], None]) -> str:
    """What a stream and 4 threads that work all the time are told, and how soon."""
    seen: list[str] = []
    stream = wire.stream("Watch/Watch", pb.WatchResponse)
    stream.send(pb.WatchRequest(create_request=pb.WatchCreateRequest(key=b"foo")))
    assert stream.receive().created

    def work() -> None:
        entry = finish(entry_of(wire, f"ended-{threading.get_ident()}"))

        def cycle() -> None:
            finish(entry.acquire())
            finish(entry.release())

        while (said := outcome(cycle)) == "reply":
            pass
        seen.append(said[:20])

    threads = [threading.Thread(target=work) for _ in range(4)]
    threads.append(threading.Thread(target=lambda: seen.append(outcome(stream.receive)[:20])))
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    began = time.monotonic()
    end()
    for thread in threads:
        thread.join(5)
    assert not any(thread.is_alive() for thread in threads)
    took = time.monotonic() - began
    server.start()
    told = ", ".join(sorted(set(seen)))
    return f"told within {took:.2f} s ({told}); a call succeeds {soon(wire):.2f} s after the start"


def killed(wire: Any, server: EtcdServer) -> str:
    return ended(wire, server, server.kill)


def stopped(wire: Any, server: EtcdServer) -> str:
    return ended(wire, server, server.stop)


def idle(wire: Any, _: EtcdServer) -> str:
    """etcd pings, and nobody reads: here after 1 s, by default after 2 hours."""
    grant(wire)
    before = wire.dialled
    time.sleep(4)
    return f"{outcome(lambda: grant(wire))}; connections made for it: {wire.dialled - before}"


def forked(wire: Any, _: EtcdServer) -> str:
    """The child goes on with a connection of its own; the parent's is not disturbed."""
    stop = threading.Event()
    outcomes = []

    def work() -> None:
        while not stop.is_set():
            outcomes.append(outcome(lambda: grant(wire)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    codes = []
    for _turn in range(20):
        child = os.fork()
        if not child:
            # The connection of the parent is left alone, and another one made. OpenSSL has locks
            # that a thread of the parent may have had: the child then hangs.
            signal.alarm(3)
            said = outcome(lambda: grant(wire))
            os._exit(0 if said == "reply" else 1)
        codes.append(os.waitpid(child, 0)[1])
    stop.set()
    for thread in threads:
        thread.join()
    assert set(outcomes) == {"reply"}
    return f"{len(outcomes)} calls of the parent; {codes.count(0)} of {len(codes)} children called"


def gevent(wire: Any, server: EtcdServer) -> str:
    """8 greenlets, and one that ticks every 10 ms, in a process where sockets are patched."""
    ca = getattr(wire, "ca", "")
    name = next(each for each in WIRES if wire.name == each)
    said = []
    for variant in (name, "grpcio"):
        command = [sys.executable, str(HERE / "greenlets.py"), variant, server.endpoint, ca]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        said.append(done.stdout.strip() or done.stderr.strip()[-200:])
    return "; ".join(said)


CHECKS = (large, refused_by_etcd, paused, killed, stopped, idle, forked, gevent)


def main() -> None:
    for script, expected in SCRIPTS.items():
        for name in WIRES:
            wire = VARIANTS[name].make(serve(script), None)
            said = outcome(lambda wire=wire: grant(wire, 2))  # type: ignore[misc]
            right = "as it should" if said.startswith(expected) else f"WRONG, not {expected}"
            print(f"{script.__name__}: {name}: {said}: {right}", flush=True)
            wire.close()
    for secure in (False, True):
        for check in CHECKS:
            for name in WIRES:
                with etcd(secure, *(ALIVE if check is idle else ())) as (server, ca):
                    wire = VARIANTS[name].make(server.endpoint, ca or None)
                    wire.name, wire.ca = name, ca
                    try:
                        said = check(wire, server)
                    except Exception as error:  # noqa: BLE001  that is what is looked for
                        said = f"FAILED: {error!r}"
                    print(
                        f"{check.__name__}{', TLS' if secure else ''}: {name}: {said}", flush=True
                    )
                    wire.close()


if __name__ == "__main__":
    main()
