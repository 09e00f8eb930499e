"""What is done over a wire: cycles, hand-overs, renewals."""

from __future__ import annotations

import inspect
import threading
import time
from itertools import pairwise
from typing import Any

from driving import Asyncio, Blocking, Span, Work, measure, until_over
from measuring import percentile

from microlock.etcd import rpc_pb2 as pb

TTL = 60
Measures = dict[str, float]

# 10,000 holds with a ttl of 10 s, each renewed at a third of it, in batches of 50 ms.
RENEWALS_PER_SECOND = 3000
BATCH = 150


class Entry:
    """An entry of a lock, under a lease that stays."""

    def __init__(self, wire: Any, key: str, lease: int) -> None:
        self._wire = wire
        self._waits = inspect.iscoroutinefunction(wire.call)
        self.prefix = f"{key}/".encode()
        self.key = self.prefix + f"{lease:x}".encode()
        self._lease = lease
        self._revision = 0

    async def _txn(self, compare: pb.Compare, *success: pb.RequestOp) -> Any:
        request = pb.TxnRequest(compare=[compare], success=success)
        answer = self._wire.call("KV/Txn", request, pb.TxnResponse)
        reply = await answer if self._waits else answer
        assert reply.succeeded
        return reply

    async def acquire(self) -> None:
        empty = pb.Compare(target=pb.Compare.CREATE, key=self.prefix, range_end=self._end())
        empty.create_revision = 0
        self._revision = (await self._txn(empty, self._put())).header.revision

    async def join(self) -> list[Any]:
        """Stands in the queue; all entries in it."""
        new = pb.Compare(target=pb.Compare.CREATE, key=self.key, create_revision=0)
        queue = pb.RangeRequest(key=self.prefix, range_end=self._end())
        reply = await self._txn(new, self._put(), pb.RequestOp(request_range=queue))
        self._revision = reply.header.revision
        return list(reply.responses[1].response_range.kvs)

    async def release(self) -> None:
        ours = pb.Compare(target=pb.Compare.CREATE, key=self.key, create_revision=self._revision)
        delete = pb.DeleteRangeRequest(key=self.key)
        await self._txn(ours, pb.RequestOp(request_delete_range=delete))

    def _put(self) -> pb.RequestOp:
        put = pb.PutRequest(key=self.key, value=b"me", lease=self._lease)
        return pb.RequestOp(request_put=put)

    def _end(self) -> bytes:
        return self.prefix[:-1] + b"0"


async def entry_of(wire: Any, key: str) -> Entry:
    answer = wire.call("Lease/LeaseGrant", pb.LeaseGrantRequest(TTL=TTL), pb.LeaseGrantResponse)
    lease = (await answer if inspect.isawaitable(answer) else answer).ID
    return Entry(wire, key, lease)


def cycles(
    make: Any, threads: int, seconds: float, *, watched: bool = False, on_loop: bool = False
) -> Measures:
    """Each thread locks and unlocks a key of its own."""
    name = str(time.time_ns())
    driver: Any = Asyncio() if on_loop else Blocking()
    span = Span(seconds)
    times: list[float] = []

    async def work(wire: Any, number: int) -> None:
        entry = await entry_of(wire, f"{name}-{number}")

        async def once() -> None:
            began = time.monotonic()
            await entry.acquire()
            await entry.release()
            if began > span.begins:
                times.append(time.monotonic() - began)

        await until_over(driver, span, once)

    async def main() -> None:
        wire = make()
        if watched:
            stream = _watch(wire, b"\0", b"\1")
            threading.Thread(target=stream.receive, daemon=True).start()
        works: list[Work] = [work(wire, number) for number in range(threads)]
        await measure(driver, span, works)

    driver.run(main())
    assert not span.errors, span.errors[0]
    return {
        "per s": len(times) / seconds,
        "CPU µs": span.cpu / len(times) * 1e6,
        "p50 ms": percentile(times, 0.5) * 1e3,
        "p99 ms": percentile(times, 0.99) * 1e3,
    }


def _watch(wire: Any, key: bytes, end: bytes) -> Any:
    stream = wire.stream("Watch/Watch", pb.WatchResponse)
    create = pb.WatchCreateRequest(key=key, range_end=end, watch_id=1)
    stream.send(pb.WatchRequest(create_request=create))
    assert stream.receive().created
    return stream


def handover(make: Any, seconds: float) -> Measures:
    """Two threads want one lock all the time; a watch says when it is one's turn."""
    wire = make()
    key = f"handover-{time.time_ns()}"
    deleted: dict[bytes, int] = {}  # key to revision
    changed = threading.Condition()
    span = Span(seconds)
    holds: list[tuple[float, int]] = []
    stream = _watch(wire, f"{key}/".encode(), f"{key}0".encode())

    def read() -> None:
        while True:
            try:
                events = stream.receive().events
            except Exception:  # noqa: BLE001  the process ends
                return
            with changed:
                for event in events:
                    if event.type == pb.Event.DELETE:
                        deleted[event.kv.key] = event.kv.mod_revision
                changed.notify_all()

    async def work(number: int) -> None:
        entry = await entry_of(wire, key)

        async def once() -> None:
            older = [kv for kv in await entry.join() if kv.key != entry.key]

            def free() -> bool:
                return all(deleted.get(kv.key, 0) > kv.create_revision for kv in older)

            with changed:
                assert changed.wait_for(free, 5)
            holds.append((time.monotonic(), number))
            await entry.release()

        await until_over(driver, span, once)

    driver = Blocking()
    threading.Thread(target=read, daemon=True).start()
    driver.run(measure(driver, span, [work(number) for number in range(2)]))
    assert not span.errors, span.errors[0]
    inside = sorted(each for each in holds if span.begins < each[0] < span.ends)
    handed = sum(a[1] != b[1] for a, b in pairwise(inside))
    return {"per s": handed / seconds, "CPU µs": span.cpu / max(1, len(inside)) * 1e6}


def renewal(make: Any, seconds: float, *, kept: bool) -> Measures:
    """Renews as many leases as 10,000 holds need; on a stream that is `kept`, or one a batch."""
    wire = make()
    lease = wire.call("Lease/LeaseGrant", pb.LeaseGrantRequest(TTL=TTL), pb.LeaseGrantResponse).ID
    requests = [pb.LeaseKeepAliveRequest(ID=lease)] * BATCH
    method, reply = "Lease/LeaseKeepAlive", pb.LeaseKeepAliveResponse
    stream = wire.stream(method, reply) if kept else None
    done, began, before = 0, 0.0, 0.0
    batches = int((seconds + 0.2) * RENEWALS_PER_SECOND / BATCH)
    for number in range(batches):
        if number == 4:  # those before are to warm up
            done, began, before = 0, time.monotonic(), time.process_time()
        due = time.monotonic() + BATCH / RENEWALS_PER_SECOND
        mine = stream or wire.stream(method, reply)
        mine.send(*requests)
        if not kept:
            mine.finish()
        for _ in requests:
            assert mine.receive().TTL
        done += BATCH
        time.sleep(max(0.0, due - time.monotonic()))
    cpu = time.process_time() - before
    rate = done / (time.monotonic() - began)
    each = cpu / done
    return {"per s": rate, "CPU µs": each * 1e6, "% of a core": each * 1e4 / (10 / 3) * 100}
