"""One attempt at a request, on the wire to one member."""

from __future__ import annotations

from typing import Any

from microlock import clock
from microlock.errors import LeaseNotFoundError
from microlock.etcd import messages
from microlock.etcd.wire import Metadata, Wire
from microlock.requests import Grant, KeepAlive, Lifetime, Request, Revoke, Txn


def attempt(
    request: Request, wire: Wire, *, timeout: float, metadata: Metadata, repeated: bool
) -> Any:
    """Sends the request once; the reply is as `microlock.requests` says.

    Args:
        timeout: seconds.
        metadata: who calls.
        repeated: an earlier attempt had no answer, and may be applied yet.
    """
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
