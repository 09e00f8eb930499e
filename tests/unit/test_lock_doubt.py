"""What a lock says of itself after a flow left a doubt; on a simulated etcd."""

from __future__ import annotations

from typing import Any

import pytest
from faults import Caller, End, Fate, NoAnswer, Slow
from store import Store

from microlock import Microlock, clock
from microlock.errors import EtcdTimeoutError, LockLostError, LockUncertainError
from microlock.etcd.client import EtcdClient
from microlock.requests import Beside, Read, Revoke, Txn


class Client(EtcdClient):
    """One whose requests are answered by a store, or meet the faults of their type."""

    def __init__(self, store: Store) -> None:
        super().__init__([], timeout=5)
        self.faults: dict[Any, Any] = {}
        self.caller = Caller(store, self.faults)

    def perform(self, request: Any, budget: Any) -> Any:
        return self.caller.perform(request)


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


def lose_in_doubt(foo: Microlock, client: Client, store: Store) -> None:
    """The entry is deleted, its put may come again, and its lease can't be revoked."""
    client.faults[Txn] = NoAnswer(Fate.LATE, End.REPEAT)
    foo.lock()
    store.remove(store.entries()[0].name)
    client.faults[Revoke] = NoAnswer(Fate.NEVER)


def test_a_renewal_that_ends_uncertain_leaves_nothing_held(foo, client, store):
    lose_in_doubt(foo, client, store)
    with pytest.raises(LockUncertainError):
        foo.renew()
    assert not foo.held


def test_an_extension_that_ends_uncertain_leaves_nothing_held(foo, client, store):
    lose_in_doubt(foo, client, store)
    with pytest.raises(LockUncertainError):
        foo.extend(9)
    assert not foo.held


def test_a_renewal_that_comes_too_late_is_a_loss_and_not_zero_seconds(foo, client):
    foo.lock()
    client.faults[Beside] = Slow(back=5)
    with pytest.raises(LockLostError):
        foo.renew()


def test_a_try_without_an_answer_does_not_forget_an_expired_hold(foo, client, store):
    foo.lock()
    store.pass_time(4.955)  # past our deadline, not yet past etcd's
    assert not foo.held
    client.faults[Read] = NoAnswer(Fate.NEVER)
    with pytest.raises(EtcdTimeoutError):
        foo.lock()
    client.faults.clear()
    store.latency = 0.001
    assert foo.lock().token > 2  # and not refused by its own entry
