"""One attempt at a request, on the wire to one member."""

from __future__ import annotations

from typing import Any

from microlock.core.port import Grant, KeepAlive, KeepAlives, Lifetime, Request, Revoke, Txn
from microlock.engine import clock
from microlock.errors import LeaseNotFoundError, StoreError
from microlock.etcd import messages
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.wire import HAS_LEADER, Metadata, Wire


def attempt(
    request: Request, wire: Wire, *, timeout: float, metadata: Metadata, repeated: bool
) -> Any:
    """Sends the request once; the reply is as `microlock.core.port` says.

    Args:
        timeout: seconds.
        metadata: who calls.
        repeated: an earlier attempt had no answer, and may be applied yet.
    """
    if isinstance(request, KeepAlives) and len(request.lease_ids) == 1:
        # As a call it is cheaper than as a stream.
        (lease_id,) = request.lease_ids
        one = KeepAlive(lease_id)
        return {lease_id: attempt(one, wire, timeout=timeout, metadata=metadata, repeated=repeated)}
    if isinstance(request, KeepAlives):
        return _keep_alives(request.lease_ids, wire, timeout=timeout, metadata=metadata)
    method, message, kind = messages.encode(request)
    sent = clock.now()
    try:
        answer = wire.call(method, message, kind, timeout=timeout, metadata=metadata)
    except LeaseNotFoundError:
        if isinstance(request, Revoke):
            return None
        raise
    match request:
        case Grant() | KeepAlive():
            return Lifetime(answer.TTL, sent, clock.now())
        case Txn():
            return messages.outcome(answer, clock.now(), repeated=repeated)
        case Revoke():
            return None
        case _:
            return messages.found(answer)


def _keep_alives(
    lease_ids: tuple[int, ...], wire: Wire, *, timeout: float, metadata: Metadata
) -> dict[int, Lifetime]:
    """All of them on one stream, which ends with the last reply."""
    stream = wire.stream(
        messages.KEEP_ALIVE,
        pb.LeaseKeepAliveResponse,
        timeout=timeout,
        metadata=metadata + HAS_LEADER,
    )
    lifetimes: dict[int, Lifetime] = {}
    try:
        sent = clock.now()
        for lease_id in lease_ids:
            stream.send(messages.keep_alive(lease_id))
        stream.finish()
        for _ in lease_ids:
            reply = stream.receive()
            lifetimes[reply.ID] = Lifetime(reply.TTL, sent, clock.now())
    except StoreError:
        if not lifetimes:
            raise
    finally:
        stream.close()
    return lifetimes
