"""The watches of a client on its one stream: who subscribes, what each has told, how they recover.

A watch that starts, or whose past was compacted, starts from now and reads its name once: etcd is
late with a watch that starts in the past, and the read tells what happened before. After a break
it resumes from the next revision, and nothing is read.
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

# How often in a row a watch is made again that etcd has cancelled for no reason that we know.
_PATIENCE = 3


class Subscriber(Protocol):
    """Who is notified, on the thread that reads from etcd: so each call is to return at once.

    Attributes:
        interest: the entries whose changes matter; it is notified too when one is admitted. None:
            all entries.
    """

    @property
    def interest(self) -> Sequence[bytes] | None: ...

    def watched(self, name: bytes, changes: Sequence[Any], *, synthesised: bool) -> None:
        """The queue has changed; so has its holder if there are `changes`, each a `queue.Change`.
        Of all locks under a prefix each is an `overview.Queued`.

        `synthesised`: they come from a read, and may stand for several.
        """

    def watch_failed(self, name: bytes, error: MicrolockError, *, final: bool) -> None:
        """The watch is interrupted; if `final` it has ended, and is to be asked for again."""


# What the machine has done, in this order.


@dataclass(frozen=True, slots=True)
class Create:
    """Make a watch of `name` on the stream; `start` is its first revision, None is now."""

    watch_id: int
    name: bytes
    start: int | None


@dataclass(frozen=True, slots=True)
class Cancel:
    watch_id: int


@dataclass(frozen=True, slots=True)
class Query:
    """Ask etcd how it is now, and tell `read` the answer before anything else of the stream."""

    name: bytes
    request: Read | Get | ReadAll


@dataclass(frozen=True, slots=True)
class Reopen:
    """Close the stream, and open another one if anything is watched.

    Attributes:
        attempt: how many there were in a row, this one included, for the time to wait before it.
        error: how the stream failed; None: it only has to be another one.
    """

    attempt: int
    error: StoreError | None = None


@dataclass(frozen=True, slots=True)
class Log:
    """Worth a warning."""

    text: str


@dataclass(frozen=True, slots=True)
class Tell:
    """Notify of a change. `about`: the entries it concerns; None: all of them."""

    name: bytes
    subscribers: tuple[Subscriber, ...]
    changes: tuple[Any, ...]  # as for `Subscriber.watched`
    about: frozenset[bytes] | None

    def deliver(self, subscriber: Subscriber) -> None:
        # Of many waiters it concerns two or three.
        if self.about is not None:
            interest = subscriber.interest
            if interest is not None and self.about.isdisjoint(interest):
                return
        subscriber.watched(self.name, self.changes, synthesised=self.about is None)


@dataclass(frozen=True, slots=True)
class TellFailed:
    """Notify of a failure."""

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
        self.settled = False  # it has run, or `error` says why it has not yet
        self.error: MicrolockError | None = None
        self.odd = 0  # how often the stream cancelled it for no known reason since it told anything
        self.watch_id: int | None = None  # None  <=>  it is not on the stream

    @property
    def told(self) -> int:
        """The last revision that it has told of."""
        return (self.view.next_revision or 1) - 1

    def tell(self, changes: Iterable[Any], about: frozenset[bytes] | None) -> Tell:
        return Tell(self.name, self._everybody(), tuple(changes), about)

    def fail(self, error: MicrolockError, *, final: bool = False) -> TellFailed:
        """What is known first after that is told as a change."""
        self.view.replay()
        return TellFailed(self.name, self._everybody(), error, final)

    def _everybody(self) -> tuple[Subscriber, ...]:
        # The copy is made in one step: a garbage collection may unsubscribe in the middle.
        return tuple(self.subscribers.copy().values())


class WatchStream:
    """Knows the watches, is fed what happens, and answers with the commands to perform.

    `subscribe` and `unsubscribe` may come in the middle of each other, and `unsubscribe` in the
    middle of anything: they change only who subscribes, and `review` does the rest.
    """

    def __init__(self) -> None:
        self._watches: dict[bytes, _Watch] = {}
        # Those that ended with an error, until the last subscriber has gone.
        self._ended: dict[bytes, _Watch] = {}
        # Of the present stream:
        self._open = False
        self._wanted: dict[_Watch, None] = {}  # not asked for yet, in order
        self._asked: dict[int, _Watch] = {}  # by our ids, in the order of the replies to come
        self._running: dict[int, _Watch] = {}  # by the ids of the replies: a proxy has its own
        self._last_id = 0
        self._ours = False  # the replies have our ids
        self._reached = 0  # a revision that etcd has reached, however far this member lags behind
        # Of the present outage:
        self._attempts = 0  # streams since a watch ran
        self._told: type[MicrolockError] | None = None  # the kind of failure that all know of

    # What is known.

    @property
    def names(self) -> list[bytes]:
        """What is watched by anybody."""
        return [watch.name for watch in self._watches.values() if watch.subscribers]

    @property
    def idle(self) -> bool:
        """Whether nothing is watched; found at once, however much is."""
        return not any(watch.subscribers for watch in self._watches.values())

    @property
    def asked(self) -> int | None:
        """The oldest creation that etcd has not answered: it answers them in their order."""
        return next(iter(self._asked), None)

    def watching(self, name: bytes, besides: Subscriber) -> bool:
        """Whether anybody else watches it."""
        watch = self._watches.get(name)
        return watch is not None and bool(watch.subscribers.keys() - {id(besides)})

    def look(self, name: bytes, entry: bytes, token: int) -> tuple[Standing, Holder | None]:
        """Where an entry stands, and who holds the lock, as far as the watch has told."""
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

    # Subscribers.

    def subscribe(self, name: bytes, subscriber: Subscriber, known: Found | None = None) -> None:
        """Notifies it from now on. `known`: what was there at some revision, so that nothing has
        to be read if nobody watches it yet."""
        watch = self._watches.get(name) or self._watches.setdefault(name, _Watch(name, known))
        watch.subscribers[id(subscriber)] = subscriber

    def unsubscribe(self, name: bytes, subscriber: Subscriber) -> bool:
        """Notifies it no more. Returns whether it did."""
        watches = filter(None, (self._watches.get(name), self._ended.get(name)))
        gone = [watch.subscribers.pop(id(subscriber), None) for watch in watches]
        return any(each is not None for each in gone)

    def review(self, name: bytes) -> list[Command]:
        """Starts or ends the watch, after somebody has come or gone."""
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
        """A new stream is there."""
        self._open, self._ours, self._last_id, self._reached = True, False, 0, 0
        return self._want(*(watch for watch in self._watches.values() if watch.subscribers))

    def received(self, reply: WatchReply) -> list[Command]:
        """etcd has told this on the stream."""
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

        Everybody learns of it once, until a watch runs again or it fails otherwise.
        """
        passing = isinstance(error, StoreUnavailableError)
        # Refusals and timeouts take turns in one outage.
        kind = StoreUnavailableError if passing else type(error)
        news, self._told = kind is not self._told, kind
        commands: list[Command] = []
        if news:
            commands.append(Log(f"the watches are interrupted, and will be resumed: {error}"))
        reopen = self.restart(error)
        for watch in list(self._watches.values()):
            if not watch.settled and not passing:  # it never worked and is not going to
                commands += self._end(watch, error)
            elif news or not watch.settled:
                watch.error, watch.settled = error, True
                commands.append(watch.fail(error))
        return commands + reopen

    def restart(self, error: StoreError | None = None) -> list[Command]:
        """The stream is of no use any more."""
        self._open = False
        self._wanted.clear()
        self._asked.clear()
        self._running.clear()
        for watch in self._watches.values():
            watch.watch_id, watch.odd = None, 0
        self._attempts += 1
        return [Reopen(self._attempts, error)]

    def late(self, name: bytes, error: StoreError) -> list[Command]:
        """Somebody has waited long enough for the watch to begin."""
        watch = self._watches.get(name)
        return [watch.fail(error)] if watch and not watch.settled else []

    def end(self, error: MicrolockError) -> list[Command]:
        """Nothing can be watched any more. Who ends it says why."""
        self.restart()
        ended = [self._end(watch, error) for watch in list(self._watches.values())]
        return [tell for *_, tell in ended]

    def read(self, name: bytes, result: Found | StoreError) -> list[Command]:
        """The answer to a `Query`."""
        watch = self._watches.get(name)
        if watch is None:
            return []
        if isinstance(result, StorePermissionError):
            return self._end(watch, result)
        if isinstance(result, StoreError):
            return self.broke(result)
        if watch.watch_id is None:
            # It was refused to a user who may read it: so the stream was opened with a token that
            # has expired since, and the read has logged in again.
            return self.restart()
        if watch.view.next_revision is None:
            self._runs(watch)
            return [watch.tell(watch.view.rebase(result), about=None)]
        self._reached = result.revision
        if result.revision >= watch.told:
            self._runs(watch)
            return []
        watch.view.forget(outdated=True)
        return [*self._leave(watch), *self._want(watch)]

    # One watch.

    def _current(self, watch: _Watch) -> bool:
        """Whether anybody may still subscribe to it."""
        return self._watches.get(watch.name) is watch

    def _want(self, *watches: _Watch) -> list[Command]:
        """Has them made."""
        self._wanted.update(dict.fromkeys(watches))
        return self._make()

    def _make(self) -> list[Command]:
        """Asks for what is wanted: all at once if the replies say whose they are. A proxy has ids
        of its own and replies in any order, so there, and as long as nobody knows, one at a time.
        """
        commands: list[Command] = []
        while self._wanted and (self._ours or not self._asked):
            watch = next(iter(self._wanted))
            del self._wanted[watch]
            if self._current(watch):
                commands.append(self._create(watch))
        return commands

    def _create(self, watch: _Watch) -> Create:
        # From 1 up: where etcd 3.5.1 forbids a watch, it ends the watch 0 of the stream instead.
        self._last_id += 1
        watch.watch_id = self._last_id
        self._asked[self._last_id] = watch
        return Create(self._last_id, watch.name, watch.view.next_revision)

    def _answered(self, watch_id: int) -> _Watch | None:
        """Which watch it is whose creation has this reply."""
        if watch_id in self._asked:
            self._ours = True
        else:  # etcd refuses with an id of -1, a proxy gives its own
            watch_id = next(iter(self._asked), watch_id)
        return self._asked.pop(watch_id, None)

    def _created(self, watch: _Watch, reply: WatchCreated) -> list[Command]:
        if not self._current(watch):
            return [Cancel(reply.watch_id)]
        watch.watch_id = reply.watch_id
        self._running[reply.watch_id] = watch
        # A member alone may lag behind what was told, and will catch up. If etcd has not come so
        # far, its data is an older one: the read tells, as of now, whichever member answers.
        if watch.view.next_revision is None or max(reply.revision, self._reached) < watch.told:
            return [self._query(watch)]
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
        held = frozenset(watch.view.held)
        changes = watch.view.apply(events)
        admitted = frozenset(watch.view.held) - held
        return [watch.tell(changes, admitted.union(event.name for event in events))]

    def _cancelled(self, watch: _Watch, reply: WatchCancelled) -> list[Command]:
        watch.watch_id = None
        if reply.compacted:
            watch.view.forget()
        elif reply.refused:
            # To a user who may not read the name, or whose login has expired; etcd 3.5.1 gives
            # the same reason for both. The read tells.
            return [self._query(watch)]
        else:
            watch.odd += 1
            if reply.created or watch.odd > _PATIENCE:
                return self._end(watch, StoreError(f"etcd cancelled the watch: {reply.reason}"))
        if self._ours:
            return self._want(watch)
        # `etcd grpc-proxy` has others follow one that has ended, as long as nobody cancels it.
        return [Cancel(reply.watch_id), *self._want(watch)]

    def _leave(self, watch: _Watch) -> list[Command]:
        """Takes it off the stream; if its creation has no reply yet, when that comes."""
        watch_id, watch.watch_id = watch.watch_id, None
        if watch_id is None or self._running.get(watch_id) is not watch:
            return []
        del self._running[watch_id]
        return [Cancel(watch_id)]

    def _end(self, watch: _Watch, error: MicrolockError) -> list[Command]:
        """Ends this watch alone."""
        watch.error = error
        del self._watches[watch.name]
        self._ended[watch.name] = watch
        return [
            *self._leave(watch),
            Log(f"the watch of {watch.name!r} ended: {error}"),
            watch.fail(error, final=True),
        ]
