"""Drives a call on the caller's thread, and coroutines that block instead of suspending."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Generator
from inspect import GEN_CLOSED, getgeneratorstate
from threading import RLock
from typing import Any, ParamSpec, TypeVar

from microlock.core.retry import NOW
from microlock.engine.clock import Clock
from microlock.errors import MicrolockError

P = ParamSpec("P")
T = TypeVar("T")


def drive(
    steps: Generator[Any, Any, T], perform: Callable[[Any], Any], mutex: RLock, clock: Clock
) -> T:
    """Performs the requests of a call until it ends. Returns its result or raises its error.

    The steps of the call run under the mutex, and its requests without it. An interrupt is thrown
    into the call, which cleans up and raises it again.
    """
    resume: Callable[[Any], Any] = steps.send
    reply: Any = None
    before = sys.exc_info()[1]
    try:
        while True:
            try:
                while True:  # in the `try`: Python handles signals where a loop begins again
                    with mutex:
                        request = resume(reply)
                        resume, reply = steps.send, None
                        while request is NOW:
                            request = steps.send(clock.now())
                    reply = perform(request)
            except StopIteration as decided:
                result: T = decided.value
                return result
            except BaseException as error:
                if getgeneratorstate(steps) != GEN_CLOSED:
                    resume, reply = steps.throw, error
                elif isinstance(error, MicrolockError):
                    raise bare(error, before) from error.__cause__
                else:
                    raise
    finally:
        clock.leave()
        # Otherwise an error would keep itself alive by its traceback, and with it the lock.
        del reply, before


def finished(act: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs a coroutine function whose awaits block. Returns its result or raises its error."""
    try:
        # On one line: a coroutine that does not begin because of an interrupt gives a warning.
        act(*args, **kwargs).send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise RuntimeError(f"{act!r} suspended on a thread; it must block instead")


def bare(error: MicrolockError, before: BaseException | None) -> MicrolockError:
    """Removes the tracebacks of the error and of its causes.

    They show the steps of the call, which say no more than the message, and keep the lock alive.

    `before`: the user's exception that was handled when the call began; it stays as it is.
    """
    each: BaseException | None = error
    while isinstance(each, MicrolockError) and each is not before and each.__traceback__:
        each.__traceback__ = None
        if each.__cause__:
            each.__context__ = None  # not shown; see `StoreError.about`
        each = each.__cause__ or each.__context__
    return error
