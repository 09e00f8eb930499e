"""One stream of watches, and the watch of one key on it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence, Set
from typing import Protocol
from weakref import ref

from microlock.errors import EtcdError, MicrolockError
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.wire import Stream
from microlock.feed import Feed
from microlock.flag import Flag
from microlock.keys import range_end
from microlock.queue import Change, Holder, Standing
from microlock.requests import Event, Found


class Watching(Protocol):
    """Who is told; on the thread that reads from etcd, so it is to return at once."""

    def concerned(self, entries: Set[bytes]) -> bool:
        """Whether it is to be told of what befell these entries, or which of them is the first."""

    def on_watch(self, feed: Feed, changes: Sequence[Change], *, synthesised: bool) -> None:
        """The queue has changed; so has its holder if there are `changes`."""

    def on_watch_error(self, error: MicrolockError, *, final: bool) -> None:
        """The watch is interrupted; if `final` it has ended."""


class Watch:
    """The watch of one key, for all who listen to it.

    Attributes:
        settled: set when it runs, or `error` says why it does not yet.
    """

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix
        self.settled = Flag()
        self.error: MicrolockError | None = None
        self.watching: dict[int, ref[Watching]] = {}  # by id(); changed under the watcher's lock
        self._lock = threading.RLock()
        self._feed = Feed(prefix)  # changed by the thread that reads, under the lock

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
            entries = {event.name for event in events}
            if self._feed.first:
                entries.add(self._feed.first)
        # Many may wait, and a change is news for two or three of them.
        for each in self.alive():
            if each.concerned(entries):
                each.on_watch(self._feed, changes, synthesised=False)

    def alive(self) -> list[Watching]:
        references = tuple(self.watching.values())
        return [each for each in (reference() for reference in references) if each]


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
            key=watch.prefix,
            range_end=range_end(watch.prefix),
            start_revision=watch.next_revision or 0,
            watch_id=self._last_id,
        )
        self.stream.send(pb.WatchRequest(create_request=create))

    def cancel(self, watch: Watch) -> None:
        watch_id = self._ids.pop(watch, None)
        if watch_id is not None:
            del self._watches[watch_id]
            cancel = pb.WatchCancelRequest(watch_id=watch_id)
            self.stream.send(pb.WatchRequest(cancel_request=cancel))

    def of(self, reply: pb.WatchResponse) -> Watch | None:
        """Whose reply it is. One to a forbidden watch does not always carry its id."""
        return self._asked.popleft() if reply.created else self._watches.get(reply.watch_id)


class StaleLoginError(EtcdError):
    """The stream was opened with a token that has expired: it is to be opened again."""
