"""How many cycles of lock() and unlock() a second the store in memory makes, beside an etcd."""

from __future__ import annotations

import statistics
import threading
import time

from microlock import Microlock, connect
from microlock.server import EtcdServer

ROUNDS, SECONDS = 5, 1.0


def cycles(endpoint: str) -> float:
    """A second, on a thread of its own, as the contenders of `make bench` do it."""
    rate: list[float] = []

    def run() -> None:
        with connect(endpoint) as client:
            foo, number = Microlock(client, "foo", "me", ttl=60), 0
            foo.lock()
            foo.unlock()
            began = time.perf_counter()
            while (took := time.perf_counter() - began) < SECONDS:
                foo.lock()
                foo.unlock()
                number += 1
            rate.append(number / took)
            foo.destroy()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return rate[0]


def measure() -> None:
    with EtcdServer() as etcd:
        rounds = [(cycles("memory://"), cycles(etcd.endpoint)) for _ in range(ROUNDS)]
    for name, rates in zip(("memory", "etcd"), zip(*rounds, strict=True), strict=True):
        print(f"{name}: {statistics.median(rates):,.0f} cycles/s")
    print(f"ratio, median of the rounds: {statistics.median(m / e for m, e in rounds):.1f}")


if __name__ == "__main__":
    measure()
