"""Reads of locks for operators."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from microlock.core import elsewhere
from microlock.core.admission import MUTEX, READER
from microlock.core.call import Steps
from microlock.core.keys import Names, check_prefix
from microlock.core.queue import Holder, LockStatus
from microlock.engine.client import Client
from microlock.engine.host import look as call
from microlock.errors import StorePermissionError

# A node id for calls that store none: reads, and ending, extending or breaking a hold by its token.
NODE_ID = "microlock"


def look(client: Client, prefix: str, *, exact: bool = False) -> list[LockStatus]:
    """All locks with this name (`exact`), or whose names begin with this prefix.

    A user who may not read the whole prefix gets the lock of that name, and those below it.
    """
    return call(client, _called(prefix)) if exact else _beginning(client, check_prefix(prefix))


def places(locks: Iterable[LockStatus]) -> list[Holder]:
    """The holders and waiters of these locks."""
    return [place for lock in locks for place in (*lock.holders, *lock.waiters)]


def seconds_left(client: Client, holders: Iterable[Holder]) -> dict[int, int | None]:
    """The seconds left of each of their leases.

    None: not readable, since a key that the user may not read has the same lease.
    """
    left: dict[int, int | None] = {}
    for lease_id in dict.fromkeys(each.lease_id for each in holders):
        try:
            left[lease_id] = int(call(client, elsewhere.remaining(lease_id)))
        except StorePermissionError:
            left[lease_id] = None
    return left


def _beginning(client: Client, prefix: str) -> list[LockStatus]:
    # A read finds names that go on after its prefix, and not the lock of that very name. So it
    # begins one character earlier.
    above = prefix if prefix.endswith("/") else prefix[:-1]
    try:
        found = _after(client, above)
    except StorePermissionError:
        if prefix == above:
            raise
        found = call(client, _called(prefix)) + _after(client, f"{prefix}/")
    return [each for each in found if each.name.startswith(prefix)]


def _after(client: Client, prefix: str) -> list[LockStatus]:
    found = call(client, elsewhere.locks(prefix.encode()))
    return [replace(each, name=prefix + each.name) for each in found]


def _called(name: str) -> Steps[list[LockStatus]]:
    found = []
    for kind, admission in (("queue", MUTEX), ("readers/writers", READER)):
        holders, waiters = yield from elsewhere.places(Names.of(name, NODE_ID, admission))
        if holders or waiters:
            found.append(LockStatus(name, kind, tuple(holders), tuple(waiters)))
    return found
