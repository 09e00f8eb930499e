"""A try for a lock with other locks nested in its name."""

from __future__ import annotations

import pytest
from faults import Caller, End, Fate, NoAnswer, Refusal, Slow
from shared_etcd import FOO, Store

from microlock.core.admission import NEAR
from microlock.core.place import Contended, Place
from microlock.core.port import Enter, Grant, Join, KeepAlive, Read, Revoke
from microlock.errors import (
    LockUncertainError,
    StoreNoSpaceError,
    StorePermissionError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from microlock.memory.state import OLDEST


@pytest.fixture
def store() -> Store:
    """One with the lock `foo/bar` taken."""
    store = Store()
    store.enter("beta", key="foo/bar")
    return store


def kinds(caller: Caller) -> list[type]:
    return [type(request) for request in caller.requests]


def hidden_holder(store: Store) -> None:
    """So many nested names that the holder is not among the oldest keys."""
    for number in range(OLDEST):
        store.enter("beta", key=f"foo/{number}")
    store.enter("gamma")


def test_a_nested_name_does_not_stand_in_the_way(store):
    assert isinstance(Caller(store).try_lock(), Place)


def test_a_nested_name_is_left_alone(store):
    before = store.entries(b"beta")
    caller = Caller(store)
    caller.release(caller.try_lock())
    assert store.entries(b"beta") == before


def test_the_token_beside_a_nested_name_is_the_revision_of_the_entry(store):
    place = Caller(store).try_lock()
    assert store.entries()[0].create_revision == place.token


def test_a_nested_name_does_not_hide_the_holder(store):
    store.enter("gamma")
    assert Caller(store).try_lock().holder.node_id == "gamma"


def test_a_holder_behind_many_nested_names_is_found(store):
    hidden_holder(store)
    assert Caller(store).try_lock().holder.node_id == "gamma"


def test_an_entry_behind_an_older_one_is_withdrawn_with_its_lease(store):
    hidden_holder(store)
    assert isinstance(Caller(store).try_lock(), Contended)
    assert (store.entries(), store.ours()) == ([], [])


def test_a_lease_that_had_to_be_withdrawn_is_not_offered_again(store):
    lease = Caller(store).release(Caller(store).try_lock())
    hidden_holder(store)
    assert Caller(store).try_lock(lease).lease is None


def test_a_withdrawal_that_fails_is_uncertain(store):
    hidden_holder(store)
    with pytest.raises(LockUncertainError):
        Caller(store, {5: NoAnswer(Fate.NEVER)}).try_lock()


def test_put_look_withdraw_is_a_put_a_look_and_a_revocation(store):
    hidden_holder(store)
    caller = Caller(store)
    caller.try_lock()
    *_, put, look, withdraw = caller.requests
    assert (put, look, withdraw) == (
        Join(FOO.prefix, b"foo/1", FOO.value, 1, NEAR),
        Read(FOO.prefix),
        Revoke(1),
    )


@pytest.mark.parametrize("more", range(NEAR))
def test_few_nested_names_are_all_seen_with_the_put(store, more):
    """All keys are among those that the put has read."""
    for number in range(more):
        store.enter("beta", key=f"foo/{number}")
    caller = Caller(store)
    caller.try_lock()
    assert kinds(caller) == [Read, Grant, Enter, Join]


def test_more_nested_names_than_the_put_reads_cost_a_read_and_a_keep_alive(store):
    for number in range(NEAR):
        store.enter("beta", key=f"foo/{number}")
    caller = Caller(store)
    caller.try_lock()
    assert kinds(caller) == [Read, Grant, Enter, Join, Read, KeepAlive]


# The read after the put.

LOOK = 4


@pytest.fixture
def hidden(store: Store) -> Store:
    hidden_holder(store)
    return store


@pytest.mark.parametrize("error", [StorePermissionError, StoreUnavailableError])
def test_a_look_that_fails_is_undone_and_leaves_nothing(hidden, error):
    with pytest.raises(error) as raised:
        Caller(hidden, {LOOK: Refusal(error)}).try_lock()
    assert (hidden.entries(), hidden.ours()) == ([], [])
    assert not raised.value.may_have_happened


def test_a_look_without_an_answer_is_undone_and_leaves_nothing(hidden):
    with pytest.raises(StoreTimeoutError) as raised:
        Caller(hidden, {LOOK: NoAnswer(Fate.NEVER)}).try_lock()
    assert (hidden.entries(), hidden.ours()) == ([], [])
    assert not raised.value.may_have_happened


@pytest.mark.parametrize("end", [End.ERROR, End.INTERRUPT])
def test_a_look_that_fails_revokes_the_lease_whose_entry_may_be_there(hidden, end):
    caller = Caller(hidden, {LOOK: NoAnswer(Fate.NEVER, end)})
    with pytest.raises((StoreTimeoutError, KeyboardInterrupt)):
        caller.try_lock()
    assert caller.requests[LOOK:] == [Read(FOO.prefix), Revoke(1)]


def test_a_look_that_fails_and_cannot_be_undone_is_uncertain(hidden):
    faults = {LOOK: NoAnswer(Fate.NEVER), LOOK + 1: NoAnswer(Fate.NEVER)}
    with pytest.raises(LockUncertainError) as raised:
        Caller(hidden, faults).try_lock()
    assert raised.value.lease_id == 1


def test_an_interrupt_in_the_look_leaves_nothing(hidden):
    with pytest.raises(KeyboardInterrupt):
        Caller(hidden, {LOOK: NoAnswer(Fate.NEVER, End.INTERRUPT)}).try_lock()
    assert (hidden.entries(), hidden.ours()) == ([], [])


def test_an_interrupt_in_the_look_stays_one_where_it_cannot_be_undone(hidden):
    faults = {LOOK: NoAnswer(Fate.NEVER, End.INTERRUPT), LOOK + 1: NoAnswer(Fate.NEVER)}
    with pytest.raises(KeyboardInterrupt):
        Caller(hidden, faults).try_lock()


def many_nested(store: Store) -> None:
    for number in range(OLDEST):
        store.enter("beta", key=f"foo/{number}")


def test_a_slow_look_is_made_good_before_the_hold_counts(store):
    many_nested(store)
    place = Caller(store, {LOOK: Slow(back=4.95)}).try_lock()
    assert place.deadline > store.now


class Deleted:
    """An operator deletes the entry, just before a request arrives."""

    def meet(self, request, caller):
        for kv in caller.store.entries():
            caller.store.remove(kv.name)
        return caller.ask(request)


class Ended:
    """The lease ends, just before a request arrives."""

    def meet(self, request, caller):
        for lease_id in caller.store.ours():
            caller.store.apply(Revoke(lease_id))
        return caller.ask(request)


@pytest.mark.parametrize("lost", [Deleted(), Ended()], ids=["deleted", "revoked"])
def test_a_place_that_is_gone_by_the_look_is_taken_anew(store, lost):
    many_nested(store)
    place = Caller(store, {LOOK: lost}).try_lock()
    assert [kv.create_revision for kv in store.entries()] == [place.token]


def test_a_place_that_is_gone_by_the_look_leaves_no_lease(store):
    many_nested(store)
    place = Caller(store, {LOOK: Deleted()}).try_lock()
    assert store.ours() == [place.lease.id]


def test_a_doubtful_place_that_is_gone_by_the_look_never_comes_back(store):
    """A copy of its put may still arrive: nobody would stand behind that entry."""
    many_nested(store)
    caller = Caller(store, {LOOK - 1: NoAnswer(Fate.LATE, End.REPEAT), LOOK: Deleted()})
    place = caller.try_lock()
    caller.deliver()
    assert [kv.create_revision for kv in store.entries()] == [place.token]


@pytest.mark.parametrize("at", [2, 3])
def test_a_repeated_request_beside_a_nested_name_leaves_a_doubt_on_the_lease(store, at):
    place = Caller(store, {at: NoAnswer(Fate.LATE, End.REPEAT)}).try_lock()
    assert place.lease.doubtful


def test_a_put_refused_beside_a_nested_name_leaves_nothing(store):
    with pytest.raises(StoreNoSpaceError) as raised:
        Caller(store, {3: Refusal(StoreNoSpaceError)}).try_lock()
    assert (store.entries(), store.ours()) == ([], [])
    assert not raised.value.may_have_happened


def test_a_slow_put_beside_a_nested_name_is_renewed_before_it_counts(store):
    place = Caller(store, {3: Slow(back=4.95)}).try_lock()
    assert place.deadline > store.now
