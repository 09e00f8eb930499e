"""Waiting in the queue: for one's turn, in vain, and at a place that is lost or in doubt."""

from __future__ import annotations

from typing import Any

import pytest
from faults import TTL, Caller, End, Fate, NoAnswer, Refusal, Slow
from meanwhile import (
    enters,
    fails,
    leaves,
    long_silence,
    passes,
    silence,
    the_first_leaves,
    the_lease_is_renewed,
    the_lease_is_revoked,
    the_place_is_deleted,
)
from shared_etcd import FOO, Store

from microlock.core import flows
from microlock.core.admission import NEAR
from microlock.core.lease import Lease
from microlock.core.place import AwaitTurn, Contended, Place
from microlock.core.port import Enter, Grant, Join, KeepAlive, KeyValue, Move, Revoke
from microlock.core.queue import Holder
from microlock.errors import (
    DestroyedError,
    LockUncertainError,
    StorePermissionError,
    StoreTimeoutError,
    StoreUnavailableError,
)

GRANT, JOIN, STAND, UNDO = range(4)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def beta(store: Store) -> bytes:
    """The entry of another, who holds the lock."""
    return store.enter("beta")


def left_lease(store: Store) -> Lease:
    """What an earlier cycle left."""
    caller = Caller(store)
    return caller.release(caller.try_lock())


def kinds(caller: Caller) -> list[type]:
    return [type(request) for request in caller.requests]


def left(store: Store) -> tuple[list[Any], list[int]]:
    """The entries and the leases of ours."""
    return store.entries(), store.ours()


# Joining.


def test_who_waits_joins_with_one_transaction_that_puts_its_entry_once(store, beta):
    caller = Caller(store)
    caller.wait(course=[the_first_leaves])
    assert caller.requests[JOIN] == Join(FOO.prefix, b"foo/1", FOO.value, 1, NEAR)


def test_who_waits_asks_etcd_for_nothing_but_a_lease_and_a_place(store, beta):
    caller = Caller(store)
    caller.wait(course=[the_first_leaves])
    assert kinds(caller) == [Grant, Join, AwaitTurn]


def test_a_lease_left_by_an_earlier_cycle_makes_waiting_one_transaction(store):
    lease = left_lease(store)
    store.enter("beta")
    caller = Caller(store)
    caller.wait(lease, course=[the_first_leaves])
    assert kinds(caller) == [Join, AwaitTurn]


def test_a_lease_past_its_deadline_is_not_used_to_wait_though_etcd_may_still_have_it(store):
    lease = left_lease(store)
    store.pass_time(lease.deadline - store.now)
    assert lease.id in store.leases
    assert Caller(store).wait(lease).lease.id != lease.id


def test_a_lease_that_ended_early_is_replaced_to_wait_with(store):
    lease = left_lease(store)
    store.apply(Revoke(lease.id))
    store.enter("beta")
    place = Caller(store).wait(lease, course=[the_first_leaves])
    assert store.entries()[0].lease_id == place.lease.id


def test_the_place_is_told_with_who_holds_the_lock(store, beta):
    caller = Caller(store)
    place = caller.wait(course=[the_first_leaves])
    assert caller.requests[STAND] == AwaitTurn(place, Holder("beta", 2, 0xF00))


def test_a_free_lock_is_held_without_waiting(store):
    caller = Caller(store)
    caller.wait()
    assert kinds(caller) == [Grant, Join]


def test_a_nested_name_is_not_waited_for(store):
    store.enter("beta", key="foo/bar")
    caller = Caller(store)
    caller.wait()
    assert kinds(caller) == [Grant, Join]


def test_who_waits_for_a_free_lock_has_its_revision_as_token(store):
    place = Caller(store).wait()
    (entry,) = store.entries()
    assert (place.entry, place.token) == (entry.name, entry.create_revision)


# The turn.


def test_the_lock_is_held_when_the_last_of_those_ahead_has_left(store, beta):
    gamma = store.enter("gamma")
    caller = Caller(store)
    place = caller.wait(course=[leaves(gamma), leaves(beta)])
    assert [kv.create_revision for kv in store.entries()] == [place.token]


def test_the_lock_is_not_held_while_one_of_those_ahead_is_there(store, beta):
    store.enter("gamma")
    assert Caller(store).wait(course=[leaves(beta)]).holder.node_id == "gamma"


def test_who_comes_later_is_not_waited_for(store, beta):
    place = Caller(store).wait(course=[enters("gamma"), leaves(beta)])
    assert isinstance(place, Place)


def test_two_who_wait_hold_in_the_order_of_their_coming(store, beta):
    """One flow is stopped where it waits, while the other goes on."""
    caller = Caller(store)
    first = flows.wait(FOO, TTL, None, now=store.now, lease_ids=store.lease_ids)
    place = first.send(caller.ask(first.send(caller.ask(next(first))))).place
    second = Caller(store).wait(course=[leaves(beta), leaves(place.entry)])
    assert place.token < second.token


def test_the_token_is_that_of_the_place_that_was_taken(store, beta):
    store_at_join = []
    course = [lambda stay: store_at_join.append(stay.place.token), the_first_leaves]
    place = Caller(store).wait(course=course)
    assert store_at_join == [place.token]


# The ttl.


def test_a_hold_that_was_waited_for_has_its_whole_ttl_ahead(store, beta):
    caller = Caller(store)
    place = caller.wait(course=[passes(TTL / 2), the_first_leaves])
    assert kinds(caller) == [Grant, Join, AwaitTurn, KeepAlive]
    assert place.lease.sent == store.now - 2 * store.latency


def test_a_lease_that_was_renewed_a_moment_ago_needs_no_keep_alive(store, beta):
    course = [passes(TTL / 2), the_lease_is_renewed, the_first_leaves]
    caller = Caller(store)
    caller.wait(course=course)
    assert kinds(caller)[-1] is AwaitTurn


def test_a_renewal_while_it_waited_counts_for_the_hold(store, beta):
    renewed = []
    course = [
        passes(TTL / 2),
        the_lease_is_renewed,
        lambda stay: renewed.append(stay.place.lease),
        the_first_leaves,
    ]
    assert [Caller(store).wait(course=course).lease] == renewed


def test_a_free_lock_is_held_for_a_whole_ttl_with_a_lease_of_before(store):
    lease = left_lease(store)
    store.pass_time(TTL / 2)
    caller = Caller(store)
    place = caller.wait(lease)
    assert kinds(caller) == [Join, KeepAlive]
    assert place.lease.sent == store.now - 2 * store.latency


def test_who_joins_with_a_lease_that_ends_before_the_answer_joins_again(store):
    caller = Caller(store, {JOIN: Slow(back=TTL + 1)})
    place = caller.wait()
    assert kinds(caller).count(Join) == 2
    assert store.entries()[0].lease_id == place.lease.id


def test_a_lease_that_ended_when_the_turn_came_is_no_hold(store, beta):
    """It ended in etcd while the last of those ahead left, and nobody has told."""

    class TurnOfTheDead:
        def meet(self, request, caller):
            result = caller.ask(request)
            store.apply(Revoke(result.lease.id))
            return result

    caller = Caller(store, {STAND: TurnOfTheDead()})
    place = caller.wait(course=[passes(TTL / 2), the_first_leaves])
    assert store.entries()[0].create_revision == place.token


# The place is lost.

LOSSES = pytest.mark.parametrize("loss", [the_place_is_deleted, the_lease_is_revoked, long_silence])


@LOSSES
def test_who_has_lost_its_place_joins_again_and_holds_in_turn(store, beta, loss):
    place = Caller(store).wait(course=[loss, the_first_leaves])
    assert [kv.create_revision for kv in store.entries()] == [place.token]


@LOSSES
def test_who_has_lost_its_place_joins_again_at_the_end(store, beta, loss):
    refused = Caller(store).wait(course=[enters("gamma"), loss, leaves(beta)])
    assert refused.holder.node_id == "gamma"


@LOSSES
def test_who_has_lost_its_place_has_a_higher_token_at_the_next(store, beta, loss):
    caller = Caller(store)
    caller.wait(course=[loss, the_first_leaves])
    first, second = (each.place.token for each in caller.requests if isinstance(each, AwaitTurn))
    assert first < second


@LOSSES
def test_the_lease_of_a_lost_place_is_revoked(store, beta, loss):
    place = Caller(store).wait(course=[loss, the_first_leaves])
    assert store.ours() == [place.lease.id]


def test_a_lease_that_a_renewal_finds_gone_is_a_lost_place(store, beta):
    caller = Caller(store)
    course = [the_lease_is_revoked, the_lease_is_renewed, the_first_leaves]
    assert caller.wait(course=course).lease.id == 2


def test_a_place_that_was_put_anew_by_somebody_is_lost(store, beta):
    """An operator deletes it, and a copy of the put arrives after that."""

    def put_again(stay):
        stay.store.remove(stay.place.entry)
        stay.store.apply(caller.requests[JOIN])

    caller = Caller(store)
    caller.wait(course=[put_again, the_first_leaves])
    assert [kv.lease_id for kv in store.entries()] == [2]


def test_a_place_can_be_lost_any_number_of_times(store, beta):
    caller = Caller(store)
    caller.wait(course=[*[the_place_is_deleted] * 5, the_first_leaves])
    assert kinds(caller).count(Grant) == 6


# The time is over.


def test_who_waited_in_vain_is_told_who_holds_by_then(store, beta):
    gamma = store.enter("gamma")
    refused = Caller(store).wait(course=[leaves(beta)])
    assert refused == Contended(Holder("gamma", 3, store.keys[gamma].lease_id), None)


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_who_waited_in_vain_leaves_nothing(store, warm):
    lease = left_lease(store) if warm else None
    store.enter("beta")
    Caller(store).wait(lease)
    assert left(store) == ([], [])


def test_who_waited_in_vain_and_cannot_be_withdrawn_is_uncertain(store, beta):
    with pytest.raises(LockUncertainError) as raised:
        Caller(store, {UNDO: NoAnswer(Fate.NEVER)}).wait()
    assert raised.value.lease_id == 1


# Nobody has answered for a ttl.


def test_a_lease_is_renewed_before_a_place_is_given_up_after_silence(store, beta):
    caller = Caller(store)
    caller.wait(course=[silence, the_first_leaves])
    assert kinds(caller) == [Grant, Join, AwaitTurn, KeepAlive, AwaitTurn]


def test_a_place_whose_lease_lives_is_kept_after_silence(store, beta):
    caller = Caller(store)
    place = caller.wait(course=[enters("gamma"), silence, leaves(beta)])
    assert place.token == caller.requests[STAND].place.token


def test_who_waits_on_after_silence_does_so_with_the_renewed_lease(store, beta):
    caller = Caller(store)
    caller.wait(course=[silence, the_first_leaves])
    assert caller.requests[-1].place.lease.sent > caller.requests[STAND].place.lease.sent


def test_a_place_whose_lease_has_ended_in_the_silence_is_taken_anew(store, beta):
    caller = Caller(store)
    assert caller.wait(course=[long_silence, the_first_leaves]).lease.id == 2
    assert kinds(caller)[STAND : UNDO + 1] == [AwaitTurn, KeepAlive]


def test_a_silence_that_goes_on_is_told(store, beta):
    caller = Caller(store, {KeepAlive: Refusal(StoreUnavailableError)})
    with pytest.raises(StoreUnavailableError):
        caller.wait(course=[silence])
    assert left(store) == ([], [])


def test_a_silence_that_goes_on_until_the_end_leaves_a_doubt(store, beta):
    silent = Refusal(StoreUnavailableError)
    with pytest.raises(LockUncertainError):
        Caller(store, {KeepAlive: silent, Revoke: silent}).wait(course=[silence])


# What goes wrong while it waits.

ENDS = pytest.mark.parametrize(
    "error",
    [StorePermissionError("no watch"), DestroyedError("destroyed"), KeyboardInterrupt()],
    ids=lambda error: type(error).__name__,
)


@ENDS
def test_what_ends_the_waiting_is_raised(store, beta, error):
    with pytest.raises(type(error)) as raised:
        Caller(store).wait(course=[fails(error)])
    assert raised.value is error


@ENDS
def test_what_ends_the_waiting_leaves_nothing(store, beta, error):
    with pytest.raises(type(error)):
        Caller(store).wait(course=[fails(error)])
    assert left(store) == ([], [])


@ENDS
def test_what_ends_a_later_wait_leaves_nothing(store, beta, error):
    with pytest.raises(type(error)):
        Caller(store).wait(course=[the_place_is_deleted, fails(error)])
    assert left(store) == ([], [])


def test_a_watch_that_is_refused_and_undone_did_not_happen(store, beta):
    with pytest.raises(StorePermissionError) as raised:
        Caller(store).wait(course=[fails(StorePermissionError("no watch"))])
    assert not raised.value.may_have_happened


@pytest.mark.parametrize("error", [StorePermissionError("no watch"), DestroyedError("destroyed")])
def test_a_wait_that_ends_and_cannot_be_withdrawn_is_uncertain(store, beta, error):
    with pytest.raises(LockUncertainError) as raised:
        Caller(store, {UNDO: NoAnswer(Fate.NEVER)}).wait(course=[fails(error)])
    assert raised.value.__cause__ is error


def test_a_wait_whose_client_is_closed_is_uncertain(store, beta):
    with pytest.raises(LockUncertainError):
        Caller(store, {Revoke: Refusal(DestroyedError)}).wait(course=[fails(DestroyedError())])


def test_an_interrupt_stays_one_where_the_place_cannot_be_given_up(store, beta):
    with pytest.raises(KeyboardInterrupt):
        Caller(store, {UNDO: NoAnswer(Fate.NEVER)}).wait(course=[fails(KeyboardInterrupt())])


@pytest.mark.parametrize("requests", [1, 2, 3])
def test_a_wait_that_is_dropped_half_way_asks_for_nothing_more(store, beta, requests):
    caller = Caller(store)
    flow = flows.wait(FOO, TTL, None, now=store.now, lease_ids=store.lease_ids)
    request = next(flow)
    for _ in range(requests - 1):
        request = flow.send(caller.ask(request))
    flow.close()  # raises RuntimeError if the flow asks on


# What is in doubt.


@pytest.mark.parametrize("fate", Fate)
def test_a_repeated_join_takes_one_place(store, beta, fate):
    caller = Caller(store, {JOIN: NoAnswer(fate, End.REPEAT)})
    place = caller.wait(course=[the_first_leaves])
    caller.deliver()
    assert [kv.create_revision for kv in store.entries()] == [place.token]


@pytest.mark.parametrize(
    "course",
    [
        [the_first_leaves],
        [passes(TTL / 2), the_first_leaves],
        [passes(TTL / 2), the_lease_is_renewed, the_first_leaves],
        [silence, the_first_leaves],
    ],
    ids=["fresh", "older", "renewed", "after silence"],
)
def test_a_lease_with_a_repeated_join_stays_doubtful_until_it_is_released(store, beta, course):
    caller = Caller(store, {JOIN: NoAnswer(Fate.LATE, End.REPEAT)})
    assert caller.release(caller.wait(course=course)) is None
    caller.deliver()
    assert left(store) == ([], [])


def test_a_free_lock_with_a_repeated_join_stays_doubtful_until_it_is_released(store):
    caller = Caller(store, {JOIN: NoAnswer(Fate.LATE, End.REPEAT)})
    assert caller.release(caller.wait()) is None


@pytest.mark.parametrize("fate", Fate)
def test_a_join_without_an_answer_is_undone_before_it_is_reported(store, beta, fate):
    caller = Caller(store, {JOIN: NoAnswer(fate)})
    with pytest.raises(StoreTimeoutError) as raised:
        caller.wait()
    caller.deliver()
    assert left(store) == ([], [])
    assert not raised.value.may_have_happened


def test_a_refused_join_whose_empty_lease_cannot_be_revoked_is_a_plain_refusal(store, beta):
    faults = {JOIN: Refusal(StorePermissionError), JOIN + 1: NoAnswer(Fate.NEVER)}
    with pytest.raises(StorePermissionError):
        Caller(store, faults).wait()


def test_a_doubtful_place_that_was_deleted_and_cannot_be_revoked_is_uncertain(store, beta):
    """A copy of its put may still come, and stand in the queue with nobody behind it."""
    faults = {JOIN: NoAnswer(Fate.LATE, End.REPEAT), UNDO: NoAnswer(Fate.NEVER)}
    with pytest.raises(LockUncertainError):
        Caller(store, faults).wait(course=[the_place_is_deleted, the_first_leaves])


# A hold that was lost before.


def test_what_is_left_of_a_lost_hold_is_ended_before_the_queue_is_joined(store):
    lost = Caller(store).try_lock()
    caller = Caller(store)
    place = caller.wait(lost=lost)
    assert kinds(caller) == [Revoke, Grant, Join]
    assert [kv.create_revision for kv in store.entries()] == [place.token]


def test_both_leases_of_a_lost_hold_are_ended_whose_extension_was_in_doubt(store):
    caller = Caller(store, {Move: NoAnswer(Fate.LATE)})
    lost, _ = caller.extend(Caller(store).try_lock())
    place = Caller(store).wait(lost=lost)
    caller.deliver()
    assert store.ours() == [place.lease.id]


def test_who_lost_its_hold_joins_behind_those_who_came_meanwhile(store):
    lost = Caller(store).try_lock()
    store.enter("beta")
    assert Caller(store).wait(lost=lost).holder.node_id == "beta"


def test_a_lost_hold_of_another_object_of_the_node_is_waited_for(store):
    Caller(store).try_lock()
    caller = Caller(store)
    adopted = caller.adopt()
    place = caller.wait(lost=adopted, course=[the_first_leaves])
    assert place.token > adopted.token


def test_a_lost_hold_that_cannot_be_ended_is_waited_for(store):
    lost = Caller(store).try_lock()
    caller = Caller(store, {0: NoAnswer(Fate.NEVER)})
    place = caller.wait(lost=lost, course=[passes(TTL / 2), the_lease_is_renewed, passes(TTL / 2)])
    assert [kv.create_revision for kv in store.entries()] == [place.token]


def test_a_lost_hold_in_doubt_that_cannot_be_ended_is_uncertain(store):
    lost = Caller(store, {Enter: NoAnswer(Fate.LATE, End.REPEAT)}).try_lock()
    with pytest.raises(LockUncertainError):
        Caller(store, {0: NoAnswer(Fate.NEVER)}).wait(lost=lost)


def test_a_users_own_key_of_the_name_of_the_entry_is_left_alone(store, beta):
    store.keys[b"foo/1"] = KeyValue(b"foo/1", b"theirs", 1, 0)
    caller = Caller(store)
    place = caller.wait(course=[the_first_leaves])
    assert place.entry == b"foo/2"
    assert store.keys[b"foo/1"].value == b"theirs"
