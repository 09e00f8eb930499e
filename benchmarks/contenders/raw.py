"""The limit on grpcio: the two transactions of a cycle, on a lease that stays, and no lock around
them; one stream of watches; one stream of keep-alives."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import grpc
from driving import Blocking

from contenders import TTL
from microlock.etcd import rpc_pb2 as pb

driver = Blocking()


class Stubs:
    def __init__(self, channel: grpc.Channel) -> None:
        self.txn = self._unary(channel, "KV/Txn", pb.TxnRequest, pb.TxnResponse)
        self.grant = self._unary(
            channel, "Lease/LeaseGrant", pb.LeaseGrantRequest, pb.LeaseGrantResponse
        )
        self.revoke = self._unary(
            channel, "Lease/LeaseRevoke", pb.LeaseRevokeRequest, pb.LeaseRevokeResponse
        )
        self.keep_alive = self._stream(
            channel, "Lease/LeaseKeepAlive", pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse
        )
        self.watch = self._stream(channel, "Watch/Watch", pb.WatchRequest, pb.WatchResponse)

    @staticmethod
    def _unary(channel: grpc.Channel, method: str, request: Any, reply: Any) -> Any:
        return channel.unary_unary(
            f"/etcdserverpb.{method}", request.SerializeToString, reply.FromString
        )

    @staticmethod
    def _stream(channel: grpc.Channel, method: str, request: Any, reply: Any) -> Any:
        return channel.stream_stream(
            f"/etcdserverpb.{method}", request.SerializeToString, reply.FromString
        )


class Entry:
    """One entry of a lock, and the transactions that put and delete it."""

    def __init__(self, key: str, lease: int) -> None:
        self.lease = lease
        self._prefix = f"{key}/".encode()
        self._name = self._prefix + f"{lease:x}".encode()
        self._end = self._prefix[:-1] + b"0"
        self._revision = 0

    def taking(self) -> pb.TxnRequest:
        empty = pb.Compare(
            target=pb.Compare.CREATE, key=self._prefix, range_end=self._end, create_revision=0
        )
        put = pb.RequestOp(request_put=pb.PutRequest(key=self._name, value=b"me", lease=self.lease))
        return pb.TxnRequest(compare=[empty], success=[put])

    def put(self, reply: pb.TxnResponse) -> None:
        assert reply.succeeded
        self._revision = reply.header.revision

    def leaving(self) -> pb.TxnRequest:
        ours = pb.Compare(target=pb.Compare.CREATE, key=self._name, create_revision=self._revision)
        delete = pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=self._name))
        return pb.TxnRequest(compare=[ours], success=[delete])


class Lock:
    def __init__(self, stubs: Stubs, key: str, ttl: int) -> None:
        self._stubs = stubs
        self._entry = Entry(key, stubs.grant(pb.LeaseGrantRequest(TTL=ttl)).ID)
        self.lease = self._entry.lease

    async def acquire(self) -> None:
        self._entry.put(self._stubs.txn(self._entry.taking(), timeout=5))

    async def release(self) -> None:
        reply = self._stubs.txn(self._entry.leaving(), timeout=5)
        assert reply.succeeded

    async def discard(self) -> None:
        self._stubs.revoke(pb.LeaseRevokeRequest(ID=self.lease))


class Client:
    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._stubs = Stubs(channel)
        self._requests: SimpleQueue[Any] = SimpleQueue()
        self._replies: Any = None
        self._told: dict[int, Callable[[], object]] = {}
        self._leases: list[int] = []

    def lock(self, key: str, owner: str, *, waits: bool = False) -> Lock:
        assert not waits
        return Lock(self._stubs, key, TTL)

    async def close(self) -> None:
        self._channel.close()

    async def watch(self, key: str, told: Callable[[], object]) -> None:
        if self._replies is None:
            self._replies = self._stubs.watch(iter(self._requests.get, None))
            self._created: SimpleQueue[None] = SimpleQueue()
            threading.Thread(target=self._read, daemon=True).start()
        number = len(self._told) + 1
        self._told[number] = told
        create = pb.WatchCreateRequest(
            key=f"{key}/".encode(), range_end=f"{key}0".encode(), watch_id=number
        )
        self._requests.put(pb.WatchRequest(create_request=create))
        self._created.get()

    def _read(self) -> None:
        for reply in self._replies:
            if reply.created:
                self._created.put(None)
            else:
                self._told[reply.watch_id]()

    async def keep(self, key: str, ttl: int) -> None:
        lock = Lock(self._stubs, key, ttl)
        await lock.acquire()
        if not self._leases:
            threading.Thread(target=self._renew, args=(ttl / 3,), daemon=True).start()
        self._leases.append(lock.lease)

    def kept(self) -> int:
        return len(self._leases)

    def _renew(self, interval: float) -> None:
        while True:
            began = time.monotonic()
            requests = [pb.LeaseKeepAliveRequest(ID=lease) for lease in tuple(self._leases)]
            for reply in self._stubs.keep_alive(iter(requests)):
                assert reply.TTL
            time.sleep(max(0.0, began + interval - time.monotonic()))


async def connect(endpoint: str) -> Client:
    return Client(grpc.insecure_channel(endpoint))
