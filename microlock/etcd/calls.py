"""One attempt at a request, on the wire to one member."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from microlock import clock
from microlock.errors import EtcdUnavailableError, LeaseNotFoundError
from microlock.etcd import messages
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.wire import Metadata, Stream, Wire
from microlock.requests import Beside, Grant, KeepAlive, Lifetime, Request, Revoke, Txn

# Without it a stream to a member that is cut off from its leader stays silent for ever.
HAS_LEADER: Metadata = (("hasleader", "true"),)


def attempt(
    request: Request, wire: Wire, *, timeout: float, metadata: Metadata, repeated: bool
) -> Any:
    """Sends the request once; the reply is as `microlock.requests` says.

    Args:
        timeout: seconds.
        metadata: who calls.
        repeated: an earlier attempt had no answer, and may be applied yet.
    """
    send = partial(attempt, wire=wire, timeout=timeout, metadata=metadata, repeated=repeated)
    sent = clock.now()
    match request:
        case KeepAlive(lease_id):
            with _keep_alive(wire, lease_id, timeout, metadata) as stream:
                return _lifetime(stream, sent)
        case Beside(lease_id, other):
            with _keep_alive(wire, lease_id, timeout, metadata) as stream:
                reply = send(other)
                try:
                    return _lifetime(stream, sent), reply
                except EtcdUnavailableError:
                    return None, reply
        case _:
            method, message, kind = messages.encode(request)
    try:
        answer = wire.call(method, message, kind, timeout=timeout, metadata=metadata)
    except LeaseNotFoundError:
        if isinstance(request, Revoke):
            return None
        raise
    match request:
        case Grant():
            return Lifetime(answer.TTL, sent, clock.now())
        case Txn():
            return messages.outcome(answer, clock.now(), repeated=repeated)
        case Revoke():
            return None
        case _:
            return messages.found(answer)


@contextmanager
def _keep_alive(wire: Wire, lease_id: int, timeout: float, metadata: Metadata) -> Iterator[Stream]:
    stream = wire.stream(
        messages.KEEP_ALIVE,
        pb.LeaseKeepAliveResponse,
        timeout=timeout,
        metadata=metadata + HAS_LEADER,
    )
    try:
        stream.send(pb.LeaseKeepAliveRequest(ID=lease_id))
        yield stream
    finally:
        stream.close()


def _lifetime(stream: Stream, sent: float) -> Lifetime:
    return Lifetime(stream.receive().TTL, sent, clock.now())
