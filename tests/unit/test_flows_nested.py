"""A try for a lock with other locks nested in its name."""

from __future__ import annotations

import pytest
from faults import Caller, End, Fate, NoAnswer, Refusal, Slow
from store import FOO, Store

from microlock.errors import EtcdNoSpaceError, LockUncertainError
from microlock.flows import OLDEST
from microlock.requests import Put, Read, Revoke
from microlock.tenure import Refused, Tenure


@pytest.fixture
def store() -> Store:
    """One with the lock `foo/bar` taken."""
    store = Store()
    store.enter("beta", key="foo/bar")
    return store


def hidden_holder(store: Store) -> None:
    """So many nested names that the holder is not among the oldest keys."""
    for number in range(OLDEST):
        store.enter("beta", key=f"foo/{number}")
    store.enter("gamma")


def test_a_nested_name_does_not_stand_in_the_way(store):
    assert isinstance(Caller(store).try_lock(), Tenure)


def test_a_nested_name_is_left_alone(store):
    before = store.entries(b"beta")
    caller = Caller(store)
    caller.release(caller.try_lock())
    assert store.entries(b"beta") == before


def test_the_token_beside_a_nested_name_is_the_revision_of_the_entry(store):
    tenure = Caller(store).try_lock()
    assert store.entries()[0].create_revision == tenure.token


def test_a_nested_name_does_not_hide_the_holder(store):
    store.enter("gamma")
    assert Caller(store).try_lock().holder.node_id == "gamma"


def test_a_holder_behind_many_nested_names_is_found(store):
    hidden_holder(store)
    assert Caller(store).try_lock().holder.node_id == "gamma"


def test_an_entry_behind_an_older_one_is_withdrawn_with_its_lease(store):
    hidden_holder(store)
    assert isinstance(Caller(store).try_lock(), Refused)
    assert (store.entries(), store.ours()) == ([], [])


def test_a_lease_that_had_to_be_withdrawn_is_not_offered_again(store):
    lease = Caller(store).release(Caller(store).try_lock())
    hidden_holder(store)
    assert Caller(store).try_lock(lease).lease is None


def test_a_withdrawal_that_fails_is_uncertain(store):
    hidden_holder(store)
    with pytest.raises(LockUncertainError):
        Caller(store, {4: NoAnswer(Fate.NEVER)}).try_lock()


def test_put_look_withdraw_is_a_put_with_a_look_and_a_revocation(store):
    hidden_holder(store)
    caller = Caller(store)
    caller.try_lock()
    *_, put, withdraw = caller.requests
    assert put.then == (Put(b"foo/1", FOO.value, 1), Read(FOO.prefix))
    assert withdraw == Revoke(1)


@pytest.mark.parametrize("at", [2, 3])
def test_a_repeated_request_beside_a_nested_name_leaves_a_doubt_on_the_lease(store, at):
    tenure = Caller(store, {at: NoAnswer(Fate.LATE, End.REPEAT)}).try_lock()
    assert tenure.lease.doubtful


def test_a_put_refused_beside_a_nested_name_leaves_nothing(store):
    with pytest.raises(EtcdNoSpaceError) as raised:
        Caller(store, {3: Refusal(EtcdNoSpaceError)}).try_lock()
    assert (store.entries(), store.ours()) == ([], [])
    assert not raised.value.may_have_happened


def test_a_slow_put_beside_a_nested_name_is_renewed_before_it_counts(store):
    tenure = Caller(store, {3: Slow(back=4.95)}).try_lock()
    assert tenure.deadline > store.now
