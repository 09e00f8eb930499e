"""What the service is told by options, and the bounds that it has by itself."""

from __future__ import annotations

from dataclasses import dataclass

# Of one request.
MAX_BODY_BYTES = 1024 * 1024
MAX_EXPIRY_MS = 365 * 24 * 3600 * 1000
MAX_WAIT_MS = 3600 * 1000
# The store has to answer within a wait, however short that is.
MIN_WAIT_MS = 100
MAX_LEASES = 100
# Seconds that a client may take to send its request, and to read what is sent to it.
PATIENCE = 30.0
# At one time, of all clients.
MAX_WAITS = 10_000
MAX_LISTENERS = 200


@dataclass(frozen=True)
class Settings:
    """How a service behaves.

    Attributes:
        default_expiry: milliseconds that a lock is held where a request does not say so.
        prefix: what the names of the locks begin with in etcd; clients don't see it.
        auth_token: what a request that changes anything has to bring; None: nothing.
        host: the name that the service listens at.
        allowed_hosts: further names that it answers to.
    """

    default_expiry: float = 1000
    prefix: str = ""
    auth_token: str | None = None
    host: str = "localhost"
    allowed_hosts: tuple[str, ...] = ()
