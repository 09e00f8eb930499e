"""Driving a flow on the caller's thread."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from microlock.flows import Flow

T = TypeVar("T")


def run(flow: Flow[T], perform: Callable[[Any], Any]) -> T:
    """Has all performed that the flow asks for until it has decided; returns or raises that.

    An interrupt while etcd is asked goes to the flow too, which cleans up and raises it again.
    """
    resume = partial(next, flow)
    while True:
        try:
            request = resume()
        except StopIteration as decided:
            result: T = decided.value
            return result
        try:
            reply = perform(request)
        except BaseException as error:  # noqa: BLE001  it goes on to the flow
            resume = partial(flow.throw, error)
        else:
            resume = partial(flow.send, reply)
