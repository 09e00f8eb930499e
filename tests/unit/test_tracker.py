"""What befalls a hold between the calls: what time does to it, the watches, and the renewals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from faults import Caller, Fate, NoAnswer, Refusal
from shared_etcd import FOO, Store
from walk import MAIN, TTL, Foo

from microlock.core.hold import Guard, HoldState, State
from microlock.core.port import Found, Get, KeyValue, Leave, Lifetime, Move, Revoke
from microlock.core.queue import Change, Holder
from microlock.errors import (
    DestroyedError,
    LockLostError,
    LockNotOwnedError,
    LossReason,
    MicrolockError,
    StorePermissionError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from microlock.events import LockEvent

SILENCE = StoreTimeoutError("no answer")


class Meanwhile:
    """An answer in good order, while something else happens."""

    def __init__(self, happens: Callable[[], object]) -> None:
        self._happens = happens

    def meet(self, request: Any, caller: Caller) -> Any:
        reply = caller.ask(request)
        self._happens()
        return reply


@pytest.fixture
def kept(store: Store) -> Foo:
    """One that is renewed in the background, and held."""
    foo = Foo(store, auto_renew=True)
    foo.lock().result()
    return foo


def renewed(foo: Foo, hold: HoldState, ttl: int = TTL, sent: float | None = None) -> None:
    """A renewal of its first lease is answered."""
    now = foo.store.now
    assert hold.hold
    lifetime = Lifetime(ttl, now if sent is None else sent, now)
    foo.tracker.renewed(hold.hold.lease_id, lifetime, now)


def silent(foo: Foo, hold: HoldState, sent: float | None = None) -> None:
    now = foo.store.now
    assert hold.hold
    foo.tracker.silent(hold.hold.lease_id, SILENCE, sent=now if sent is None else sent, now=now)


def delete(foo: Foo) -> None:
    """An operator deletes the entry, and the watches tell."""
    for name in foo.entries:
        foo.store.remove(name)
    foo.hear()


# What is known of it.


def test_what_is_known_of_a_hold_goes_with_it(foo, hold, store):
    assert (foo.hold, foo.status.reason(hold, store.now)) == (hold, None)
    store.pass_time(foo.remaining)
    assert (foo.hold, foo.status.reason(hold, store.now)) == (None, LossReason.EXPIRED)


def test_held_is_not_true_past_the_deadline_though_nobody_noticed(foo, hold, store):
    store.pass_time(foo.remaining - 0.001)
    assert foo.held
    store.pass_time(0.001)
    assert not foo.held
    assert foo.entries  # etcd's clock is a margin behind ours


def test_a_check_of_what_is_held_returns_it(foo, hold, store):
    assert foo.status.check(store.now, MAIN) is hold


def test_a_check_of_what_is_not_held_raises(foo, store):
    with pytest.raises(LockNotOwnedError) as raised:
        foo.status.check(store.now, MAIN)
    assert type(raised.value) is LockNotOwnedError


def test_a_check_of_what_is_lost_says_why(foo, hold, store):
    store.pass_time(60)
    with pytest.raises(LockLostError) as raised:
        foo.status.check(store.now, MAIN)
    assert raised.value.reason is LossReason.EXPIRED


def test_a_check_of_what_was_given_back_raises(foo, hold, store):
    foo.unlock().result()
    with pytest.raises(LockNotOwnedError):
        foo.status.check(store.now, MAIN)


def test_a_check_of_what_was_destroyed_raises(foo, store):
    foo.destroy().result()
    with pytest.raises(DestroyedError, match="the lock 'foo' of 'alpha' was destroyed"):
        foo.status.check(store.now, MAIN)


def test_a_loss_that_is_noticed_is_told_once(foo, hold, store):
    store.pass_time(60)
    for _ in range(2):
        assert foo.status.noticed(store.now) is LossReason.EXPIRED
    assert [(e.name, e.reason) for e in foo.told[1:]] == [("lost", LossReason.EXPIRED)]


def test_a_guard_is_about_the_entry_of_the_hold(foo, hold, store):
    (entry,) = store.entries()
    guard = Guard(entry.name, entry.create_revision, "foo", "alpha")
    assert foo.status.guard(store.now, MAIN) == guard


def test_there_is_no_guard_of_what_is_not_held(foo, store):
    with pytest.raises(LockNotOwnedError):
        foo.status.guard(store.now, MAIN)


def test_one_that_never_locked_is_released(foo):
    assert foo.state is State.RELEASED


def test_a_hold_is_held_and_then_released(foo, hold):
    assert foo.state is State.HELD
    foo.unlock().result()
    assert foo.state is State.RELEASED


# After a fork.


def test_a_child_holds_nothing(foo, hold, store):
    foo.forked = True
    assert (foo.held, foo.state) == (False, State.LOST)


def test_a_child_is_told_that_the_hold_is_the_parents(foo, hold, store):
    foo.forked = True
    assert foo.status.reason(hold, store.now) is LossReason.FORKED
    with pytest.raises(LockLostError) as raised:
        foo.status.check(store.now, MAIN)
    assert raised.value.reason is LossReason.FORKED


def test_a_child_is_told_so_past_the_deadline_too(foo, hold, store):
    foo.forked = True
    store.pass_time(60)
    assert foo.status.reason(hold, store.now) is LossReason.FORKED


def test_a_hold_that_had_ended_before_the_fork_stays_as_it_ended(foo, hold):
    foo.unlock().result()
    foo.forked = True
    assert foo.state is State.RELEASED


def test_what_was_never_held_was_not_lost(foo, store):
    assert foo.status.reason(foo.status.hold, store.now) is None


def test_a_child_gives_nothing_back_at_exit(foo, hold, store):
    foo.forked = True
    assert foo.core.release_at_exit(store.now) == []


# What the watches tell.


def test_a_hold_whose_entry_is_there_is_not_lost_by_the_watch(foo, hold):
    foo.pass_time(1)
    assert foo.held


def test_a_hold_whose_entry_was_deleted_is_lost_by_the_watch(foo, hold, store):
    foo.pass_time(1)
    delete(foo)
    assert foo.state is State.LOST
    assert [(e.name, e.reason) for e in foo.told[1:]] == [("lost", LossReason.DELETED)]


def test_a_hold_that_the_watch_has_not_come_to_is_not_lost(foo):
    foo.listened_to.add("unlocked")
    foo.tracker.listen()
    foo.sync()
    foo.lock().result()
    foo.tracker.watched(FOO.prefix, [], synthesised=False)
    assert foo.held


def test_the_deletion_by_its_own_unlock_is_no_loss(foo, hold):
    """The watch is faster than the answer."""
    foo.pass_time(1)
    foo.faults[Leave] = Meanwhile(foo.hear)
    foo.unlock().result()
    assert (foo.names, foo.state) == (["acquired", "released"], State.RELEASED)


@pytest.mark.parametrize("event", ["unlock", "destroy"])
def test_a_deletion_after_its_end_is_no_loss(foo, hold, event):
    foo.pass_time(1)
    getattr(foo, event)().result()
    foo.hear()
    assert "lost" not in foo.names


def test_a_release_that_is_refused_while_the_entry_is_deleted_is_a_loss(foo, hold, store):
    """The watch has told of the deletion while the hold was being given back."""
    foo.pass_time(1)
    going = foo.unlock().to(Leave)
    delete(foo)
    assert "lost" not in foo.names
    going.throw(StorePermissionError("no"))
    assert isinstance(going.go().error, StorePermissionError)
    foo.hear()
    assert (foo.status.reason(hold, store.now), foo.names[1:]) == (LossReason.DELETED, ["lost"])


def test_a_hold_that_could_not_be_given_back_ends_with_its_ttl(kept):
    refuse_unlock(kept)
    assert kept.held
    kept.pass_time(TTL)
    assert not kept.held


def test_a_hold_that_could_not_be_given_back_is_kept_if_a_call_renews_it(kept):
    refuse_unlock(kept)
    kept.renew().result()
    kept.pass_time(60)
    assert kept.held


def refuse_unlock(foo: Foo) -> None:
    """Time passes meanwhile, and nothing is due."""
    going = foo.unlock().to(Leave)
    foo.pass_time(3)
    going.throw(StorePermissionError("no"))
    assert isinstance(going.go().error, StorePermissionError)


@pytest.mark.parametrize(("taken", "name"), [(True, "locked"), (False, "unlocked")])
def test_a_change_of_the_key_is_told_with_its_holder(foo, store, taken, name):
    foo.listened_to.add(name)
    change = Change(taken, Holder("beta", 7, 2))
    foo.tracker.watched(FOO.prefix, [change], synthesised=True)
    assert foo.told == [LockEvent(name, "foo", "beta", token=7, synthesised=True)]


def test_a_lock_that_was_found_free_is_told_without_a_holder(foo, store):
    foo.listened_to.add("unlocked")
    foo.tracker.watched(FOO.prefix, [Change(False, None)], synthesised=True)
    assert foo.told == [LockEvent("unlocked", "foo", synthesised=True)]


def test_the_watch_of_an_entry_tells_of_no_change_of_the_key(foo, hold, store):
    foo.pass_time(1)
    change = Change(False, Holder("alpha", hold.token, 1))
    foo.tracker.watched(foo.entries[0], [change], synthesised=False)
    assert foo.names == ["acquired"]


def test_an_error_of_the_watch_is_told(foo, store):
    error = StoreUnavailableError("down")
    foo.tracker.watch_failed(FOO.prefix, error, final=False, now=store.now)
    assert [(event.name, event.error) for event in foo.told] == [("error", error)]


def test_a_watch_that_is_interrupted_goes_on(foo, store):
    foo.listened_to.add("locked")
    foo.tracker.listen()
    foo.tracker.watch_failed(FOO.prefix, StoreUnavailableError("down"), final=False, now=store.now)
    assert FOO.prefix in foo.tracker.watches


def test_a_watch_of_the_key_that_has_ended_is_not_wanted_any_more(foo, store):
    foo.listened_to.add("locked")
    foo.tracker.listen()
    foo.tracker.watch_failed(FOO.prefix, StorePermissionError("no"), final=True, now=store.now)
    assert foo.tracker.watches == {}


def test_after_its_end_nothing_of_the_watch_is_told(foo, store):
    foo.destroy().result()
    foo.tracker.watched(FOO.prefix, [Change(False, None)], synthesised=False)
    foo.tracker.watch_failed(FOO.prefix, StoreUnavailableError("down"), final=False, now=store.now)
    assert foo.told == []


# What renewals bring.


def test_a_renewal_moves_the_deadline_and_is_told(foo, hold, store):
    store.pass_time(2)
    before = foo.remaining
    renewed(foo, hold)
    assert foo.remaining > before + 1
    assert foo.names == ["acquired", "renewed"]


def test_a_renewal_of_a_lease_before_is_passed_over(foo, hold):
    foo.extend(9).result()
    foo.told.clear()
    renewed(foo, hold)
    assert foo.told == []


def test_a_renewal_that_finds_the_lease_gone_is_a_loss(foo, hold, store):
    renewed(foo, hold, ttl=0)
    assert foo.status.reason(hold, store.now) is LossReason.LEASE_GONE
    assert foo.names == ["acquired", "lost"]


@pytest.mark.parametrize("ttl", [TTL, 0])
def test_a_renewal_after_the_release_is_passed_over(foo, hold, ttl):
    foo.unlock().result()
    renewed(foo, hold, ttl=ttl)
    assert (foo.names, foo.state) == (["acquired", "released"], State.RELEASED)


@pytest.mark.parametrize("ttl", [TTL, 0])
def test_a_renewal_before_the_first_hold_is_passed_over(foo, store, ttl):
    foo.tracker.renewed(1, Lifetime(ttl, store.now, store.now), store.now)
    assert foo.told == []


def test_a_renewal_whose_answer_comes_after_the_next_deadline_is_a_loss(foo, hold, store):
    sent = store.now
    store.pass_time(60)
    renewed(foo, hold, sent=sent)
    assert foo.names == ["acquired", "lost"]


def test_a_renewal_that_was_overtaken_is_no_news(foo, hold, store):
    store.pass_time(2)
    renewed(foo, hold)
    renewed(foo, hold, sent=store.now - 1)
    assert foo.names == ["acquired", "renewed"]


def test_silence_suspends_the_hold_and_is_told_once(foo, hold):
    silent(foo, hold)
    silent(foo, hold)
    assert foo.state is State.SUSPENDED
    assert [(event.name, event.error) for event in foo.told[1:]] == [("suspended", SILENCE)]


def test_a_suspended_hold_is_held_again_by_a_renewal(foo, hold):
    silent(foo, hold)
    renewed(foo, hold)
    assert foo.state is State.HELD


def test_silence_past_the_deadline_is_a_loss(foo, hold, store):
    store.pass_time(60)
    silent(foo, hold)
    assert foo.names == ["acquired", "lost"]


def test_a_refusal_is_told_with_the_loss_that_comes_of_it(foo, hold, store):
    refused = StorePermissionError("permission denied")
    foo.tracker.silent(hold.hold.lease_id, refused, sent=store.now, now=store.now)
    store.pass_time(60)
    foo.tracker.due(store.now)
    told = [(event.name, event.reason, event.error) for event in foo.told[1:]]
    assert told == [("suspended", None, refused), ("lost", LossReason.REFUSED, refused)]
    with pytest.raises(LockLostError, match="refused to renew") as lost:
        foo.status.check(store.now, None)
    assert lost.value.__cause__ is refused


def test_silence_before_the_first_hold_is_passed_over(foo, store):
    foo.tracker.silent(1, SILENCE, sent=store.now, now=store.now)
    assert foo.told == []


def test_a_later_hold_is_not_touched_by_what_was_asked_before_it(foo, hold, store):
    asked = store.now
    foo.unlock().result()
    again = foo.lock().result()
    assert again.hold.lease_id == hold.hold.lease_id
    foo.told.clear()
    silent(foo, hold, sent=asked)
    renewed(foo, hold, ttl=0, sent=asked)
    assert (foo.state, foo.told) == (State.HELD, [])


def test_an_extension_is_not_lost_by_a_renewal_of_the_lease_that_it_leaves(foo, hold):
    foo.faults[Revoke] = Meanwhile(lambda: renewed(foo, hold, ttl=0))
    assert foo.extend(30).result() > 25
    assert foo.held


def test_renew_does_not_put_a_later_renewal_back(foo, hold, store):
    going = foo.renew().to(Get)
    store.pass_time(2)
    renewed(foo, hold)
    assert going.result() > 4.9


def test_a_call_that_is_not_answered_suspends_the_hold_too(foo, hold):
    foo.faults[Move] = Refusal(StoreUnavailableError)
    with pytest.raises(StoreUnavailableError):
        foo.extend(9).result()
    assert (foo.state, foo.names) == (State.SUSPENDED, ["acquired", "suspended"])


def test_a_call_that_is_not_answered_in_time_finds_the_loss(foo, hold, store):
    going = foo.renew().to(Get)
    store.pass_time(60)
    going.throw(StoreUnavailableError("down"))
    assert isinstance(going.go().error, StoreUnavailableError)
    assert foo.names == ["acquired", "lost"]


# What time does.


def test_what_is_not_held_needs_nothing(foo, store):
    assert (foo.tracker.next_due, foo.tracker.due(store.now), foo.tracker.watches) == (
        math.inf,
        (),
        {},
    )


@pytest.mark.parametrize("end", ["unlock", "destroy"])
def test_what_has_ended_needs_nothing(foo, hold, store, end):
    foo.pass_time(1)
    getattr(foo, end)().result()
    assert (foo.tracker.next_due, foo.tracker.due(store.now), foo.tracker.watches) == (
        math.inf,
        (),
        {},
    )


def test_a_hold_is_watched_a_moment_after_it_began(foo, hold, store):
    assert (foo.tracker.due(store.now), foo.tracker.watches) == ((), {})
    foo.pass_time(foo.tracker.next_due - store.now)
    assert foo.tracker.watches.keys() == {*foo.entries}


def test_nothing_has_to_be_read_for_the_watch_of_a_hold(foo, hold):
    foo.pass_time(1)
    ((entry, known),) = foo.tracker.watches.items()
    kv = KeyValue(entry, b"alpha", hold.token, hold.place.lease.id)
    assert known == Found(hold.token, (kv,))


def test_a_hold_that_is_watched_is_due_at_its_deadline(foo, hold, store):
    foo.pass_time(1)
    assert foo.tracker.next_due == hold.place.deadline


def test_a_hold_whose_key_is_watched_has_no_other_watch(foo, hold):
    foo.tracker.listen()
    assert foo.tracker.next_due == hold.place.deadline
    foo.pass_time(1)
    assert foo.tracker.watches == {FOO.prefix: None}


def test_a_loss_by_the_deadline_is_told_at_the_deadline(foo, hold):
    foo.pass_time(foo.remaining)
    assert [(e.name, e.reason) for e in foo.told[1:]] == [("lost", LossReason.EXPIRED)]


def test_a_hold_is_not_renewed_unless_that_was_asked_for(foo, hold, store):
    foo.pass_time(4)
    assert foo.names == ["acquired"]


def test_a_renewed_hold_is_due_within_a_third_of_its_ttl(kept, store):
    kept.pass_time(1)  # watched from here on
    store.pass_time(kept.tracker.next_due - store.now)
    assert list(kept.tracker.due(store.now)) == [*kept.hold.leases]
    assert store.now <= 1000 + TTL / 3 + 0.1


def test_a_renewed_hold_is_not_renewed_before_it_is_due(kept, store):
    assert kept.tracker.due(store.now) == ()


def test_a_renewed_hold_lasts_for_many_ttls(kept, store):
    kept.pass_time(20 * TTL)
    assert kept.held
    assert kept.entries


def test_a_renewal_that_failed_is_tried_again_before_the_deadline(kept, store):
    kept.silence = SILENCE
    kept.pass_time(4)
    assert (kept.state, kept.names) == (State.SUSPENDED, ["acquired", "suspended"])
    kept.silence = None
    kept.pass_time(0.5)
    assert (kept.state, kept.names[-1]) == (State.HELD, "renewed")


def test_a_renewed_hold_that_etcd_does_not_answer_for_is_lost_at_its_deadline(kept, store):
    deadline = kept.hold.place.deadline
    kept.silence = SILENCE
    kept.pass_time(deadline - store.now)
    assert kept.state is State.LOST
    assert kept.names == ["acquired", "suspended", "lost"]


def test_a_hold_is_not_renewed_past_the_most_that_it_may_last(store):
    foo = Foo(store, auto_renew=True, max_hold=1)
    hold = foo.lock().result()
    foo.pass_time(2)
    assert foo.names == ["acquired"]
    assert foo.tracker.next_due == hold.place.deadline


def test_a_hold_is_renewed_until_the_most_that_it_may_last(store):
    foo = Foo(store, auto_renew=True, max_hold=10)
    foo.lock().result()
    foo.pass_time(12)
    assert foo.held
    foo.pass_time(3)
    assert foo.names[-1] == "lost"


@pytest.mark.parametrize("silence", [None, SILENCE])
def test_an_extension_in_doubt_is_renewed_by_both_leases(kept, silence):
    kept.faults[Move] = NoAnswer(Fate.APPLIED)
    with pytest.raises(StoreTimeoutError):
        kept.extend(9).result()
    kept.silence = silence
    assert len(kept.hold.leases) == 2
    kept.store.pass_time(2.5)
    assert {*kept.due()} == {*kept.hold.leases} or silence is None
    assert kept.held


# What a watch costs, and whom it serves.


def test_a_watch_that_has_ended_is_tried_again_and_not_at_once(store):
    foo = Foo(store, ttl=60)
    foo.lock().result()
    foo.pass_time(1)
    (entry,) = foo.tracker.watches
    foo.tracker.watch_failed(entry, StorePermissionError("no"), final=True, now=store.now)
    assert foo.tracker.watches == {}
    foo.pass_time(4)
    assert foo.tracker.watches == {}
    foo.pass_time(1.1)
    assert foo.tracker.watches.keys() == {entry}


def test_who_listens_to_the_key_watches_it(foo):
    foo.tracker.listen()
    assert foo.tracker.watches == {FOO.prefix: None}


def test_nobody_listens_to_what_was_destroyed(foo):
    foo.destroy().result()
    with pytest.raises(DestroyedError):
        foo.tracker.listen()


def test_who_holds_is_told_of_its_own_entry_alone(foo, hold):
    assert foo.tracker.interest == (foo.entries[0],)


def test_who_has_nothing_is_told_of_no_entry(foo):
    assert foo.tracker.interest == ()


@pytest.mark.parametrize("name", ["locked", "unlocked"])
def test_who_listens_to_the_key_is_told_of_every_entry(foo, hold, name):
    foo.listened_to.add(name)
    assert foo.tracker.interest is None


def test_who_listens_to_the_object_alone_is_told_of_its_own_entry(foo, hold):
    foo.listened_to.add("lost")
    assert foo.tracker.interest == (foo.entries[0],)


def test_what_is_told_of_an_earlier_hold_is_not_of_the_present_one(foo, hold, store):
    foo.pass_time(1)
    earlier = foo.tracker.views[foo.entries[0]]
    foo.unlock().result()
    again = foo.lock().result()
    assert again.place.entry == hold.place.entry
    foo.tracker.views[again.place.entry] = earlier
    foo.tracker.watched(again.place.entry, [], synthesised=False)
    assert foo.held


def test_each_hold_is_watched_though_an_earlier_one_was(foo, hold):
    foo.pass_time(1)
    foo.unlock().result()
    foo.lock().result()
    assert foo.tracker.watches == {}
    foo.pass_time(1)
    delete(foo)
    assert foo.state is State.LOST


def test_a_deletion_that_another_objects_watch_told_is_found_when_watching_begins(foo, hold, store):
    store.remove(foo.entries[0])
    foo.pass_time(1)
    assert (foo.status.reason(hold, store.now), foo.names[1:]) == (LossReason.DELETED, ["lost"])


def test_a_deletion_that_the_watch_told_before_lock_returned_is_a_loss(foo, store):
    foo.listened_to.add("unlocked")
    foo.tracker.listen()
    foo.sync()
    going = foo.lock()
    while not foo.entries:
        going.step()
    delete(foo)
    with pytest.raises(LockLostError):
        going.result()
    assert not foo.held
    assert foo.entries == []
    assert "acquired" not in foo.names


# At the exit of the interpreter.


def test_what_is_held_is_given_back_at_exit(foo, hold):
    foo.release_at_exit()
    assert (foo.entries, foo.state) == ([], State.RELEASED)


@pytest.mark.parametrize("end", ["unlock", "destroy", None])
def test_what_is_not_held_any_more_is_not_given_back_at_exit(foo, hold, store, end):
    if end:
        getattr(foo, end)().result()
    store.pass_time(60)
    assert foo.core.release_at_exit(store.now) == []


def test_a_watch_that_fails_by_anything_else_is_told_as_it_is(foo, store):
    error = MicrolockError("anything")
    foo.tracker.watch_failed(b"foo/1", error, final=True, now=store.now)
    assert foo.told[0].error is error
