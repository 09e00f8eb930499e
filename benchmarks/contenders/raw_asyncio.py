"""The limit on grpcio's asyncio: the two transactions of a cycle over its stubs, and no lock."""

from __future__ import annotations

import grpc.aio
from driving import Asyncio

from contenders import TTL, raw
from microlock.etcd import rpc_pb2 as pb

driver = Asyncio()


class Lock:
    def __init__(self, stubs: raw.Stubs, key: str) -> None:
        self._stubs = stubs
        self._key = key
        self._entry: raw.Entry | None = None

    async def acquire(self) -> None:
        if self._entry is None:
            lease = (await self._stubs.grant(pb.LeaseGrantRequest(TTL=TTL))).ID
            self._entry = raw.Entry(self._key, lease)
        self._entry.put(await self._stubs.txn(self._entry.taking(), timeout=5))

    async def release(self) -> None:
        assert self._entry
        reply = await self._stubs.txn(self._entry.leaving(), timeout=5)
        assert reply.succeeded

    async def discard(self) -> None:
        assert self._entry
        await self._stubs.revoke(pb.LeaseRevokeRequest(ID=self._entry.lease))


class Client:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._stubs = raw.Stubs(channel)

    def lock(self, key: str, owner: str, *, waits: bool = False) -> Lock:
        assert not waits
        return Lock(self._stubs, key)

    async def close(self) -> None:
        await self._channel.close()


async def connect(endpoint: str) -> Client:
    return Client(grpc.aio.insecure_channel(endpoint))
