"""One attempt at a request, on the wire to one member."""

from __future__ import annotations

from collections.abc import Generator
from queue import Empty, SimpleQueue
from typing import Any

from microlock.core.port import KeepAlives, Lifetime, ReadAll, Request, Revoke, Transaction
from microlock.engine import clock
from microlock.errors import LeaseNotFoundError, MicrolockError, StoreError, StoreTimeoutError
from microlock.etcd import messages
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.all_entries import read_all
from microlock.etcd.wire import HAS_LEADER, LoopWire, Metadata, Wire

# Seconds that each answer after the first is waited for: one that never comes is not to make the
# others late.
_SILENCE = 0.7


def attempt(
    request: Request | Transaction,
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
    if isinstance(request, KeepAlives) and len(request.lease_ids) > 1:
        return _keep_alives(request.lease_ids, wire, timeout=timeout, metadata=metadata)
    end = clock.now() + timeout
    asking = ask(request, repeated=repeated)
    asked = next(asking)
    try:
        while True:
            try:
                reply = wire.call(*asked, timeout=end - clock.now(), metadata=metadata)
            except StoreError as error:
                asked = asking.throw(error)
            else:
                asked = asking.send(reply)
    except StopIteration as answered:
        return answered.value


async def attempt_on_loop(
    request: Request | Transaction,
    wire: LoopWire,
    *,
    timeout: float,
    metadata: Metadata,
    repeated: bool,
) -> Any:
    """As `attempt`, but of many leases only one is kept alive at a time: the threads do that."""
    end = clock.now() + timeout
    asking = ask(request, repeated=repeated)
    asked = next(asking)
    try:
        while True:
            try:
                reply = await wire.call(*asked, timeout=end - clock.now(), metadata=metadata)
            except StoreError as error:
                asked = asking.throw(error)
            else:
                asked = asking.send(reply)
    except StopIteration as answered:
        return answered.value


def ask(request: Request | Transaction, *, repeated: bool) -> Generator[messages.Asked, Any, Any]:
    """What a request asks a member for: yields each call, is sent its reply, returns that of the
    request."""
    if isinstance(request, ReadAll):
        return (yield from read_all(request.prefix))
    sent = clock.now()
    try:
        reply = yield messages.encode(request)
    except LeaseNotFoundError:
        if isinstance(request, Revoke):
            return None
        raise
    return messages.decode(request, reply, sent, clock.now(), repeated=repeated)


def _keep_alives(
    lease_ids: tuple[int, ...], wire: Wire, *, timeout: float, metadata: Metadata
) -> dict[int, Lifetime]:
    """All of them on one stream, which ends after the last reply: a proxy cancels what it still has
    to answer of a stream that has ended."""
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
        stream.send(*map(messages.keep_alive, lease_ids))
        until = end = sent + timeout
        for _ in lease_ids:
            reply = _next(replies, until)
            until = min(end, clock.now() + _SILENCE)
            lifetimes[reply.ID] = Lifetime(reply.TTL, sent, clock.now())
        stream.finish()
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
