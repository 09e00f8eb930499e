"""One try for the lock, when nothing goes wrong but the lock itself may be taken."""

from __future__ import annotations

import pytest
from faults import TTL, Caller, End, Fate, NoAnswer, Slow
from shared_etcd import FOO, Store

from microlock.core.lease import Lease
from microlock.core.place import Contended, Place
from microlock.core.port import Enter, Grant, KeepAlive, Leave, Read, Revoke
from microlock.core.queue import Holder
from microlock.errors import StoreTimeoutError


@pytest.fixture
def store() -> Store:
    return Store()


def left_lease(store: Store) -> Lease:
    """What an earlier cycle left."""
    caller = Caller(store)
    return caller.release(caller.try_lock())


def kinds(caller: Caller) -> list[type]:
    return [type(request) for request in caller.requests]


def test_a_free_lock_is_taken_with_the_revision_of_its_entry_as_token(store):
    place = Caller(store).try_lock()
    (entry,) = store.entries()
    assert (place.entry, place.token) == (entry.name, entry.create_revision)


def test_the_entry_is_named_after_its_lease(store):
    place = Caller(store).try_lock()
    assert place.entry == b"foo/%x" % place.lease.id


def test_the_entry_is_bound_to_its_lease(store):
    place = Caller(store).try_lock()
    assert store.entries()[0].lease_id == place.lease.id


def test_the_granted_ttl_counts_and_not_the_asked_one(store):
    store.floor = 9
    assert Caller(store).try_lock().lease.ttl == 9


def test_the_deadline_counts_from_before_the_grant_was_sent(store):
    store.latency = 0.5
    before = store.now
    place = Caller(store).try_lock()
    assert place.deadline < before + 1.0 + TTL  # one second was the look before the grant


def test_a_cold_try_on_a_held_lock_only_reads(store):
    store.enter("beta")
    caller = Caller(store)
    caller.try_lock()
    assert caller.requests == [Read(FOO.prefix, limit=1)]


def test_a_refusal_tells_who_holds(store):
    store.enter("beta")
    refused = Caller(store).try_lock()
    assert refused == Contended(Holder("beta", store.revision, 0xF00), None)


@pytest.mark.parametrize("with_lease", [False, True], ids=["cold", "warm"])
def test_an_entry_without_a_name_holds_as_any_other(store, with_lease):
    lease = left_lease(store) if with_lease else None
    store.enter("")
    assert Caller(store).try_lock(lease).holder.node_id is None


def test_the_oldest_of_several_entries_is_the_holder(store):
    store.enter("beta")
    store.enter("gamma")
    assert Caller(store).try_lock().holder.node_id == "beta"


def test_the_next_oldest_entry_holds_once_the_oldest_is_gone(store):
    first = store.enter("beta")
    store.enter("gamma")
    store.remove(first)
    assert Caller(store).try_lock().holder.node_id == "gamma"


def test_a_warm_cycle_is_two_transactions(store):
    lease = left_lease(store)
    caller = Caller(store)
    caller.release(caller.try_lock(lease))
    assert kinds(caller) == [Enter, Leave]


def test_a_warm_cycle_makes_two_revisions(store):
    lease = left_lease(store)
    before = store.revision
    caller = Caller(store)
    caller.release(caller.try_lock(lease))
    assert store.revision == before + 2


def test_each_hold_of_one_lease_has_a_higher_token(store):
    caller = Caller(store)
    first = caller.try_lock()
    second = caller.try_lock(caller.release(first))
    assert second.token > first.token


def test_a_keep_alive_precedes_a_try_whose_lease_is_older_than_a_tenth_of_its_ttl(store):
    lease = left_lease(store)
    store.pass_time(TTL / 10)
    caller = Caller(store)
    caller.try_lock(lease)
    assert kinds(caller) == [KeepAlive, Enter]


def test_the_keep_alive_before_a_try_moves_the_deadline(store):
    lease = left_lease(store)
    store.pass_time(1)
    assert Caller(store).try_lock(lease).lease.sent == lease.sent + 1 + 6 * store.latency


def test_a_keep_alive_without_an_answer_is_a_try_that_did_not_happen(store):
    lease = left_lease(store)
    store.pass_time(1)
    with pytest.raises(StoreTimeoutError) as raised:
        Caller(store, {0: NoAnswer(Fate.NEVER)}).try_lock(lease)
    assert not raised.value.may_have_happened


def test_a_lease_that_its_keep_alive_finds_gone_is_replaced(store):
    lease = left_lease(store)
    store.pass_time(1)
    store.apply(Revoke(lease.id))
    assert Caller(store).try_lock(lease).lease.id != lease.id


def test_a_lease_past_its_deadline_is_not_used_again_though_etcd_may_still_have_it(store):
    lease = left_lease(store)
    store.pass_time(lease.deadline - store.now)
    assert lease.id in store.leases
    assert Caller(store).try_lock(lease).lease.id != lease.id


@pytest.mark.parametrize("age", [0.0, 1.0], ids=["fresh", "older"])
def test_a_lease_that_ended_early_is_replaced(store, age):
    lease = left_lease(store)
    store.pass_time(age)
    store.apply(Revoke(lease.id))
    place = Caller(store).try_lock(lease)
    assert store.entries()[0].lease_id == place.lease.id


def test_a_warm_try_on_a_held_lock_keeps_its_lease_for_the_next(store):
    lease = left_lease(store)
    store.enter("beta")
    assert Caller(store).try_lock(lease).lease == lease


def test_a_try_that_comes_second_leaves_no_lease(store):
    class Meanwhile:
        def meet(self, request, caller):
            reply = store.ask(request)
            store.enter("beta")  # between our look and our put
            return reply

    caller = Caller(store, {0: Meanwhile()})
    assert isinstance(caller.try_lock(), Contended)
    assert store.ours() == []


def test_an_expired_hold_whose_entry_still_stands_is_given_up_for_a_new_one(store):
    lost = Caller(store).try_lock()
    caller = Caller(store)
    place = caller.try_lock(lost=lost)
    assert [kv.create_revision for kv in store.entries()] == [place.token]


def test_an_expired_hold_is_not_given_up_where_another_holds(store):
    lost = Caller(store).try_lock()
    store.remove(lost.entry)
    store.enter("beta")
    caller = Caller(store)
    caller.try_lock(lost=lost)
    assert kinds(caller) == [Read]


def test_a_lease_of_another_object_is_not_revoked_for_a_new_hold(store):
    Caller(store).try_lock()
    caller = Caller(store)
    adopted = caller.adopt()
    assert caller.try_lock(lost=adopted).holder.token == adopted.token


def test_a_hold_that_etcd_took_longer_to_confirm_than_the_ttl_is_renewed_before_it_counts(store):
    caller = Caller(store, {2: Slow(back=TTL - 0.05)})
    place = caller.try_lock()
    assert place.deadline > store.now


def test_a_hold_that_ended_before_etcd_confirmed_it_is_tried_anew(store):
    caller = Caller(store, {2: Slow(back=TTL + 1)})
    place = caller.try_lock()
    assert kinds(caller) == [Read, Grant, Enter, KeepAlive, Read, Grant, Enter]
    assert store.entries()[0].lease_id == place.lease.id


def test_a_put_that_arrives_after_its_lease_has_ended_is_tried_anew(store):
    caller = Caller(store, {2: Slow(there=TTL + 1)})
    place = caller.try_lock()
    assert store.entries()[0].lease_id == place.lease.id


def test_a_tenure_is_under_the_lease_it_names(store):
    place = Caller(store).try_lock()
    assert isinstance(place, Place)
    assert place.leases == (place.lease,)


def test_what_a_lost_hold_may_yet_put_is_ended_before_another_try(store):
    first = Caller(store, {Enter: NoAnswer(Fate.LATE, End.REPEAT)})
    lost = first.try_lock()
    store.remove(lost.entry)
    caller = Caller(store)
    caller.release(caller.try_lock(lost=lost))
    first.deliver()
    assert store.entries() == []
