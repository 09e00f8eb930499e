"""Waiting in the queue of the lock: how it ends, what is watched and renewed meanwhile."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from faults import Fate, NoAnswer, Refusal
from shared_etcd import FOO, Store
from walk import MAIN, OTHER, TTL, Foo

from microlock.core.call import Park
from microlock.core.hold import State
from microlock.core.port import Join, Leave, Lifetime, Read, Revoke
from microlock.core.queue import Holder
from microlock.errors import (
    AlreadyLockedError,
    DestroyedError,
    LockCancelledError,
    LockNotOwnedError,
    LockUncertainError,
    StorePermissionError,
    StoreTimeoutError,
    StoreUnavailableError,
)

FOREVER = None
SILENCE = StoreTimeoutError("no answer")


@pytest.fixture
def beta(store: Store) -> bytes:
    """Another client holds the lock."""
    return store.enter("beta", ttl=3600)


@pytest.fixture
def others(store: Store) -> list[bytes]:
    """It holds the lock, and more wait for it."""
    return [store.enter(node_id, ttl=3600) for node_id in ("beta", "gamma", "delta", "epsilon")]


def leaves(foo: Foo, *names: bytes) -> None:
    """Another client gives up its entry, and the watches tell."""
    for name in names:
        foo.store.remove(name)
    foo.hear()


def nothing_is_left(foo: Foo) -> bool:
    return (foo.entries, foo.store.ours(), foo.held) == ([], [], False)


# Its turn.


def test_a_wait_on_a_free_lock_is_none(foo):
    assert foo.lock(timeout=10).go().result().hold.attempts == 1
    assert foo.names == ["acquired"]


def test_who_waits_gets_the_lock_when_the_holder_leaves(foo, beta):
    going = foo.lock(timeout=10).go()
    assert going.waits
    leaves(foo, beta)
    assert going.go().result() is foo.hold


def test_who_waits_gets_the_lock_when_the_holder_ends_with_its_lease(foo, store):
    store.enter("beta", ttl=8)
    begun = store.now
    hold = foo.lock(timeout=20).result()
    assert store.now == pytest.approx(begun + 8, abs=2)
    assert foo.hold is hold


def test_a_wait_is_told_once_with_the_token_of_its_place(foo, beta, store):
    going = foo.lock(timeout=10).go()
    foo.pass_time(3)
    (event,) = foo.told
    (entry,) = store.entries()
    assert (event.name, event.node_id, event.token) == ("waiting", "alpha", entry.create_revision)
    leaves(foo, beta)
    assert going.result().token == entry.create_revision


def test_an_acquisition_tells_how_long_it_was_waited_for(foo, beta, store):
    begun = store.now
    going = foo.lock(timeout=10).go()
    foo.pass_time(3)
    leaves(foo, beta)
    hold = going.result()
    assert hold.hold.waited == pytest.approx(store.now - begun)
    assert foo.told[-1].waited == hold.hold.waited > 3
    assert foo.told[-1].attempts == hold.hold.attempts == 1


def test_who_waits_has_its_whole_ttl_ahead_when_its_turn_comes(foo, beta):
    going = foo.lock(timeout=FOREVER).go()
    foo.pass_time(13.3)
    leaves(foo, beta)
    going.result()
    assert foo.remaining > TTL - 0.6


def test_a_place_that_is_deleted_is_taken_again_at_the_end(foo, beta, store):
    going = foo.lock(timeout=20).go()
    leaves(foo, *foo.entries)
    assert going.go().waits
    leaves(foo, beta)
    assert going.result().hold.attempts == 2
    assert foo.names == ["waiting", "waiting", "acquired"]
    assert foo.told[-1].attempts == 2


def test_a_place_whose_lease_has_ended_is_taken_again(foo, beta, store):
    going = foo.lock(timeout=20).go()
    (lease_id,) = store.ours()
    store.apply(Revoke(lease_id))
    foo.pass_time(2)
    assert going.go().waits
    assert len(foo.entries) == 1
    assert store.ours() != [lease_id]


def test_a_wait_outlives_the_silence_of_etcd_when_the_lease_does(foo, beta, store):
    """Nobody has heard of it for a ttl, and it is there all the same."""
    going = foo.lock(timeout=30).go()
    foo.silence = SILENCE
    for lease_id in store.ours():
        end = store.leases[store.keys[beta].lease_id].end
        store.leases[lease_id] = replace(store.leases[lease_id], end=end)
    foo.pass_time(TTL)
    foo.silence = None
    assert going.go().waits
    leaves(foo, beta)
    assert going.result().hold.attempts == 1


# The end of its time.


def test_a_wait_whose_time_is_over_leaves_nothing_and_names_the_holder(foo, beta, store):
    begun = store.now
    going = foo.lock(timeout=2)
    with pytest.raises(AlreadyLockedError) as raised:
        going.result()
    assert raised.value.holder == Holder.of(store.keys[beta])
    assert nothing_is_left(foo)
    assert begun + 1.5 < store.now <= begun + 2
    assert foo.names == ["waiting", "failed"]


def test_a_wait_names_who_holds_the_lock_at_its_end(foo, beta, store):
    gamma = store.keys[store.enter("gamma", ttl=3600)]
    going = foo.lock(timeout=10).go()
    leaves(foo, beta)
    with pytest.raises(AlreadyLockedError) as raised:
        going.result()
    assert raised.value.holder == Holder.of(gamma)


@pytest.mark.parametrize("timeout", [0.01, 0.2, 3])
def test_no_wait_is_longer_than_it_was_asked_for(foo, beta, store, timeout):
    store.latency = 0.0001
    begun = store.now
    with pytest.raises(AlreadyLockedError):
        foo.lock(timeout=timeout).result()
    assert store.now - begun <= timeout
    assert nothing_is_left(foo)


def test_a_wait_without_an_end_goes_on(foo, beta):
    going = foo.lock(timeout=FOREVER).go()
    for _ in range(100):
        foo.pass_time(1)
        going.go()
    assert going.waits
    assert len(foo.entries) == 1


# What is watched, and renewed.


def test_who_waits_near_its_turn_watches_the_lock_for_its_own_entry(foo, beta):
    foo.lock(timeout=10).go()
    assert foo.tracker.watches == {FOO.prefix: None}
    assert foo.tracker.interest == (foo.entries[0],)


def test_who_waits_far_from_its_turn_watches_one_entry_before_its_own(foo, others):
    foo.lock(timeout=100).go()
    assert foo.tracker.watches == {others[-2]: None}
    assert foo.tracker.interest == (others[-2],)


def test_who_waits_far_from_its_turn_comes_near_when_that_entry_is_gone(foo, others):
    going = foo.lock(timeout=100).go()
    leaves(foo, others[-2])
    assert going.go().waits
    assert foo.tracker.watches == {FOO.prefix: None}
    assert foo.tracker.interest == (foo.entries[0],)
    leaves(foo, *(each for each in others if each != others[-2]))
    assert going.go().result()


def test_who_waits_far_from_its_turn_is_not_woken_by_other_changes(foo, others):
    going = foo.lock(timeout=100).go()
    leaves(foo, others[0])
    assert going.go().waits
    assert foo.tracker.watches == {others[-2]: None}


def test_who_waits_far_from_its_turn_looks_who_holds_the_lock_before_it_gives_up(foo, others):
    going = foo.lock(timeout=4).go()
    leaves(foo, others[0])
    with pytest.raises(AlreadyLockedError) as raised:
        going.result()
    assert raised.value.holder.node_id == "gamma"
    assert nothing_is_left(foo)


def test_who_has_little_time_watches_the_lock_at_once(foo, others):
    foo.lock(timeout=0.9).go()
    assert foo.tracker.watches == {FOO.prefix: None}


def test_who_listens_to_the_key_waits_by_the_same_watch(foo, others):
    foo.listened_to.add("unlocked")
    foo.tracker.listen()
    foo.lock(timeout=100).go()
    assert foo.tracker.watches == {FOO.prefix: None}
    assert foo.tracker.interest is None


def test_a_watch_of_the_lock_serves_who_waits_far_from_its_turn_too(foo, others):
    """Another object of the client has one."""
    going = foo.lock(timeout=100).go()
    foo.tracker.key_watched = foo.status.changed = True
    foo.sync()
    assert going.go().waits
    assert foo.tracker.interest == (foo.entries[0],)


def test_after_a_wait_nothing_is_watched_that_only_the_wait_needed(foo, others):
    going = foo.lock(timeout=100).go()
    foo.core.cancel()
    assert isinstance(going.go().error, LockCancelledError)
    assert foo.tracker.watches == {}


def test_the_lease_of_who_waits_is_due_within_a_third_of_its_ttl(foo, beta, store):
    begun = store.now
    going = foo.lock(timeout=100).go()
    assert begun < foo.tracker.next_due <= begun + TTL / 3 + 0.1
    foo.pass_time(10 * TTL)
    assert going.go().waits
    assert len(foo.entries) == 1
    assert "renewed" not in foo.names


def test_a_renewal_of_who_waits_that_fails_is_tried_again_soon(foo, beta, store):
    foo.lock(timeout=100).go()
    foo.silence = SILENCE
    foo.pass_time(3)
    foo.silence = None
    foo.pass_time(3)
    assert len(foo.entries) == 1
    assert foo.names == ["waiting"]


def test_a_renewal_of_another_lease_is_not_that_of_who_waits(foo, beta, store):
    going = foo.lock(timeout=100).go()
    foo.tracker.renewed(999, Lifetime(0, store.now, store.now), store.now)
    assert going.go().waits


def test_who_waits_wakes_at_the_deadline_of_its_lease_if_not_before(foo, beta):
    going = foo.lock(timeout=FOREVER).go()
    assert foo.store.now + TTL - 0.2 < going.request.until < math.inf


# What else ends it.


def test_a_watch_that_has_ended_ends_the_wait_with_its_error(foo, beta, store):
    going = foo.lock(timeout=100).go()
    error = StorePermissionError("no")
    foo.tracker.views.clear()
    foo.tracker.watch_failed(FOO.prefix, error, final=True, now=store.now)
    raised = going.go().error
    assert (type(raised), str(raised)) == (StorePermissionError, "'foo': no")
    assert error.key is None  # waits for other locks get it too
    assert nothing_is_left(foo)


def test_a_watch_that_is_interrupted_does_not_end_the_wait(foo, beta, store):
    going = foo.lock(timeout=100).go()
    foo.tracker.watch_failed(FOO.prefix, StoreUnavailableError("down"), final=False, now=store.now)
    assert going.go().waits
    assert foo.names == ["waiting", "error"]


def test_an_error_of_one_wait_is_none_of_the_next(foo, beta, store):
    going = foo.lock(timeout=100).go()
    foo.tracker.views.clear()
    foo.tracker.watch_failed(FOO.prefix, StorePermissionError("no"), final=True, now=store.now)
    assert going.go().error
    assert foo.lock(timeout=100).go().waits


def test_cancel_ends_the_wait_and_leaves_nothing(foo, beta):
    going = foo.lock(timeout=100).go()
    foo.core.cancel()
    assert isinstance(going.go().error, LockCancelledError)
    assert nothing_is_left(foo)
    assert foo.names == ["waiting", "failed"]


def test_what_was_cancelled_can_wait_again(foo, beta):
    going = foo.lock(timeout=100).go()
    foo.core.cancel()
    going.go()
    again = foo.lock(timeout=100).go()
    assert again.waits
    leaves(foo, beta)
    assert again.go().result()


@pytest.mark.parametrize("at", [Join, Park])
def test_cancel_ends_a_wait_wherever_it_is(foo, beta, at):
    going = foo.lock(timeout=100).to(at)
    foo.core.cancel()
    assert isinstance(going.go().error, LockCancelledError)
    assert nothing_is_left(foo)


def test_a_wait_that_is_cancelled_when_its_turn_has_come_holds_nothing(foo, beta):
    going = foo.lock(timeout=100).go()
    leaves(foo, beta)
    foo.core.cancel()
    assert isinstance(going.go().error, LockCancelledError)
    assert nothing_is_left(foo)


def test_destroy_ends_the_wait_and_leaves_nothing(foo, beta):
    going = foo.lock(timeout=100).go()
    ending = foo.destroy(OTHER).go()
    assert isinstance(going.go().error, DestroyedError)
    ending.result()
    assert nothing_is_left(foo)


def test_a_lock_that_is_destroyed_when_it_was_taken_is_given_back(foo):
    going = foo.lock(timeout=100).to(Join)
    going.step()
    ending = foo.destroy(OTHER).go()
    assert isinstance(going.go().error, DestroyedError)
    ending.result()
    assert nothing_is_left(foo)


def test_who_waits_is_given_back_at_exit_and_never_comes_again(foo, beta, store):
    going = foo.lock(timeout=FOREVER).go()
    foo.release_at_exit()
    assert foo.entries == []
    assert going.waits
    foo.hear()
    assert isinstance(going.go().error, DestroyedError)
    assert foo.entries == []


def test_a_wait_whose_end_is_left_in_doubt_says_so_and_another_thread_revokes_its_lease(foo, beta):
    going = foo.lock(timeout=2).go()
    foo.faults[Revoke] = NoAnswer(Fate.NEVER)
    with pytest.raises(LockUncertainError) as raised:
        going.result()
    assert [lease.id for lease in foo.status.left] == [raised.value.lease_id]


def test_an_interrupted_wait_is_undone_once_and_another_thread_revokes_what_it_leaves(foo, beta):
    going = foo.lock(timeout=FOREVER).go()
    (lease,) = going.call.leases
    foo.faults[Revoke] = NoAnswer(Fate.NEVER)
    going.throw(KeyboardInterrupt())
    assert isinstance(going.go().error, KeyboardInterrupt)
    assert [each.id for each in foo.status.left] == [lease]


def test_a_wait_that_is_undone_leaves_nothing_to_others(foo, beta):
    going = foo.lock(timeout=FOREVER).go()
    going.throw(KeyboardInterrupt())
    assert isinstance(going.go().error, KeyboardInterrupt)
    assert foo.status.left == ()


def test_who_waits_looks_again_when_the_client_is_closed(foo, beta):
    going = foo.lock(timeout=FOREVER).go()
    foo.tracker.stir_all()
    assert not going.waits


# Other calls meanwhile.


def test_one_that_does_not_wait_is_told_who_holds_the_lock(foo, beta, store):
    foo.lock(timeout=100).go()
    going = foo.lock(OTHER).go()
    with pytest.raises(AlreadyLockedError, match="this object waits in the queue") as raised:
        going.result()
    assert raised.value.holder == Holder.of(store.keys[beta])


@pytest.mark.parametrize("call", ["unlock", "renew"])
def test_there_is_nothing_to_keep_or_to_give_back_while_it_waits(foo, beta, call):
    foo.lock(timeout=100).go()
    going = getattr(foo, call)(OTHER).go()
    with pytest.raises(LockNotOwnedError, match="this object still waits in the queue"):
        going.result()


def test_who_asks_before_the_wait_begins_is_told_when_it_does(foo, beta):
    waiting = foo.lock(timeout=100).to(Join)
    going = foo.lock(OTHER).go()
    assert going.waits
    waiting.go()
    assert isinstance(going.go().error, AlreadyLockedError)
    assert waiting.waits


def test_a_call_in_the_middle_of_the_wait_of_its_own_thread_has_no_turn(foo, beta):
    """As in the handler of a signal."""
    foo.lock(timeout=100).go()
    with pytest.raises(StoreTimeoutError, match="'foo': another call of this object"):
        foo.unlock(MAIN).go().result()


def test_the_state_of_one_that_waits_is_released(foo, beta):
    foo.lock(timeout=100).go()
    assert foo.state is State.RELEASED


# What etcd refuses.


def test_a_wait_that_etcd_refuses_leaves_nothing(foo, beta):
    foo.faults[Join] = Refusal(StorePermissionError)
    with pytest.raises(StorePermissionError):
        foo.lock(timeout=100).result()
    assert nothing_is_left(foo)


def test_a_lost_hold_is_gone_before_its_object_waits_again(foo, hold, store):
    """Its entry may still be there, before the new one."""
    store.latency = 0.001
    store.pass_time(4.955)
    assert foo.entries
    again = foo.lock(timeout=100).go().result()
    assert len(foo.entries) == 1
    assert again.token > hold.token


def test_no_request_is_made_by_who_waits_while_nothing_happens(foo, beta):
    going = foo.lock(timeout=FOREVER).go()
    asked = len(foo.caller.requests)
    foo.pass_time(60)
    going.go()
    assert len(foo.caller.requests) == asked
    assert not [each for each in foo.caller.requests if isinstance(each, Read | Leave)]
