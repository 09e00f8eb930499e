"""The end of a lock object: destroy(), its last words; and what `min_hold` leaves in etcd."""

from __future__ import annotations

import math

import pytest
from faults import Fate, NoAnswer, Refusal
from shared_etcd import Store
from walk import MAIN, OTHER, Foo

from microlock.core.hold import State
from microlock.core.port import Enter, Get, Grant, Leave, Move, Revoke
from microlock.errors import (
    AlreadyLockedError,
    DestroyedError,
    LockLostError,
    LockUncertainError,
    StorePermissionError,
    StoreTimeoutError,
    StoreUnavailableError,
)

# destroy()


def test_destroy_gives_back_what_is_held_and_tells_so(foo, hold, store):
    foo.destroy().result()
    assert (foo.entries, store.ours(), foo.held) == ([], [], False)
    assert foo.names == ["acquired", "released"]
    assert foo.status.closed


def test_destroy_ends_the_lease_that_the_last_cycle_left(foo, hold, store):
    foo.unlock().result()
    assert store.ours()
    foo.destroy().result()
    assert store.ours() == []


def test_destroy_of_what_never_locked_asks_nothing(foo):
    foo.destroy().result()
    assert foo.caller.requests == []


def test_destroy_ends_the_leases_of_a_lost_hold(foo, hold, store):
    """Its entry may still be there."""
    store.pass_time(4.955)
    foo.destroy().result()
    assert (foo.entries, store.ours()) == ([], [])


def test_destroy_in_a_child_leaves_the_hold_to_the_parent(foo, hold):
    foo.forked = True
    foo.destroy().result()
    assert foo.entries


def test_what_was_destroyed_holds_nothing_though_etcd_did_not_answer(foo, hold, store):
    foo.faults[Leave] = Refusal(StoreUnavailableError)
    with pytest.raises(StoreUnavailableError):
        foo.destroy().result()
    assert (foo.held, foo.state, foo.status.closed) == (False, State.RELEASED, True)
    assert foo.tracker.next_due == math.inf


def test_a_destroy_in_doubt_says_so(foo, hold):
    foo.faults[Leave] = NoAnswer(Fate.LATE)
    foo.faults[Revoke] = NoAnswer(Fate.NEVER)
    with pytest.raises(LockUncertainError):
        foo.destroy().result()
    assert not foo.held


def test_a_destroy_that_is_interrupted_as_it_revokes_leaves_no_lease(foo, hold, store):
    foo.unlock().result()
    going = foo.destroy().to(Revoke)
    going.throw(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        going.go().result()
    assert store.ours() == []


@pytest.mark.parametrize("call", ["lock", "unlock", "renew", "lock and wait"])
def test_no_call_begins_after_destroy(foo, call):
    foo.destroy().result()
    going = foo.lock(timeout=1) if call == "lock and wait" else getattr(foo, call)()
    with pytest.raises(DestroyedError):
        going.result()
    assert foo.caller.requests == []


def test_destroy_waits_for_a_call_of_another_thread(foo, hold):
    first = foo.renew().to(Get)
    ending = foo.destroy(OTHER).go()
    assert ending.waits
    assert isinstance(first.go().error, DestroyedError)
    ending.go().result()
    assert foo.entries == []


def test_a_lock_that_is_taken_while_destroy_waits_is_given_back(foo):
    first = foo.lock().to(Enter)
    ending = foo.destroy(OTHER).go()
    assert isinstance(first.go().error, DestroyedError)
    ending.go().result()
    assert (foo.entries, foo.store.ours(), foo.held) == ([], [], False)
    assert "acquired" not in foo.names


# In the middle of a call of its own thread, as in the handler of a signal.


@pytest.mark.parametrize("at", [Enter, Grant])
def test_destroy_in_the_middle_of_a_try_ends_it_late(foo, at):
    going = foo.lock().to(at)
    assert not foo.core.begin_to_end(MAIN)
    with pytest.raises(DestroyedError):
        going.result()
    assert (foo.entries, foo.store.ours(), foo.status.closed) == ([], [], True)


def test_destroy_in_the_middle_of_a_wait_ends_it_late(foo, store):
    store.enter("beta", ttl=3600)
    going = foo.lock(timeout=60).go()
    assert not foo.core.begin_to_end(MAIN)
    assert isinstance(going.go().error, DestroyedError)
    assert (foo.entries, foo.store.ours(), foo.status.closed) == ([], [], True)


def test_destroy_in_the_middle_of_unlock_ends_it_late(foo, hold):
    going = foo.unlock().to(Leave)
    assert not foo.core.begin_to_end(MAIN)
    going.result()
    assert (foo.entries, foo.store.ours(), foo.status.closed) == ([], [], True)
    assert foo.names == ["acquired", "released"]


def test_destroy_in_the_middle_of_a_renewal_ends_it_late(foo, hold):
    going = foo.renew().to(Get)
    assert not foo.core.begin_to_end(MAIN)
    with pytest.raises(DestroyedError):
        going.result()
    assert (foo.entries, foo.store.ours(), foo.status.closed) == ([], [], True)


def test_destroy_in_the_middle_of_a_call_that_fails_ends_it_late(foo, hold):
    going = foo.renew().to(Get)
    assert not foo.core.begin_to_end(MAIN)
    going.throw(StoreUnavailableError("down"))
    with pytest.raises(StoreUnavailableError):
        going.result()
    assert (foo.entries, foo.status.closed) == ([], True)


def test_what_a_late_end_cannot_give_back_is_logged(foo, hold):
    going = foo.renew().to(Get)
    assert not foo.core.begin_to_end(MAIN)
    foo.faults[Leave] = Refusal(StorePermissionError)
    with pytest.raises(DestroyedError):
        going.result()
    assert foo.warned == ["'foo' may stay locked until its ttl ends: refused"]
    assert foo.status.closed


def test_a_dropped_lock_is_ended_by_nobody_of_its_own(foo, hold):
    """The thread that does it has no call under way."""
    assert foo.core.begin_to_end(None)
    assert foo.status.destroyed


# Its last words.


@pytest.fixture
def heard(foo: Foo) -> Foo:
    """One that is held, and somebody listens to its release."""
    foo.listened_to.add("unlocked")
    foo.tracker.listen()
    foo.sync()
    foo.lock().result()
    foo.hear()
    return foo


def test_destroy_lets_its_own_release_be_told(heard):
    going = heard.destroy().go()
    assert going.waits
    heard.hear()
    assert going.go().over
    assert heard.names[-2:] == ["released", "unlocked"]


def test_the_end_of_with_lets_its_own_release_be_told(heard):
    going = heard.exit(heard.hold).go()
    heard.hear()
    assert going.go().over
    assert heard.names[-2:] == ["released", "unlocked"]


def test_nobody_waits_long_for_a_watch_that_tells_nothing(heard, store):
    going = heard.destroy().go()
    begun = store.now
    heard.tracker.woken.set()
    assert going.go().waits
    store.pass_time(1)
    going.result()
    assert store.now == begun + 1


def test_unlock_waits_for_no_watch(heard):
    assert heard.unlock().go().over


def test_destroy_waits_for_no_watch_that_nobody_listens_to(heard):
    heard.listened_to.clear()
    assert heard.destroy().go().over


def test_after_the_end_nothing_is_told_of_the_key(heard):
    going = heard.destroy().go()
    heard.hear()
    going.result()
    told = [*heard.told]
    heard.store.enter("beta")
    heard.hear()
    assert heard.told == told


# min_hold


REST = 3


@pytest.fixture
def brief(store: Store) -> Foo:
    """One that nobody else gets for a while."""
    foo = Foo(store, ttl=60, min_hold=REST)
    foo.lock().result()
    store.pass_time(0.2)
    return foo


def test_what_is_given_back_too_early_stays_in_etcd_until_its_time(brief, store):
    begun = brief.hold.since
    brief.unlock().result()
    assert brief.entries
    store.pass_time(begun + REST - store.now - 0.01)
    assert brief.entries
    store.pass_time(1.1)
    assert brief.entries == []


def test_what_is_given_back_too_early_is_held_no_more(brief):
    brief.unlock().result()
    assert (brief.held, brief.state, brief.names) == (
        False,
        State.RELEASED,
        ["acquired", "released"],
    )


def test_what_is_left_in_etcd_is_under_a_lease_of_its_own(brief, store):
    before = brief.hold.place.lease.id
    brief.unlock().result()
    (entry,) = store.entries()
    assert entry.lease_id != before
    assert before not in store.leases
    assert store.ours() == [entry.lease_id]


def test_what_is_left_in_etcd_is_not_renewed(store):
    foo = Foo(store, min_hold=REST, auto_renew=True)
    foo.lock().result()
    foo.unlock().result()
    foo.pass_time(REST + 1.1)
    assert foo.entries == []


def test_what_is_given_back_after_its_time_is_free_at_once(brief, store):
    store.pass_time(REST)
    brief.unlock().result()
    assert brief.entries == []


def test_the_next_lock_waits_for_what_the_last_one_left(brief, store):
    begun = brief.hold.since
    first = brief.hold.token
    brief.unlock().result()
    hold = brief.lock(timeout=20).result()
    assert hold.token > first
    assert store.now >= begun + REST


def test_the_end_of_with_leaves_it_too(brief):
    brief.exit(brief.hold).result()
    assert brief.entries


def test_the_end_of_with_that_fails_leaves_it_too(brief):
    brief.faults[Move] = Refusal(StorePermissionError)
    with pytest.raises(StorePermissionError):
        brief.exit(brief.hold).result()
    assert brief.status.left == ()


def test_destroy_leaves_it_too(brief, store):
    brief.destroy().result()
    assert brief.entries
    store.pass_time(REST + 1)
    assert store.ours() == []


def test_nobody_waits_to_be_told_of_a_release_that_is_not_yet(brief):
    brief.listened_to.add("unlocked")
    brief.tracker.listen()
    brief.sync()
    assert brief.destroy().go().over


def test_it_is_left_at_exit_too(brief, store):
    brief.release_at_exit()
    assert brief.state is State.RELEASED
    assert brief.entries
    store.pass_time(REST + 1)
    assert brief.entries == []


def test_what_has_had_its_time_is_given_back_at_exit(brief, store):
    store.pass_time(REST)
    brief.release_at_exit()
    assert brief.entries == []


def test_who_is_refused_by_what_it_has_left_is_told_so(brief):
    brief.unlock().result()
    with pytest.raises(AlreadyLockedError, match="given back, but its min_hold is not over"):
        brief.lock().result()


def test_a_hold_that_was_taken_over_stays_as_long_from_then_on(store):
    Foo(store).lock().result()
    later = Foo(store, min_hold=REST)
    later.renew().result()
    later.unlock().result()
    assert later.entries
    store.pass_time(REST + 2)
    assert later.entries == []


def test_an_early_release_that_finds_a_deletion_is_a_loss(brief, store):
    store.remove(brief.entries[0])
    with pytest.raises(LockLostError):
        brief.unlock().result()
    assert brief.names == ["acquired", "lost"]
    assert store.ours() == []


def test_an_early_release_that_is_refused_leaves_it_held(brief):
    brief.faults[Grant] = Refusal(StorePermissionError)
    with pytest.raises(StorePermissionError):
        brief.unlock().result()
    assert brief.held


def test_an_early_release_in_doubt_leaves_it_held_until_the_earlier_deadline(brief, store):
    brief.faults[Move] = NoAnswer(Fate.APPLIED)
    with pytest.raises(StoreTimeoutError):
        brief.unlock().result()
    assert brief.held
    assert brief.remaining < REST
    brief.faults.clear()
    brief.unlock().result()
    assert brief.names[-1] == "released"
    store.pass_time(REST + 1)
    assert store.ours() == []


def test_an_early_release_that_is_interrupted_is_one(brief, store):
    going = brief.unlock().to(Move)
    going.perform()
    going.throw(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        going.result()
    assert not brief.held
    store.pass_time(REST + 1)
    assert brief.entries == []


def test_min_hold_is_no_matter_of_a_lock_that_was_not_taken(store):
    foo = Foo(store, min_hold=100)
    going = foo.lock().to(Enter)
    going.perform()
    going.throw(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        going.result()
    assert store.ours() == []


def test_a_ttl_that_is_longer_does_not_outlast_min_hold(store):
    foo = Foo(store, ttl=3600, min_hold=2)
    foo.lock().result()
    foo.unlock().result()
    store.pass_time(3)
    assert foo.entries == []
