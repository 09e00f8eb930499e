"""All locks as they are now, read from the store: one read at a time, for all requests."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import replace

from microlock.core.jsonable import lock_object
from microlock.core.port import Found, Get, ReadAll
from microlock.core.queue import statuses
from microlock.core.retry import Budget
from microlock.engine.awaiting import aside
from microlock.engine.client import Client
from microlock.errors import StorePermissionError

# Seconds that the store has to return all locks: a hundred thousand take a while.
PATIENCE = 30.0


class AllLocks:
    """All locks of a store, as JSON; on one loop."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client = client
        self._prefix = prefix.encode()
        self._reading: asyncio.Future[bytes] | None = None
        self._next: asyncio.Future[bytes] | None = None  # the read after that one

    async def read(self) -> bytes:
        """The locks as they were at some moment after this call began."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._read(self._reading))
        return await asyncio.shield(self._next)

    async def _read(self, before: asyncio.Future[bytes] | None) -> bytes:
        failed = None
        if before and not before.done():
            await asyncio.wait({before})
            failed = before.exception()
        self._reading, self._next = self._next, None
        if failed:
            raise failed  # another read would wait for the store as long again
        # On a thread: the loop goes on while the locks are read and encoded.
        return await aside("microlock-locks", self._text)

    def _text(self) -> bytes:
        client, now = self._client, self._client.clock.now
        # The client's own timeout is for short answers: one shows whether the store is there.
        with suppress(StorePermissionError):  # an answer, too
            client.perform(Get(b"health"), Budget.of(now(), client.timeout))
        budget = Budget.of(now(), PATIENCE)
        found: Found = client.perform(ReadAll(self._prefix), budget, patience=PATIENCE)
        named = (replace(kv, name=kv.name[len(self._prefix) :]) for kv in found.keys)
        # One by one: other threads get the GIL in between.
        locks = ", ".join([json.dumps(lock_object(each)) for each in statuses(named)])
        return f'{{"revision": {found.revision}, "locks": [{locks}]}}'.encode()
