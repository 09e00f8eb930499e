"""One attempt at a request, on the wire to one member."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from google.protobuf.message import Message

from microlock.core.port import Lifetime, Request, Revoke, Transaction
from microlock.engine import clock
from microlock.errors import LeaseNotFoundError, MicrolockError, StoreError, StoreTimeoutError
from microlock.etcd import messages
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.several_reads import read
from microlock.etcd.wire import HAS_LEADER, M, Metadata, Wire

# Seconds for each answer after the first: a missing one must not delay the others.
_SILENCE = 0.7


class Caller(Protocol):
    """`LoopWire.call`."""

    async def __call__(
        self, method: str, message: Message, reply: type[M], *, timeout: float, metadata: Metadata
    ) -> M: ...


async def attempt(
    request: Request | Transaction,
    call: Caller,
    *,
    member: str,
    timeout: float,
    metadata: Metadata,
    repeated: bool,
) -> Any:
    """Sends the request once; the reply is as `microlock.core.port` says.

    Args:
        call: the `call` of a `LoopWire`, or one that blocks and does not suspend.
        member: the address of the member, for an error.
        timeout: seconds.
        metadata: identifies the caller.
        repeated: an earlier attempt had no answer, and may still be applied.
    """
    sent = clock.now()
    asked = messages.encode(request)
    try:
        if asked is None:
            end = sent + timeout

            async def ask(*asked: Any) -> Any:
                return await call(*asked, timeout=end - clock.now(), metadata=metadata)

            return await read(request, ask)
        reply = await call(*asked, timeout=timeout, metadata=metadata)
        return messages.decode(request, reply, sent, clock.now(), repeated=repeated)
    except LeaseNotFoundError:
        if isinstance(request, Revoke):
            return False
        raise
    except IndexError as error:
        raise StoreError(
            f"the reply of {member} has too few parts", may_have_happened=True
        ) from error


def keep_alives(
    lease_ids: tuple[int, ...], wire: Wire, *, timeout: float, metadata: Metadata
) -> dict[int, Lifetime]:
    """As `attempt` of `KeepAlives`, for several leases on one stream. It blocks.

    The stream ends after the last reply: a proxy drops the open answers of a stream that has ended.
    """
    replies: SimpleQueue[pb.LeaseKeepAliveResponse | MicrolockError] = SimpleQueue()
    sent = clock.now()
    stream = wire.stream(
        messages.KEEP_ALIVE,
        pb.LeaseKeepAliveResponse,
        replies.put,
        timeout=timeout,
        metadata=metadata + HAS_LEADER,
    )
    ttls: dict[int, int] = {}
    missing = len(lease_ids)  # two objects may have one lease
    try:
        stream.send(*map(messages.keep_alive, lease_ids))
        until = end = sent + timeout
        while missing > 0:
            for reply in _come(replies, until):
                if isinstance(reply, MicrolockError):
                    raise reply
                ttls[reply.ID] = reply.TTL
                missing -= 1
            until = min(end, clock.now() + _SILENCE)
        stream.finish()
    except StoreError:
        if not ttls:
            raise
    finally:
        stream.close()
    at = clock.now()
    # Nearly all have the same ttl: one object for each ttl, not for each of thousands of leases.
    of = {ttl: Lifetime(ttl, sent, at) for ttl in set(ttls.values())}
    return {lease_id: of[ttl] for lease_id, ttl in ttls.items()}


def _come(
    replies: SimpleQueue[pb.LeaseKeepAliveResponse | MicrolockError], until: float
) -> Iterator[pb.LeaseKeepAliveResponse | MicrolockError]:
    """The replies that have come. Waits until that time if there is none."""
    try:
        yield replies.get(timeout=max(0.0, until - clock.now()))
    except Empty:
        raise StoreTimeoutError("etcd did not answer in time", may_have_happened=True) from None
    with suppress(Empty):
        while True:
            yield replies.get_nowait()
