"""What is done with locks from elsewhere, by their names and tokens alone."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from faults import Caller, Fate, NoAnswer
from shared_etcd import Store

from microlock.core import elsewhere
from microlock.core.keys import Names
from microlock.core.port import Grant, Move, Read, Revoke
from microlock.core.queue import Holder, LockStatus
from microlock.core.retry import NOW
from microlock.errors import LockLostError, LockNotOwnedError, LossReason, StoreTimeoutError

ADMIN = Names.of("foo", "admin")


@pytest.fixture
def caller(store: Store) -> Caller:
    return Caller(store)


def run(caller: Caller, steps: Generator[Any, Any, Any]) -> Any:
    """Makes a call to its end."""
    perform = caller.perform
    caller.perform = lambda asked: caller.store.now if asked is NOW else perform(asked)
    return caller.run(steps)


@pytest.fixture
def beta(store: Store) -> Holder:
    return Holder.of(store.keys[store.enter("beta")])


def test_places_are_who_holds_a_lock_and_who_waits_in_order(caller, store, beta):
    gamma = Holder.of(store.keys[store.enter("gamma")])
    assert run(caller, elsewhere.places(ADMIN)) == ([beta], [gamma])


def test_a_free_lock_has_no_places(caller):
    assert run(caller, elsewhere.places(ADMIN)) == ([], [])


def test_locks_are_told_by_their_names_after_the_prefix(caller, store):
    names = ["app/deep/er", "app/one", "app/two", "other"]
    made = [Holder.of(store.keys[store.enter("beta", name)]) for name in names]
    app = [
        LockStatus(name.removeprefix("app/"), "queue", (holder,), ())
        for name, holder in zip(names[:3], made, strict=False)
    ]
    assert run(caller, elsewhere.locks(b"app/")) == app
    assert [each.name for each in run(caller, elsewhere.locks(b""))] == names


def names(caller: Caller, prefix: bytes) -> list[str]:
    return [each.name for each in run(caller, elsewhere.locks(prefix))]


def test_the_lock_that_is_called_as_the_prefix_is_not_below_it(caller, store):
    store.enter("beta", "app")
    store.enter("beta", "apple")
    assert names(caller, b"app") == ["le"]


def test_a_lock_with_a_strange_name_is_told_too(caller, store):
    name = store.enter("beta", "app")
    kv = store.keys[name]
    strange = b"\xff/" + name.rpartition(b"/")[2]
    store.change((name, None, 0), (strange, kv.value, kv.lease_id))
    assert names(caller, b"") == ["\\xff"]


def test_a_lease_has_the_time_left_that_the_store_says(caller, store, beta):
    store.pass_time(20)
    assert run(caller, elsewhere.remaining(beta.lease_id)) == 39


def test_a_lease_that_has_ended_has_none(caller, store, beta):
    store.pass_time(60)
    assert run(caller, elsewhere.remaining(beta.lease_id)) == 0.0


# By its token.


def test_a_hold_is_given_back_by_its_token(foo, hold, caller, store):
    run(caller, elsewhere.release([ADMIN], hold.token))
    assert foo.entries == []


def test_a_hold_that_is_given_back_elsewhere_leaves_its_lease_to_its_maker(foo, hold, caller):
    run(caller, elsewhere.release([ADMIN], hold.token))
    assert foo.store.ours() == [hold.place.lease.id]


def test_what_another_holds_is_not_given_back(caller, store, beta):
    with pytest.raises(LockNotOwnedError, match="no hold has token 999") as raised:
        run(caller, elsewhere.release([ADMIN], 999))
    assert raised.value.holder == beta


def test_what_nobody_holds_is_not_given_back(caller):
    with pytest.raises(LockNotOwnedError) as raised:
        run(caller, elsewhere.release([ADMIN], 7))
    assert raised.value.holder is None


class Ends:
    """The hold ends just after it was found."""

    def meet(self, request: Any, caller: Caller) -> Any:
        reply = caller.ask(request)
        for kv in caller.store.entries():
            caller.store.delete(kv.name)
        return reply


@pytest.mark.parametrize("act", ["release", "extend"])
def test_what_ends_meanwhile_is_not_owned(foo, hold, store, act):
    caller = Caller(store, {Read: Ends()})
    steps = (
        elsewhere.release([ADMIN], hold.token)
        if act == "release"
        else elsewhere.extend([ADMIN], hold.token, 30, lease_ids=store.lease_ids)
    )
    with pytest.raises(LockNotOwnedError):
        run(caller, steps)


def test_a_hold_is_extended_by_its_token_for_whoever_has_it(foo, hold, caller, store):
    left = run(caller, elsewhere.extend([ADMIN], hold.token, 30, lease_ids=store.lease_ids))
    assert left > 29
    (entry,) = store.entries(b"alpha")
    assert entry.create_revision == hold.token
    assert store.ours() == [entry.lease_id]


def test_an_extension_leaves_the_lease_of_a_client_without_a_name(caller, store):
    """It may serve other locks too, as Go's sessions do."""
    kv = store.keys[store.enter("")]
    run(caller, elsewhere.extend([ADMIN], kv.create_revision, 30, lease_ids=store.lease_ids))
    assert kv.lease_id in store.leases


def test_an_extension_leaves_what_else_lives_by_the_lease(foo, hold, caller, store):
    """An object of Go's Election proclaims values, and its session may serve other locks."""
    lease_id = hold.place.lease.id
    other = b"bar/%x" % lease_id
    store.put(other, b"alpha", lease_id)
    run(caller, elsewhere.extend([ADMIN], hold.token, 30, lease_ids=store.lease_ids))
    assert store.keys[other].lease_id == lease_id
    assert store.keys[hold.place.entry].lease_id != lease_id


def test_data_beside_a_hold_ends_with_its_lease(foo, hold, caller, store):
    """Else the object that took it would renew the lease, and count on the hold."""
    store.put(b"data", b"", hold.place.lease.id)
    run(caller, elsewhere.extend([ADMIN], hold.token, 30, lease_ids=store.lease_ids))
    assert b"data" not in store.keys


def test_a_hold_of_several_keys_is_extended_as_a_whole(caller, store):
    first = next(store.lease_ids)
    store.apply(Grant(first, 60))
    names = b"bar/1", b"foo/1"
    store.change(*((name, b"alpha", first) for name in names))
    token = store.revision
    run(caller, elsewhere.extend([ADMIN], token, 30, lease_ids=store.lease_ids))
    assert {store.keys[name].create_revision for name in names} == {token}
    (lease_id,) = {store.keys[name].lease_id for name in names}
    assert [*store.leases] == [lease_id]
    assert lease_id != first


def test_an_extension_in_doubt_raises_the_doubt(foo, hold, store):
    caller = Caller(store, {Move: NoAnswer(Fate.APPLIED)})
    with pytest.raises(StoreTimeoutError) as raised:
        run(caller, elsewhere.extend([ADMIN], hold.token, 30, lease_ids=store.lease_ids))
    assert raised.value.may_have_happened


class Slow:
    def meet(self, request: Any, caller: Caller) -> Any:
        caller.store.pass_time(60)
        return caller.ask(request)


def test_an_extension_that_is_over_before_it_returns_is_lost(foo, hold, store):
    caller = Caller(store, {Revoke: Slow()})
    with pytest.raises(LockLostError, match="the ttl of 30 s passed") as raised:
        run(caller, elsewhere.extend([ADMIN], hold.token, 30, lease_ids=store.lease_ids))
    assert raised.value.reason is LossReason.EXPIRED


# Breaking it.


def test_a_lock_is_broken_whosever_it_is(caller, store, beta):
    assert run(caller, elsewhere.break_lock([ADMIN])) == beta
    assert store.keys == {}


def test_breaking_a_lock_lets_the_next_have_it(foo, hold, caller, store):
    store.enter("gamma")
    run(caller, elsewhere.break_lock([ADMIN]))
    assert run(caller, elsewhere.places(ADMIN))[0][0].node_id == "gamma"


def test_a_free_lock_is_not_broken(caller):
    assert run(caller, elsewhere.break_lock([ADMIN])) is None


def test_a_lock_that_became_free_meanwhile_is_not_broken(foo, hold, store):
    assert run(Caller(store, {Read: Ends()}), elsewhere.break_lock([ADMIN])) is None


def test_the_maker_of_a_broken_hold_learns_of_it(foo, hold, caller, store):
    foo.pass_time(1)
    run(caller, elsewhere.break_lock([ADMIN]))
    foo.hear()
    assert foo.status.reason(hold, store.now) is LossReason.DELETED
