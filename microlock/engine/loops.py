"""Drives the calls of a lock on an asyncio loop. Nothing here blocks the loop."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from inspect import GEN_CLOSED, getgeneratorstate
from typing import Any, TypeVar

from microlock.core.call import Call, Kind, Park, Steps
from microlock.core.port import Revoke
from microlock.core.retry import NOW, Budget
from microlock.engine.awaiting import to_its_end, wait
from microlock.engine.client import Client
from microlock.engine.clock import Clock
from microlock.engine.drive import bare
from microlock.engine.host import Host
from microlock.engine.loop_client import Loops
from microlock.engine.loss import Loss
from microlock.engine.reentrant_event import ReentrantEvent
from microlock.errors import MicrolockError

T = TypeVar("T")


async def run(host: Host, call: Call, steps: Steps[T]) -> T:
    """Runs a call of a lock to its end: as `Host.run`, on the running loop."""
    client = host.client.one(Loops).here()
    # Takes no mutex: it may be called in a garbage collection.
    dropped = partial(host.timer.post, partial(host.orphaned, call, steps))

    def perform(request: Any) -> Coroutine[Any, Any, Any]:
        if isinstance(request, Park):
            host.sync()
            host.client.check()
            assert isinstance(request.on, ReentrantEvent)
            return wait(request.on, request.until, host.clock, dropped)
        asking = client.perform(request, call.budget(request, host.clock.now()))
        return _tried(call, request, asking) if isinstance(request, Revoke) else asking

    goes_on = True
    client.calls[dropped] = None
    try:
        return await drive(steps, perform, host.mutex, host.clock)
    except GeneratorExit:  # the task is gone, and this may run in a garbage collection
        goes_on = False
        dropped()
        raise
    finally:
        client.calls.pop(dropped, None)
        if goes_on:
            host.step(host.core.over, call)


async def _tried(call: Call, request: Revoke, asking: Coroutine[Any, Any, Any]) -> Any:
    try:
        reply = await asking
    except MicrolockError as error:
        call.tried(request, error)
        raise
    call.tried(request)
    return reply


async def look(client: Client, steps: Steps[T]) -> T:
    """Runs a call that needs no turn, since it does not concern an object."""
    clock, here = client.clock, client.one(Loops).here()
    budget = Budget.of(clock.now(), client.timeout)
    mutex = threading.RLock()
    return await drive(steps, lambda request: here.perform(request, budget), mutex, clock)


async def destroy(host: Host, owner: object) -> None:
    """Ends everything: as `Host.destroy`."""
    call, goes_on = host.call(owner, Kind.END), True
    try:
        goes_on = host.step(host.core.begin_to_end, owner)
        host.client.check()
        if goes_on:
            try:
                await run(host, call, host.core.destroy(call))
            except asyncio.CancelledError:
                if not host.core.status.closed:  # its turn has not come
                    await to_its_end(partial(_end, host, owner))
                raise
    except GeneratorExit:  # as in `run`, where `dropped` finishes it
        goes_on = False
        raise
    finally:
        if goes_on:
            host.step(host.core.close)


async def _end(host: Host, owner: object) -> None:
    with host.quietly():
        call = host.call(owner, Kind.END)
        await run(host, call, host.core.destroy(call))


async def drive(
    steps: Generator[Any, Any, T],
    perform: Callable[[Any], Coroutine[Any, Any, Any]],
    mutex: threading.RLock,
    clock: Clock,
) -> T:
    """As `microlock.engine.drive.drive`, on the running loop.

    A cancellation is thrown into the call like any interrupt. The call's requests after that undo
    what it began: a second cancellation does not end them, only their deadline does.
    """
    resume: Callable[[Any], Any] = steps.send
    reply: Any = None
    cancelled = False
    before = sys.exc_info()[1]
    try:
        while True:
            try:
                with mutex:
                    request = resume(reply)
                    resume, reply = steps.send, None
                    while request is NOW:
                        request = steps.send(clock.now())
                if cancelled:
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
                    raise bare(error, before) from error.__cause__
                else:
                    raise
    finally:
        del reply, before  # as in `microlock.engine.drive.drive`


class TaskLoss(Loss):
    """The loss of a hold, as an `asyncio.Event` that is set at the loss."""

    async def wait(self, timeout: float | None = None) -> bool:
        """Waits until the hold ends, at most `timeout` seconds.

        Returns True if the hold was lost, False if it was given back or the time is over. It
        notices the deadline by itself, also without renewal.
        """
        end = None if timeout is None else self._clock.now() + timeout
        while ahead := self._ahead(end):
            await wait(*ahead, self._clock)
        return self.is_set()
