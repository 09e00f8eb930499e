"""Microlock: the blocking face of the lock. What it does is decided in `microlock.core.lock`."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from contextlib import ContextDecorator
from types import TracebackType
from typing import Any, TypeVar

from microlock import events
from microlock.core import elsewhere
from microlock.core.call import Kind
from microlock.core.hold import Guard, Hold, HoldState, State
from microlock.core.keys import (
    Names,
    check_bool,
    check_duration,
    check_int,
    check_seconds,
    check_ttl,
    check_wait,
)
from microlock.core.queue import Holder
from microlock.engine import clock
from microlock.engine.emitter import LockEmitter
from microlock.engine.host import Host, look, this_thread
from microlock.engine.loops import warn_of_waiting
from microlock.engine.loss import Loss
from microlock.errors import DestroyedError, InvalidArgumentError, LossReason, MicrolockError
from microlock.etcd.lent import client_of

S = TypeVar("S", bound="Microlock")
F = TypeVar("F", bound=Callable[..., Any])

log = logging.getLogger("microlock")


class Microlock(ContextDecorator, LockEmitter):
    """A distributed lock: at most one object, on any machine, holds `key` at a time.

    An object manages only its own hold. One that has never called `lock()` acts for its node:
    `unlock()`, `renew()` and `extend()` act on the hold that its `node_id` has, so that a process
    that restarts within the ttl can carry on or clean up. It can't tell a dead predecessor from a
    live one: workers that may run at the same time need different node ids.

    Each call that does not wait for the lock takes at most the client's timeout. Threads that share
    an object take turns on it, as on a `threading.Lock`: `lock(timeout=...)`, `with` and `@foo`
    wait until another thread gives its hold back. Any thread may unlock. Nothing is sent before the
    first call or the first listener for the key's events.

    `with foo:` waits its turn, holds the lock in the block, and gives it back after it. If it was
    lost meanwhile, leaving the block raises LockLostError, unless the block raises something. As a
    decorator, `@foo`, it does so for each call of a function.

    Args:
        etcd: what `microlock.connect()` returns, or a client of python-etcd3 or etcd-sdk-python.
        key: the name of the lock: str, not empty, no NUL, at most 4 KiB of UTF-8.
        node_id: who takes the lock, shown to the others; as `key`.
        ttl: seconds after which a hold that is not renewed ends; 0 < ttl <= 9,000,000,000,
            rounded up to whole seconds. etcd grants no less than 1.5 of its election timeouts,
            2 s by default.
        auto_renew: renew the hold in the background, at a third of the ttl, until it is given
            back or lost, or this object or its process is gone.
        max_hold: seconds after which a hold is not renewed in the background any more, so that it
            ends within another ttl: for work that may hang. None: no such end.
        min_hold: seconds that nobody else gets the lock after this object got it. Given back
            earlier, the entry stays in etcd until then, under a lease of its own: for work that
            must not run again on a machine whose clock is late. Rounded up as a ttl is.
        timeout: seconds that `with` waits for its turn. None: as long as it takes.

    Raises:
        KeyRequiredError, NodeIdRequiredError, InvalidTtlError, ClientRequiredError,
            InvalidArgumentError: an argument is wrong.
    """

    events = events

    def __init__(
        self,
        etcd: object,
        key: str,
        node_id: str,
        ttl: float = 1,
        *,
        auto_renew: bool = False,
        max_hold: float | None = None,
        min_hold: float = 0,
        timeout: float | None = None,
    ) -> None:
        self._timeout = check_wait(timeout)
        longest = None if max_hold is None else check_duration("max_hold", max_hold)
        if longest is not None and auto_renew is False:
            raise InvalidArgumentError(f"max_hold={max_hold!r} needs auto_renew=True")
        client = client_of(etcd)
        names = Names.of(key, node_id)
        super().__init__(client, names.key)
        self._etcd = etcd  # a lent client is ours only as long as somebody keeps it
        self._host = Host(
            client,
            self,
            names,
            check_ttl(ttl),
            auto_renew=check_bool("auto_renew", auto_renew),
            max_hold=longest,
            min_hold=check_seconds("min_hold", min_hold),
        )
        self._core = self._host.core
        self._status = self._core.status
        self._entered: list[tuple[int, HoldState]] = []  # thread and hold of each `with`

    def __repr__(self) -> str:
        return f"<Microlock {self.key!r} of {self.node_id!r}: {self.state.name}>"

    @property
    def key(self) -> str:
        """The name of the lock."""
        return self._core.names.key

    @property
    def node_id(self) -> str:
        """Who takes the lock."""
        return self._core.names.node_id

    @property
    def ttl(self) -> int:
        """Seconds that `lock()` asks for."""
        return self._core.ttl

    # What it knows, without asking etcd.

    @property
    def held(self) -> bool:
        """Whether this object holds the lock. Never True past the deadline of the hold."""
        return self.remaining > 0

    @property
    def remaining(self) -> float:
        """Seconds until the deadline of the hold; 0.0 when nothing is held."""
        now = clock.now()
        hold = self._status.present(now, self._host.owner())
        return hold.remaining(now) if hold else 0.0

    @property
    def token(self) -> int | None:
        """The fencing token of the hold; None when nothing is held."""
        hold = self._status.present(clock.now(), self._host.owner())
        return hold.token if hold else None

    @property
    def hold(self) -> Hold | None:
        """What `lock()` returned; None when nothing is held, or it was taken over by `renew()`."""
        hold = self._status.present(clock.now(), self._host.owner())
        return hold.hold if hold else None

    @property
    def state(self) -> State:
        """What this object knows of its hold, without asking etcd."""
        return self._status.state(clock.now(), self._host.owner())

    @property
    def lost_reason(self) -> LossReason | None:
        """Why the hold was lost; None when none was."""
        return self._status.reason(self._status.hold_of(self._host.owner()), clock.now())

    @property
    def lost(self) -> Loss:
        """The loss of the present hold, to wait for: `foo.lost.wait(timeout)`.

        Before the next `lock()` it is that of the last hold.
        """
        return Loss(self._status, self._status.hold_of(self._host.owner()))

    def check(self) -> None:
        """Makes sure that this object holds the lock, as far as it knows without asking etcd.

        Raises:
            LockLostError: the hold has ended.
            LockNotOwnedError: nothing is held.
            DestroyedError: the object was destroyed.
        """
        try:
            self._status.check(clock.now(), self._host.owner())
        except MicrolockError:
            self._notice()
            raise

    def guard(self) -> Guard:
        """What a transaction of your own has to compare, for etcd to refuse it once the hold has
        ended: that the key `guard.key` was created at the revision `guard.revision`.

        Raises as `check()`.
        """
        self.check()
        return self._status.guard(clock.now(), self._host.owner())

    # Taking it.

    def lock(self, *, timeout: float | None = 0, retries: int = 0, interval: float = 1) -> Hold:
        """Takes the lock.

        Args:
            timeout: 0 for a try that never waits. Otherwise it waits its turn, in the order of
                arrival, for that many seconds at most; None: as long as it takes. This includes
                the turns of other threads on this object, connecting, and cleaning up when the
                time is over.
            retries: for those who don't want to queue: how often to try again while somebody else
                holds it. Not together with `timeout`.
            interval: seconds between two tries, on average; it varies by half.

        Returns:
            The hold, with its fencing token and its whole ttl ahead.

        Raises:
            AlreadyLockedError: somebody holds it, maybe this object; or did when the time was
                over; or this thread holds it by this object. Nothing was changed, or what was is
                undone.
            LockCancelledError: `cancel()` ended the wait. What was changed is undone.
            LockLostError: the hold was over before this could return.
            LockUncertainError: etcd did not answer, so the lock may be held for up to a ttl.
            StoreError: etcd refused or can't be reached. Nothing is held, nothing was left behind.
                With `timeout=None`, also when etcd is gone for longer than the ttl and the
                client's timeout.
            DestroyedError, ForkedError: the object can't be used any more, or not here.
            InvalidArgumentError: an argument is wrong.

        Keep the object: when it is garbage its lock is given back.
        """
        hold = self._acquire(timeout, retries, interval).hold
        assert hold
        return hold

    def _acquire(self, timeout: float | None, retries: int = 0, interval: float = 1) -> HoldState:
        seconds, tries = check_wait(timeout), check_int("retries", retries, 0) + 1
        pause = check_seconds("interval", interval)
        if tries > 1 and seconds != 0:
            raise InvalidArgumentError(
                f"retries is for tries that don't wait: timeout={timeout!r} and "
                f"retries={retries!r} exclude each other"
            )
        self._check()
        if seconds != 0 or tries > 1:
            warn_of_waiting()
        status, before = self._status, self._status.hold
        call = self._host.call(Kind.TRY if seconds == 0 else Kind.WAIT, wait=seconds)
        try:
            return self._host.run(call, self._core.lock(call, tries=tries, pause=pause))
        except BaseException as error:  # an interrupt may have come on its way out
            taken = status.hold
            mine = taken is not before and taken is not None and taken.owner == call.owner
            if mine and not isinstance(error, Exception):
                self._abandon(taken)
            raise

    def cancel(self) -> None:
        """Ends the waits of this object for the lock: its `lock()` raises LockCancelledError.

        Nothing stays behind, and the object can be used again. Without a wait it does nothing. Any
        thread may call it, a handler of an event or of a signal too.
        """
        if not self._host.client.forked:
            self._host.step(self._core.cancel)

    # Giving it back, keeping it.

    def unlock(self) -> None:
        """Gives the lock back.

        Raises:
            LockNotOwnedError: nothing is held. Nothing was changed.
            LockLostError: the hold had ended before. Nothing was changed.
            LockUncertainError: etcd did not answer, so the lock may be held for up to a ttl. This
                object holds nothing any more.
            StoreError: etcd refused or can't be reached; the hold stands, and can be tried again.
            DestroyedError, ForkedError: the object can't be used any more, or not here.
        """
        self._check()
        call = self._host.call()
        self._host.run(call, self._core.unlock(call))

    def renew(self) -> float:
        """Puts the whole ttl back.

        Returns:
            Seconds left.

        Raises:
            LockNotOwnedError: nothing is held. Nothing was changed.
            LockLostError: the hold has ended.
            LockUncertainError: it has ended, and what is left of it can't be ended: the lock may
                be held for up to a ttl.
            StoreError: etcd refused or can't be reached; the hold stands until its deadline.
            DestroyedError, ForkedError: the object can't be used any more, or not here.
        """
        self._check()
        call = self._host.call()
        return self._host.run(call, self._core.renew(call))

    def extend(self, ttl: float) -> float:
        """Gives the hold another ttl, longer or shorter, without losing its place or its token.

        The next `lock()` asks for the ttl of the object again.

        Args:
            ttl: seconds from now, as for the object.

        Returns:
            Seconds left.

        Raises:
            InvalidTtlError: `ttl` is wrong.
            LockNotOwnedError: nothing is held. Nothing was changed.
            LockLostError: the hold has ended.
            LockUncertainError: as for `renew()`.
            StoreError: etcd refused or can't be reached; the hold stands. If `may_have_happened`,
                it stands until the earlier of both deadlines, and the next `renew()` or
                `extend()` finishes this extension first.
            DestroyedError, ForkedError: the object can't be used any more, or not here.
        """
        seconds = check_ttl(ttl)
        self._check()
        call = self._host.call()
        return self._host.run(call, self._core.extend(call, seconds))

    def destroy(self) -> None:
        """Ends all that this object does: the watch, the waiting, the renewal, the hold, the lease,
        the listeners.

        Events until here are still told. Twice is fine. Later calls raise DestroyedError, and so
        does a `lock()` that waits.

        Raises:
            StoreError, LockUncertainError, DestroyedError: the lock was held, and etcd did not
                confirm that it is free, or the client was closed. It is free by the end of its
                ttl. The object is destroyed all the same.
        """
        status, client = self._status, self._host.client
        if status.closed or client.forked:
            status.destroyed = True
            return
        held, end = self.held, clock.now() + client.timeout
        try:
            self._host.destroy()
        except DestroyedError as error:
            if held:
                raise DestroyedError(f"{self.key!r} is left to its ttl: {error}") from error
        finally:
            self._tell_no_more(end - clock.now())

    # Looking.

    def holder(self) -> Holder | None:
        """Who holds the lock, read from etcd; None if it is free.

        Raises:
            StoreError: etcd refused or can't be reached.
            DestroyedError, ForkedError: the object can't be used any more, or not here.
        """
        return next(iter(self._places()), None)

    def waiters(self) -> list[Holder]:
        """Who waits for the lock, in order, read from etcd. Raises as `holder()`."""
        return self._places()[1:]

    def _places(self) -> list[Holder]:
        self._check()
        return look(self._host.client, elsewhere.places(self._core.names))

    # `with`, and as a decorator.

    def __enter__(self: S) -> S:
        self._entered.append((this_thread(), self._acquire(self._timeout)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        entered: tuple[int, HoldState] | None = None
        try:
            entered = self._innermost()
            if entered and not entered[1].returned:
                self._check()
                call = self._host.call()
                self._host.run(call, self._core.exit(call, entered[1]))
        except MicrolockError as failure:
            if error is None:
                raise
            log.warning("leaving `with` of %r: %s", self.key, failure)
        except BaseException:  # an interrupt: the block is left, and so must be the lock
            entered = entered or self._innermost()
            self._abandon(entered and entered[1])
            raise
        finally:
            if entered in self._entered:
                self._entered.remove(entered)  # in one step: other threads enter and leave too

    def _innermost(self) -> tuple[int, HoldState] | None:
        """The block that is left: of this thread's the last one. A block may be left on another
        thread than it was entered on, too."""
        here = [each for each in self._entered if each[0] == this_thread()]
        return next(reversed(here or self._entered), None)

    def _abandon(self, hold: HoldState | None) -> None:
        """Gives back this hold, of a call of this thread that was interrupted between its steps."""
        call = self._host.call()
        if hold:
            self._host.run(call, self._core.abandon(call, hold))

    def __call__(self, func: F) -> F:
        for lazy in (
            inspect.iscoroutinefunction,
            inspect.isgeneratorfunction,
            inspect.isasyncgenfunction,
        ):
            if lazy(func):
                raise InvalidArgumentError(
                    f"what the lock decorates must do its work when called, unlike {func!r}"
                )
        return super().__call__(func)

    # What they have in common.

    def _check(self) -> None:
        self._status.check_alive()
        self._host.client.check()

    def _notice(self) -> None:
        """Tells of a loss, if there is one that nobody was told of."""
        if not self._host.client.forked:
            self._host.step(self._status.noticed, clock.now())

    def _listens(self, event: str) -> None:
        self._check()
        if event in events.OF_THE_KEY:
            self._host.listen()
