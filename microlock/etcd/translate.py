"""The errors of gRPC and etcd, as ours; the only place that knows their texts.

The texts of etcd are those of api/v3rpc/rpctypes/error.go, the same in 3.4 to 3.6. gRPC reports
every fault of a connection as UNAVAILABLE and tells them apart by text only; what those texts were
when this was written is held by the tests of TLS and of wrong ports.
"""

from __future__ import annotations

import re

import grpc

from microlock.errors import (
    DestroyedError,
    LeaseNotFoundError,
    MicrolockError,
    StoreAuthenticationError,
    StoreError,
    StoreNoSpaceError,
    StorePermissionError,
    StoreTimeoutError,
    StoreTlsError,
    StoreUnavailableError,
    WrongServerError,
)

_BY_TEXT: tuple[tuple[str, type[StoreError]], ...] = (
    ("requested lease not found", LeaseNotFoundError),
    ("database space exceeded", StoreNoSpaceError),
    ("user name is empty", StoreAuthenticationError),
    ("authentication failed", StoreAuthenticationError),
    ("authentication is not enabled", StoreAuthenticationError),
    ("invalid auth token", StoreAuthenticationError),
    ("revision of auth store is old", StoreAuthenticationError),
    ("revision in header is old", StoreAuthenticationError),
    ("permission denied", StorePermissionError),
    ("too many requests", StoreUnavailableError),
)

# The request never left: the name was not found, or no connection could be made.
_NOT_SENT = ("failed to connect to all addresses", "errors resolving", "DNS resolution failed")
# "Unwrap failed": with TLS 1.3 a server refuses a client's certificate after the handshake.
_TLS = ("SSL", "Tls handshake", "Unwrap failed", "Hostname Verification", "security handshaker")
# What a server with TLS does to a client without, and the other way round; but so does a proxy
# with nothing behind it yet. Nobody knows which, so it is tried again for as long as there is time,
# and TLS is named while the address never gave an answer.
_TLS_PERHAPS = ("Socket closed", "Connection reset", "Handshake read failed")
_NOT_ETCD = ("Failed parsing HTTP/2",)
# A call that was under way when its channel was closed, or its stream.
_BY_US = ("Channel closed", "Locally cancelled")
# Characters of another's text in a message of ours, which is to be two lines at the most.
_ROOM = 140


def translate(error: grpc.RpcError, address: str, *, answered: bool) -> MicrolockError:
    """What an RPC's failure means.

    Args:
        error: as raised by a call.
        address: where it was sent, for the message.
        answered: whether this address ever gave an answer.
    """
    code, details = error.code(), error.details() or ""
    status = f"{code.name}: {_short(details)}"

    def has(texts: tuple[str, ...]) -> bool:
        return any(text in details for text in texts)

    for text, kind in _BY_TEXT:
        if text in details:
            return kind(f"etcd at {address}: {_short(details)}")
    if code is grpc.StatusCode.UNAVAILABLE:
        if has(_NOT_SENT):
            if has(_TLS):
                return StoreTlsError(f"no TLS connection to {address} ({status})")
            if has(_NOT_ETCD):
                return WrongServerError(
                    f"{address} does not speak HTTP/2, so is not etcd ({status})"
                )
            if has(_TLS_PERHAPS) and not answered:
                return StoreTimeoutError(
                    f"{address} closes each connection at once; is it starting, or is TLS on at "
                    f"one side only? ({status})"
                )
            kind = StoreTimeoutError if "timed out" in details else StoreUnavailableError
            return kind(f"no connection to {address} ({status})")
        return StoreUnavailableError(f"etcd at {address}: {status}", may_have_happened=True)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED or "context deadline exceeded" in details:
        return StoreTimeoutError(
            f"etcd at {address} did not answer in time ({code.name})", may_have_happened=True
        )
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return WrongServerError(f"{address} is not etcd's client port ({status})")
    if code is grpc.StatusCode.CANCELLED and has(_BY_US):
        return DestroyedError(f"the connection to {address} was closed ({status})")
    # A stream reset, a frame cut short, a member that stops.
    if code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED):
        return StoreUnavailableError(f"etcd at {address}: {status}", may_have_happened=True)
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return StorePermissionError(f"etcd at {address}: {status}")
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return StoreAuthenticationError(f"etcd at {address}: {status}")
    unknown = code in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS)
    return StoreError(f"etcd at {address}: {status}", may_have_happened=unknown)


def _short(details: str) -> str:
    """What a message has room for: its text is whatever the other side sends."""
    text = re.sub(r"^failed to connect to all addresses; last error: (\w+: )?", "", details)
    shown = "".join(each if each.isprintable() else " " for each in text[: 2 * _ROOM])
    return shown if len(shown) <= _ROOM else shown[: _ROOM - 1] + "…"


def refuses(reason: str) -> bool:
    """Whether etcd ends a watch for what the user is, or may do."""
    refusals = (StoreAuthenticationError, StorePermissionError)
    return any(text in reason for text, kind in _BY_TEXT if kind in refusals)
