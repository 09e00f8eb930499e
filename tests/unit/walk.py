"""Walking a real core on a simulated etcd: no thread, no socket, no sleep.

A call is a generator that a test drives by hand, so that several calls of one object can be under
way, each as if on a thread of its own. A thread is a name here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from faults import Caller, Fault
from shared_etcd import Store

from microlock import events
from microlock.core.agenda import TICK
from microlock.core.call import NOW, Call, Kind, Park, Steps
from microlock.core.hold import HoldState, State
from microlock.core.keys import Names, lock_of
from microlock.core.lease import Lease
from microlock.core.lock import LockCore
from microlock.core.port import Found, KeepAlive, Revoke
from microlock.core.queue import Change, Holder, Standing
from microlock.core.view import View
from microlock.errors import MicrolockError, StoreTimeoutError
from microlock.events import LockEvent

T = TypeVar("T")

TTL = 5
# Seconds that a call may take.
TIMEOUT = 10.0
MAIN, OTHER, THIRD = "main", "other", "third"


class Event:
    """What a call parks on."""

    def __init__(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True

    def clear(self) -> None:
        self._set = False


class Watch:
    """What a watch has told by now."""

    def __init__(self, store: Store, name: bytes, known: Found | None) -> None:
        self.view = View(lock_of(name) or name)
        self._store = store
        self._name = name
        there = (kv for kv in store.keys.values() if kv.name.startswith(name))
        self.view.rebase(known or Found(store.revision, tuple(there)))

    def look(self, entry: bytes, token: int) -> tuple[Standing, Holder | None]:
        return self.view.standing(entry, token), self.view.holder

    def catch_up(self) -> list[Change]:
        assert self.view.next_revision
        return self.view.apply(self._store.events(self._name, self.view.next_revision))


class Foo:
    """A lock object on a simulated etcd, and what its threads would do for it.

    Attributes:
        faults: what its requests meet, by their number, from 0, or by their type.
        told: its events; those of the key only if somebody listens.
        warned: what it has logged.
        listened_to: the names of the events that somebody listens to.
        forked: this is a child of the process that made it.
        silence: what etcd answers renewals with; None: it renews them.
        planned: when what falls due is done, as the core said when it was last asked.
    """

    def __init__(self, store: Store, *, node_id: str = "alpha", ttl: int = TTL, **how: Any) -> None:
        self.store = store
        self.faults: dict[Any, Fault] = {}
        self.caller = Caller(store, self.faults)
        self.told: list[LockEvent] = []
        self.warned: list[str] = []
        self.listened_to: set[str] = set()
        self.forked = False
        self.silence: MicrolockError | None = None
        self.planned: float | None = None
        self._calls: list[Any] = []  # one that nobody keeps would be closed
        self.core = LockCore(
            Names.of("foo", node_id),
            ttl,
            env=self,
            **how,
        )
        self.status, self.tracker = self.core.status, self.core.tracker

    # What it runs in.

    @property
    def lease_ids(self) -> Iterator[int]:
        return self.store.lease_ids

    def event(self) -> Event:
        return Event()

    def random(self) -> float:
        return 1.0

    def listened(self, name: str) -> bool:
        return name in self.listened_to

    def tell(self, name: str, **fields: Any) -> None:
        if name not in events.OF_THE_KEY or name in self.listened_to:
            self.told.append(LockEvent(name, **{"key": self.core.names.key} | fields))

    def warn(self, text: str, *args: object) -> None:
        self.warned.append(text % args)

    # What it says of itself.

    @property
    def hold(self) -> HoldState | None:
        return self.status.present(self.store.now)

    @property
    def held(self) -> bool:
        return self.hold is not None

    @property
    def state(self) -> State:
        return self.status.state(self.store.now, MAIN)

    @property
    def remaining(self) -> float:
        return self.hold.remaining(self.store.now) if self.hold else 0.0

    @property
    def names(self) -> list[str]:
        """Of its events so far."""
        return [event.name for event in self.told]

    @property
    def entries(self) -> list[bytes]:
        """What etcd has of its node."""
        return [kv.name for kv in self.store.entries(self.core.names.value)]

    # Its calls. None of them has begun when this returns.

    def lock(
        self,
        thread: object = MAIN,
        *,
        timeout: float | None = 0.0,
        tries: int = 1,
        pause: float = 0.0,
    ) -> Going[HoldState]:
        call = self.call(thread, Kind.TRY if timeout == 0 else Kind.WAIT, wait=timeout)
        return Going(self, call, self.core.lock(call, tries=tries, pause=pause))

    def unlock(self, thread: object = MAIN) -> Going[None]:
        call = self.call(thread)
        return Going(self, call, self.core.unlock(call))

    def exit(self, hold: HoldState | None, thread: object = MAIN) -> Going[None]:
        call = self.call(thread)
        return Going(self, call, self.core.exit(call, hold))

    def abandon(self, hold: HoldState, thread: object = MAIN) -> Going[None]:
        call = self.call(thread)
        return Going(self, call, self.core.abandon(call, hold))

    def renew(self, thread: object = MAIN) -> Going[float]:
        call = self.call(thread)
        return Going(self, call, self.core.renew(call))

    def extend(self, ttl: int, thread: object = MAIN) -> Going[float]:
        call = self.call(thread)
        return Going(self, call, self.core.extend(call, ttl))

    def destroy(self, thread: object = MAIN) -> Going[None]:
        """Not in the middle of another call of this thread."""
        call = self.call(thread, Kind.END)
        assert self.core.begin_to_end(thread)
        return Going(self, call, self.core.destroy(call), at_last=self.core.close)

    def call(self, thread: object, kind: Kind = Kind.ACT, *, wait: float | None = 0.0) -> Call:
        return Call(kind, thread, self.store.now, TIMEOUT, wait=wait)

    # What its client's threads do.

    def sync(self) -> None:
        """Has watched what it wants to be watched, and plans what will be due."""
        tracker = self.tracker
        while self.status.changed:
            self.status.changed = False
            wanted = tracker.watches
            for name in tracker.views.keys() - wanted.keys():
                del tracker.views[name]
            for name in wanted.keys() - tracker.views.keys():
                tracker.views[name] = Watch(self.store, name, wanted[name])
                self.tracker.seen()
            self._plan(0.0)

    def _plan(self, earliest: float) -> None:
        if (at := self.tracker.next_due) < math.inf:
            at = max(at, earliest)
            self.planned = at if self.planned is None else min(at, self.planned)

    def hear(self) -> None:
        """Its watches tell all that has happened."""
        for name, watch in list(self.tracker.views.items()):
            assert isinstance(watch, Watch)
            changes = watch.catch_up()
            self.tracker.watched(name, changes, synthesised=False)
        self.sync()

    def due(self) -> list[Lease]:
        """Does what is due. Returns the leases that were to be renewed."""
        self.planned = None
        leases = list(self.tracker.due(self.store.now))
        for lease in leases:
            now = self.store.now
            if self.silence:
                self.tracker.silent(lease.id, self.silence, sent=now, now=now)
            else:
                self.tracker.renewed(lease.id, self.store.apply(KeepAlive(lease.id)), now)
        self.sync()
        self._plan(self.store.now + TICK)
        return leases

    def release_at_exit(self) -> None:
        """The process ends."""
        for end in self.core.release_at_exit(self.store.now):
            self.caller.run(end)

    def pass_time(self, seconds: float) -> None:
        """What falls due meanwhile is done, and what happens is told."""
        end = self.store.now + seconds
        while self.planned is not None and self.planned <= end:
            self.store.pass_time(max(self.planned - self.store.now, 0.0))
            self.hear()
            self.due()
        self.store.pass_time(max(end - self.store.now, 0.0))
        self.hear()


class Going(Generic[T]):
    """A call under way.

    Attributes:
        request: what it asks for now.
        over: it has returned, or raised.
        error: what it has raised.
    """

    def __init__(
        self, foo: Foo, call: Call, steps: Steps[T], at_last: Callable[[], None] = lambda: None
    ) -> None:
        self.foo = foo
        self.call = call
        self.request: Any = None
        self.over = False
        self.error: BaseException | None = None
        self._value: Any = None
        self._steps = steps
        self._at_last = at_last
        self._begun = False
        foo._calls.append(steps)

    @property
    def waits(self) -> bool:
        """Whether nothing goes on until something happens, or time passes."""
        if self.over or not isinstance(self.request, Park):
            return False
        return not self.request.on.is_set() and self.foo.store.now < self.request.until

    def go(self) -> Going[T]:
        """Until it waits, or is over."""
        while not (self.over or self.waits):
            self.step()
        return self

    def to(self, kind: type) -> Going[T]:
        """Until it asks for this; nothing is answered yet."""
        while not isinstance(self.request, kind):
            assert not self.over, self.error
            self.step()
        return self

    def result(self) -> T:
        """Lets time pass until it is over."""
        while not self.over:
            self.step()
        if self.error:
            raise self.error
        result: T = self._value
        return result

    def step(self) -> None:
        """Answers one request; or lets time pass until something is due."""
        if not self._begun:
            self._begun = True
            self._resume(self._steps.send, None)
            return
        if self.waits:
            due = self.foo.planned
            at = min(self.request.until, math.inf if due is None else due)
            assert at < math.inf, "it waits for ever"
            self.foo.pass_time(max(at - self.foo.store.now, 0.0))
            return
        try:
            reply = self.perform()
        except BaseException as error:  # noqa: BLE001  it is the call's to judge
            self.throw(error)
        else:
            self._resume(self._steps.send, reply)

    def perform(self) -> Any:
        """The reply to what it asks for."""
        request, now = self.request, self.foo.store.now
        if request is NOW:
            return now
        if isinstance(request, Park):
            return None
        budget = self.call.budget(request, now)
        if not isinstance(request, Revoke):
            if budget.stop:
                budget.stop()
            if budget.until(request) <= now:
                raise StoreTimeoutError("no time was left", may_have_happened=False)
        try:
            reply = self.foo.caller.perform(request)
        except MicrolockError as error:
            self.call.tried(request, error)
            raise
        self.call.tried(request)
        return reply

    def throw(self, error: BaseException) -> None:
        """Instead of a reply."""
        self._resume(self._steps.throw, error)

    def drop(self) -> None:
        """Whoever drove it is gone."""
        self._steps.close()
        self._end()

    def _resume(self, act: Callable[[Any], Any], reply: Any) -> None:
        try:
            self.request = act(reply)
        except StopIteration as decided:
            self._value = decided.value
            self._end()
        except BaseException as error:  # noqa: BLE001  see `result`
            self.error = error
            self._end()
        else:
            if isinstance(self.request, Park):
                self.foo.sync()

    def _end(self) -> None:
        self.over, self.request = True, None
        self.foo.core.over(self.call)
        self._at_last()
        self.foo.sync()
