"""What the tests of managers share: locks to be destroyed at the end, and what etcd is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from microlock import EtcdClient, Holder, LockStatus, Microlock
from microlock.core.port import Read, Request
from microlock.engine.loop_client import LoopClient

Keep = Callable[[Microlock], Microlock]


@contextmanager
def kept() -> Iterator[Keep]:
    """Destroys these locks at the end: `foo = keep(jobs.lock("foo"))`."""
    locks: list[Microlock] = []

    def keep(lock: Microlock) -> Microlock:
        locks.append(lock)
        return lock

    yield keep
    for lock in locks:
        lock.destroy()


def noted(etcd: EtcdClient, monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """What is asked of etcd over this client from now on."""
    requests: list[Request] = []
    before_each(etcd, monkeypatch, requests.append)
    return requests


def before_each(
    etcd: EtcdClient, monkeypatch: pytest.MonkeyPatch, act: Callable[[Request], object]
) -> None:
    """Does this before each request over this client, of threads and of tasks."""
    perform, perform_on_loop = etcd.perform, LoopClient.perform

    def after_it(request: Request, budget: Any) -> Any:
        act(request)
        return perform(request, budget)

    async def after_it_on_loop(client: LoopClient, request: Request, budget: Any) -> Any:
        if client._client is etcd:
            await asyncio.to_thread(act, request)
        return await perform_on_loop(client, request, budget)

    monkeypatch.setattr(etcd, "perform", after_it)
    monkeypatch.setattr(LoopClient, "perform", after_it_on_loop)


def tries(asked: Iterable[Request]) -> int:
    """How many tries at a lock that is held are among these."""
    return sum(isinstance(request, Read) and request.limit > 0 for request in asked)


def standing(lock: Microlock) -> Holder:
    """The place by which this lock is held, as its object knows it."""
    assert lock.hold
    return Holder(lock.node_id, lock.hold.token, lock.hold.lease_id)


def queue(name: str, holder: Microlock) -> LockStatus:
    """A lock that is held by this object, and nobody waits for it."""
    return LockStatus(name, "queue", (standing(holder),), ())
