"""What an operator sees of locks."""

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

# Of who looks, or ends, extends and breaks a hold, nothing is stored.
NODE_ID = "microlock"


def look(client: Client, prefix: str, *, exact: bool = False) -> list[LockStatus]:
    """All locks that are called so, or whose names begin so.

    Who may not read all that begins so sees what is called so, and what is below it.
    """
    return call(client, _called(prefix)) if exact else _beginning(client, check_prefix(prefix))


def places(locks: Iterable[LockStatus]) -> list[Holder]:
    """Who holds these locks, and who waits for them."""
    return [place for lock in locks for place in (*lock.holders, *lock.waiters)]


def seconds_left(client: Client, holders: Iterable[Holder]) -> dict[int, int | None]:
    """What each of their leases has left; None: that may not be read, as another key has the same
    lease."""
    left: dict[int, int | None] = {}
    for lease_id in dict.fromkeys(each.lease_id for each in holders):
        try:
            left[lease_id] = int(call(client, elsewhere.remaining(lease_id)))
        except StorePermissionError:
            left[lease_id] = None
    return left


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
    found = call(client, elsewhere.locks(prefix.encode()))
    return [replace(each, name=prefix + each.name) for each in found]


def _called(name: str) -> Steps[list[LockStatus]]:
    found = []
    for kind, admission in (("queue", MUTEX), ("readers/writers", READER)):
        holders, waiters = yield from elsewhere.places(Names.of(name, NODE_ID, admission))
        if holders or waiters:
            found.append(LockStatus(name, kind, tuple(holders), tuple(waiters)))
    return found
