"""What an operator sees of locks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from microlock.core.queue import Holder
from microlock.engine.client import Client
from microlock.errors import StorePermissionError
from microlock.manager import LockManager

# Who looks is not stored anywhere.
_NODE_ID = "microlock"


@dataclass(frozen=True)
class Place:
    """A holder or a waiter, with the seconds that its lease has left; None: that may not be read,
    as another key has the same lease."""

    holder: Holder
    seconds_left: int | None


@dataclass(frozen=True)
class Seen:
    """A lock: who holds it and who waits for it, in order."""

    key: str
    kind: str
    holders: Sequence[Place]
    waiters: Sequence[Place]

    @property
    def places(self) -> Iterator[Place]:
        return chain(self.holders, self.waiters)


def look(client: Client, prefix: str, *, exact: bool = False) -> list[Seen]:
    """All locks that are called so, or whose names begin so."""
    # A manager shows what is below its prefix, and not the lock that is called as the prefix.
    above = prefix if prefix.endswith("/") and not exact else prefix[:-1]
    manager, left = LockManager(client, _NODE_ID, prefix=above), dict[int, int | None]()

    def place(holder: Holder) -> Place:
        if holder.lease_id not in left:
            try:
                left[holder.lease_id] = int(manager.remaining(holder))
            except StorePermissionError:
                left[holder.lease_id] = None
        return Place(holder, left[holder.lease_id])

    found = []
    for each in manager.locks():
        key = above + each.name
        if key == prefix if exact else key.startswith(prefix):
            holders, waiters = [*map(place, each.holders)], [*map(place, each.waiters)]
            found.append(Seen(key, each.kind, holders, waiters))
    return found
