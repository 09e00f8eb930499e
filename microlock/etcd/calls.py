"""One attempt at a request, on the wire to one member."""

from __future__ import annotations

from queue import Empty, SimpleQueue
from typing import Any

from google.protobuf.message import Message

from microlock.core.port import (
    Found,
    Grant,
    Holders,
    KeepAlive,
    KeepAlives,
    Lifetime,
    Request,
    Revoke,
)
from microlock.engine import clock
from microlock.errors import LeaseNotFoundError, MicrolockError, StoreError, StoreTimeoutError
from microlock.etcd import messages
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.holders import holders
from microlock.etcd.wire import HAS_LEADER, Metadata, Wire


def attempt(
    request: Request | messages.Transaction,
    wire: Wire,
    *,
    timeout: float,
    metadata: Metadata,
    repeated: bool,
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
    if isinstance(request, Holders):
        return _holders(request.prefix, wire, timeout=timeout, metadata=metadata)
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
        case Revoke():
            return None
        case _:
            return messages.decode(request, answer, clock.now(), repeated=repeated)


def _holders(prefix: bytes, wire: Wire, *, timeout: float, metadata: Metadata) -> Found:
    end = clock.now() + timeout

    def ask(method: str, message: Message, kind: type[Any]) -> Any:
        return wire.call(method, message, kind, timeout=end - clock.now(), metadata=metadata)

    return holders(prefix, ask)


def _keep_alives(
    lease_ids: tuple[int, ...], wire: Wire, *, timeout: float, metadata: Metadata
) -> dict[int, Lifetime]:
    """All of them on one stream, which ends with the last reply."""
    replies: SimpleQueue[pb.LeaseKeepAliveResponse | MicrolockError] = SimpleQueue()
    sent = clock.now()
    stream = wire.stream(
        messages.KEEP_ALIVE,
        pb.LeaseKeepAliveResponse,
        replies.put,
        timeout=timeout,
        metadata=metadata + HAS_LEADER,
    )
    lifetimes: dict[int, Lifetime] = {}
    try:
        for lease_id in lease_ids:
            stream.send(messages.keep_alive(lease_id))
        stream.finish()
        for _ in lease_ids:
            reply = _next(replies, sent + timeout)
            lifetimes[reply.ID] = Lifetime(reply.TTL, sent, clock.now())
    except StoreError:
        if not lifetimes:
            raise
    finally:
        stream.close()
    return lifetimes


def _next(
    replies: SimpleQueue[pb.LeaseKeepAliveResponse | MicrolockError], until: float
) -> pb.LeaseKeepAliveResponse:
    try:
        reply = replies.get(timeout=max(0.0, until - clock.now()))
    except Empty:
        raise StoreTimeoutError("etcd did not answer in time", may_have_happened=True) from None
    if isinstance(reply, MicrolockError):
        raise reply
    return reply
