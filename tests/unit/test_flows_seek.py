"""The hold of somebody else, found by its token: to be extended, or ended, from elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
from faults import Caller, End, Fate, NoAnswer, Refusal
from shared_etcd import FOO, Store

from microlock.core import flows
from microlock.core.keys import Names
from microlock.core.place import Place
from microlock.core.port import Read, Revoke
from microlock.core.queue import Holder
from microlock.errors import StorePermissionError, StoreTimeoutError

GAMMA = Names.of("foo", "gamma")


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def beta(store: Store) -> bytes:
    """The entry of another, who holds the lock."""
    return store.enter("beta")


def seek(store: Store, token: int) -> Any:
    """What somebody finds who looks for the hold with this token."""
    return Caller(store).run(flows.seek(GAMMA, token, now=store.now))


def extended(store: Store, entry: bytes) -> Any:
    """The hold of this entry, extended by somebody else."""
    names, place = seek(store, store.keys[entry].create_revision)
    flow = flows.extend(names, place, 30, lease_ids=store.lease_ids)
    left, _ = Caller(store).run(flow)
    return left


def remove(store: Store, entry: bytes, token: int, *faults: Any) -> bool:
    caller = Caller(store, dict(enumerate(faults)))
    return caller.run(flows.remove(entry, token))


# Found.


def test_a_hold_is_found_by_its_token(store, beta):
    _, place = seek(store, store.keys[beta].create_revision)
    assert (place.entry, place.token) == (beta, store.keys[beta].create_revision)


def test_a_hold_is_found_under_the_name_of_who_took_it(store, beta):
    names, _ = seek(store, store.keys[beta].create_revision)
    assert (names.value, names.prefix) == (b"beta", FOO.prefix)


def test_a_hold_that_was_found_counts_for_nothing_until_it_is_renewed(store, beta):
    _, place = seek(store, store.keys[beta].create_revision)
    assert place.deadline <= store.now


@pytest.mark.parametrize("token", [1, 99])
def test_another_token_finds_who_holds(store, beta, token):
    assert seek(store, token) == Holder("beta", 2, store.keys[beta].lease_id)


def test_the_token_of_one_who_waits_finds_who_holds(store, beta):
    waits = store.enter("delta")
    assert seek(store, store.keys[waits].create_revision).node_id == "beta"


def test_nobody_is_found_where_the_lock_is_free(store):
    store.enter("beta", key="foo/bar")
    assert seek(store, 2) is None


def test_a_look_for_a_hold_only_reads(store, beta):
    caller = Caller(store)
    caller.run(flows.seek(GAMMA, 2, now=store.now))
    assert caller.requests == [Read(FOO.prefix)]


# Extended.


def test_a_hold_that_was_found_is_extended_in_its_place(store, beta):
    token = store.keys[beta].create_revision
    left = extended(store, beta)
    assert (left.token, left.lease.ttl) == (token, 30)


def test_a_hold_that_was_found_keeps_the_name_of_who_took_it(store, beta):
    extended(store, beta)
    assert store.keys[beta].value == b"beta"


def test_the_lease_of_a_hold_may_serve_other_locks_and_is_left(store):
    entry = store.enter("")
    old = store.keys[entry].lease_id
    store.put(b"other/f00", b"", old)
    assert isinstance(extended(store, entry), Place)
    assert store.keys[b"other/f00"].lease_id == old


# Ended.


def test_a_hold_is_ended_by_its_entry_and_its_token(store, beta):
    assert remove(store, beta, 2)
    assert beta not in store.keys


def test_the_lease_of_a_hold_that_was_ended_is_left(store, beta):
    lease_id = store.keys[beta].lease_id
    remove(store, beta, 2)
    assert lease_id in store.leases


def test_a_later_hold_of_the_same_name_is_left_alone(store, beta):
    lease_id = store.keys[beta].lease_id
    store.remove(beta)
    store.put(beta, b"beta", lease_id)
    assert not remove(store, beta, 2)
    assert beta in store.keys


def test_a_hold_that_has_ended_is_not_ended_again(store, beta):
    store.apply(Revoke(store.keys[beta].lease_id))
    assert not remove(store, beta, 2)


@pytest.mark.parametrize("fate", Fate)
def test_a_removal_that_had_to_be_repeated_is_one(store, beta, fate):
    assert remove(store, beta, 2, NoAnswer(fate, End.REPEAT))


def test_a_removal_without_an_answer_may_have_happened(store, beta):
    with pytest.raises(StoreTimeoutError) as raised:
        remove(store, beta, 2, NoAnswer(Fate.APPLIED))
    assert raised.value.may_have_happened


def test_a_removal_that_etcd_refuses_has_not_happened(store, beta):
    with pytest.raises(StorePermissionError) as raised:
        remove(store, beta, 2, Refusal(StorePermissionError))
    assert not raised.value.may_have_happened
