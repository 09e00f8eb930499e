"""Driving a flow on the caller's thread."""

from __future__ import annotations

from functools import partial
from typing import TypeVar

from microlock.etcd.client import Budget, EtcdClient
from microlock.flows import Flow

T = TypeVar("T")


def run(client: EtcdClient, flow: Flow[T], budget: Budget) -> T:
    """Does what the flow asks for until it has decided, and returns or raises what it has.

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
            reply = client.perform(request, budget)
        except BaseException as error:  # noqa: BLE001  it goes on to the flow
            resume = partial(flow.throw, error)
        else:
            resume = partial(flow.send, reply)
