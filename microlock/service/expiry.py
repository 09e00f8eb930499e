"""Ends holds at the millisecond, while this service is up: etcd counts whole seconds.

Each hold, and each renewal of a hold, has its own lease, and ends when that is revoked. If any
service has renewed the hold since, it is under another lease, and stays.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from microlock.errors import MicrolockError

log = logging.getLogger("microlock")


def ttl_of(expiry_ms: float) -> int:
    """The ttl of a hold's lease in seconds, long enough that the lease outlives the expiry.

    When the lock is obtained, its lease is up to a tenth of its ttl old.
    """
    return max(1, math.ceil(expiry_ms / 900))


@dataclass(slots=True)
class _Term:
    end: asyncio.TimerHandle
    keys: set[str]  # the keys under the lease, as far as this service knows


class Expiry:
    """The leases of the holds that this service has taken or renewed.

    Args:
        end: revokes a lease.
    """

    def __init__(self, end: Callable[[int], Awaitable[None]]) -> None:
        self._end = end
        self._terms: dict[int, _Term] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._terms)

    def plan(self, lease_id: int, keys: Iterable[str], expiry_ms: float) -> None:
        """Ends the lease after so many milliseconds from now."""
        loop = asyncio.get_running_loop()
        handle = loop.call_later(expiry_ms / 1000, self._over, lease_id)
        self._terms[lease_id] = _Term(handle, set(keys))

    def left(self, keys: Iterable[str], lease_id: int) -> None:
        """These keys are no longer under the lease. A lease without keys ends at once."""
        term = self._terms.get(lease_id)
        if term:
            term.keys.difference_update(keys)
            if not term.keys:
                term.end.cancel()
                self._over(lease_id)

    def stop(self) -> None:
        """From now on, holds end with the ttl of their leases."""
        for term in self._terms.values():
            term.end.cancel()
        self._terms.clear()

    async def ended(self) -> None:
        """Waits for the leases that are being revoked."""
        if self._ending:
            await asyncio.wait(self._ending)

    def _over(self, lease_id: int) -> None:
        del self._terms[lease_id]
        ending = asyncio.ensure_future(self._quietly(lease_id))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def _quietly(self, lease_id: int) -> None:
        try:
            await self._end(lease_id)
        except MicrolockError as error:
            log.warning("lease %x could not be revoked, and ends with its ttl: %s", lease_id, error)
