"""A lock on a simulated etcd, by whose clock it goes."""

from __future__ import annotations

import pytest
from shared_etcd import Store
from walk import Foo

from microlock.core.hold import HoldState


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def foo(store: Store) -> Foo:
    return Foo(store)


@pytest.fixture
def hold(foo: Foo) -> HoldState:
    return foo.lock().result()
