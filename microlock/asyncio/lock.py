"""The asyncio face of a lock, and of the mutex. `core.lock` decides what the calls do."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import (
    AbstractAsyncContextManager,
    AsyncContextDecorator,
    asynccontextmanager,
    suppress,
)
from functools import partial
from math import inf
from types import TracebackType
from typing import Any, TypeVar
from weakref import ref

from microlock import events
from microlock.core import elsewhere
from microlock.core.admission import MUTEX
from microlock.core.call import Call
from microlock.core.hold import Hold, HoldState
from microlock.core.keys import Names, check_ttl
from microlock.core.queue import Holder
from microlock.engine.awaiting import runs, to_its_end, wait
from microlock.engine.loop_runner import LoopRunner
from microlock.engine.loops import TaskLoss, destroy, look, run
from microlock.engine.timer import Timer
from microlock.errors import DestroyedError, InvalidArgumentError, MicrolockError, StoreError
from microlock.etcd.lent import client_of
from microlock.face import Face

S = TypeVar("S", bound="Lock")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Awaitable[Any]])

# Seconds that a call about a hold waits at most for the watch of a listener.
SOON = 1.0

log = logging.getLogger("microlock")


class Lock(AsyncContextDecorator, Face):
    """A lock of any kind, for tasks: the base of `Microlock` and of the other kinds."""

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
        self._runner: LoopRunner
        self._unheard = False  # a listener was added, and its watch may not run yet
        super().__init__(
            client,
            LoopRunner(client),
            self._named(key, node_id),
            ttl,
            auto_renew=auto_renew,
            max_hold=max_hold,
            min_hold=min_hold,
            timeout=timeout,
        )

    def _owner(self) -> object:
        if self._runner.here:
            return None
        try:
            task = asyncio.current_task()
        except RuntimeError:  # no loop runs on this thread
            task = None
        if task is None:
            return self
        owner = ref(task)
        hash(owner)  # from here on it has one, also when the task is gone
        return owner

    @property
    def lost(self) -> TaskLoss:
        """The loss of the current hold, as an event: `await foo.lost.wait(timeout)`.

        When the hold has ended, it stays the loss of that hold until the next `lock()`.
        """
        return TaskLoss(self._status, self._status.hold_of(self._owner()), self._clock)

    # Taking it.

    async def lock(
        self, *, timeout: float | None = 0, retries: int = 0, interval: float = 1
    ) -> Hold:
        hold = (await self._acquire(timeout, retries, interval)).hold
        assert hold
        return hold

    async def _acquire(
        self,
        timeout: float | None,
        retries: int = 0,
        interval: float = 1,
        value: bytes | None = None,
    ) -> HoldState:
        call, steps = self._taking(timeout, retries, interval, value)
        self._runner.bind()
        if self._unheard:
            with suppress(StoreError):  # `error` reports it
                await self._hear(timeout / 2 if timeout else inf, call)
        return await run(self._host, call, steps)

    # Giving it back, keeping it.

    async def unlock(self) -> None:
        owner = self._owner()
        hold = self._status.hold_of(owner)
        try:
            await self._ready(SOON)
            call = self._host.call(owner)
            await run(self._host, call, self._core.unlock(call))
        except asyncio.CancelledError:  # it may have come before anything was sent
            await self._abandon(owner, hold)
            raise

    async def renew(self) -> float:
        await self._ready(SOON)
        call = self._host.call(self._owner())
        return await run(self._host, call, self._core.renew(call))

    async def extend(self, ttl: float) -> float:
        seconds = check_ttl(ttl)
        await self._ready(SOON)
        call = self._host.call(self._owner())
        return await run(self._host, call, self._core.extend(call, seconds))

    async def destroy(self) -> None:
        status, client = self._status, self._host.client
        if status.closed or client.forked:
            status.destroyed = True
            return
        held, end = self.held, self._clock.now() + client.timeout
        goes_on = True
        try:
            await destroy(self._host, self._owner())
        except DestroyedError as error:
            if held:
                raise DestroyedError(
                    f"{self.key!r} stays locked until its ttl ends: {error}"
                ) from error
        except GeneratorExit:  # the task is gone: nothing can be waited for
            goes_on = False
            raise
        finally:
            if goes_on:
                await self._runner.end(self.remove_all_listeners, end - self._clock.now())

    # Looking.

    async def holder(self) -> Holder | None:
        return next(iter(await self.holders()), None)

    async def holders(self) -> list[Holder]:
        holders, _ = await self._places()
        return holders

    async def waiters(self) -> list[Holder]:
        _, waiters = await self._places()
        return waiters

    async def _places(self) -> tuple[list[Holder], list[Holder]]:
        await self._ready()
        return await look(self._host.client, elsewhere.places(self._core.names))

    async def listening(self) -> None:
        """Waits until the watch for `locked` and `unlocked` runs: no change is missed from then on.

        Other calls wait for it too: `lock()` for the client's timeout or half of its own, calls
        about a hold for 1 s.

        Raises:
            StorePermissionError, StoreAuthenticationError: etcd refuses to watch the lock.
            DestroyedError, ForkedError: the object can't be used any more, or not in this process.
        """
        self._check()
        self._runner.bind()
        await self._hear()

    # `async with`, and as a decorator.

    async def __aenter__(self: S) -> S:
        self._entered.append((self._owner(), await self._acquire(self._timeout)))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        entered = self._innermost() if kind is not GeneratorExit else self._dropped()
        try:
            if entered and not entered[1].returned:
                if not runs():  # nothing can be waited for
                    give_back = partial(self._host.abandon, *entered)
                    self._host.client.one(Timer).post(give_back)
                    return
                await self._ready(SOON)
                call = self._host.call(self._owner())
                await run(self._host, call, self._core.exit(call, entered[1]))
        except MicrolockError as failure:
            if error is None:
                raise
            why = failure.args[0]  # without the key
            log.warning("at the end of `async with` of the lock %r: %s", self.key, why)
        except asyncio.CancelledError:  # the block is left, and so must be the lock
            await self._abandon(self._owner(), entered and entered[1])
            raise
        finally:
            if entered in self._entered:
                self._entered.remove(entered)

    def _dropped(self) -> tuple[object, HoldState] | None:
        """The block of a task that was dropped. If the task is gone already, a garbage collection
        runs this, in any task."""
        gone = [each for each in self._entered if isinstance(each[0], ref) and each[0]() is None]
        return gone[-1] if gone else self._innermost()

    async def _abandon(self, owner: object, hold: HoldState | None) -> None:
        """Gives back the hold of a call that was cancelled before it could do so."""
        if hold is None or hold.returned:
            return
        gone = hold

        async def abandon() -> None:
            with self._host.quietly():  # the client may be closed
                call = self._host.call(owner)
                await run(self._host, call, self._core.abandon(call, gone))

        await to_its_end(abandon)

    def bound(self: S) -> AbstractAsyncContextManager[S]:
        """As `async with` of the object itself, but a loss of the lock cancels the block.

        Leaving the block then raises LockLostError. A block that catches its cancellation goes on,
        as any task does.
        """
        return self._bound()

    @asynccontextmanager
    async def _bound(self: S) -> AsyncIterator[S]:
        async with self, _Cut(self.lost):
            yield self

    def __call__(self, func: F) -> F:
        if not inspect.iscoroutinefunction(func):
            raise InvalidArgumentError(
                f"an asyncio lock can only decorate a coroutine function, not {func!r}"
            )
        return super().__call__(func)  # type: ignore[return-value]

    # What the calls share.

    async def _ready(self, patience: float = inf) -> None:
        """Binds the handlers to this loop, and waits until their watch runs, so that they miss no
        change. This comes before the call begins, so it takes none of the time of the call.
        """
        self._check()
        self._runner.bind()
        if self._unheard:
            with suppress(StoreError):  # `error` reports it
                await self._hear(patience)

    async def _hear(self, patience: float = inf, call: Call | None = None) -> None:
        """`call`: the call of a `lock()`, which `cancel()` may end early."""
        until = self._clock.now() + min(patience, self._host.client.timeout)
        for lock in self._core.names.locks:
            with self._host.listening(lock) as settled:
                if call is None:
                    await wait(settled, until, self._clock)
                else:
                    settled.waiting.append(_Wakes(call))
                    await run(self._host, call, self._core.hear(call, until, settled.is_set))
        self._unheard = False

    def _listens(self, event: str) -> None:
        self._check()
        with suppress(RuntimeError):  # no loop runs yet
            self._runner.bind()
        if event in events.OF_THE_KEY:
            self._unheard = True
            self._host.begin_to_listen()


class _Wakes:
    """Wakes a call when an event is set."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def put(self, item: None) -> None:
        self._call.wake()


class Microlock(Lock):
    """A distributed lock: at most one object, on any machine, holds `key` at a time.

    It is `microlock.Microlock` for asyncio tasks: the same arguments, results, errors and events.
    No call blocks the loop, and no call needs a thread. The client's own threads renew and watch
    the hold, so it is not lost when the loop stands still for longer than the ttl.

    Tasks that share an object take turns on it, as threads do; they may run on different loops. A
    task that is cancelled in a call first undoes what the call has begun. That takes at most the
    client's timeout.

    Handlers run on the loop where the object is first used, one after the other, and may be
    coroutine functions. `on("locked", ...)` returns at once; the handler misses no change after the
    next awaited call.

    `async with foo:` waits its turn, holds the lock in the block, and gives it back at the end. If
    the lock was lost meanwhile, leaving the block raises LockLostError, unless the block itself
    raises. `async with foo.bound():` cancels the block when the lock is lost. As a decorator of a
    coroutine function, `@foo`, it holds the lock during each call.

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
        timeout: seconds that `async with` waits for its turn. None: no limit.

    Raises:
        InvalidArgumentError: an argument is wrong. Its subclasses: KeyRequiredError,
            NodeIdRequiredError, InvalidTtlError, ClientRequiredError.
    """


class _Cut:
    """Cancels the task in a block when a hold is lost; the cancellation ends with the block."""

    def __init__(self, loss: TaskLoss) -> None:
        self._loss = loss
        self._cut = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task
        self._task = ref(task)  # weak: this must not keep a task alive that its loop has dropped
        self._before = _cancelling(task)
        self._following = asyncio.create_task(self._follow())

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        with suppress(RuntimeError):  # the loop was closed
            self._following.cancel()
        task = self._task()
        if not self._cut or task is None:
            return False
        if hasattr(task, "uncancel"):
            task.uncancel()
        if kind is not asyncio.CancelledError:
            return False
        # Other code may have cancelled it too; before Python 3.11 that can't be known.
        return not hasattr(task, "uncancel") or task.cancelling() <= self._before

    async def _follow(self) -> None:
        if await self._loss.wait() and (task := self._task()):
            self._cut = True
            task.cancel()


def _cancelling(task: asyncio.Task[Any]) -> int:
    return task.cancelling() if hasattr(task, "cancelling") else 0
