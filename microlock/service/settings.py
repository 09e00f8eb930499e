"""The settings of the service, and its fixed limits."""

from __future__ import annotations

from dataclasses import dataclass

# Limits of one request.
MAX_BODY_BYTES = 1024 * 1024
MAX_EXPIRY_MS = 365 * 24 * 3600 * 1000
MAX_WAIT_MS = 3600 * 1000
# A shorter wait would leave the store no time to answer.
MIN_WAIT_MS = 100
MAX_LEASES = 100
# Seconds that a client may take to send its request, and to read each part of the answer.
PATIENCE = 30.0
# Limits for all clients together, at one time.
MAX_WAITS = 10_000
MAX_LISTENERS = 200


@dataclass(frozen=True)
class Settings:
    """The settings of a service.

    Attributes:
        default_expiry: milliseconds that a lock is held if the request has no `exp`.
        prefix: the prefix of the lock names in etcd; clients don't see it.
        auth_token: the token that requests need to change anything; None: no token is needed.
        host: the name that the service listens on.
        allowed_hosts: more host names that clients may use.
    """

    default_expiry: float = 1000
    prefix: str = ""
    auth_token: str | None = None
    host: str = "localhost"
    allowed_hosts: tuple[str, ...] = ()
