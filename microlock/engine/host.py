"""Runs one lock: drives its calls, and applies what its core wants watched and renewed."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar
from weakref import ref

from microlock.core import flows
from microlock.core.call import Call, Kind, Park, Steps
from microlock.core.hold import HoldState
from microlock.core.keys import Names
from microlock.core.lease import Lease
from microlock.core.lock import LockCore
from microlock.core.port import Found, Lifetime
from microlock.core.queue import Change
from microlock.core.retry import Budget
from microlock.engine.client import Client
from microlock.engine.drive import drive
from microlock.engine.emitter import LockEmitter
from microlock.engine.reader import Reader
from microlock.engine.reentrant_event import ReentrantEvent
from microlock.engine.timer import Timer
from microlock.errors import DestroyedError, MicrolockError, StoreUnavailableError, about

T = TypeVar("T")

log = logging.getLogger("microlock")

# Seconds until a read is tried again that etcd did not answer.
_AGAIN = 1.0


def _lease_id() -> int:
    """A new lease id. Random, so that a process and its forks never use the same."""
    return secrets.randbits(63) or 1


LEASE_IDS: Iterator[int] = iter(_lease_id, 0)  # for any thread


def look(client: Client, steps: Steps[T]) -> T:
    """Runs a call that needs no turn, since it does not concern an object."""
    clock = client.clock
    budget = Budget.of(clock.now(), client.timeout)
    return drive(steps, lambda request: client.perform(request, budget), threading.RLock(), clock)


class Host:
    """Runs the core of one lock: its steps one at a time, and their requests in between.

    The client's threads call it with news of watches and renewals. It holds its lock weakly: see
    `Timer.adopt`.

    Args:
        client: it uses the threads and the connection of this client.
        face: the lock.
        options: as for `LockCore`.

    Attributes:
        clock: the clock of the client.
        core: the core of the lock.
        mutex: held while the core takes a step.
    """

    __slots__ = (
        "_adopted",
        "_face",
        "_refusal",
        "_said",
        "_timer",
        "client",
        "clock",
        "core",
        "mutex",
        "random",
    )

    # The `core.status.Environment` of the core.
    event = ReentrantEvent
    lease_ids = LEASE_IDS

    def __init__(
        self, client: Client, face: LockEmitter, names: Names, ttl: int, **options: Any
    ) -> None:
        self.client = client
        self.clock = client.clock
        self.random = client.random
        self._face = ref(face)
        self.mutex = threading.RLock()
        self._adopted = False
        self._timer: Timer | None = None
        self._refusal: MicrolockError | None = None  # why a watch has ended
        self._said: tuple[Any, ...] = ()  # messages to be logged
        self.core = LockCore(names, ttl, env=self, **options)

    # Calls, on the thread of the caller.

    def call(self, owner: object, kind: Kind = Kind.ACT, *, wait: float | None = 0.0) -> Call:
        """A call that begins now. `owner`: the thread or task; None: a handler of this lock."""
        self._adopt()
        return Call(kind, owner, self.clock.now(), self.client.timeout, wait=wait)

    def run(self, call: Call, steps: Steps[T]) -> T:
        """Runs a call to its end."""
        try:
            return drive(steps, partial(self._perform, call), self.mutex, self.clock)
        finally:
            self.step(self.core.over, call)
            if self.core.ends_late:  # destroy() came after the call had checked for it
                self._end_quietly(call.owner)

    def _perform(self, call: Call, request: Any) -> Any:
        if isinstance(request, Park):
            self.sync()
            self.client.check()
            assert isinstance(request.on, ReentrantEvent)
            return request.on.wait(max(0.0, request.until - self.clock.now()), self.clock)
        try:
            reply = self.client.perform(request, call.budget(request, self.clock.now()))
        except MicrolockError as error:
            call.tried(request, error)
            raise
        call.tried(request)
        return reply

    @property
    def timer(self) -> Timer:
        """The timer of the client. Raises DestroyedError if the client was closed before."""
        if self._timer is None:
            self._timer = self.client.one(Timer)
        return self._timer

    def step(self, act: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Takes one step of the core, and applies what changed."""
        with self.mutex:
            result = act(*args, **kwargs)
        self.sync()
        return result

    # Applying what the core declares.

    def sync(self) -> None:
        """Watches what the core wants watched, schedules what is due, and logs its messages."""
        status = self.core.status
        if status.changed and not self.client.forked:
            with self.mutex:
                while status.changed:
                    status.changed = False
                    try:
                        self._watch()
                        self.timer.schedule(self)
                    except DestroyedError:  # the client is closed
                        break
                    except BaseException:  # an interrupt: not done yet
                        status.changed = True
                        raise
        if status.left:
            self._end_the_rest()
        if status.doubted:
            status.doubted = False
            if not self.client.forked:
                with suppress(DestroyedError):  # the client is closed
                    self.timer.aside(self._verify)
        if self._said:  # not under the mutex: a handler of logging may take long
            with self.mutex:
                said, self._said = self._said, ()
            for each in said:
                log.log(*each)

    def _end_the_rest(self) -> None:
        """Revokes the leases that calls or a lost hold have left, on another thread."""
        with self.mutex:
            leases, self.core.status.left = self.core.status.left, ()
        if leases and not self.client.forked:
            steps = flows.discard(self.core.names, *leases)
            with suppress(DestroyedError):  # the client is closed: they end with their ttl
                self.timer.aside(partial(self._quietly, steps))

    def _verify(self) -> None:
        """Reads whether our entries are still in etcd."""
        with self.mutex:
            places = self.core.tracker.places
        try:
            for place in places:
                found = look(self.client, flows.find(place))
                self.step(self.core.tracker.verified, place, found)
        except StoreUnavailableError:
            self.client.closed.wait(_AGAIN, self.clock)
            with self.mutex:
                self.core.status.doubted = True
            self.sync()
        except MicrolockError as error:  # another try is of no use
            log.warning("nothing tells whether %r stands: %s", self.core.names.key, error)

    def _quietly(self, steps: Steps[object]) -> None:
        with self.quietly():
            look(self.client, steps)

    def _watch(self) -> None:
        # In a loop: a signal handler may change it in between.
        views = self.core.tracker.views
        while (wanted := self._wanted()).keys() != (watched := set(views)):
            reader = self.client.one(Reader)
            for name in watched - wanted.keys():
                reader.unwatch(name, self)
                views.pop(name, None)
            for name in wanted.keys() - watched:
                try:
                    view = reader.watch(name, self, known=wanted[name])
                except RuntimeError as error:  # no thread can be started
                    self.warn("the lock %r is not watched: %s", self.core.names.key, error)
                    return
                views[name] = view
                self.core.tracker.seen()

    def _wanted(self) -> dict[bytes, Found | None]:
        names = self.core.names
        wanted = self.core.tracker.watches
        if names.lock in wanted or all(wanted.values()):
            return wanted
        # For a waiter far from its turn, existing watches are the cheapest.
        reader = self.client.one(Reader)
        if not all(reader.watching(lock, besides=self) for lock in names.locks):
            return wanted
        return {name: kv for name, kv in wanted.items() if kv} | dict.fromkeys(names.locks)

    def listen(self) -> None:
        """Watches the lock, and waits until the watch runs or its first attempt has failed."""
        self.begin_to_listen()
        end = self.clock.now() + self.client.timeout
        for lock in self.core.names.locks:
            with self.listening(lock) as settled:
                settled.wait(max(0.0, end - self.clock.now()), self.clock)

    def begin_to_listen(self) -> None:
        self._adopt()
        self._refusal = None
        self.step(self.core.tracker.listen)

    @contextmanager
    def listening(self, lock: bytes) -> Iterator[ReentrantEvent]:
        """As `Reader.settling`."""
        with self.client.one(Reader).settling(lock) as settled:
            yield settled
        if self._refusal:
            with about(self.core.names.key):
                raise self._refusal

    # Called by the watches.

    @property
    def interest(self) -> Sequence[bytes] | None:
        with self.mutex:
            return self.core.tracker.interest

    def watched(self, name: bytes, changes: Sequence[Change], *, synthesised: bool) -> None:
        self.step(self.core.tracker.watched, name, changes, synthesised=synthesised)

    def watch_failed(self, name: bytes, error: MicrolockError, *, final: bool) -> None:
        if final:
            self._refusal = error
        failed = self.core.tracker.watch_failed
        self.step(failed, name, error, final=final, now=self.clock.now())

    # Called by the renewals.

    def due(self, now: float) -> Sequence[Lease]:
        return self.step(self.core.tracker.due, now)

    def due_next(self) -> float:
        with self.mutex:
            return self.core.tracker.next_due

    def renewed(self, lease_id: int, lifetime: Lifetime) -> None:
        self.step(self.core.tracker.renewed, lease_id, lifetime, self.clock.now())

    def silent(self, lease_id: int, error: MicrolockError, *, sent: float) -> None:
        self.step(self.core.tracker.silent, lease_id, error, sent=sent, now=self.clock.now())

    def stir(self) -> None:
        """The client is closed: wakes every waiting call."""
        with self.mutex:
            self.core.tracker.stir_all()
        if face := self._face():
            face._closed()

    def release_at_exit(self, now: float) -> Sequence[Steps[object]]:
        with self.mutex:
            return self.core.release_at_exit(now)

    # Called by the core.

    @property
    def forked(self) -> bool:
        return self.client.forked

    def tell(self, name: str, **fields: Any) -> None:
        if (face := self._face()) is None:
            return
        if observers := self.client.observers:
            observers.tell(face, name, **{"key": self.core.names.key, **fields})
        if said := face._tell(name, **fields):
            self._said = (*self._said, said)

    def warn(self, text: str, *args: object) -> None:
        self._said = (*self._said, (logging.WARNING, text, *args))

    def listened(self, name: str) -> bool:
        face = self._face()
        return face is not None and face._listened(name)

    # Ending.

    def _adopt(self) -> None:
        if not self._adopted:
            if face := self._face():
                self.timer.adopt(face, self)
            self._adopted = True

    def dropped(self) -> None:
        """Its lock was garbage collected: gives back the hold and the leases."""
        if self.core.status.present(self.clock.now()):
            log.warning(
                "the held lock %r was garbage collected: it is given back", self.core.names.key
            )
        self._end_quietly(self)

    def _end_quietly(self, owner: object) -> None:
        with self.quietly():
            self.destroy(owner)

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """Logs the error if a hold could not be given back."""
        held = self.core.status.present(self.clock.now())
        try:
            yield
        except MicrolockError as error:
            if held:
                key, why = self.core.names.key, error.args[0]
                log.warning("%r may stay locked until its ttl ends: %s", key, why)

    def orphaned(self, call: Call, steps: Steps[object]) -> None:
        """Undoes a call that is not driven any more, because its loop has ended."""
        with self.mutex:
            steps.close()
        self.step(self.core.over, call)
        look(self.client, self.step(self.core.orphaned, call))
        if call.kind is Kind.END and not self.core.status.closed:
            self._end_quietly(call.owner)

    def abandon(self, owner: object, hold: HoldState) -> None:
        """Gives back the hold of a call that was interrupted between two steps."""
        call = self.call(owner)
        self.run(call, self.core.abandon(call, hold))

    def destroy(self, owner: object) -> None:
        """Ends everything; in the middle of a call of the same owner, only when that is over."""
        call, goes_on = self.call(owner, Kind.END), True
        try:
            goes_on = self.step(self.core.begin_to_end, call.owner)
            self.client.check()
            if goes_on:
                self.run(call, self.core.destroy(call))
        finally:
            if goes_on:
                self.step(self.core.close)
