"""What a cycle of lock() and unlock() costs in our own code: on a wire that answers at once."""

from __future__ import annotations

import statistics
import time
from itertools import count
from typing import Any

from microlock import Microlock
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.client import EtcdClient

CYCLES, ROUNDS = 500, 30


class Wire:
    """An etcd that nobody else uses, and that takes no time."""

    address, answered = "nowhere", True

    def __init__(self) -> None:
        self._revisions = count(1)

    def call(self, method: str, message: Any, reply: Any, **_: Any) -> Any:
        if reply in (pb.LeaseGrantResponse, pb.LeaseKeepAliveResponse):
            return reply(ID=message.ID, TTL=60)
        answer = reply(header=pb.ResponseHeader(revision=next(self._revisions)))
        if reply is pb.TxnResponse:
            answer.succeeded = True
        return answer

    def close(self) -> None: ...


def measure() -> None:
    lock, took = Microlock(EtcdClient([Wire()], timeout=5), "foo", "me", ttl=60), []
    for _ in range(ROUNDS):
        began = time.thread_time()
        for _ in range(CYCLES):
            lock.lock()
            lock.unlock()
        took.append((time.thread_time() - began) / CYCLES * 1e6)
    print(f"CPU of a cycle, us: least {min(took):.0f}, median {statistics.median(took):.0f}")


if __name__ == "__main__":
    measure()
