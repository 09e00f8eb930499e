"""What an operator sees of locks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from microlock.core.admission import MUTEX, READER
from microlock.core.call import Steps
from microlock.core.elsewhere import locks, places, remaining
from microlock.core.keys import Names, check_prefix
from microlock.core.queue import Holder, LockStatus
from microlock.engine.client import Client
from microlock.engine.host import look as call
from microlock.errors import StorePermissionError

# Of who looks, or ends, extends and breaks a hold, nothing is stored.
NODE_ID = "microlock"


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
    """All locks that are called so, or whose names begin so.

    Who may not read all that begins so sees what is called so, and what is below it.
    """
    left: dict[int, int | None] = {}

    def place(holder: Holder) -> Place:
        if holder.lease_id not in left:
            try:
                left[holder.lease_id] = int(call(client, remaining(holder.lease_id)))
            except StorePermissionError:
                left[holder.lease_id] = None
        return Place(holder, left[holder.lease_id])

    found = call(client, _called(prefix)) if exact else _beginning(client, check_prefix(prefix))
    return [
        Seen(each.name, each.kind, [*map(place, each.holders)], [*map(place, each.waiters)])
        for each in found
    ]


def _beginning(client: Client, prefix: str) -> list[LockStatus]:
    # What is asked for is what goes on after a prefix, and not the lock that is called as it.
    above = prefix if prefix.endswith("/") else prefix[:-1]
    try:
        found = _after(client, above)
    except StorePermissionError:
        if prefix == above:
            raise
        found = call(client, _called(prefix)) + _after(client, f"{prefix}/")
    return [each for each in found if each.name.startswith(prefix)]


def _after(client: Client, prefix: str) -> list[LockStatus]:
    found = call(client, locks(prefix.encode()))
    return [replace(each, name=prefix + each.name) for each in found]


def _called(name: str) -> Steps[list[LockStatus]]:
    found = []
    for kind, admission in (("queue", MUTEX), ("readers/writers", READER)):
        holders, waiters = yield from places(Names.of(name, NODE_ID, admission))
        if holders or waiters:
            found.append(LockStatus(name, kind, tuple(holders), tuple(waiters)))
    return found
