"""The seconds left of leases, for the page."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from microlock.core.call import Steps
from microlock.core.port import Lifetime, TimeToLive
from microlock.engine.client import Client
from microlock.engine.loops import look

# Seconds that an answer is reused: many pages may ask about the same lease.
_FRESH = 1.0
_MOST = 10_000


class Leases:
    """The leases of a store, as they were up to a second ago."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[int, tuple[float, int]] = {}

    async def left(self, ids: Iterable[str]) -> dict[str, int]:
        """The whole seconds left of each lease, by its hexadecimal id. Ended leases are missing."""
        wanted = {each: int(each, 16) for each in ids}
        leases = {*wanted.values()}
        now = asyncio.get_running_loop().time()
        if len(self._known) > _MOST:
            self._known.clear()
        # Another request may clear `_known` while this one waits for answers.
        found = {each: self._known[each] for each in leases if self._age(each, now) <= _FRESH}
        old = [*leases - found.keys()]
        asked = await asyncio.gather(*map(self._ask, old))
        found |= {each: (now, left) for each, left in zip(old, asked, strict=True)}
        self._known |= found
        return {name: left for name, each in wanted.items() if (left := found[each][1]) > 0}

    def _age(self, lease_id: int, now: float) -> float:
        return now - self._known.get(lease_id, (-_FRESH - 1, 0))[0]

    async def _ask(self, lease_id: int) -> int:
        return await look(self._client, _left(lease_id))


def _left(lease_id: int) -> Steps[int]:
    lifetime: Lifetime = yield TimeToLive(lease_id)
    return lifetime.ttl
