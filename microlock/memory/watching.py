"""Watches of a store in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from microlock.core.keys import is_prefix, range_of
from microlock.core.overview import is_overview
from microlock.core.port import Event, WatchCancelled, WatchCreated, WatchEvents
from microlock.engine.client import Sink
from microlock.errors import StoreError
from microlock.memory.state import CompactedError, State

if TYPE_CHECKING:
    from microlock.memory.store import Memory


class MemoryWatching:
    """A `microlock.engine.client.Watching`: one watch stream."""

    def __init__(self, memory: Memory, watches: Watches, sink: Sink) -> None:
        self.member = memory.address
        self.sink = sink
        self._memory = memory
        self._watches = watches
        with memory.lock:
            watches.streams.append(self)

    def create(self, watch_id: int, name: bytes, start: int | None) -> None:
        def add(_: State) -> None:
            if self in self._watches.streams:
                self._watches.tell()
                self._watches.add(self, watch_id, name, start)

        self._memory.change(add)

    def cancel(self, watch_id: int) -> None:
        with self._memory.lock:
            self._watches.remove(self, watch_id)

    def close(self) -> None:
        def close(_: State) -> None:
            self._watches.remove(self)
            if self in self._watches.streams:
                self._watches.streams.remove(self)

        self._memory.change(close)


# A watch of a stream: its id, and its first revision.
_Watch = tuple[MemoryWatching, int, int]


class Watches:
    """All watches, and the last revision that they have got. Its owner calls it under a lock.

    An interrupt may come after events were delivered and before that is noted. Then they are
    delivered again, which does no harm: `core.view` skips them.

    Attributes:
        streams: the open streams.
    """

    def __init__(self, state: State) -> None:
        self.streams: list[MemoryWatching] = []
        self._state = state
        self._told = state.revision
        self._by_name: dict[bytes, list[_Watch]] = {}
        self._overviews: set[bytes] = set()  # those of these names; some may be gone already

    def add(self, stream: MemoryWatching, watch_id: int, name: bytes, start: int | None) -> None:
        state = self._state
        since = state.revision + 1 if start is None else start
        stream.sink(WatchCreated(watch_id, state.revision))
        try:
            past = state.events(range_of(name), since) if since <= state.revision else ()
        except CompactedError as error:
            stream.sink(WatchCancelled(watch_id, compacted=True, reason=str(error)))
            return
        if past := tuple([event for event in past if _concerns(event, name)]):
            stream.sink(WatchEvents(watch_id, past))
        since = max(since, state.revision + 1)
        if is_overview(name):
            self._overviews.add(name)
        else:
            name = range_of(name)
        self._by_name.setdefault(name, []).append((stream, watch_id, since))

    def remove(self, stream: MemoryWatching, watch_id: int | None = None) -> None:
        """Ends this watch of a stream, or all of them."""
        for name, watches in list(self._by_name.items()):
            left = [
                each for each in watches if each[0] is not stream or watch_id not in (None, each[1])
            ]
            if left:
                self._by_name[name] = left
            else:
                del self._by_name[name]

    def restart(self, error: StoreError) -> None:
        """The history has changed: ends all streams, and starts from now."""
        self.break_all(error)
        self._told = self._state.revision

    def break_all(self, error: StoreError) -> None:
        streams, self.streams, self._by_name = self.streams, [], {}
        self._overviews.clear()
        for stream in streams:
            stream.sink(error)

    def tell(self) -> None:
        """Delivers all events since the last time."""
        if self._told == self._state.revision:
            return
        if self._by_name:
            for together in self._state.since(self._told + 1):
                self._tell(together)
        self._told = self._state.revision

    def _tell(self, together: tuple[Event, ...]) -> None:
        """Delivers the events of one revision."""
        concerned: dict[bytes, list[Event]] = {}
        for event in together:
            for name in (*_names(event), *self._overviews_of(event)):
                if name in self._by_name:
                    concerned.setdefault(name, []).append(event)
        for name, events in concerned.items():
            for stream, watch_id, since in self._by_name[name]:
                if since <= events[0].revision:
                    stream.sink(WatchEvents(watch_id, tuple(events)))

    def _overviews_of(self, event: Event) -> list[bytes]:
        self._overviews &= self._by_name.keys()
        return [name for name in self._overviews if event.name.startswith(range_of(name))]


def _names(event: Event) -> Iterator[bytes]:
    """The names whose watches this event concerns: the entry, and each prefix up to a slash."""
    yield event.name
    end = event.name.find(b"/") + 1
    while end:
        yield event.name[:end]
        end = event.name.find(b"/", end) + 1


def _concerns(event: Event, name: bytes) -> bool:
    return event.name == name or is_prefix(name)
