"""Takes, renews and gives back locks for clients.

The entry in the store is the only state of a hold. So any service on the same store finds it by its
node id and token, also after a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TypeVar

from microlock.asyncio import MultiLock
from microlock.core import elsewhere
from microlock.core.call import Steps
from microlock.core.keys import Names
from microlock.core.queue import Holder
from microlock.engine.client import Client
from microlock.engine.host import LEASE_IDS
from microlock.engine.loops import look
from microlock.errors import AlreadyLockedError
from microlock.service import steps
from microlock.service.expiry import Expiry, ttl_of
from microlock.service.settings import MAX_WAITS, MIN_WAIT_MS, Settings

T = TypeVar("T")

# A key and its version.
Token = tuple[str, int]


class BusyError(Exception):
    """The service can't take more of these requests now. Later it can, or another service can."""


class Holds:
    """The locks of the clients of a service."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._client = client
        self._prefix = settings.prefix
        self._default = settings.default_expiry
        self._waits: set[MultiLock] = set()
        self._stopping = False
        self.expiry = Expiry(lambda lease_id: self._look(steps.end(lease_id)))

    async def lock(
        self, uid: str, keys: Iterable[str], expiry_ms: float | None, wait_ms: float
    ) -> list[Token]:
        """Takes all of these locks, or none. Raises BusyError, and the errors of `lock()`."""
        expiry_ms = expiry_ms or self._default
        full = [self._prefix + key for key in keys]
        lock = MultiLock(self._client, full, uid, ttl=ttl_of(expiry_ms))
        if wait_ms:
            if len(self._waits) >= MAX_WAITS:
                raise BusyError(f"{MAX_WAITS} clients wait for locks already")
            if self._stopping:
                raise BusyError("the service is stopping")
            self._waits.add(lock)
        names, hold = [key.removeprefix(self._prefix) for key in lock.keys], None
        try:
            hold = await lock.lock(timeout=max(wait_ms, MIN_WAIT_MS) / 1000 if wait_ms else 0)
            lock._detach()
            self.expiry.plan(hold.lease_id, names, expiry_ms)
            await lock.destroy()
        except AlreadyLockedError as error:
            raise AlreadyLockedError(", ".join(names), error.holder) from None
        except asyncio.CancelledError:
            if hold:  # it came after that: the client never gets the token
                self.expiry.left(names, hold.lease_id)
            raise
        finally:
            self._waits.discard(lock)
            await lock.destroy()
        return [(name, hold.token) for name in names]

    async def unlock(self, uid: str, tokens: Iterable[Token]) -> list[str]:
        """Gives back the holds with these tokens. Returns the keys that it freed."""
        unlocked: list[str] = []
        for token, names in self._by_token(uid, tokens):
            gone = await self._look(steps.unlock(names, token))
            for lock, kv in gone.items():
                key = self._key(names, lock)
                self.expiry.left([key], kv.lease_id)
                unlocked.append(key)
        return unlocked

    async def renew(self, uid: str, tokens: Iterable[Token], expiry_ms: float | None) -> list[str]:
        """Gives the holds with these tokens a new expiry, from now on. Returns their keys."""
        expiry_ms = expiry_ms or self._default
        renewed: list[str] = []
        for token, names in self._by_token(uid, tokens):
            renewing = steps.renew(names, token, ttl_of(expiry_ms), lease_ids=LEASE_IDS)
            for mine, lease_id in await self._look(renewing):
                keys = [self._key(names, lock) for lock in mine]
                (before,) = {kv.lease_id for kv in mine.values()}
                self.expiry.plan(lease_id, keys, expiry_ms)
                self.expiry.left(keys, before)
                renewed += keys
        return renewed

    async def locked(self, keys: Iterable[str]) -> bool:
        """Whether at least one of these keys is locked, by a lock of any kind."""
        names = Names.of_all([self._prefix + key for key in keys], "check")
        return await self._look(steps.is_locked(names))

    async def break_place(self, key: str, token: int) -> Holder | None:
        """Ends the hold with this token, or removes the waiter. Returns its former holder."""
        return await self._look(elsewhere.break_place(self._prefix + key, "break", token))

    def stop(self) -> None:
        """Ends the waits, whose requests get an answer, and begins no new ones."""
        self._stopping = True
        for lock in list(self._waits):
            lock.cancel()

    async def close(self) -> None:
        self.stop()
        self.expiry.stop()
        await self.expiry.ended()

    def _by_token(self, uid: str, tokens: Iterable[Token]) -> list[tuple[int, Names]]:
        """Groups the keys by token: keys that were taken together are given back together."""
        keys: dict[int, list[str]] = {}
        for key, token in tokens:
            keys.setdefault(token, []).append(self._prefix + key)
        return [(token, Names.of_all(each, uid)) for token, each in keys.items()]

    def _key(self, names: Names, lock: bytes) -> str:
        return names.of_lock(lock).removeprefix(self._prefix)

    async def _look(self, call: Steps[T]) -> T:
        return await look(self._client, call)
