"""The watches of a client on its one stream: their subscribers, their state, how they recover.

A new watch, or one whose past was compacted, starts at the present revision, and its name is read
once: etcd is slow with a watch that starts in the past, and the read shows what happened before.
After a break a watch resumes from the next revision, and nothing is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from microlock.core.keys import is_prefix, lock_of, range_of
from microlock.core.overview import Overview, is_overview
from microlock.core.port import (
    Event,
    Found,
    Get,
    Read,
    ReadAll,
    WatchCancelled,
    WatchCreated,
    WatchEvents,
    WatchReply,
)
from microlock.core.queue import Holder, Standing
from microlock.core.view import View
from microlock.errors import (
    MicrolockError,
    StoreError,
    StorePermissionError,
    StoreUnavailableError,
)

# How often in a row a watch is created again after etcd has cancelled it for an unknown reason.
_PATIENCE = 3


class Subscriber(Protocol):
    """Gets the notifications, on the thread that reads from etcd, so it must return at once.

    Attributes:
        interest: the entries whose changes matter. It is also notified when one of them is
            admitted. None: all entries.
    """

    @property
    def interest(self) -> Sequence[bytes] | None: ...

    def watched(self, name: bytes, changes: Sequence[Any], *, synthesised: bool) -> None:
        """The queue has changed. If there are `changes`, so has its holder.

        Each change is a `queue.Change`; for a watch of all locks under a prefix, an
        `overview.Queued`.

        `synthesised`: the changes come from a read, and each may stand for several.
        """

    def watch_failed(self, name: bytes, error: MicrolockError, *, final: bool) -> None:
        """The watch is interrupted. If `final`, it has ended, and must be subscribed to again."""


# The commands of the machine, which are performed in order.


@dataclass(frozen=True, slots=True)
class Create:
    """Create a watch of `name` on the stream. `start`: its first revision; None: now."""

    watch_id: int
    name: bytes
    start: int | None


@dataclass(frozen=True, slots=True)
class Cancel:
    watch_id: int


@dataclass(frozen=True, slots=True)
class Query:
    """Read the present state, and pass the answer to `read` before the next reply of the stream."""

    name: bytes
    request: Read | Get | ReadAll


@dataclass(frozen=True, slots=True)
class Reopen:
    """Close the stream, and open another one if anything is watched.

    Attributes:
        attempt: the number of attempts in a row, with this one; it decides how long to wait first.
        error: why the stream failed. None: it did not fail, but must be replaced.
    """

    attempt: int
    error: StoreError | None = None


@dataclass(frozen=True, slots=True)
class Log:
    """Log a warning."""

    text: str


@dataclass(frozen=True, slots=True)
class Tell:
    """Notify subscribers of a change. `about`: the entries that it concerns; None: all."""

    name: bytes
    subscribers: tuple[Subscriber, ...]
    changes: tuple[Any, ...]  # as for `Subscriber.watched`
    about: frozenset[bytes] | None

    def deliver(self, subscriber: Subscriber) -> None:
        # A change concerns only two or three of many waiters.
        if self.about is not None:
            interest = subscriber.interest
            if interest is not None and self.about.isdisjoint(interest):
                return
        subscriber.watched(self.name, self.changes, synthesised=self.about is None)


@dataclass(frozen=True, slots=True)
class TellFailed:
    """Notify subscribers of a failure."""

    name: bytes
    subscribers: tuple[Subscriber, ...]
    error: MicrolockError
    final: bool

    def deliver(self, subscriber: Subscriber) -> None:
        subscriber.watch_failed(self.name, self.error, final=self.final)


Command = Create | Cancel | Query | Reopen | Log | Tell | TellFailed


class _Watch:
    """The watch of one lock, of one of its entries, or of all locks under a prefix, for all its
    subscribers."""

    __slots__ = ("error", "name", "odd", "settled", "subscribers", "view", "watch_id")

    def __init__(self, name: bytes, known: Found | None) -> None:
        self.name = name
        self.view = Overview(name) if is_overview(name) else View(lock_of(name) or name)
        if known:
            self.view.rebase(known)
        self.subscribers: dict[int, Subscriber] = {}  # by id()
        self.settled = False  # it has run, or `error` is why it has not yet
        self.error: MicrolockError | None = None
        self.odd = 0  # cancellations for no known reason since its last event
        self.watch_id: int | None = None  # None  <=>  it is not on the stream

    @property
    def told(self) -> int:
        """The last revision that subscribers know."""
        return (self.view.next_revision or 1) - 1

    def tell(self, changes: Iterable[Any], about: frozenset[bytes] | None) -> Tell:
        return Tell(self.name, self._everybody(), tuple(changes), about)

    def fail(self, error: MicrolockError, *, final: bool = False) -> TellFailed:
        """Reports an error. The first state after it is reported as a change."""
        self.view.replay()
        return TellFailed(self.name, self._everybody(), error, final)

    def _everybody(self) -> tuple[Subscriber, ...]:
        # The copy is made in one step: a garbage collection may unsubscribe in the middle.
        return tuple(self.subscribers.copy().values())


class WatchStream:
    """The state machine of the watches: takes what happens, and returns commands to perform.

    `subscribe` and `unsubscribe` may come in the middle of each other, and `unsubscribe` in the
    middle of anything: they change only the subscribers, and `review` does the rest.
    """

    def __init__(self) -> None:
        self._watches: dict[bytes, _Watch] = {}
        # Watches that ended with an error, until the last subscriber has gone.
        self._ended: dict[bytes, _Watch] = {}
        # The present stream:
        self._open = False
        self._wanted: dict[_Watch, None] = {}  # to be created, in order
        self._asked: dict[int, _Watch] = {}  # by our ids, in the order of the expected replies
        self._running: dict[int, _Watch] = {}  # by the ids of the replies: a proxy has its own
        self._last_id = 0
        self._ours = False  # whether the replies have our ids
        self._reached = 0  # a revision that etcd has reached, even if this member lags behind
        # Of all streams:
        self._seen = 0  # the last revision that was seen
        self._lost = 0  # the last revision of a history that etcd has lost
        # The present outage:
        self._attempts = 0  # streams since a watch last ran
        self._told: type[MicrolockError] | None = None  # the kind of failure that was reported

    # What is known.

    @property
    def names(self) -> list[bytes]:
        """The names that have subscribers."""
        return [watch.name for watch in self._watches.values() if watch.subscribers]

    @property
    def idle(self) -> bool:
        """Whether nothing is watched. Fast, however many watches there are."""
        return not any(watch.subscribers for watch in self._watches.values())

    @property
    def asked(self) -> int | None:
        """The id of the oldest creation without an answer: etcd answers in order."""
        return next(iter(self._asked), None)

    def watching(self, name: bytes, besides: Subscriber) -> bool:
        """Whether it has another subscriber."""
        watch = self._watches.get(name)
        return watch is not None and bool(watch.subscribers.keys() - {id(besides)})

    def look(self, name: bytes, entry: bytes, token: int) -> tuple[Standing, Holder | None]:
        """The standing of an entry, and the holder of the lock, as far as the watch knows."""
        watch = self._watches.get(name)
        if watch is None or isinstance(watch.view, Overview):
            return Standing.UNKNOWN, None
        return watch.view.standing(entry, token), watch.view.holder

    def settled(self, name: bytes) -> bool:
        """Whether its watch has run or failed, or there is none."""
        watch = self._watches.get(name)
        return watch is None or watch.settled

    def error(self, name: bytes) -> MicrolockError | None:
        """Why its watch does not run, or has ended."""
        watch = self._watches.get(name) or self._ended.get(name)
        return watch.error if watch else None

    def told(self, name: bytes) -> int:
        """The last revision that the subscribers of this name know."""
        return self._watches[name].told if name in self._watches else 0

    # Subscribers.

    def subscribe(self, name: bytes, subscriber: Subscriber, known: Found | None = None) -> None:
        """Notifies it from now on.

        `known`: the state at some revision. If there is no watch of this name yet, it starts there,
        and nothing is read. But it is read if an interruption may have replaced that state.
        """
        if known and (self._told or known.revision <= self._lost):
            known = None
        watch = self._watches.get(name) or self._watches.setdefault(name, _Watch(name, known))
        watch.subscribers[id(subscriber)] = subscriber

    def unsubscribe(self, name: bytes, subscriber: Subscriber) -> bool:
        """Ends its notifications. Returns whether it was subscribed."""
        watches = filter(None, (self._watches.get(name), self._ended.get(name)))
        gone = [watch.subscribers.pop(id(subscriber), None) for watch in watches]
        return any(each is not None for each in gone)

    def review(self, name: bytes) -> list[Command]:
        """Starts or ends the watch, after a subscriber has come or gone."""
        if (ended := self._ended.get(name)) and not ended.subscribers:
            del self._ended[name]
        watch = self._watches.get(name)
        if watch is None:
            return []
        if not watch.subscribers:
            del self._watches[name]
            return self._leave(watch)
        return self._want(watch) if self._open and watch.watch_id is None else []

    # The stream.

    def opened(self) -> list[Command]:
        """A new stream is open."""
        self._open, self._ours, self._last_id, self._reached = True, False, 0, 0
        return self._want(*(watch for watch in self._watches.values() if watch.subscribers))

    def received(self, reply: WatchReply) -> list[Command]:
        """Takes a reply of the stream."""
        match reply:
            case WatchEvents(watch_id, events):
                if watch := self._running.get(watch_id):
                    return self._apply(watch, events)
            case WatchCreated(watch_id):
                if watch := self._answered(watch_id):
                    return [*self._make(), *self._created(watch, reply)]
            case WatchCancelled(watch_id, created=True):
                if watch := self._answered(watch_id):
                    ended = self._cancelled(watch, reply) if self._current(watch) else []
                    return [*ended, *self._make()]
            case _:
                if watch := self._running.pop(reply.watch_id, None):
                    return self._cancelled(watch, reply)
        return []

    def broke(self, error: StoreError) -> list[Command]:
        """The stream failed, or none could be opened.

        Subscribers are notified once, until a watch runs again or the kind of failure changes.
        """
        passing = isinstance(error, StoreUnavailableError)
        # One outage may alternate between refused connections and timeouts: that is one kind.
        kind = StoreUnavailableError if passing else type(error)
        news, self._told = kind is not self._told, kind
        commands: list[Command] = []
        if news:
            commands.append(Log(f"the watches are interrupted, and will be resumed: {error}"))
        reopen = self.restart(error)
        for watch in list(self._watches.values()):
            if not watch.settled and not passing:  # it never ran, and will not
                commands += self._end(watch, error)
            elif news or not watch.settled:
                if not watch.settled:
                    watch.view.forget()  # see `subscribe`
                watch.error, watch.settled = error, True
                commands.append(watch.fail(error))
        return commands + reopen

    def restart(self, error: StoreError | None = None) -> list[Command]:
        """The stream can't be used any more."""
        self._open = False
        self._wanted.clear()
        self._asked.clear()
        self._running.clear()
        for watch in self._watches.values():
            watch.watch_id, watch.odd = None, 0
        self._attempts += 1
        return [Reopen(self._attempts, error)]

    def late(self, name: bytes, error: StoreError) -> list[Command]:
        """A caller has waited too long for the watch to begin."""
        watch = self._watches.get(name)
        return [watch.fail(error)] if watch and not watch.settled else []

    def end(self, error: MicrolockError) -> list[Command]:
        """Ends all watches with this error, without a log line for each: the caller says why."""
        self.restart()
        ended = [self._end(watch, error) for watch in list(self._watches.values())]
        return [tell for *_, tell in ended]

    def read(self, name: bytes, result: Found | StoreError) -> list[Command]:
        """Takes the answer to a `Query`."""
        watch = self._watches.get(name)
        if watch is None:
            return []
        if isinstance(result, StorePermissionError):
            return self._end(watch, result)
        if isinstance(result, StoreError):
            return self.broke(result)
        if watch.watch_id is None:
            # The watch was refused, but the user may read the name. So the stream was opened with a
            # token that has expired since, and the read has logged in again.
            return self.restart()
        self._reached = result.revision
        if result.revision < self._seen:
            # No watch can tell whether it knows more than what is left of the old history: by now
            # etcd may have passed that revision again.
            for each in self._watches.values():
                each.view.forget(outdated=True)
            self._lost, self._seen = self._seen, result.revision
            return self.restart()
        self._seen = result.revision
        self._runs(watch)
        if watch.view.next_revision is None:
            return [watch.tell(watch.view.rebase(result), about=None)]
        return []

    # One watch.

    def _current(self, watch: _Watch) -> bool:
        """Whether it is still the watch of its name, to which others may subscribe."""
        return self._watches.get(watch.name) is watch

    def _want(self, *watches: _Watch) -> list[Command]:
        """Creates them, now or later."""
        self._wanted.update(dict.fromkeys(watches))
        return self._make()

    def _make(self) -> list[Command]:
        """Creates wanted watches: all at once if the replies have our ids.

        A proxy has its own ids and replies in any order. So with a proxy, and until we know, only
        one creation is open at a time.
        """
        commands: list[Command] = []
        while self._wanted and (self._ours or not self._asked):
            watch = next(iter(self._wanted))
            del self._wanted[watch]
            if self._current(watch):
                commands.append(self._create(watch))
        return commands

    def _create(self, watch: _Watch) -> Create:
        # Ids begin with 1: when etcd 3.5.1 forbids a watch, it ends watch 0 of the stream instead.
        self._last_id += 1
        self._seen = max(self._seen, watch.told)  # not earlier: a read may be on its way
        watch.watch_id = self._last_id
        self._asked[self._last_id] = watch
        return Create(self._last_id, watch.name, watch.view.next_revision)

    def _answered(self, watch_id: int) -> _Watch | None:
        """The watch whose creation has this reply."""
        if watch_id in self._asked:
            self._ours = True
        else:  # etcd refuses with the id -1, a proxy gives its own
            watch_id = next(iter(self._asked), watch_id)
        return self._asked.pop(watch_id, None)

    def _created(self, watch: _Watch, reply: WatchCreated) -> list[Command]:
        if not self._current(watch):
            return [Cancel(reply.watch_id)]
        watch.watch_id = reply.watch_id
        self._running[reply.watch_id] = watch
        # If this member alone lags behind what was seen, it will catch up. If all of etcd does, its
        # data was restored from an older state. The read shows which, whatever member answers it.
        if watch.view.next_revision is None or max(reply.revision, self._reached) < self._seen:
            return [self._query(watch)]
        self._seen = max(self._seen, reply.revision)
        self._runs(watch)
        return []

    def _query(self, watch: _Watch) -> Query:
        name = watch.name
        if is_overview(name):
            return Query(name, ReadAll(range_of(name)))
        return Query(name, Read(name) if is_prefix(name) else Get(name))

    def _runs(self, watch: _Watch) -> None:
        watch.error, watch.settled = None, True
        self._attempts, self._told = 0, None

    def _apply(self, watch: _Watch, events: Iterable[Event]) -> list[Command]:
        watch.odd = 0
        self._seen = max([self._seen, *(event.revision for event in events)])
        held = frozenset(watch.view.held)
        changes = watch.view.apply(events)
        admitted = frozenset(watch.view.held) - held
        return [watch.tell(changes, admitted.union(event.name for event in events))]

    def _cancelled(self, watch: _Watch, reply: WatchCancelled) -> list[Command]:
        watch.watch_id = None
        if reply.compacted:
            watch.view.forget()
        elif reply.refused:
            # The user may not read the name, or the login has expired: etcd 3.5.1 gives the same
            # reason for both. The read shows which.
            return [self._query(watch)]
        else:
            watch.odd += 1
            if reply.created or watch.odd > _PATIENCE:
                return self._end(watch, StoreError(f"etcd cancelled the watch: {reply.reason}"))
        if self._ours:
            return self._want(watch)
        # `etcd grpc-proxy` attaches new watches to one that has ended, until that is cancelled.
        return [Cancel(reply.watch_id), *self._want(watch)]

    def _leave(self, watch: _Watch) -> list[Command]:
        """Takes it off the stream: now, or when the reply to its creation comes."""
        watch_id, watch.watch_id = watch.watch_id, None
        if watch_id is None or self._running.get(watch_id) is not watch:
            return []
        del self._running[watch_id]
        return [Cancel(watch_id)]

    def _end(self, watch: _Watch, error: MicrolockError) -> list[Command]:
        """Ends this watch, and no other."""
        watch.error = error
        del self._watches[watch.name]
        self._ended[watch.name] = watch
        return [
            *self._leave(watch),
            Log(f"the watch of {watch.name!r} ended: {error}"),
            watch.fail(error, final=True),
        ]
