"""Giving the lock back."""

from __future__ import annotations

import pytest
from faults import Caller, End, Fate, NoAnswer, Refusal
from shared_etcd import FOO, Store

from microlock.core import flows
from microlock.core.place import Lost, Place
from microlock.core.port import Leave, Revoke
from microlock.errors import (
    LockUncertainError,
    LossReason,
    StoreNoSpaceError,
    StorePermissionError,
    StoreTimeoutError,
    StoreUnavailableError,
)

DELETE, UNDO = range(2)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def place(store) -> Place:
    return Caller(store).try_lock()


def test_a_release_deletes_the_entry_that_is_ours_and_no_other(store, place):
    caller = Caller(store)
    caller.release(place)
    assert caller.requests == [Leave(place.entry, place.token)]


def test_a_release_leaves_the_lease_for_the_next_hold(store, place):
    assert Caller(store).release(place) == place.lease


def test_a_lease_of_another_ttl_is_revoked_after_the_release(store, place):
    assert Caller(store).run(flows.release(FOO, place, ttl=7)) is None
    assert store.ours() == []


def test_a_release_hands_the_lock_to_the_next_in_line(store, place):
    store.enter("beta")
    Caller(store).release(place)
    assert Caller(store).try_lock().holder.node_id == "beta"


def test_a_release_of_an_entry_that_is_gone_is_a_loss(store, place):
    store.remove(place.entry)
    assert Caller(store).release(place) == Lost(LossReason.DELETED)


def test_a_release_leaves_a_successors_entry_alone(store, place):
    store.remove(place.entry)
    store.enter("beta")
    before = store.entries(b"beta")
    Caller(store).release(place)
    assert store.entries(b"beta") == before


def test_a_release_leaves_a_later_hold_of_the_same_name_alone(store, place):
    caller = Caller(store)
    adopted = caller.adopt()  # by another object of our node
    again = caller.try_lock(caller.release(place))
    assert again.entry == adopted.entry
    caller.release(adopted)
    assert [kv.create_revision for kv in store.entries()] == [again.token]


def test_a_lost_hold_leaves_no_lease(store, place):
    store.remove(place.entry)
    Caller(store).release(place)
    assert store.ours() == []


@pytest.mark.parametrize("fate", Fate)
def test_a_release_without_an_answer_is_done_by_revoking_the_lease(store, place, fate):
    caller = Caller(store, {DELETE: NoAnswer(fate)})
    assert caller.release(place) is None
    caller.deliver()
    assert (store.entries(), store.ours()) == ([], [])


@pytest.mark.parametrize("fate", Fate)
def test_a_repeated_release_is_a_release(store, place, fate):
    caller = Caller(store, {DELETE: NoAnswer(fate, End.REPEAT)})
    assert not isinstance(caller.release(place), Lost)
    assert store.entries() == []


def test_a_late_delete_leaves_the_next_hold_alone(store, place):
    caller = Caller(store, {DELETE: NoAnswer(Fate.LATE, End.REPEAT)})
    again = caller.try_lock(caller.release(place))
    caller.deliver()
    assert [kv.create_revision for kv in store.entries()] == [again.token]


def test_a_release_is_possible_when_etcd_is_out_of_space(store, place):
    caller = Caller(store, {DELETE: Refusal(StoreNoSpaceError)})
    assert caller.release(place) is None
    assert (store.entries(), store.ours()) == ([], [])


@pytest.mark.parametrize("error", [StorePermissionError, StoreUnavailableError])
def test_a_refused_release_leaves_the_hold(store, place, error):
    with pytest.raises(error):
        Caller(store, {DELETE: Refusal(error)}).release(place)
    assert store.entries()[0].create_revision == place.token


@pytest.mark.parametrize(
    "fault", [NoAnswer(Fate.NEVER), Refusal(StoreNoSpaceError)], ids=["unanswered", "no space"]
)
def test_a_release_that_cannot_be_confirmed_in_any_way_is_uncertain(store, place, fault):
    with pytest.raises(LockUncertainError) as raised:
        Caller(store, {DELETE: fault, UNDO: NoAnswer(Fate.NEVER)}).release(place)
    assert raised.value.lease_id == place.lease.id


def test_an_uncertain_release_says_what_it_came_from(store, place):
    with pytest.raises(LockUncertainError) as raised:
        Caller(store, {DELETE: NoAnswer(Fate.NEVER), UNDO: NoAnswer(Fate.NEVER)}).release(place)
    assert isinstance(raised.value.__cause__, StoreTimeoutError)


@pytest.mark.parametrize("fate", Fate)
def test_an_interrupted_release_is_done_before_the_interrupt_goes_on(store, place, fate):
    with pytest.raises(KeyboardInterrupt):
        Caller(store, {DELETE: NoAnswer(fate, End.INTERRUPT)}).release(place)
    assert (store.entries(), store.ours()) == ([], [])


def test_an_interrupted_release_stays_an_interrupt_without_an_answer(store, place):
    faults = {DELETE: NoAnswer(Fate.NEVER, End.INTERRUPT), UNDO: NoAnswer(Fate.NEVER)}
    with pytest.raises(KeyboardInterrupt):
        Caller(store, faults).release(place)


def test_a_hold_of_our_node_is_released_without_revoking_its_lease(store, place):
    caller = Caller(store)
    assert caller.release(caller.adopt()) is None
    assert (store.entries(), store.ours()) == ([], [place.lease.id])


def test_a_hold_of_our_node_is_released_by_its_lease_when_nothing_else_is_confirmed(store, place):
    caller = Caller(store, {1: NoAnswer(Fate.NEVER)})
    caller.release(caller.adopt())
    assert store.entries() == []


def test_a_release_of_an_extension_in_doubt_revokes_both_leases(store, place):
    caller = Caller(store, {1: NoAnswer(Fate.APPLIED)})
    in_doubt, _ = caller.extend(place)
    assert caller.release(in_doubt) is None
    assert (store.entries(), store.ours()) == ([], [])


def test_a_release_in_doubt_revokes_the_second_lease_where_the_first_does_not_answer(store, place):
    caller = Caller(store, {1: NoAnswer(Fate.APPLIED)})
    in_doubt, _ = caller.extend(place)
    releasing = Caller(store, {DELETE: NoAnswer(Fate.NEVER), UNDO: NoAnswer(Fate.NEVER)})
    with pytest.raises(LockUncertainError):
        releasing.release(in_doubt)
    assert releasing.requests[UNDO:] == [Revoke(lease.id) for lease in in_doubt.leases]


def test_a_release_that_is_dropped_half_way_asks_for_nothing_more(place):
    flow = flows.release(FOO, place, 5)
    next(flow)
    flow.close()  # raises RuntimeError if the flow asks on


def test_nobody_else_of_the_node_loses_its_hold_to_a_failed_try(store, place):
    Caller(store).try_lock()
    assert store.entries()[0].create_revision == place.token
