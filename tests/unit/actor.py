"""One process with one lock object: the real core, driven by hand, copied by doing all of it again.

It does for the core what `engine` does, without a thread, a clock or a network: whoever has it says
what happens, one act after the other, and looks at what it asks for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fingerprint import fingerprint

from microlock.core.call import NOW, Call, Kind, Park
from microlock.core.hold import HoldState
from microlock.core.keys import Names
from microlock.core.lock import LockCore
from microlock.core.port import (
    Event,
    Found,
    Lifetime,
    Revoke,
    WatchCancelled,
    WatchCreated,
    WatchEvents,
)
from microlock.core.queue import Change, Holder, Standing
from microlock.core.retry import Budget
from microlock.core.watchstream import (
    Cancel,
    Command,
    Create,
    Query,
    Reopen,
    Tell,
    TellFailed,
    WatchStream,
)
from microlock.errors import (
    MicrolockError,
    StoreError,
    StorePermissionError,
    StoreTimeoutError,
    StoreUnavailableError,
)

TTL = 5
LONGER, SHORTER = 9, 2  # what extend() asks for
A_WHILE = 3.0  # seconds; shorter than a ttl
TIMEOUT = 5.0  # of the client
TAKING = ("lock", "retry", "wait", "wait a while")

Thrown = tuple[type[BaseException], bool]  # an error, and its `may_have_happened`


class Flag:
    """Whether it is set."""

    __slots__ = ("_set",)

    def __init__(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True

    def clear(self) -> None:
        self._set = False


class Ids:
    """Lease ids, one after the other.

    Attributes:
        next_id: the next one.
    """

    def __init__(self, next_id: int) -> None:
        self.next_id = next_id

    def __iter__(self) -> Ids:
        return self

    def __next__(self) -> int:
        self.next_id += 1
        return self.next_id - 1


class Surroundings:
    """What the core runs in: nobody listens."""

    forked = False

    def __init__(self, lease_ids: Ids) -> None:
        self.lease_ids = lease_ids

    def tell(self, name: str, **fields: Any) -> None: ...

    def warn(self, text: str, *args: object) -> None: ...

    def listened(self, name: str) -> bool:
        return False

    def event(self) -> Flag:
        return Flag()

    def random(self) -> float:
        return 0.5


@dataclass(frozen=True)
class Watched:
    """What a watch has told so far."""

    stream: WatchStream
    name: bytes

    def look(self, entry: bytes, token: int) -> tuple[Standing, Holder | None]:
        return self.stream.look(self.name, entry, token)


@dataclass(frozen=True)
class OnStream:
    """A watch on the stream.

    Attributes:
        since: the next revision that it tells of; None: not known before it runs.
        runs: whether its creation had an answer.
    """

    watch_id: int
    since: int | None
    runs: bool = False


@dataclass
class Task:
    """A call, by the thread that makes it.

    Attributes:
        request: what it waits for.
        result, error: what it has returned or raised, when it is over.
    """

    op: str
    call: Call
    steps: Generator[Any, Any, Any]
    request: Any = None
    result: Any = None
    error: BaseException | None = None


class Actor:
    """The core of a lock, and all that its process knows.

    Attributes:
        tasks: the calls under way, by the number of the thread.
        over: the call that the last act has ended.
        holds: what its `lock()` have returned.
        watching: what it watches.
    """

    def __init__(self, names: Names, next_id: int, min_hold: float = 0.0) -> None:
        self._made_of = names, next_id, min_hold
        self._acts: list[tuple[float, str, tuple[Any, ...]]] = []
        self._now = 0.0
        self._ids = Ids(next_id)
        self._stream = WatchStream()
        self._stream.opened()
        self._watched: set[bytes] = set()
        self.watching: dict[bytes, OnStream] = {}
        self.tasks: dict[int, Task] = {}
        self.over: Task | None = None
        self.holds: list[HoldState] = []
        self.core = LockCore(
            names,
            TTL,
            auto_renew=True,
            min_hold=min_hold,
            env=Surroundings(self._ids),
        )

    def do(self, now: float, act: str, *args: Any) -> Any:
        """Something happens, at this time by its clock."""
        self._acts.append((now, act, args))
        self._now, self.over = now, None
        return getattr(self, f"_{act}")(*args)

    def copy(self) -> Actor:
        other = Actor(*self._made_of)
        for now, act, args in self._acts:
            other.do(now, act, *args)
        return other

    def state(self) -> Any:
        """Equal for two to which the same can happen."""
        return fingerprint((self.core, self.tasks, self._stream, self.watching), within=self)

    @property
    def next_id(self) -> int:
        """Of its leases."""
        return self._ids.next_id

    # Calls.

    def _begin(self, owner: int, op: str) -> None:
        core, call = self.core, partial(self._call, owner)
        made: Call
        match op:
            case "lock":
                made = call(Kind.TRY)
                steps: Any = core.lock(made)
            case "retry":
                made = call(Kind.TRY)
                steps = core.lock(made, tries=2, pause=1.0)
            case "wait" | "wait a while":
                made = call(Kind.WAIT, wait=None if op == "wait" else A_WHILE)
                steps = core.lock(made)
            case "destroy":
                if not self._begin_to_end(owner):
                    return
                made = call(Kind.END)
                steps = core.destroy(made)
            case _:
                made = call(Kind.ACT)
                acts: dict[str, Callable[[], Any]] = {
                    "unlock": lambda: core.unlock(made),
                    "exit": lambda: core.exit(made, core.status.hold),
                    "renew": lambda: core.renew(made),
                    "extend": lambda: core.extend(made, LONGER),
                    "shorten": lambda: core.extend(made, SHORTER),
                }
                steps = acts[op]()
        self.tasks[owner] = Task(op, made, steps)
        self._go_on(owner, partial(next, steps))

    def _call(self, owner: int, kind: Kind, *, wait: float | None = 0.0) -> Call:
        return Call(kind, owner, self._now, TIMEOUT, wait=wait)

    def _resume(self, owner: int, how: Any) -> None:
        """It gets an answer, or an error."""
        task = self.tasks[owner]
        resume = partial(task.steps.send, how)
        if isinstance(how, tuple) and isinstance(how[0], type):
            resume = partial(task.steps.throw, _error(*how))
        if resume.args[0] is how or isinstance(resume.args[0], MicrolockError):
            error = resume.args[0] if isinstance(resume.args[0], MicrolockError) else None
            task.call.tried(task.request, error)
        self._go_on(owner, resume)

    def _go_on(self, owner: int, resume: Callable[[], Any]) -> None:
        """Up to the next request, or the end."""
        task = self.tasks[owner]
        while True:
            try:
                request = resume()
            except StopIteration as decided:
                task.result = decided.value
                break
            except (MicrolockError, KeyboardInterrupt) as error:
                task.error = error.with_traceback(None)
                break
            if request is NOW:
                resume = partial(task.steps.send, self._now)
                continue
            task.request = request
            if isinstance(request, Park):
                self._sync()
                return
            prevented = self._prevented(task.call.budget(request, self._now), request)
            if prevented is None:
                return
            resume = partial(task.steps.throw, prevented)
        self._leave(owner, task)

    def _prevented(self, budget: Budget, request: Any) -> MicrolockError | None:
        """Why a request does not leave, as `core.retry` has it."""
        if isinstance(request, Revoke):
            return None
        if budget.stop:
            try:
                budget.stop()
            except MicrolockError as error:
                return error
        if budget.until(request) <= self._now:
            return StoreTimeoutError("no time was left")
        return None

    def _again(self, owner: int) -> bool:
        """Its request had no answer. Returns whether it leaves once more."""
        task = self.tasks[owner]
        if task.call.stop and not isinstance(task.request, Revoke):
            try:
                task.call.stop()
            except MicrolockError as error:
                self._go_on(owner, partial(task.steps.throw, error))
                return False
        return True

    def _leave(self, owner: int, task: Task) -> None:
        del self.tasks[owner]
        self.over = task
        if task.op in TAKING and task.error is None:
            self.holds.append(task.result)
        self.core.over(task.call)
        self._sync()
        if task.op == "destroy":
            self.core.close()
            self._sync()

    def _begin_to_end(self, owner: int) -> bool:
        """destroy(), maybe by a signal's handler in the middle of a call of this thread."""
        goes_on = self.core.begin_to_end(owner)
        self._sync()
        return goes_on

    def _cancel(self) -> None:
        self.core.cancel()
        self._sync()

    def _rest(self) -> list[int]:
        """What a lost hold has in etcd still is about to be ended. Returns its leases."""
        leases, self.core.status.left = self.core.status.left, ()
        return [lease.id for lease in leases]

    # Renewals.

    def _due(self) -> list[int]:
        """Does what is due. Returns the leases to renew."""
        leases = self.core.tracker.due(self._now)
        self._sync()
        return [lease.id for lease in leases]

    def _renewed(self, lease_id: int, lifetime: Lifetime) -> None:
        self.core.tracker.renewed(lease_id, lifetime, self._now)
        self._sync()

    def _silent(self, lease_id: int, sent: float) -> None:
        error = StoreUnavailableError("no answer")
        self.core.tracker.silent(lease_id, error, sent=sent, now=self._now)
        self._sync()

    # Watches.

    def _sync(self) -> None:
        """What the core wants to be watched, is."""
        tracker, status = self.core.tracker, self.core.status
        while status.changed:
            status.changed = False
            wanted = self.core.tracker.watches
            for name in sorted(self._watched - wanted.keys()):
                self._watched.discard(name)
                self._stream.unsubscribe(name, self)
                self._perform(self._stream.review(name))
                if (watch := self.watching.pop(name, None)) and not watch.runs:
                    self._perform(self._stream.received(WatchCreated(watch.watch_id, 0)))
                tracker.views.pop(name, None)
            for name in sorted(wanted.keys() - self._watched):
                self._stream.subscribe(name, self, wanted[name])
                self._watched.add(name)
                self._perform(self._stream.review(name))
                tracker.views[name] = Watched(self._stream, name)
                self.core.tracker.seen()

    def _watch(self, name: bytes, found: Found) -> None:
        """A watch begins, at this revision."""
        watch = self.watching[name]
        since = watch.since or found.revision + 1
        self.watching[name] = replace(watch, since=since, runs=True)
        self._perform(self._stream.received(WatchCreated(watch.watch_id, found.revision)), found)

    def _events(self, name: bytes, events: tuple[Event, ...]) -> None:
        """A watch tells of these."""
        watch = self.watching[name]
        self.watching[name] = replace(watch, since=events[-1].revision + 1)
        self._perform(self._stream.received(WatchEvents(watch.watch_id, events)))

    def _compacted(self, name: bytes) -> None:
        """What comes next is not kept any more: all is read again."""
        cancelled = WatchCancelled(self.watching[name].watch_id, compacted=True)
        self._perform(self._stream.received(cancelled))

    def _refused(self, name: bytes) -> None:
        """The watch is refused, for good."""
        cancelled = WatchCancelled(self.watching.pop(name).watch_id, refused=True)
        self._perform(self._stream.received(cancelled), StorePermissionError("no permission"))

    def _perform(
        self, commands: Iterable[Command], found: Found | StoreError | None = None
    ) -> None:
        todo = deque(commands)
        while todo:
            match todo.popleft():
                case Create(watch_id, name, start):
                    self.watching[name] = OnStream(watch_id, start)
                case Query(name):
                    assert found
                    todo += self._stream.read(name, found)
                case (Tell() | TellFailed()) as command:
                    for subscriber in command.subscribers:
                        command.deliver(subscriber)
                case Reopen():
                    todo += self._stream.opened()
                case Cancel():
                    pass

    @property
    def interest(self) -> Sequence[bytes] | None:
        return self.core.tracker.interest

    def watched(self, name: bytes, changes: Sequence[Change], *, synthesised: bool) -> None:
        self.core.tracker.watched(name, changes, synthesised=synthesised)
        self._sync()

    def watch_failed(self, name: bytes, error: MicrolockError, *, final: bool) -> None:
        if final:
            self._watched.discard(name)
            self.core.tracker.views.pop(name, None)
        self.core.tracker.watch_failed(name, error, final=final, now=self._now)
        self._sync()


def _error(kind: type[BaseException], may_have_happened: bool) -> BaseException:
    error = kind("as it goes")
    if isinstance(error, StoreError):
        error.may_have_happened = may_have_happened
    return error
