"""etcd's own lock service, over grpcio, with a lease for each owner that stays.

Its messages have the shape of some of etcd's others, which are at hand: LockRequest is `name = 1,
lease = 2`, LockResponse has the entry as `key = 2`, UnlockRequest is `key = 1`.
"""

from __future__ import annotations

import grpc
from driving import Blocking

from contenders import TTL
from microlock.etcd import rpc_pb2 as pb

driver = Blocking()


class Lock:
    def __init__(self, client: Client, key: str) -> None:
        self._client = client
        self._name = key.encode()
        self._lease = client.grant(pb.LeaseGrantRequest(TTL=TTL)).ID
        self._entry = b""

    async def acquire(self) -> None:
        request = pb.KeyValue(key=self._name, create_revision=self._lease)
        self._entry = self._client.take(request).token.encode()

    async def release(self) -> None:
        self._client.give(pb.DeleteRangeRequest(key=self._entry))

    async def discard(self) -> None:
        self._client.revoke(pb.LeaseRevokeRequest(ID=self._lease))


class Client:
    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self.grant = channel.unary_unary(
            "/etcdserverpb.Lease/LeaseGrant",
            pb.LeaseGrantRequest.SerializeToString,
            pb.LeaseGrantResponse.FromString,
        )
        self.revoke = channel.unary_unary(
            "/etcdserverpb.Lease/LeaseRevoke",
            pb.LeaseRevokeRequest.SerializeToString,
            pb.LeaseRevokeResponse.FromString,
        )
        self.take = channel.unary_unary(
            "/v3lockpb.Lock/Lock",
            pb.KeyValue.SerializeToString,
            pb.AuthenticateResponse.FromString,
        )
        self.give = channel.unary_unary(
            "/v3lockpb.Lock/Unlock",
            pb.DeleteRangeRequest.SerializeToString,
            pb.DeleteRangeResponse.FromString,
        )

    def lock(self, key: str, owner: str, *, waits: bool = False) -> Lock:
        return Lock(self, key)

    async def close(self) -> None:
        self._channel.close()


async def connect(endpoint: str) -> Client:
    return Client(grpc.insecure_channel(endpoint))
