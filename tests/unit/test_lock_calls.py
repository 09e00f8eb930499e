"""The calls of one lock object, one after the other: what they do, and what they tell."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import pytest
from faults import Caller, End, Fate, NoAnswer, Refusal, Slow
from walk import OTHER, TTL, Foo

from microlock.core.hold import State
from microlock.core.port import Enter, Get, Grant, KeepAlive, Leave, Move, Read, Revoke
from microlock.core.queue import Holder
from microlock.errors import (
    AlreadyLockedError,
    DestroyedError,
    LockCancelledError,
    LockLostError,
    LockNotOwnedError,
    LockUncertainError,
    LossReason,
    StorePermissionError,
    StoreTimeoutError,
    StoreUnavailableError,
)

# Taking it.


def test_lock_takes_a_free_lock(foo, store):
    hold = foo.lock().result()
    assert foo.hold is hold
    (entry,) = store.entries()
    assert (entry.name, entry.create_revision) == (hold.place.entry, hold.token)


def test_a_hold_says_what_it_is(foo, store):
    begun = store.now
    hold = foo.lock().result()
    said = hold.hold
    assert (said.key, said.node_id, said.token, said.lease_id) == ("foo", "alpha", hold.token, 1)
    assert (said.ttl, said.attempts, said.waited) == (TTL, 1, store.now - begun)


def test_a_hold_says_the_ttl_that_was_granted(store):
    assert Foo(store, ttl=1).lock().result().hold.ttl == store.floor


def test_an_acquisition_is_told_with_how_it_came(foo, hold):
    (event,) = foo.told
    assert (event.name, event.node_id, event.token) == ("acquired", "alpha", hold.token)
    assert (event.waited, event.attempts) == (hold.hold.waited, 1)


def test_a_lock_that_somebody_holds_is_refused_and_that_is_told(foo, store):
    beta = store.keys[store.enter("beta")]
    with pytest.raises(AlreadyLockedError) as raised:
        foo.lock().result()
    assert raised.value.holder == Holder.of(beta)
    (event,) = foo.told
    assert (event.name, event.node_id, event.error) == ("failed", "alpha", raised.value)


def test_a_refused_try_on_a_held_lock_leaves_nothing(foo, store):
    store.enter("beta")
    with pytest.raises(AlreadyLockedError):
        foo.lock().result()
    assert (foo.entries, store.ours()) == ([], [])


def test_another_object_of_the_node_is_named_so(foo, hold, store):
    with pytest.raises(AlreadyLockedError, match="another object of this node"):
        Foo(store).lock().result()


def test_what_this_object_holds_is_refused_without_asking(foo, hold):
    asked = len(foo.caller.requests)
    with pytest.raises(AlreadyLockedError, match="this object") as raised:
        foo.lock().result()
    assert raised.value.holder == Holder("alpha", hold.token, hold.place.lease.id)
    assert len(foo.caller.requests) == asked
    assert foo.held


def test_the_lease_of_one_cycle_serves_the_next(foo, hold, store):
    foo.unlock().result()
    foo.lock().result()
    assert store.ours() == [hold.place.lease.id]
    assert sum(isinstance(each, Grant) for each in foo.caller.requests) == 1


def test_a_lock_whose_hold_expired_can_be_taken_again(foo, hold, store):
    foo.pass_time(60)
    again = foo.lock().result()
    assert again.token > hold.token
    assert foo.names == ["acquired", "lost", "acquired"]


def test_a_loss_that_nobody_noticed_is_told_before_the_next_hold(foo, hold, store):
    store.pass_time(60)
    foo.lock().result()
    assert foo.names == ["acquired", "lost", "acquired"]


def test_a_try_without_an_answer_does_not_forget_an_expired_hold(foo, hold, store):
    store.pass_time(4.955)  # past our deadline, not yet past etcd's
    assert not foo.held
    foo.faults[Read] = NoAnswer(Fate.NEVER)
    with pytest.raises(StoreTimeoutError):
        foo.lock().result()
    foo.faults.clear()
    store.latency = 0.001
    assert foo.lock().result().token > hold.token  # and not refused by its own entry


def test_a_lock_whose_hold_is_over_before_it_returns_is_lost_and_given_back(foo, store):
    going = foo.lock().to(Enter)
    going.step()
    store.pass_time(TTL - 0.04)  # the machine was busy
    with pytest.raises(LockLostError) as raised:
        going.result()
    assert raised.value.reason is LossReason.EXPIRED
    assert (foo.held, foo.entries) == (False, [])
    assert "acquired" not in foo.names


def test_a_try_that_is_left_uncertain_says_so(foo):
    """The client is closed in the middle, and a lease of the cycle before is in use."""
    foo.lock().result()
    foo.unlock().result()
    foo.faults[Enter] = foo.faults[Revoke] = Refusal(DestroyedError)
    with pytest.raises(LockUncertainError):
        foo.lock().result()
    assert not foo.held


# More than one try.


def test_a_try_is_made_again_after_a_pause(foo, store):
    beta = store.enter("beta")
    going = foo.lock(tries=3, pause=1.0).go()
    assert going.waits
    store.remove(beta)
    assert going.result().hold.attempts == 2


def test_the_last_try_is_the_last(foo, store):
    store.enter("beta")
    with pytest.raises(AlreadyLockedError):
        foo.lock(tries=3, pause=1.0).result()
    assert sum(isinstance(each, Read) for each in foo.caller.requests) == 3
    assert foo.names == ["failed"]


def test_a_pause_between_tries_varies_by_half_at_most(foo, store):
    store.enter("beta")
    begun = store.now
    going = foo.lock(tries=2, pause=1.0).go()
    assert begun + 0.5 <= going.request.until <= store.now + 1.5


def test_a_pause_is_no_shorter_for_being_woken(foo, store):
    store.enter("beta")
    going = foo.lock(tries=2, pause=1.0).go()
    until = going.request.until
    going.call.woken.set()
    going.go()
    assert going.waits
    assert going.request.until == until


def test_other_calls_have_their_turn_in_a_pause(foo, store):
    store.enter("beta")
    foo.lock(tries=2, pause=1.0).go()
    with pytest.raises(LockNotOwnedError):
        foo.unlock(OTHER).go().result()


def test_tries_end_when_another_thread_takes_the_lock_by_this_object(foo, store):
    beta = store.enter("beta")
    going = foo.lock(tries=3, pause=1.0).go()
    store.remove(beta)
    hold = foo.lock(OTHER).result()
    with pytest.raises(AlreadyLockedError, match="this object"):
        going.result()
    assert foo.hold is hold


def test_a_pause_ends_when_the_lock_is_destroyed(foo, store):
    store.enter("beta")
    going = foo.lock(tries=3, pause=100.0).go()
    foo.destroy(OTHER).result()
    assert isinstance(going.go().error, DestroyedError)


# Giving it back.


def test_unlock_gives_it_back_and_tells_so(foo, hold):
    foo.unlock().result()
    assert (foo.entries, foo.state, hold.returned) == ([], State.RELEASED, True)
    assert (foo.names[-1], foo.told[-1].token) == ("released", hold.token)


def test_any_thread_may_give_it_back(foo, hold):
    foo.unlock(OTHER).result()
    assert foo.entries == []


def test_what_is_not_held_is_not_given_back(foo):
    foo.lock().result()
    foo.unlock().result()
    with pytest.raises(LockNotOwnedError, match=r"holder\(\) returns"):
        foo.unlock().result()


def test_what_was_lost_is_not_given_back_and_nothing_is_asked(foo, hold, store):
    store.pass_time(60)
    asked = len(foo.caller.requests)
    with pytest.raises(LockLostError) as raised:
        foo.unlock().result()
    assert raised.value.reason is LossReason.EXPIRED
    assert len(foo.caller.requests) == asked


@pytest.mark.parametrize(
    ("auto_renew", "cure"), [(False, "use auto_renew=True"), (True, "was paused")]
)
def test_a_hold_that_expired_says_its_ttl_and_the_cure(store, auto_renew, cure):
    foo = Foo(store, auto_renew=auto_renew)
    foo.lock().result()
    store.pass_time(60)
    with pytest.raises(LockLostError, match=f"the ttl of {TTL} s passed .*{cure}"):
        foo.unlock().result()


def test_what_was_deleted_is_found_lost_by_unlock(foo, hold, store):
    store.remove(foo.entries[0])
    with pytest.raises(LockLostError) as raised:
        foo.unlock().result()
    assert raised.value.reason is LossReason.DELETED
    assert (foo.state, foo.names[-1]) == (State.LOST, "lost")


def test_what_is_lost_just_before_unlock_asks_is_lost(foo, hold, store):
    going = foo.unlock()
    going.step()  # its turn has come, and it is about to give it back
    hold.lose(LossReason.LEASE_GONE)
    with pytest.raises(LockLostError) as raised:
        going.result()
    assert raised.value.reason is LossReason.LEASE_GONE


def test_a_loss_is_told_once_whoever_finds_it(foo, hold, store):
    foo.pass_time(1)
    store.remove(foo.entries[0])
    with pytest.raises(LockLostError):
        foo.unlock().result()
    foo.hear()
    with pytest.raises(LockLostError):
        foo.unlock().result()
    assert foo.names == ["acquired", "lost"]


class Look:
    """Answers in good order, and notes what the lock says of itself meanwhile."""

    def __init__(self, foo: Foo) -> None:
        self.foo = foo
        self.seen: list[Any] = []

    def meet(self, request: Any, caller: Caller) -> Any:
        self.seen.append((self.foo.held, self.foo.state))
        return caller.ask(request)


def test_nothing_is_held_while_it_is_given_back(foo, hold):
    look = foo.faults[Leave] = Look(foo)
    foo.unlock().result()
    assert look.seen == [(False, State.RELEASED)]


def test_a_hold_that_etcd_refuses_to_give_back_is_held_again(foo, hold):
    foo.faults[Leave] = Refusal(StorePermissionError)
    with pytest.raises(StorePermissionError):
        foo.unlock().result()
    assert foo.hold is hold
    foo.faults.clear()
    foo.unlock().result()
    assert foo.entries == []


def test_a_release_in_doubt_ends_the_hold_and_another_thread_revokes_its_lease(foo, hold):
    foo.faults[Leave] = NoAnswer(Fate.LATE)
    foo.faults[Revoke] = NoAnswer(Fate.NEVER)
    with pytest.raises(LockUncertainError):
        foo.unlock().result()
    assert foo.state is State.RELEASED
    assert foo.status.left == hold.leases


# For another object of its node, before the first lock().


def test_unlock_gives_back_what_an_earlier_object_of_the_node_took(foo, hold, store):
    Foo(store).unlock().result()
    assert foo.entries == []


def test_renew_takes_over_what_an_earlier_object_of_the_node_took(foo, hold, store):
    store.pass_time(3)
    later = Foo(store)
    assert later.renew().result() > 4
    assert (later.hold.token, later.hold.hold) == (hold.token, None)
    assert later.hold.owner == "main"


def test_extend_takes_over_what_an_earlier_object_of_the_node_took(foo, hold, store):
    later = Foo(store)
    assert later.extend(30).result() > 25
    assert later.hold.token == hold.token


def test_what_somebody_else_holds_is_named_and_not_touched(foo, store):
    name = store.enter("beta")
    with pytest.raises(LockNotOwnedError) as raised:
        foo.unlock().result()
    assert raised.value.holder == Holder.of(store.keys[name])
    assert name in store.keys


def test_what_nobody_holds_is_not_owned(foo):
    with pytest.raises(LockNotOwnedError) as raised:
        foo.renew().result()
    assert raised.value.holder is None


def test_after_its_first_lock_an_object_acts_for_itself_alone(foo, hold, store):
    foo.unlock().result()
    Foo(store).lock().result()
    with pytest.raises(LockNotOwnedError):
        foo.unlock().result()
    assert foo.entries


def test_an_unanswered_renewal_of_another_objects_hold_is_none_of_this_ones(hold, store):
    later = Foo(store)
    later.faults[Get] = Refusal(StoreUnavailableError)
    with pytest.raises(StoreUnavailableError):
        later.renew().result()
    assert (later.state, later.names) == (State.RELEASED, [])


def test_what_could_not_be_given_back_for_another_object_is_not_this_ones(foo, hold, store):
    later = Foo(store)
    later.faults[Leave] = Refusal(StorePermissionError)
    with pytest.raises(StorePermissionError):
        later.unlock().result()
    assert (later.state, later.names) == (State.RELEASED, [])


# Keeping it.


def test_renew_puts_the_whole_ttl_back_and_tells_so(foo, hold, store):
    store.pass_time(3)
    assert foo.renew().result() == foo.remaining > 4.8
    assert foo.names == ["acquired", "renewed"]


def test_extend_gives_another_ttl_and_keeps_the_token(foo, hold, store):
    assert foo.extend(30).result() > 29
    (entry,) = store.entries()
    assert entry.create_revision == foo.hold.token == hold.token
    assert entry.lease_id == foo.hold.place.lease.id
    assert store.ours() == [entry.lease_id]


def test_the_next_lock_asks_for_the_ttl_of_the_object_again(foo, hold):
    foo.extend(30).result()
    foo.unlock().result()
    assert foo.lock().result().hold.ttl == TTL


def test_renew_finds_a_deletion(foo, hold, store):
    store.remove(foo.entries[0])
    with pytest.raises(LockLostError) as raised:
        foo.renew().result()
    assert raised.value.reason is LossReason.DELETED
    assert foo.names == ["acquired", "lost"]


def test_extend_finds_a_deletion(foo, hold, store):
    store.remove(foo.entries[0])
    with pytest.raises(LockLostError) as raised:
        foo.extend(30).result()
    assert raised.value.reason is LossReason.DELETED
    assert (foo.names, store.ours()) == (["acquired", "lost"], [])


def test_a_renewal_that_comes_too_late_is_a_loss_and_not_zero_seconds(foo, hold):
    foo.faults[KeepAlive] = Slow(back=TTL)
    with pytest.raises(LockLostError):
        foo.renew().result()


def test_an_extension_in_doubt_stands_and_is_finished_by_the_next_renewal(foo, hold, store):
    foo.faults[Move] = NoAnswer(Fate.NEVER)
    with pytest.raises(StoreTimeoutError):
        foo.extend(30).result()
    assert (foo.held, len(foo.hold.leases)) == (True, 2)
    foo.faults.clear()
    assert foo.renew().result() > 25
    assert len(foo.hold.leases) == 1


def lose_in_doubt(foo: Foo) -> None:
    """The entry is deleted, its put may come again, and its lease can't be revoked."""
    foo.faults[Enter] = NoAnswer(Fate.LATE, End.REPEAT)
    foo.lock().result()
    foo.store.remove(foo.entries[0])
    foo.faults[Revoke] = NoAnswer(Fate.NEVER)


def test_a_renewal_that_ends_uncertain_leaves_nothing_held(foo):
    lose_in_doubt(foo)
    with pytest.raises(LockUncertainError):
        foo.renew().result()
    assert not foo.held


def test_an_extension_that_ends_uncertain_leaves_nothing_held(foo):
    lose_in_doubt(foo)
    with pytest.raises(LockUncertainError):
        foo.extend(9).result()
    assert not foo.held


def test_an_interrupted_extension_raises_the_interrupt_also_past_the_deadline(foo, hold, store):
    going = foo.extend(9).to(Move)
    store.pass_time(6)
    going.throw(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        going.result()


@pytest.mark.parametrize("ttl", [2, 30])
def test_held_is_not_true_for_longer_than_the_entry_is_there_while_an_extension_is_answered(
    foo, hold, store, ttl
):
    seen = []

    class SlowBack:
        def meet(self, request: Any, caller: Caller) -> Any:
            reply = caller.ask(request)
            for _ in range(6):
                store.pass_time(1)
                seen.append((foo.held, bool(foo.entries)))
            return reply

    foo.faults[Move] = SlowBack()
    with suppress(LockLostError):
        foo.extend(ttl).result()
    assert (True, True) in seen
    assert (True, False) not in seen


# Leaving `with`.


def test_the_end_of_with_gives_its_hold_back(foo, hold):
    foo.exit(hold).result()
    assert (foo.entries, foo.names) == ([], ["acquired", "released"])


def test_the_end_of_with_gives_no_later_hold_back(foo, hold):
    foo.unlock().result()
    later = foo.lock().result()
    foo.exit(hold).result()
    assert foo.hold is later


@pytest.mark.parametrize("what", ["nothing", "returned"])
def test_the_end_of_with_asks_nothing_where_nothing_is_to_be_given_back(foo, hold, what):
    foo.unlock().result()
    asked = len(foo.caller.requests)
    foo.exit(hold if what == "returned" else None).result()
    assert len(foo.caller.requests) == asked


def test_the_end_of_with_of_what_was_given_back_while_it_waited_its_turn_is_fine(foo, hold):
    going = foo.unlock(OTHER).to(Leave)
    leaving = foo.exit(hold).go()
    assert leaving.waits
    going.result()
    leaving.result()
    assert foo.names == ["acquired", "released"]


def test_the_end_of_with_raises_a_loss_and_tells_it(foo, hold, store):
    store.pass_time(60)
    with pytest.raises(LockLostError):
        foo.exit(hold).result()
    assert foo.names == ["acquired", "lost"]


def test_the_end_of_with_raises_the_loss_of_its_own_hold_though_there_is_a_later_one(foo, hold):
    foo.pass_time(60)
    later = foo.lock().result()
    with pytest.raises(LockLostError):
        foo.exit(hold).result()
    assert foo.hold is later


def test_a_hold_that_the_end_of_with_cannot_give_back_is_revoked_by_another_thread(foo, hold):
    """No call will try again."""
    foo.faults[Leave] = Refusal(StorePermissionError)
    with pytest.raises(StorePermissionError):
        foo.exit(hold).result()
    assert (foo.held, foo.tracker.next_due, foo.tracker.watches) == (False, math.inf, {})
    assert foo.status.left == hold.leases


def test_what_is_abandoned_is_given_back(foo, hold):
    foo.abandon(hold).result()
    assert foo.entries == []


def test_what_cannot_be_given_back_when_it_is_abandoned_is_logged(foo, hold):
    foo.faults[Leave] = Refusal(StorePermissionError)
    foo.abandon(hold).result()
    assert foo.warned == ["'foo' may stay locked until its ttl ends: refused"]


def test_what_is_abandoned_and_was_lost_is_not_left_to_its_ttl(foo, hold, store):
    store.pass_time(60)
    foo.abandon(hold).result()
    assert foo.warned == []


# Looking.


# What cancel() leaves alone.


def test_without_a_wait_there_is_nothing_to_cancel(foo, hold):
    foo.core.cancel()
    foo.sync()
    assert foo.hold is hold
    foo.unlock().result()


def test_a_pause_between_tries_is_cancelled(foo, store):
    beta = store.enter("beta")
    going = foo.lock(tries=3, pause=100.0).go()
    foo.core.cancel()
    assert isinstance(going.go().error, LockCancelledError)
    assert (going.error.key, going.error.node_id) == ("foo", "alpha")
    store.remove(beta)
    assert foo.lock().result()


def test_a_try_under_way_is_not_cancelled(foo):
    going = foo.lock().to(Enter)
    foo.core.cancel()
    assert going.result()
