"""One stream of watches, and the watch of one key on it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol
from weakref import ref

from microlock.core.keys import is_prefix, lock_of, range_end
from microlock.core.port import Event, Found, Get, Read
from microlock.core.queue import Change, Holder, Standing
from microlock.core.view import View
from microlock.engine.reentrant_event import ReentrantEvent
from microlock.errors import MicrolockError, StoreError
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.wire import Stream


class Watching(Protocol):
    """Who is told; on the thread that reads from etcd, so it is to return at once.

    Attributes:
        concern: the entry that it is told of: what befell it, or that it is the first. None: of
            every entry.
    """

    @property
    def concern(self) -> bytes | None: ...

    def on_watch(self, view: View, changes: Sequence[Change], *, synthesised: bool) -> None:
        """The queue has changed; so has its holder if there are `changes`."""

    def on_watch_error(self, error: MicrolockError, *, final: bool) -> None:
        """The watch is interrupted; if `final` it has ended."""


class Watch:
    """The watch of one lock, for all who listen to it; or of one of its entries.

    Attributes:
        name: the prefix of the lock's entries, or the one entry.
        paused: nothing is asked of etcd at present.
        settled: set when it runs, or `error` says why it does not yet.
    """

    __slots__ = ("_feed", "_lock", "error", "name", "paused", "settled", "watching")

    def __init__(self, name: bytes, *, paused: bool = False) -> None:
        self.name = name
        self.paused = paused
        self.settled = ReentrantEvent()
        self.error: MicrolockError | None = None
        self.watching: dict[int, ref[Watching]] = {}  # by id(); changed under the watcher's lock
        self._lock = threading.RLock()
        self._feed = View(lock_of(name) or name)  # changed by the thread that reads, under the lock

    @property
    def read(self) -> Read | Get:
        """What tells how it is now."""
        return Read(self.name) if is_prefix(self.name) else Get(self.name)

    @property
    def next_revision(self) -> int | None:
        return self._feed.next_revision

    def look(self, entry: bytes, token: int) -> tuple[Standing, Holder | None]:
        """Where this entry stands, and who holds the lock, as far as known."""
        with self._lock:
            return self._feed.standing(entry, token), self._feed.holder

    def runs(self) -> None:
        self.error = None
        self.settled.set()

    def failed(self, error: MicrolockError, *, final: bool) -> None:
        self.error = error
        self.owe()
        for each in self.alive():
            each.on_watch_error(error, final=final)
        self.settled.set()

    def owe(self) -> None:
        with self._lock:
            self._feed.owe()

    def forget(self) -> None:
        with self._lock:
            self._feed.forget()

    def rebase(self, found: Found) -> None:
        with self._lock:
            changes = self._feed.rebase(found)
        for each in self.alive():
            each.on_watch(self._feed, changes, synthesised=True)

    def apply(self, events: Sequence[Event]) -> None:
        with self._lock:
            changes = self._feed.apply(events)
            news = {None, self._feed.first, *(event.name for event in events)}
        for each in self.alive():
            if each.concern in news:  # of many who wait, for two or three
                each.on_watch(self._feed, changes, synthesised=False)

    def alive(self) -> list[Watching]:
        return [each for reference in tuple(self.watching.values()) if (each := reference())]


class Session:
    """The watches on one stream, from its opening to its end.

    Attributes:
        known: a revision that etcd has reached, whatever this member lags behind.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.known = 0
        self._asked: deque[Watch] = deque()  # in the order of the replies to come
        self._ids: dict[Watch, int] = {}
        self._watches: dict[int, Watch] = {}
        self._last_id = 0

    def create(self, watch: Watch) -> None:
        # From 1 up: where etcd 3.5.1 forbids a watch, it ends the watch 0 of the stream instead.
        self._last_id += 1
        self._ids[watch] = self._last_id
        self._watches[self._last_id] = watch
        self._asked.append(watch)
        create = pb.WatchCreateRequest(
            key=watch.name,
            range_end=range_end(watch.name) if is_prefix(watch.name) else b"",
            start_revision=watch.next_revision or 0,
            watch_id=self._last_id,
        )
        self.stream.send(pb.WatchRequest(create_request=create))

    def cancel(self, watch: Watch) -> None:
        watch_id = self._ids.pop(watch, None)
        if watch_id is not None:
            self._watches.pop(watch_id, None)
            cancel = pb.WatchCancelRequest(watch_id=watch_id)
            self.stream.send(pb.WatchRequest(cancel_request=cancel))

    def wake(self) -> None:
        """Has the thread that receives look again; from a garbage collection too."""
        if self._watches:
            self.stream.send(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))
        else:
            # etcd 3.6 answers nothing then. grpcio itself cancels calls in its `__del__`.
            self.stream.close()

    def of(self, reply: pb.WatchResponse) -> Watch | None:
        """Whose reply it is."""
        watch = self._watches.get(reply.watch_id)
        if not reply.created:
            return watch
        if watch is None:  # that to a forbidden watch does not always carry its id
            return self._asked.popleft() if self._asked else None
        with suppress(ValueError):
            self._asked.remove(watch)
        return watch


class StaleLoginError(StoreError):
    """The stream was opened with a token that has expired: it is to be opened again."""
