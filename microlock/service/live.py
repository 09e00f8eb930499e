"""The states of all locks, live, for any number of listeners, with one watch of the store.

A listener gets states, not events: the present state of each lock that has changed since its last
message. So a slow listener costs only a set of names, and never gets old states. Long messages are
sent in blocks, and the loop does other work in between. All listeners share the encoded texts.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import suppress
from itertools import count, islice
from typing import Any

from microlock.core.admission import split
from microlock.core.jsonable import lock_object
from microlock.core.overview import Queued, watch_name
from microlock.core.port import KeyValue
from microlock.core.queue import LockStatus, statuses
from microlock.engine.client import Client
from microlock.engine.reader import Reader
from microlock.errors import MicrolockError
from microlock.service.holds import BusyError
from microlock.service.settings import MAX_LISTENERS

# The least seconds between two messages to a listener, and the most without one.
PACE = 0.1
HEARTBEAT = 10.0
# Seconds that the watch stays without listeners: a page that is reloaded comes back soon.
LINGER = 10.0
# Seconds until a watch that the store refused is tried again; and between two checks whether an
# interrupted watch goes on.
REFUSED = 5.0
INTERRUPTED = 0.5
# The number of locks that are encoded or sent before the loop does other work.
BLOCK = 100

_numbers = count(1)


def _encoded(lock: bytes, entries: Iterable[KeyValue]) -> bytes:
    """A lock as JSON. A lock without entries is free."""
    name = split(lock)[0][:-1].decode(errors="backslashreplace")
    found = statuses(entries) or [LockStatus(name, "queue", (), ())]
    return json.dumps(lock_object(found[0])).encode()


class _Feed:
    """The subscriber of the watch: called on the watch's thread, it passes news to the loop."""

    interest = None
    reader: Reader  # set before the watch begins

    def __init__(self, live: Live, loop: asyncio.AbstractEventLoop) -> None:
        self._live = live
        self._loop = loop

    def watched(self, name: bytes, changes: Sequence[Any], *, synthesised: bool) -> None:
        if changes or synthesised:
            self._post(self._live._changed, changes, self.reader.told(name), synthesised)

    def watch_failed(self, name: bytes, error: MicrolockError, *, final: bool) -> None:
        self._post(self._live._failed, error, final)

    def _post(self, act: Any, *args: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(act, self, *args)


class Listener:
    """What one client must still be sent."""

    def __init__(self) -> None:
        self.news = asyncio.Event()  # set when there is something to send
        self.snapshot = True  # send all locks
        self.changed: set[bytes] = set()  # otherwise send these locks
        self.status = True  # send whether the watch runs

    def remind(self) -> None:
        """Has the status of the watch sent."""
        self.status = True
        self.news.set()


class Live:
    """The state of all locks, while there are listeners; on one loop."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client = client
        self._prefix = prefix.encode()
        self._listeners: set[Listener] = set()
        self._feed: _Feed | None = None  # None  <=>  nothing is watched
        self._name = b""
        self._later: asyncio.TimerHandle | None = None  # the next check of the watch
        self._stopping = False
        self._making = asyncio.Lock()  # held while a snapshot is encoded
        self._forget()

    def _forget(self) -> None:
        self._known = False  # whether the first read has arrived
        self._error: str | None = None  # why the watch does not run
        self._revision = 0
        self._locks: dict[
            bytes, tuple[KeyValue, ...]
        ] = {}  # the entries of locks that are not free
        # JSON texts, until a change: of each lock, and of all locks with their revision.
        self._encoded: dict[bytes, bytes] = {}
        self._all: tuple[int, list[bytes]] | None = None

    async def listen(self) -> AsyncGenerator[bytes, None]:
        """The messages for a new listener, piece by piece.

        The first piece is empty. With it the listener is admitted, or BusyError is raised if there
        are too many.
        """
        if self._stopping:
            raise BusyError("the service is stopping")
        if len(self._listeners) >= MAX_LISTENERS:
            raise BusyError(f"{MAX_LISTENERS} clients listen already")
        listener, loop = Listener(), asyncio.get_running_loop()
        self._listeners.add(listener)
        try:
            yield b""
            self._begin()
            yield b"retry: 1000\n\n"
            while not self._stopping:
                listener.news.clear()
                if listener.status and (self._known or self._error is not None):
                    listener.status = False
                    connected = self._known and self._error is None
                    yield _event("status", {"connected": connected, "error": self._error})
                if listener.snapshot and self._known:
                    revision, locks = await self._snapshot()
                    if self._known:  # the watch may have ended meanwhile
                        listener.snapshot = False
                        listener.changed.clear()
                        yield _head("snapshot", revision)
                        for begin in range(0, len(locks), BLOCK):
                            yield (b", " if begin else b"") + b", ".join(
                                locks[begin : begin + BLOCK]
                            )
                            await asyncio.sleep(0)
                        yield _TAIL
                while listener.changed and not listener.snapshot:
                    some = [*islice(listener.changed, BLOCK)]
                    listener.changed.difference_update(some)
                    head = _head("change", self._revision)
                    yield head + b", ".join(map(self._json, some)) + _TAIL
                    await asyncio.sleep(0)
                await asyncio.sleep(PACE)
                # Not `wait_for`, which may lose a cancellation before Python 3.12.
                heartbeat = loop.call_later(HEARTBEAT, listener.remind)
                try:
                    await listener.news.wait()
                finally:
                    heartbeat.cancel()
        finally:
            self._listeners.discard(listener)
            if not self._listeners:
                self._plan(LINGER)

    async def _snapshot(self) -> tuple[int, list[bytes]]:
        """The revision and all locks, as they are when this returns."""
        async with self._making:
            while self._all is None:
                missing = self._locks.keys() - self._encoded.keys()
                if not missing:
                    locks = [self._encoded[lock] for lock in sorted(self._locks)]
                    self._all = self._revision, locks
                for number, lock in enumerate(missing, 1):
                    self._json(lock)
                    if not number % BLOCK:
                        await asyncio.sleep(0)
            return self._all

    def _json(self, lock: bytes) -> bytes:
        known = self._encoded.get(lock)
        if known is None:
            known = _encoded(lock, self._locks.get(lock, ()))
            if lock in self._locks:
                self._encoded[lock] = known
        return known

    # The watch.

    def _begin(self) -> None:
        if self._feed is None:
            self._forget()
            feed = self._feed = _Feed(self, asyncio.get_running_loop())
            self._name = watch_name(self._prefix, next(_numbers))
            try:
                feed.reader = self._client.one(Reader)
                feed.reader.watch(self._name, feed)
            except (MicrolockError, RuntimeError) as error:  # the client is closed; no thread
                self._failed(feed, error, final=True)

    def _end(self) -> None:
        feed, self._feed = self._feed, None
        if feed:
            with suppress(MicrolockError):  # the client is closed
                self._client.one(Reader).unwatch(self._name, feed)

    def _changed(
        self, feed: _Feed, changes: Sequence[Queued], revision: int, synthesised: bool
    ) -> None:
        if feed is not self._feed:
            return
        self._revision = max(self._revision, revision)
        for each in changes:
            self._encoded.pop(each.lock, None)
            if each.entries:
                self._locks[each.lock] = each.entries
            else:
                self._locks.pop(each.lock, None)
        self._all = None
        news = not self._known or self._error is not None
        if synthesised:
            self._known = True
        self._error = None
        for listener in self._listeners:
            listener.status |= news
            if not listener.snapshot:
                listener.changed.update(each.lock for each in changes)
            listener.news.set()

    def _failed(self, feed: _Feed, error: Exception, final: bool) -> None:
        if feed is not self._feed:
            return
        self._error = str(error)
        if final:
            self._end()
            for listener in self._listeners:
                listener.snapshot = True  # from the next watch
        self._plan(REFUSED if final else INTERRUPTED)
        self._notify()

    def _plan(self, seconds: float) -> None:
        if self._later:
            self._later.cancel()
        self._later = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        """Begins, checks or ends the watch, as it is needed."""
        self._later = None
        if self._stopping or not self._listeners:
            self._end()
        elif self._feed is None:
            self._begin()
        elif self._error is not None:
            error = self._client.one(Reader).error(self._name)
            if error:
                self._plan(INTERRUPTED)
            elif self._known:
                self._error = None
                self._notify()

    def _notify(self) -> None:
        """Sends all listeners whether the watch runs."""
        for listener in self._listeners:
            listener.remind()

    def stop(self) -> None:
        """Ends the messages of all listeners, and the watch."""
        self._stopping = True
        if self._later:
            self._later.cancel()
        self._end()
        for listener in self._listeners:
            listener.news.set()


def _head(name: str, revision: int) -> bytes:
    """The beginning of an event that contains locks."""
    return f'event: {name}\nid: {revision}\ndata: {{"revision": {revision}, "locks": ['.encode()


_TAIL = b"]}\n\n"


def _event(name: str, data: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
