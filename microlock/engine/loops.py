"""The calls of a client on loops of asyncio. Nothing here blocks a loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import suppress
from functools import partial
from inspect import GEN_CLOSED, getgeneratorstate
from typing import Any, TypeVar

from microlock.core.call import Call, Kind, Park, Steps
from microlock.core.retry import NOW, Attempt, Budget, Now, Pause
from microlock.engine.awaiting import to_its_end, wait
from microlock.engine.client import AsyncStore, Client
from microlock.engine.clock import Clock
from microlock.engine.drive import bare
from microlock.engine.host import Host
from microlock.engine.loss import Loss
from microlock.engine.reentrant_event import ReentrantEvent
from microlock.engine.timer import Timer
from microlock.errors import DestroyedError, MicrolockError, StoreError

T = TypeVar("T")


class Loops:
    """The loops that a client is used on."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[asyncio.AbstractEventLoop, LoopClient] = {}

    def here(self) -> LoopClient:
        """The client on the running loop."""
        loop = asyncio.get_running_loop()
        known = self._known.get(loop)
        if known is None:
            for each in [each for each in list(self._known) if each.is_closed()]:
                self._known.pop(each, None)
            known = self._known[loop] = LoopClient(
                self._client, partial(self._known.pop, loop, None)
            )
        return known

    def close(self) -> None:
        """From any thread."""
        for loop, each in list(self._known.items()):
            with suppress(RuntimeError):  # it has ended
                loop.call_soon_threadsafe(each.close)


class LoopClient:
    """A client on one loop, until that ends."""

    def __init__(self, client: Client, forget: Callable[[], object]) -> None:
        self._client = client
        self._forget = forget
        self._store: AsyncStore = client.store.on_loop()
        self._ending: AsyncGenerator[None, None] | None = None

    async def perform(self, request: Any, budget: Budget) -> Any:
        """As `Client.perform`."""
        if self._ending is None:
            self._ending = self._until_the_loop_ends()
            await anext(self._ending)
        trying = self._client.persist(request, budget)
        try:
            step = next(trying)
            while True:
                try:
                    reply = await self._attempt(request, step)
                except StoreError as error:
                    step = trying.throw(error)
                else:
                    step = trying.send(reply)
        except StopIteration as answered:
            return answered.value
        except MicrolockError as verdict:
            verdict.__context__ = None  # as in `Client.perform`
            raise verdict.with_traceback(None) from None
        finally:
            trying.close()

    async def _attempt(self, request: Any, step: Now | Attempt | Pause) -> Any:
        if isinstance(step, Attempt):
            self._client.check()
            return await self._store.attempt(
                step.member, request, timeout=step.timeout, repeated=step.repeated
            )
        if isinstance(step, Pause):
            clock = self._client.clock
            await wait(self._client.closed, clock.now() + step.seconds, clock)
        return self._client.clock.now()

    async def _until_the_loop_ends(self) -> AsyncGenerator[None, None]:
        """What `asyncio.run()` closes before the loop: connections must not outlive it."""
        try:
            yield
        finally:
            self.close()
            await asyncio.sleep(0)  # in which the transports are closed

    def close(self) -> None:
        """On its loop."""
        self._forget()
        self._store.close()


# Calls.


async def run(host: Host, call: Call, steps: Steps[T]) -> T:
    """Makes a call of a lock to its end: as `Host.run`, on the running loop."""
    client = host.client.one(Loops).here()

    async def perform(request: Any) -> Any:
        if isinstance(request, Park):
            host.sync()
            host.client.check()
            assert isinstance(request.on, ReentrantEvent)
            return await wait(request.on, request.until, host.clock)
        try:
            reply = await client.perform(request, call.budget(request, host.clock.now()))
        except MicrolockError:
            call.tried(request)
            raise
        call.tried(request)
        return reply

    goes_on = True
    try:
        return await drive(steps, perform, host.mutex, host.clock)
    except GeneratorExit:  # the loop has ended, and this may run in a garbage collection
        goes_on = False
        with suppress(DestroyedError):
            host.client.one(Timer).post(partial(host.orphaned, call, steps))
        raise
    finally:
        if goes_on:
            host.step(host.core.over, call)
            if host.core.ends_late:  # destroy() came after the call had looked for that
                await to_its_end(partial(_end_quietly, host, call.owner))


async def look(client: Client, steps: Steps[T]) -> T:
    """Makes a call that takes no turn, and that no other task knows of."""
    clock, here = client.clock, client.one(Loops).here()
    budget = Budget.of(clock.now(), client.timeout)
    mutex = threading.RLock()
    return await drive(steps, lambda request: here.perform(request, budget), mutex, clock)


async def destroy(host: Host, owner: object) -> None:
    """Ends all: as `Host.destroy`."""
    call, goes_on = host.call(owner, Kind.END), True
    try:
        goes_on = host.step(host.core.begin_to_end, owner)
        host.client.check()
        if goes_on:
            try:
                await run(host, call, host.core.destroy(call))
            except asyncio.CancelledError:
                if not host.core.status.closed:  # its turn had not come
                    await to_its_end(partial(_end, host, owner))
                raise
    finally:
        if goes_on:
            host.step(host.core.close)


async def _end(host: Host, owner: object) -> None:
    with host.quietly():
        call = host.call(owner, Kind.END)
        await run(host, call, host.core.destroy(call))


async def _end_quietly(host: Host, owner: object) -> None:
    with host.quietly():
        await destroy(host, owner)


async def drive(
    steps: Generator[Any, Any, T],
    perform: Callable[[Any], Coroutine[Any, Any, Any]],
    mutex: threading.RLock,
    clock: Clock,
) -> T:
    """As `microlock.engine.drive.drive`, on the running loop.

    A cancellation goes to the call like any interrupt. What the call asks for after that undoes
    what was begun: no further cancellation ends it, only its own time does.
    """
    resume: Callable[[Any], Any] = steps.send
    reply: Any = None
    cancelled = False
    try:
        while True:
            try:
                with mutex:
                    request = resume(reply)
                resume, reply = steps.send, None
                if request is NOW:
                    reply = clock.now()
                elif cancelled:
                    reply = await to_its_end(partial(perform, request))
                else:
                    reply = await perform(request)
            except StopIteration as decided:
                result: T = decided.value
                return result
            except GeneratorExit:
                raise
            except BaseException as error:
                if getgeneratorstate(steps) != GEN_CLOSED:
                    resume, reply = steps.throw, error
                    cancelled = cancelled or not isinstance(error, Exception)
                elif isinstance(error, MicrolockError):
                    raise bare(error) from error.__cause__
                else:
                    raise
    finally:
        del reply  # an error would keep itself by its traceback, and with it the lock


class TaskLoss(Loss):
    """In the manner of `asyncio.Event`."""

    async def wait(self, timeout: float | None = None) -> bool:
        """Waits until the hold ends, `timeout` seconds at most.

        Returns whether it was lost: False also when it was given back. The deadline counts by
        itself, also when nobody is there to notice it.
        """
        end = None if timeout is None else self._clock.now() + timeout
        while ahead := self._ahead(end):
            await wait(*ahead, self._clock)
        return self.is_set()
