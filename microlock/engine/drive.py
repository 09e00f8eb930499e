"""Driving a flow on the caller's thread."""

from __future__ import annotations

from collections.abc import Callable
from inspect import GEN_CLOSED, getgeneratorstate
from typing import Any, TypeVar

from microlock.core.flows import Flow

T = TypeVar("T")


def run(flow: Flow[T], perform: Callable[[Any], Any]) -> T:
    """Has all performed that the flow asks for until it has decided; returns or raises that.

    An interrupt goes to the flow too, which cleans up and raises it again.
    """
    resume: Callable[[Any], Any] = flow.send
    reply: Any = None
    while True:
        try:
            while True:  # in the `try`: Python looks for signals where a loop begins again
                reply = perform(resume(reply))
                resume = flow.send
        except StopIteration as decided:
            result: T = decided.value
            return result
        except BaseException as error:
            if getgeneratorstate(flow) == GEN_CLOSED:  # it has ended with this
                raise
            resume, reply = flow.throw, error
