"""What a failure of a call means, as an error of ours; the only place that knows etcd's texts.

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
# What a member says, or a proxy, that stops in the middle of a call; by the status UNKNOWN.
_STOPPING = ("context canceled", "raft: stopped", "raft proposal dropped")


class Refusal(enum.Enum):
    """Why etcd refuses who calls, where it matters for what follows."""

    OFF = "it does not ask who calls"
    OLD = "users or roles have changed meanwhile"
    OTHER = "no token, or one that it does not know"


_REFUSALS = {
    "authentication is not enabled": Refusal.OFF,
    "revision of auth store is old": Refusal.OLD,
    "revision in header is old": Refusal.OLD,
}

# Characters of another's text in a message of ours, which is to be two lines at the most.
_ROOM = 140


def translate(
    status: str,
    details: str,
    address: str,
    *,
    answered: bool = False,
    may_have_happened: bool = True,
) -> StoreError:
    """What the failure of a call means that was made on a connection.

    Args:
        status: a name of gRPC's status codes.
        details: the text beside it.
        address: where it was sent, for the message.
        answered: whether this address ever gave an answer. What stands in its place then, as the
            page of a balancer whose members are down, will go again.
        may_have_happened: False if the call was never sent, or surely not processed. True says
            nothing: it goes by the status.
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
    """Why no connection was made; nothing was sent.

    Args:
        answered: whether this address ever gave an answer.
    """
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        # What Go says of files that are being replaced, and don't belong together.
        passing = answered and getattr(error, "reason", None) == "TLSV1_ALERT_INTERNAL_ERROR"
        kind = StoreUnavailableError if passing else StoreTlsError
        return kind(f"no TLS connection to {address} ({short(_of_tls(error))})")
    reason = short(getattr(error, "strerror", None) or str(error) or repr(error))
    if isinstance(error, ConnectionResetError | BrokenPipeError | ssl.SSLEOFError) and not answered:
        # What a server with TLS does to a client without, and the other way round; but so does a
        # proxy with nothing behind it yet. Nobody knows which, so it is tried again for as long as
        # there is time.
        return closes_at_once(address, reason)
    if isinstance(error, TimeoutError):
        return StoreTimeoutError(f"no connection to {address} ({reason})")
    if isinstance(error, OSError):
        return StoreUnavailableError(f"no connection to {address} ({reason})")
    return not_http2(address, reason, answered=answered)


def _of_tls(error: ssl.SSLError) -> str:
    """What OpenSSL means: its text has names of its source around it."""
    reason = getattr(error, "reason", None) or ""  # OpenSSL's own have one
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate: {error.verify_message}"
    if reason == "WRONG_VERSION_NUMBER":
        return "the server does not use TLS"
    text = re.sub(r"^\[.*?\] | \(_ssl\.c:\d+\)$", "", error.strerror or str(error))
    if "ALERT" not in reason:
        return text
    # With TLS 1.3 "bad certificate" is what a server says that got none.
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
    """What a message has room for: its text is whatever the other side sends."""
    shown = "".join(each if each.isprintable() else " " for each in details[: 2 * _ROOM])
    return shown if len(shown) <= _ROOM else shown[: _ROOM - 1] + "…"


def refuses(reason: str) -> bool:
    """Whether etcd ends a watch for what the user is, or may do."""
    refusals = (StoreAuthenticationError, StorePermissionError)
    return any(text in reason for text, kind in _BY_TEXT if kind in refusals)


def compacted(error: StoreError) -> bool:
    """Whether etcd has forgotten the revision that was asked for."""
    return "required revision has been compacted" in str(error)


def refusal(error: StoreAuthenticationError) -> Refusal:
    """Why etcd refused who calls."""
    texts = (kind for text, kind in _REFUSALS.items() if text in str(error))
    return next(texts, Refusal.OTHER)
