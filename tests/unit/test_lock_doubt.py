"""What a lock says of itself after a flow left a doubt; on a simulated etcd."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from faults import Caller, End, Fate, NoAnswer, Refusal, Slow
from simulated import Client
from store import Store

from microlock import Microlock, State
from microlock.core.port import KeepAlive, Read, Revoke, Txn
from microlock.errors import (
    DestroyedError,
    LockLostError,
    LockUncertainError,
    StorePermissionError,
    StoreTimeoutError,
)


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
    client.faults[KeepAlive] = Slow(back=5)
    with pytest.raises(LockLostError):
        foo.renew()


def test_a_try_without_an_answer_does_not_forget_an_expired_hold(foo, client, store):
    foo.lock()
    store.pass_time(4.955)  # past our deadline, not yet past etcd's
    assert not foo.held
    client.faults[Read] = NoAnswer(Fate.NEVER)
    with pytest.raises(StoreTimeoutError):
        foo.lock()
    client.faults.clear()
    store.latency = 0.001
    assert foo.lock().token > 2  # and not refused by its own entry


class Look:
    """Answers in good order, and notes what the lock says of itself meanwhile."""

    def __init__(self, foo: Microlock) -> None:
        self.foo = foo
        self.seen: list[Any] = []

    def meet(self, request: Any, caller: Caller) -> Any:
        self.seen.append((self.foo.held, self.foo.token, self.foo.state))
        return caller.store.ask(request)


def test_nothing_is_held_while_it_is_given_back(foo, client):
    foo.lock()
    look = client.faults[Txn] = Look(foo)
    foo.unlock()
    assert look.seen == [(False, None, State.RELEASED)]


def test_a_hold_that_etcd_refuses_to_give_back_is_held_again(foo, client):
    foo.lock()
    client.faults[Txn] = Refusal(StorePermissionError)
    with pytest.raises(StorePermissionError):
        foo.unlock()
    assert foo.held


def test_an_interrupted_extension_raises_the_interrupt_also_past_the_deadline(foo, client, store):
    foo.lock()

    class InterruptLate:
        def meet(self, request: Any, caller: Caller) -> Any:
            store.pass_time(6)
            raise KeyboardInterrupt

    client.faults[Txn] = InterruptLate()
    with pytest.raises(KeyboardInterrupt):
        foo.extend(9)


def test_a_client_that_is_closed_in_a_try_leaves_no_plain_failure(foo, client):
    foo.lock()
    foo.unlock()  # leaves a lease for the next try
    client.faults[Txn] = client.faults[Revoke] = Refusal(DestroyedError)
    with pytest.raises(LockUncertainError):
        foo.lock()


@pytest.mark.parametrize("ttl", [2, 30])
def test_held_is_not_true_for_longer_than_the_entry_is_there_while_an_extension_is_answered(
    foo, client, store, ttl
):
    foo.lock()
    seen = []

    class SlowBack:
        def meet(self, request, caller):
            reply = caller.ask(request)
            for _ in range(6):
                store.pass_time(1)
                seen.append((foo.held, bool(store.entries())))
            return reply

    client.faults[Txn] = SlowBack()
    with suppress(LockLostError):
        foo.extend(ttl)
    assert (True, True) in seen
    assert (True, False) not in seen
