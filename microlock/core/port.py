"""What a flow may ask of etcd, and what it is told: the vocabulary between the decisions and I/O.

Any request may fail with an `StoreError`. Passing faults have been waited out by then, so an error
means that the caller's time is over or that trying again is of no use.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key of etcd as it was read."""

    name: bytes
    value: bytes
    create_revision: int
    lease_id: int


@dataclass(frozen=True, slots=True)
class Grant:
    """Make a lease with an id of our choosing, so that it can be revoked if the reply is lost.

    Never sent again after that: a late copy would bring a revoked lease back. Reply: `Lifetime`.
    """

    lease_id: int
    ttl: int


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Put the whole ttl of a lease back. Reply: `Lifetime`."""

    lease_id: int


@dataclass(frozen=True, slots=True)
class KeepAlives:
    """As `KeepAlive`, for any number of leases. Reply: the `Lifetime` of each, by its id; those
    without an answer are missing."""

    lease_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Revoke:
    """End a lease and delete its keys: nothing can be put under it any more. Reply: None.

    A lease that is not there is revoked. What undoes a doubt gets the last of the caller's time.
    """

    lease_id: int


@dataclass(frozen=True, slots=True)
class Read:
    """Keys with this prefix, oldest or newest first; `limit` 0 is no limit. Reply: `Found`."""

    prefix: bytes
    limit: int = 0
    newest: bool = False


@dataclass(frozen=True, slots=True)
class Get:
    """One key. Reply: `Found`."""

    name: bytes


@dataclass(frozen=True, slots=True)
class Put:
    name: bytes
    value: bytes
    lease_id: int


@dataclass(frozen=True, slots=True)
class Delete:
    name: bytes


@dataclass(frozen=True, slots=True)
class Empty:
    """True if no key has this prefix."""

    prefix: bytes


@dataclass(frozen=True, slots=True)
class CreatedAt:
    """True if the key exists and was created at this revision; of 0, if it does not exist."""

    name: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class UnderLease:
    """True if the key is bound to this lease."""

    name: bytes
    lease_id: int


@dataclass(frozen=True, slots=True)
class Txn:
    """If all of `guards` hold then `then`, else `otherwise`; atomic. Reply: `Outcome`.

    It may be sent more than once when replies are lost, so it must be one that can be: each
    guard is false, or the effect the same, once it was applied. If not, it goes `once`: without a
    reply it is an error.
    """

    guards: tuple[Empty | CreatedAt | UnderLease, ...]
    then: tuple[Put | Delete | Read, ...]
    otherwise: tuple[Read | Get, ...] = ()
    once: bool = False


# One request, one answer.
Call = Grant | KeepAlive | Revoke | Read | Get | Txn
Request = Call | KeepAlives


@dataclass(frozen=True, slots=True)
class Lifetime:
    """How long a lease lives: `ttl` seconds (0 or less: it is gone) from no earlier than `sent`,
    when the request left; the reply came at `at`. Both by the monotonic clock."""

    ttl: int
    sent: float
    at: float


@dataclass(frozen=True, slots=True)
class Found:
    """Keys as of a revision."""

    revision: int
    keys: tuple[KeyValue, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a transaction did.

    Attributes:
        succeeded: whether `then` was applied.
        revision: etcd's revision after it; of the put or delete, if it made one.
        keys: what its reads found.
        at: the moment of the reply, by the monotonic clock.
        repeated: an earlier copy of it got no answer, and may be applied at any later time.
    """

    succeeded: bool
    revision: int
    keys: tuple[KeyValue, ...]
    at: float
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """One change of a key. `kv` is None for a deletion."""

    revision: int
    name: bytes
    kv: KeyValue | None
