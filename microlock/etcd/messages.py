"""Requests as etcd's messages, and etcd's replies as ours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf.message import Message

from microlock.core.keys import range_end, range_start
from microlock.core.port import (
    Call,
    CreatedAt,
    Delete,
    Empty,
    Event,
    Found,
    Get,
    Grant,
    KeepAlive,
    KeyValue,
    Outcome,
    Put,
    Read,
    Revoke,
    Txn,
    UnderLease,
)
from microlock.etcd import rpc_pb2 as pb

RANGE = "/etcdserverpb.KV/Range"
TXN = "/etcdserverpb.KV/Txn"
GRANT = "/etcdserverpb.Lease/LeaseGrant"
REVOKE = "/etcdserverpb.Lease/LeaseRevoke"
KEEP_ALIVE = "/etcdserverpb.Lease/LeaseKeepAlive"
WATCH = "/etcdserverpb.Watch/Watch"
AUTHENTICATE = "/etcdserverpb.Auth/Authenticate"


def encode(request: Call) -> tuple[str, Message, type[Any]]:
    """The method, the message, and the class of the reply."""
    match request:
        case Grant(lease_id, ttl):
            return GRANT, pb.LeaseGrantRequest(ID=lease_id, TTL=ttl), pb.LeaseGrantResponse
        case KeepAlive(lease_id):
            # A stream in etcd's API. One request and one reply of it are the same on the wire as
            # a call, and a call can be interrupted safely.
            return KEEP_ALIVE, keep_alive(lease_id), pb.LeaseKeepAliveResponse
        case Revoke(lease_id):
            return REVOKE, pb.LeaseRevokeRequest(ID=lease_id), pb.LeaseRevokeResponse
        case Read() | Get():
            return RANGE, pb.RangeRequest(**_range(request)), pb.RangeResponse
        case Txn(guards, then, otherwise, _):
            # Parts as dicts: protobuf makes messages of them faster than Python does.
            txn = pb.TxnRequest(
                compare=[_compare(guard) for guard in guards],
                success=[_operation(each) for each in then],
                failure=[_operation(each) for each in otherwise],
            )
            return TXN, txn, pb.TxnResponse


def keep_alive(lease_id: int) -> pb.LeaseKeepAliveRequest:
    return pb.LeaseKeepAliveRequest(ID=lease_id)


def _range(request: Read | Get) -> dict[str, Any]:
    if isinstance(request, Get):
        return {"key": request.name}
    return {
        "key": range_start(request.prefix),
        "range_end": range_end(request.prefix),
        "limit": request.limit,
        "sort_order": pb.RangeRequest.DESCEND if request.newest else pb.RangeRequest.ASCEND,
        "sort_target": pb.RangeRequest.CREATE,
    }


def _operation(operation: Put | Delete | Read | Get) -> dict[str, Any]:
    match operation:
        case Put(name, value, lease_id):
            return {"request_put": {"key": name, "value": value, "lease": lease_id}}
        case Delete(name):
            return {"request_delete_range": {"key": name}}
        case Read() | Get():
            return {"request_range": _range(operation)}


def _compare(guard: Empty | CreatedAt | UnderLease) -> dict[str, Any]:
    match guard:
        case Empty(prefix):
            # No key is as if created at revision 0; a range is compared key by key.
            return {
                "target": pb.Compare.CREATE,
                "key": prefix,
                "range_end": range_end(prefix),
                "create_revision": 0,
            }
        case CreatedAt(name, revision):
            return {"target": pb.Compare.CREATE, "key": name, "create_revision": revision}
        case UnderLease(name, lease_id):
            return {"target": pb.Compare.LEASE, "key": name, "lease": lease_id}


def found(reply: pb.RangeResponse) -> Found:
    return Found(reply.header.revision, _keys(reply.kvs))


def outcome(reply: pb.TxnResponse, at: float, *, repeated: bool) -> Outcome:
    kvs = [kv for response in reply.responses for kv in response.response_range.kvs]
    return Outcome(reply.succeeded, reply.header.revision, _keys(kvs), at, repeated)


def _key_value(kv: pb.KeyValue) -> KeyValue:
    return KeyValue(kv.key, kv.value, kv.create_revision, kv.lease)


def event(event: pb.Event) -> Event:
    kv = None if event.type == pb.Event.DELETE else _key_value(event.kv)
    return Event(event.kv.mod_revision, event.kv.key, kv)


def _keys(kvs: Iterable[pb.KeyValue]) -> tuple[KeyValue, ...]:
    return tuple([_key_value(kv) for kv in kvs])
