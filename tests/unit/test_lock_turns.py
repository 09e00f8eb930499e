"""Threads that share one object take turns on it, and none of them harms another's call."""

from __future__ import annotations

import pytest
from faults import Fate, NoAnswer, Refusal
from walk import MAIN, OTHER, THIRD, TIMEOUT, Foo, Going

from microlock.core.hold import State
from microlock.core.port import Enter, Get, Leave, Revoke
from microlock.errors import (
    AlreadyLockedError,
    DestroyedError,
    LockCancelledError,
    LockLostError,
    LockNotOwnedError,
    StorePermissionError,
    StoreTimeoutError,
)


def asks_nothing(foo: Foo, going: Going) -> None:
    """It is over at once, and etcd was not asked."""
    asked = len(foo.caller.requests)
    assert going.go().over
    assert len(foo.caller.requests) == asked


# Taking turns.


def test_another_thread_waits_until_the_hold_is_given_back(foo, hold):
    going = foo.lock(OTHER, timeout=10).go()
    assert going.waits
    foo.unlock().result()
    again = going.go().result()
    assert foo.hold is again
    assert again.token > hold.token
    assert again.owner == OTHER


def test_turns_are_in_the_order_of_asking(foo, hold):
    second = foo.lock(OTHER, timeout=10).go()
    third = foo.lock(THIRD, timeout=10).go()
    foo.unlock().result()
    assert third.go().waits
    assert second.go().result()
    assert third.go().waits
    foo.unlock(OTHER).result()
    assert third.go().result() is foo.hold


def test_who_gives_back_and_asks_again_is_behind_who_waits(foo, hold):
    second = foo.lock(OTHER, timeout=10).go()
    foo.unlock().result()
    again = foo.lock(timeout=10).go()
    assert again.waits
    assert second.go().result() is foo.hold


def test_a_thread_may_give_back_what_another_holds(foo, hold):
    waiting = foo.lock(THIRD, timeout=10).go()
    foo.unlock(OTHER).result()
    assert waiting.go().result()


def test_the_thread_that_holds_does_not_wait_for_itself(foo, hold):
    going = foo.lock(timeout=10)
    asks_nothing(foo, going)
    assert isinstance(going.error, AlreadyLockedError)


def test_the_thread_that_holds_does_not_wait_behind_others_for_itself(foo, hold):
    foo.lock(OTHER, timeout=10).go()
    going = foo.lock(timeout=10)
    asks_nothing(foo, going)
    assert isinstance(going.error, AlreadyLockedError)


@pytest.mark.parametrize("thread", [MAIN, OTHER])
def test_a_try_never_waits_for_a_hold(foo, hold, thread):
    going = foo.lock(thread)
    asks_nothing(foo, going)
    assert isinstance(going.error, AlreadyLockedError)
    assert foo.hold is hold


def test_a_try_is_repeated_while_another_thread_holds_the_lock(foo, hold):
    going = foo.lock(OTHER, tries=3, pause=1.0).go()
    assert going.waits
    foo.unlock().result()
    assert going.go().result().owner == OTHER


def test_a_try_is_not_repeated_for_the_thread_that_holds_the_lock(foo, hold):
    going = foo.lock(tries=3, pause=1.0)
    asks_nothing(foo, going)
    with pytest.raises(AlreadyLockedError, match="this object"):
        going.result()


def test_a_try_waits_for_a_call_under_way(foo):
    first = foo.lock().to(Enter)
    second = foo.lock(OTHER).go()
    assert second.waits
    first.result()
    assert isinstance(second.go().error, AlreadyLockedError)


def test_the_wait_for_ones_turn_is_part_of_what_an_acquisition_took(foo, hold, store):
    begun = store.now
    going = foo.lock(OTHER, timeout=10).go()
    foo.pass_time(2)
    foo.unlock().result()
    assert going.go().result().hold.waited == pytest.approx(store.now - begun)


def test_the_deadline_is_one_for_both_waits(foo, hold, store):
    """For the hold of another thread, and then in the queue of the lock."""
    foo.extend(60).result()
    begun = store.now
    going = foo.lock(OTHER, timeout=4).go()
    store.enter("beta", ttl=3600)
    foo.pass_time(2)
    foo.unlock().result()
    with pytest.raises(AlreadyLockedError):
        going.result()
    assert store.now <= begun + 4


# A time that is over.


def test_whose_time_is_over_is_told_that_this_object_holds_the_lock(foo, hold, store):
    foo.extend(60).result()
    begun = store.now
    going = foo.lock(OTHER, timeout=2)
    with pytest.raises(AlreadyLockedError, match="this object") as raised:
        going.result()
    assert raised.value.holder.token == hold.token
    assert begun + 1.5 < store.now <= begun + 2


def test_whose_time_is_over_changes_nothing_of_the_hold(foo, hold):
    foo.extend(60).result()
    asked = len(foo.caller.requests)
    with pytest.raises(AlreadyLockedError):
        foo.lock(OTHER, timeout=2).result()
    assert len(foo.caller.requests) == asked
    assert foo.hold is hold
    assert foo.entries


def test_whose_time_is_over_changes_nothing_of_the_call_whose_turn_it_is(foo, store):
    store.enter("beta", ttl=3600)
    first = foo.lock(timeout=60).go()
    second = foo.lock(OTHER, timeout=2).go()
    foo.pass_time(2)
    assert isinstance(second.go().error, AlreadyLockedError)
    assert foo.core.turns.current is first.call
    assert first.go().waits
    assert len(foo.entries) == 1


@pytest.mark.parametrize("call", ["unlock", "renew", "lock"])
def test_a_call_does_not_wait_longer_for_its_turn_than_the_client_allows(foo, store, call):
    first = foo.lock().to(Enter)
    begun = store.now
    going = getattr(foo, call)(OTHER)
    with pytest.raises(StoreTimeoutError, match="'foo': another call of this object"):
        going.result()
    assert store.now == begun + TIMEOUT
    assert foo.core.turns.current is first.call


def test_whose_time_is_over_while_nothing_is_held_yet_is_told_of_the_call(foo):
    foo.lock().to(Enter)
    with pytest.raises(StoreTimeoutError):
        foo.lock(OTHER, timeout=1).result()


def test_whose_time_is_over_just_when_the_turn_is_its_own_goes_on(foo, hold, store):
    going = foo.lock(OTHER, timeout=4).go()
    foo.unlock().result()
    store.pass_time(1)
    assert going.go().result()


def test_destroy_does_not_wait_for_ever_for_a_call(foo, store):
    foo.lock().to(Enter)
    with pytest.raises(StoreTimeoutError):
        foo.destroy(OTHER).result()
    assert foo.status.closed


# A loss hands the turn on.


def test_a_hold_that_expires_hands_the_turn_on(foo, hold, store):
    going = foo.lock(OTHER, timeout=60).go()
    assert going.result().token > hold.token
    assert store.now < 1000 + 2 * TIMEOUT
    assert foo.names[:2] == ["acquired", "lost"]


def test_a_hold_that_expires_while_nobody_notices_hands_the_turn_on(foo, hold, store):
    going = foo.lock(OTHER, timeout=60).go()
    store.pass_time(foo.remaining)
    assert going.go().result() is foo.hold


def test_a_hold_that_is_deleted_hands_the_turn_on(foo, hold, store):
    foo.pass_time(1)
    going = foo.lock(OTHER, timeout=60).go()
    store.remove(foo.entries[0])
    foo.hear()
    assert going.go().result() is foo.hold


def test_a_hold_whose_lease_is_gone_hands_the_turn_on(store):
    foo = Foo(store, auto_renew=True)
    foo.lock().result()
    going = foo.lock(OTHER, timeout=60).go()
    store.apply(Revoke(1))
    foo.due()
    foo.pass_time(2)
    assert going.go().result() is foo.hold


def test_a_hold_that_a_silence_ends_hands_the_turn_on(foo, hold, store):
    going = foo.lock(OTHER, timeout=60).go()
    store.pass_time(60 - 1)
    now = store.now
    foo.tracker.silent(1, StoreTimeoutError("no"), sent=now, now=now)
    assert going.call is foo.core.turns.current


def test_a_hold_that_another_call_finds_lost_hands_the_turn_on(foo, hold, store):
    store.remove(foo.entries[0])
    going = foo.lock(OTHER, timeout=60).go()
    with pytest.raises(LockLostError):
        foo.renew().result()
    assert going.go().result() is foo.hold


def test_a_hold_that_is_given_back_in_doubt_hands_the_turn_on(foo, hold):
    going = foo.lock(OTHER, timeout=60).go()
    foo.faults[Leave] = NoAnswer(Fate.APPLIED)
    foo.unlock().result()
    assert going.go().result() is foo.hold


def test_a_hold_that_could_not_be_given_back_hands_no_turn_on(foo, hold):
    going = foo.lock(OTHER, timeout=60).go()
    foo.faults[Leave] = Refusal(StorePermissionError)
    with pytest.raises(StorePermissionError):
        foo.unlock().result()
    assert going.go().waits
    assert foo.hold is hold


def test_a_try_that_fails_hands_the_turn_on(foo, store):
    first = foo.lock().to(Enter)
    second = foo.lock(OTHER, timeout=60).go()
    first.throw(StorePermissionError("no"))
    assert first.go().error
    assert second.go().result() is foo.hold


# What ends the wait for a turn.


def test_cancel_ends_the_wait_for_the_hold_of_another_thread(foo, hold):
    going = foo.lock(OTHER, timeout=60).go()
    foo.core.cancel()
    asks_nothing(foo, going)
    assert isinstance(going.error, LockCancelledError)
    assert foo.hold is hold


def test_cancel_ends_all_waits_and_later_ones_wait_again(foo, hold):
    waits = [foo.lock(thread, timeout=60).go() for thread in (OTHER, THIRD)]
    foo.core.cancel()
    assert [type(each.go().error) for each in waits] == [LockCancelledError] * 2
    assert foo.lock(OTHER, timeout=60).go().waits


def test_a_wait_that_is_cancelled_when_its_turn_has_come_takes_nothing(foo, hold):
    going = foo.lock(OTHER, timeout=60).go()
    foo.unlock().result()
    foo.core.cancel()
    assert isinstance(going.go().error, LockCancelledError)
    assert foo.entries == []
    assert foo.core.turns.current is None


def test_cancel_does_not_end_other_calls_that_wait_for_their_turn(foo, hold):
    first = foo.renew().to(Get)
    second = foo.unlock(OTHER).go()
    foo.core.cancel()
    first.result()
    second.go().result()
    assert foo.entries == []


def test_destroy_ends_all_waits_for_a_turn(foo, hold):
    waits = [foo.lock(OTHER, timeout=60).go(), foo.lock(THIRD, timeout=60).go()]
    ending = foo.destroy().go()
    assert [type(each.go().error) for each in waits] == [DestroyedError] * 2
    ending.result()
    assert foo.entries == []


def test_destroy_ends_the_calls_that_wait_for_another_call(foo, hold):
    first = foo.renew().to(Get)
    second = foo.unlock(OTHER).go()
    third = foo.destroy(THIRD).go()
    assert isinstance(second.go().error, DestroyedError)
    assert third.waits
    assert isinstance(first.go().error, DestroyedError)
    third.go().result()
    assert foo.entries == []


def test_destroy_whose_turn_has_come_before_a_call_that_waits_comes_first(foo, hold):
    first = foo.renew().to(Get)
    second = foo.unlock(OTHER).go()
    assert isinstance(first.go().over, bool)
    ending = foo.destroy(THIRD).go()
    assert isinstance(second.go().error, DestroyedError)
    ending.go().result()
    assert foo.entries == []


# A call in the middle of a call, as in the handler of a signal.


@pytest.mark.parametrize("call", ["lock", "unlock", "renew", "lock and wait"])
def test_a_call_in_a_call_of_the_same_thread_has_no_turn_of_its_own(foo, hold, call):
    first = foo.renew().to(Get)
    going = foo.lock(timeout=60) if call == "lock and wait" else getattr(foo, call)()
    asks_nothing(foo, going)
    assert isinstance(going.error, StoreTimeoutError)
    assert foo.core.turns.current is first.call
    assert first.result() > 4


def test_a_call_in_the_wait_for_a_turn_of_the_same_thread_is_one_of_its_own(foo, hold):
    waiting = foo.lock(OTHER, timeout=60).go()
    foo.unlock(OTHER).result()
    assert waiting.go().result()


def test_who_waits_for_its_turn_and_gives_back_in_a_handler_goes_on(foo, hold):
    going = foo.lock(OTHER, timeout=60).go()
    foo.exit(hold, OTHER).result()
    assert going.go().result() is foo.hold


# Interrupts of those that wait for their turn.


def test_whom_an_interrupt_throws_out_of_its_wait_is_passed_over(foo, hold):
    second = foo.lock(OTHER, timeout=60).go()
    third = foo.lock(THIRD, timeout=60).go()
    second.throw(KeyboardInterrupt())
    second.go()
    assert isinstance(second.error, KeyboardInterrupt)
    foo.unlock().result()
    assert third.go().result() is foo.hold


def test_whom_an_interrupt_throws_out_when_its_turn_has_come_hands_it_on(foo, hold):
    second = foo.lock(OTHER, timeout=60).go()
    third = foo.lock(THIRD, timeout=60).go()
    foo.unlock().result()
    second.throw(KeyboardInterrupt())
    second.go()
    assert isinstance(second.error, KeyboardInterrupt)
    assert third.go().result() is foo.hold


def test_a_call_that_never_began_leaves_no_turn(foo):
    going = foo.unlock()
    going.drop()
    assert foo.lock().result()


def test_what_waits_behind_a_call_that_waits_in_the_queue_has_its_turn_after_it(foo, store):
    beta = store.enter("beta", ttl=3600)
    first = foo.lock(timeout=60).go()
    second = foo.lock(OTHER, timeout=60).go()
    store.remove(beta)
    foo.hear()
    first.go().result()
    assert second.go().waits
    foo.unlock().result()
    assert second.go().result() is foo.hold


def test_others_are_told_at_once_that_a_call_waits_in_the_queue(foo, store):
    store.enter("beta", ttl=3600)
    first = foo.lock(timeout=60).go()
    assert isinstance(foo.lock(OTHER).go().error, AlreadyLockedError)
    assert isinstance(foo.unlock(THIRD).go().error, LockNotOwnedError)
    assert first.waits


# A lost hold is its owner's, though another thread holds the lock by now.


@pytest.fixture
def followed(foo: Foo) -> Foo:
    """The first thread has lost its hold; another one holds the lock by the same object."""
    foo.lock().result()
    foo.pass_time(60)
    foo.lock(OTHER).result()
    return foo


def test_who_has_lost_its_hold_does_not_see_that_of_another_thread(followed, store):
    now = store.now
    assert followed.status.present(now, MAIN) is None
    assert followed.status.state(now, MAIN) is State.LOST
    with pytest.raises(LockLostError):
        followed.status.check(now, MAIN)
    assert followed.status.check(now, OTHER) is followed.hold
    assert followed.status.state(now, THIRD) is State.HELD


@pytest.mark.parametrize("call", ["unlock", "renew"])
def test_who_has_lost_its_hold_does_not_touch_that_of_another_thread(followed, call):
    going = getattr(followed, call)()
    asks_nothing(followed, going)
    assert isinstance(going.error, LockLostError)
    assert followed.held
    assert followed.names == ["acquired", "lost", "acquired"]


def test_what_a_handler_held_and_lost_hides_no_later_hold(foo, store):
    foo.lock(None).result()
    foo.pass_time(60)
    hold = foo.lock(OTHER).result()
    with pytest.raises(AlreadyLockedError, match="this object"):
        foo.lock(THIRD).result()
    assert foo.hold is hold
    foo.unlock(OTHER).result()
    assert foo.entries == []


def test_the_losses_of_threads_that_ended_do_not_pile_up(foo):
    for number in range(300):
        foo.lock(number).result()
        foo.pass_time(60)
    assert len(foo.status.lost_of) <= 100


def test_who_has_lost_its_hold_is_told_so_by_the_end_of_with_at_once(foo, hold):
    foo.pass_time(60)
    foo.lock(OTHER).to(Enter)  # a call that is under way for long
    going = foo.exit(hold)
    asks_nothing(foo, going)
    assert isinstance(going.error, LockLostError)


def test_a_lost_hold_is_forgotten_when_its_owner_asks_for_the_lock_again(followed, store):
    with pytest.raises(AlreadyLockedError):
        followed.lock().result()
    followed.unlock(OTHER).result()
    hold = followed.lock().result()
    assert followed.status.check(store.now, MAIN) is hold


# What a call in a signal's handler must not wait for.


def test_a_wait_in_the_middle_of_a_wait_of_the_same_thread_is_refused(foo, hold):
    foo.lock(OTHER, timeout=60).go()
    going = foo.lock(OTHER, timeout=60)
    asks_nothing(foo, going)
    assert isinstance(going.error, StoreTimeoutError)


def test_a_wait_in_the_pause_of_a_call_of_the_same_thread_is_not(foo, store):
    beta = store.enter("beta")
    foo.lock(tries=9, pause=100.0).go()
    store.remove(beta)
    assert foo.lock(timeout=60).go().result()


def test_a_wait_for_a_turn_looks_again_when_the_client_is_closed(foo, hold):
    going = foo.lock(OTHER, timeout=60).go()
    foo.tracker.stir_all()
    assert not going.waits
