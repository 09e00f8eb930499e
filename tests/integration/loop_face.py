"""The asyncio face, shown as the blocking one, so that one suite states the claims of both.

One loop runs on a thread of its own. Each thread that calls has one task on that loop, which makes
all of its calls: what a lock knows of the calling thread in one face, it knows of that task in the
other.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any
from weakref import finalize

import microlock.asyncio
from microlock import events
from microlock.asyncio.lock import Lock
from microlock.engine.loops import TaskLoss

_NAME = "loop of the tests"  # its thread
_DEADLINE = 20.0


class _Desk:
    """Where a thread leaves its calls, and one task makes them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._jobs: asyncio.Queue[Callable[[], Any] | None] = asyncio.Queue()

    def do(self, act: Callable[[], Any]) -> Any:
        """What it returns, or what comes of that if it is to be awaited."""
        done: Future[Any] = Future()

        async def job() -> None:
            try:
                result = act()
                done.set_result(await result if inspect.isawaitable(result) else result)
            except BaseException as error:  # for the thread that waits
                done.set_exception(error)
                if isinstance(error, asyncio.CancelledError):  # the loop ends
                    raise

        self._put(job)
        return done.result()

    def end(self) -> None:
        self._put(None)

    def _put(self, job: Callable[[], Any] | None) -> None:
        self._loop.call_soon_threadsafe(self._jobs.put_nowait, job)

    async def serve(self) -> None:
        while job := await self._jobs.get():
            await job()
            del job  # or the task would keep its lock until the next one comes


_here = threading.local()  # `desk`: of this thread
_loop: asyncio.AbstractEventLoop | None = None


@contextmanager
def running() -> Iterator[None]:
    """The loop is there in the block; nothing fails on it that nobody is told of."""
    global _loop
    begun, ended, unheard = threading.Event(), asyncio.Event(), list[dict[str, Any]]()

    async def main() -> None:
        global _loop
        _loop = asyncio.get_running_loop()
        _loop.set_exception_handler(lambda _, told: unheard.append(told))
        begun.set()
        await ended.wait()

    thread = threading.Thread(target=lambda: asyncio.run(main()), name=_NAME, daemon=True)
    thread.start()
    assert begun.wait(_DEADLINE)
    assert _loop
    try:
        yield
    finally:
        _loop.call_soon_threadsafe(ended.set)
        thread.join(_DEADLINE)
        _loop = None
        assert not thread.is_alive()
        assert not unheard, unheard


def _do(act: Callable[[], Any]) -> Any:
    """Does it in the task of this thread."""
    desk: _Desk | None = getattr(_here, "desk", None)
    if desk is None:
        assert _loop, "it is there in a block of `running()`"
        assert threading.current_thread().name != _NAME, "the loop can't wait for itself"
        desk = _here.desk = _Desk(_loop)
        asyncio.run_coroutine_threadsafe(desk.serve(), _loop)
        finalize(threading.current_thread(), _end, _loop, desk)
    return desk.do(act)


def _end(loop: asyncio.AbstractEventLoop, desk: _Desk) -> None:
    if not loop.is_closed():
        desk.end()


async def _aside(act: Callable[[], Any]) -> Any:
    """Does it on a thread of its own, whose calls are made by the task that waits for it here."""
    desk, done = _Desk(asyncio.get_running_loop()), Future[Any]()

    def work() -> None:
        _here.desk = desk
        try:
            done.set_result(act())
        except BaseException as error:  # noqa: BLE001  for the task that waits
            done.set_exception(error)
        finally:
            desk.end()

    threading.Thread(target=work, name="aside", daemon=True).start()
    await desk.serve()
    return done.result()


def _coroutine_function(blocking: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(blocking)
    async def call(*args: Any, **kwargs: Any) -> Any:
        return await _aside(partial(blocking, *args, **kwargs))

    return call


class _Blocking:
    """Something of the asyncio face: it is looked at and called in the task of the thread."""

    def __init__(self, shown: Any) -> None:
        self._shown = shown

    def __repr__(self) -> str:
        return repr(self._shown)

    def __getattr__(self, name: str) -> Any:
        value = _do(partial(getattr, self._shown, name))
        if not callable(value):
            return _show(value)

        @wraps(value)
        def call(*args: Any, **kwargs: Any) -> Any:
            return _show(_do(partial(value, *args, **kwargs)))

        return call


class TaskLock(_Blocking):
    """A lock of `microlock.asyncio`, of any kind."""

    def __init__(self, lock: Lock) -> None:
        super().__init__(lock)
        self._handlers: dict[Callable[..., Any], Callable[..., Any]] = {}

    def __enter__(self) -> TaskLock:
        _do(self._shown.__aenter__)
        return self

    def __exit__(self, *error: Any) -> None:
        _do(partial(self._shown.__aexit__, *error))

    def __call__(self, func: Callable[..., Any]) -> Callable[..., Any]:
        decorated = self._shown(_coroutine_function(func))

        @wraps(func)
        def call(*args: Any, **kwargs: Any) -> Any:
            return _do(partial(decorated, *args, **kwargs))

        return call

    def on(self, event: str, f: Callable[..., Any] | None = None) -> Callable[..., Any]:
        return self._listen("on", event, f)

    def once(self, event: str, f: Callable[..., Any] | None = None) -> Callable[..., Any]:
        return self._listen("once", event, f)

    def remove_listener(self, event: str, f: Callable[..., Any]) -> None:
        _do(partial(self._shown.remove_listener, event, self._handlers[f]))

    def _listen(self, how: str, event: str, f: Callable[..., Any] | None) -> Callable[..., Any]:
        if f is None:
            return partial(self._listen, how, event)
        handler = self._handlers.setdefault(f, _coroutine_function(f))
        _do(partial(getattr(self._shown, how), event, handler))
        if event in events.OF_THE_KEY:
            _do(self._shown.listening)  # as the blocking `on` does
        return f


def _show(value: Any) -> Any:
    if isinstance(value, Lock):
        return TaskLock(value)
    return _Blocking(value) if isinstance(value, TaskLoss) else value


def lock(*args: Any, kind: str = "Microlock", **kwargs: Any) -> Any:
    """As `microlock.Microlock`, or another kind."""
    return TaskLock(getattr(microlock.asyncio, kind)(*args, **kwargs))


def manager(*args: Any, **kwargs: Any) -> Any:
    """As `microlock.LockManager`."""
    return _Blocking(microlock.asyncio.LockManager(*args, **kwargs))
