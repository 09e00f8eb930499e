"""Driving a call on the caller's thread, and what it asks of a store."""

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
    """Has all performed that a call asks for until it has decided; returns or raises that.

    Its steps run under the mutex, and what they ask for is performed without it. An interrupt goes
    to the call too, which cleans up and raises it again.
    """
    resume: Callable[[Any], Any] = steps.send
    reply: Any = None
    before = sys.exc_info()[1]
    try:
        while True:
            try:
                while True:  # in the `try`: Python looks for signals where a loop begins again
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
        # An error would keep itself by its traceback, and with it the lock.
        del reply, before


def finished(act: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """What this coroutine function returns or raises; all that it awaits blocks instead."""
    try:
        # On one line: a coroutine that an interrupt keeps from beginning warns of that.
        act(*args, **kwargs).send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise RuntimeError(f"{act!r} suspended on a thread; it must block instead")


def bare(error: MicrolockError, before: BaseException | None) -> MicrolockError:
    """The error without the steps of the call, also in what it came from: to a user they say
    nothing that the message does not, and they keep what they were about.

    `before`: what was being handled when the call began, which is the user's.
    """
    each: BaseException | None = error
    while isinstance(each, MicrolockError) and each is not before and each.__traceback__:
        each.__traceback__ = None
        each = each.__cause__ or each.__context__
    return error
