"""Turns the failure of a call into an error of ours. The only place that knows etcd's texts.

The texts of etcd are those of api/v3rpc/rpctypes/error.go, the same in 3.4 to 3.6.
"""

from __future__ import annotations

import enum
import re
import ssl

from microlock.errors import (
    LeaseNotFoundError,
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
    ("not supported for learner", StoreUnavailableError),  # another member does it
)
# The texts of a member or a proxy that stops in the middle of a call, with the status UNKNOWN.
_STOPPING = ("context canceled", "raft: stopped", "raft proposal dropped")


class Refusal(enum.Enum):
    """Why etcd refuses the caller's identity, as far as that decides what follows."""

    OFF = "authentication is off"
    OLD = "users or roles have changed meanwhile"
    OTHER = "no token, or one that etcd does not know"


_REFUSALS = {
    "authentication is not enabled": Refusal.OFF,
    "revision of auth store is old": Refusal.OLD,
    "revision in header is old": Refusal.OLD,
}

# The most characters of the server's text in a message, so that it stays short.
_ROOM = 140


def translate(
    status: str,
    details: str,
    address: str,
    *,
    answered: bool = False,
    may_have_happened: bool = True,
) -> StoreError:
    """The error for a failed call on a connection.

    Args:
        status: the name of gRPC's status code.
        details: gRPC's message.
        address: the address of the member, for the message.
        answered: whether this address ever answered as etcd. If so, another server in its place is
            temporary, such as the page of a balancer whose members are down.
        may_have_happened: False: the call was never sent, or certainly not processed. True: the
            status decides.
    """
    shown = f"{status}: {short(details)}"
    for text, kind in _BY_TEXT:
        if text in details:
            return kind(f"etcd at {address}: {short(details)}")
    if status == "DEADLINE_EXCEEDED" or "context deadline exceeded" in details:
        return StoreTimeoutError(
            f"etcd at {address} did not answer in time ({status})",
            may_have_happened=may_have_happened,
        )
    if status == "UNIMPLEMENTED":
        kind = StoreUnavailableError if answered else WrongServerError
        return kind(f"{address} is not etcd's client port ({shown})")
    # INTERNAL, CANCELLED: a stream reset, a frame cut short, a member that stops.
    stopping = status == "UNKNOWN" and any(text in details for text in _STOPPING)
    if stopping or status in ("UNAVAILABLE", "INTERNAL", "CANCELLED"):
        return StoreUnavailableError(
            f"etcd at {address}: {shown}", may_have_happened=may_have_happened
        )
    if status == "PERMISSION_DENIED":
        return StorePermissionError(f"etcd at {address}: {shown}")
    if status == "UNAUTHENTICATED":
        return StoreAuthenticationError(f"etcd at {address}: {shown}")
    unknown = may_have_happened and status in ("UNKNOWN", "DATA_LOSS")
    return StoreError(f"etcd at {address}: {shown}", may_have_happened=unknown)


def not_connected(error: BaseException, address: str, *, answered: bool) -> StoreError:
    """The error for a connection that could not be made; nothing was sent.

    Args:
        answered: whether this address ever answered as etcd.
    """
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        # Go sends this while certificate and key are being replaced, and don't belong together.
        passing = answered and getattr(error, "reason", None) == "TLSV1_ALERT_INTERNAL_ERROR"
        kind = StoreUnavailableError if passing else StoreTlsError
        return kind(f"no TLS connection to {address} ({short(_of_tls(error))})")
    reason = short(getattr(error, "strerror", None) or str(error) or repr(error))
    if isinstance(error, ConnectionResetError | BrokenPipeError | ssl.SSLEOFError) and not answered:
        # This happens if only one side uses TLS, but also at a proxy whose etcd is not there yet.
        # So it is tried again until the time is over.
        return closes_at_once(address, reason)
    if isinstance(error, TimeoutError):
        return StoreTimeoutError(f"no connection to {address} ({reason})")
    if isinstance(error, OSError):
        return StoreUnavailableError(f"no connection to {address} ({reason})")
    return not_http2(address, reason, answered=answered)


def _of_tls(error: ssl.SSLError) -> str:
    """The text of OpenSSL, without the names of its source files."""
    reason = getattr(error, "reason", None) or ""  # OpenSSL's own have one
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate: {error.verify_message}"
    if reason == "WRONG_VERSION_NUMBER":
        return "the server does not use TLS"
    text = re.sub(r"^\[.*?\] | \(_ssl\.c:\d+\)$", "", error.strerror or str(error))
    if "ALERT" not in reason:
        return text
    # With TLS 1.3 a server that got no certificate says "bad certificate".
    hint = "; it may need another cert_cert" if re.search("CERTIFICATE|_CA$", reason) else ""
    return f"the server says: {text}{hint}"


def not_http2(address: str, reason: str, *, answered: bool) -> StoreError:
    if answered:
        return StoreUnavailableError(f"{address} does not speak HTTP/2 now ({reason})")
    return WrongServerError(f"{address} is not etcd: it does not speak HTTP/2 ({reason})")


def closes_at_once(address: str, reason: str) -> StoreError:
    return StoreTimeoutError(
        f"{address} closes each connection at once: it is still starting, or only one side "
        f"uses TLS ({reason})"
    )


def short(details: str) -> str:
    """A text of the other side, made short and printable."""
    shown = "".join(each if each.isprintable() else " " for each in details[: 2 * _ROOM])
    return shown if len(shown) <= _ROOM else shown[: _ROOM - 1] + "…"


def refuses(reason: str) -> bool:
    """Whether etcd ends a watch because of the login or the user's permissions."""
    refusals = (StoreAuthenticationError, StorePermissionError)
    return any(text in reason for text, kind in _BY_TEXT if kind in refusals)


def compacted(error: StoreError) -> bool:
    """Whether the requested revision is compacted."""
    return "required revision has been compacted" in str(error)


def refusal(error: StoreAuthenticationError) -> Refusal:
    """Why etcd refused the caller's identity."""
    texts = (kind for text, kind in _REFUSALS.items() if text in str(error))
    return next(texts, Refusal.OTHER)
