"""What the tests of managers share: locks to be destroyed at the end, and what etcd is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from microlock import EtcdClient, Holder, Microlock
from microlock.core.port import Read, Request

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
    perform = etcd.perform

    def noting(request: Request, budget: Any) -> Any:
        requests.append(request)
        return perform(request, budget)

    monkeypatch.setattr(etcd, "perform", noting)
    return requests


def tries(asked: Iterable[Request]) -> int:
    """How many tries at a lock that is held are among these."""
    return sum(isinstance(request, Read) and request.limit > 0 for request in asked)


def standing(lock: Microlock) -> Holder:
    """The place by which this lock is held, as its object knows it."""
    assert lock.hold
    return Holder(lock.node_id, lock.hold.token, lock.hold.lease_id)
