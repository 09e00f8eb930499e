"""A lock on a simulated etcd, by whose clock it goes."""

from __future__ import annotations

import pytest
from simulated import Client
from store import Store

from microlock import Hold, Microlock
from microlock.engine import clock


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    store = Store()
    monkeypatch.setattr(clock, "now", lambda: store.now)
    return store


@pytest.fixture
def client(store: Store) -> Client:
    return Client(store)


@pytest.fixture
def foo(client: Client) -> Microlock:
    return Microlock(client, "foo", "alpha", ttl=5)


@pytest.fixture
def hold(foo: Microlock) -> Hold:
    return foo.lock()
