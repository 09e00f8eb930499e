"""The blocking face of a lock, and of the mutex. `core.lock` decides what the calls do."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from contextlib import ContextDecorator
from types import TracebackType
from typing import Any, TypeVar

from microlock import events
from microlock.core import elsewhere
from microlock.core.admission import MUTEX
from microlock.core.call import Kind
from microlock.core.hold import Hold, HoldState
from microlock.core.keys import Names, check_ttl
from microlock.core.queue import Holder
from microlock.engine.blocked_loop import warn_of_waiting
from microlock.engine.handlers import ThreadRunner
from microlock.engine.host import look
from microlock.engine.loss import ThreadLoss
from microlock.engine.threads import this_thread
from microlock.errors import DestroyedError, InvalidArgumentError, MicrolockError
from microlock.etcd.lent import client_of
from microlock.face import Face

S = TypeVar("S", bound="Lock")
F = TypeVar("F", bound=Callable[..., Any])

log = logging.getLogger("microlock")


class Lock(ContextDecorator, Face):
    """A lock of any kind, for threads: the base of `Microlock` and of the other kinds."""

    _admission = MUTEX

    def _named(self, key: Any, node_id: str) -> Names:
        return Names.of(key, node_id, self._admission)

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
        client = client_of(etcd)
        self._etcd = etcd  # keeps a lent client alive: ours refers to it weakly
        self._runner: ThreadRunner
        super().__init__(
            client,
            ThreadRunner(client),
            self._named(key, node_id),
            ttl,
            auto_renew=auto_renew,
            max_hold=max_hold,
            min_hold=min_hold,
            timeout=timeout,
        )

    def _owner(self) -> object:
        return None if self._runner.here else this_thread()

    @property
    def lost(self) -> ThreadLoss:
        """The loss of the current hold, as an event: `foo.lost.wait(timeout)`.

        When the hold has ended, it stays the loss of that hold until the next `lock()`.
        """
        return ThreadLoss(self._status, self._status.hold_of(self._owner()), self._clock)

    # Taking it.

    def lock(self, *, timeout: float | None = 0, retries: int = 0, interval: float = 1) -> Hold:
        hold = self._acquire(timeout, retries, interval).hold
        assert hold
        return hold

    def _acquire(
        self,
        timeout: float | None,
        retries: int = 0,
        interval: float = 1,
        value: bytes | None = None,
    ) -> HoldState:
        before = self._status.hold
        call, steps = self._taking(timeout, retries, interval, value)
        if call.kind is Kind.WAIT or retries:
            warn_of_waiting()
        try:
            return self._host.run(call, steps)
        except BaseException as error:  # an interrupt may come when the lock is already taken
            if not isinstance(error, Exception):
                self._abandon(self._taken_by(call, before))
            raise

    # Giving it back, keeping it.

    def unlock(self) -> None:
        call = self._call()
        self._host.run(call, self._core.unlock(call))

    def renew(self) -> float:
        call = self._call()
        return self._host.run(call, self._core.renew(call))

    def extend(self, ttl: float) -> float:
        seconds = check_ttl(ttl)
        call = self._call()
        return self._host.run(call, self._core.extend(call, seconds))

    def destroy(self) -> None:
        status, client = self._status, self._host.client
        if status.closed or client.forked:
            status.destroyed = True
            return
        held, end = self.held, self._clock.now() + client.timeout
        try:
            self._host.destroy(self._owner())
        except DestroyedError as error:
            if held:
                raise DestroyedError(
                    f"{self.key!r} stays locked until its ttl ends: {error}"
                ) from error
        finally:
            self._runner.end(self.remove_all_listeners, end - self._clock.now())

    # Looking.

    def holder(self) -> Holder | None:
        return next(iter(self.holders()), None)

    def holders(self) -> list[Holder]:
        holders, _ = self._places()
        return holders

    def waiters(self) -> list[Holder]:
        _, waiters = self._places()
        return waiters

    def _places(self) -> tuple[list[Holder], list[Holder]]:
        self._check()
        return look(self._host.client, elsewhere.places(self._core.names))

    # `with`, and as a decorator.

    def __enter__(self: S) -> S:
        self._entered.append((self._owner(), self._acquire(self._timeout)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        entered: tuple[object, HoldState] | None = None
        try:
            entered = self._innermost()
            if entered and not entered[1].returned:
                call = self._call()
                self._host.run(call, self._core.exit(call, entered[1]))
        except MicrolockError as failure:
            if error is None:
                raise
            log.warning("at the end of `with` of the lock %r: %s", self.key, failure.args[0])
        except BaseException:  # an interrupt: the block is left, and so must be the lock
            entered = entered or self._innermost()
            self._abandon(entered and entered[1])
            raise
        finally:
            if entered in self._entered:
                self._entered.remove(entered)  # in one step: other threads enter and leave too

    def _abandon(self, hold: HoldState | None) -> None:
        """Gives back the hold of a call that was interrupted on this thread, between two steps."""
        if hold:
            self._host.abandon(self._owner(), hold)

    def __call__(self, func: F) -> F:
        if not callable(func):
            raise InvalidArgumentError(f"a lock can only decorate a function, not {func!r}")
        if inspect.iscoroutinefunction(func):
            raise InvalidArgumentError(f"{func!r} is a coroutine function: use microlock.asyncio")
        if inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
            raise InvalidArgumentError(
                f"{func!r} is a generator function: its body would run without the lock"
            )
        return super().__call__(func)

    def _listens(self, event: str) -> None:
        self._check()
        if event in events.OF_THE_KEY:
            self._host.listen()


class Microlock(Lock):
    """A distributed lock: at most one object, on any machine, holds `key` at a time.

    An object manages only its own hold. An object that has never called `lock()` acts for its node:
    `unlock()`, `renew()` and `extend()` act on the hold of its `node_id`. So a process that
    restarts within the ttl can carry on, or clean up. The object can't tell a dead predecessor from
    a live one: workers that may run at the same time need different node ids.

    Each call that does not wait for the lock takes at most the client's timeout. Threads that share
    an object take turns on it, as on a `threading.Lock`: `lock(timeout=...)`, `with` and `@foo`
    wait until the other thread gives its hold back. Any thread may unlock. Nothing is sent before
    the first call, or the first listener for `locked` or `unlocked`.

    `with foo:` waits its turn, holds the lock in the block, and gives it back at the end. If the
    lock was lost meanwhile, leaving the block raises LockLostError, unless the block itself raises.
    As a decorator, `@foo`, it does the same for each call of a function.

    Args:
        etcd: a client from `microlock.connect()`, or one of python-etcd3 or etcd-sdk-python.
        key: the name of the lock: a non-empty str without NUL, at most 4 KiB in UTF-8.
        node_id: the name of this node, which others see. The same rules as for `key`.
        ttl: seconds until a hold ends unless it is renewed; 0 < ttl <= 9,000,000,000, rounded up to
            whole seconds. etcd grants at least 1.5 of its election timeouts, 2 s by default.
        auto_renew: renew the hold in the background, every third of the ttl, until it is given
            back or lost, or until this object or its process is gone.
        max_hold: seconds until the background renewal stops, so that the hold ends within another
            ttl: for work that may hang. None: no limit.
        min_hold: seconds for which nobody else gets the lock after this object got it. If it is
            given back earlier, its entry stays in etcd until then, under its own lease: for work
            that must not run again on a machine whose clock is late. Rounded up like `ttl`.
        timeout: seconds that `with` waits for its turn. None: no limit.

    Raises:
        InvalidArgumentError: an argument is wrong. Its subclasses: KeyRequiredError,
            NodeIdRequiredError, InvalidTtlError, ClientRequiredError.
    """
