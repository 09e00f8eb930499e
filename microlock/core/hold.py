"""What a user is told of a hold."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class State(enum.Enum):
    """What an object knows of its hold, without asking etcd."""

    RELEASED = "holds nothing: never locked, refused, or given back"
    HELD = "holds the lock, until its deadline at least"
    SUSPENDED = "holds the lock until its deadline, and etcd does not answer the renewals"
    LOST = "the hold ended without unlock(): see lost_reason"


@dataclass(frozen=True)
class Hold:
    """A lock that was taken.

    Attributes:
        key: the lock.
        node_id: who took it.
        token: the fencing token. It rises from each holder to the next: whoever is written to
            under the lock should refuse a token lower than one it has seen.
        lease_id: the etcd lease that the hold began with.
        ttl: seconds as granted by etcd, which may be more than asked for.
        attempts: tries it took; for one that waited, how often it joined the queue.
        waited: seconds it took.
    """

    key: str
    node_id: str
    token: int
    lease_id: int
    ttl: int
    attempts: int
    waited: float


@dataclass(frozen=True)
class Guard:
    """What holds in a transaction of etcd for as long as a hold stands.

    Attributes:
        key: the key in etcd that has to exist,
        revision: and the revision that it has to be created at: its create_revision.
        lock: the lock that it is about.
        node_id: who holds it.
    """

    key: bytes
    revision: int
    lock: str
    node_id: str
