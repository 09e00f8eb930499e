"""What befalls a hold between calls: what time does to it, the watch, and the renewals."""

from __future__ import annotations

from typing import Any

import pytest
from faults import Refusal
from simulated import Client
from store import FOO, Store

from microlock import LossReason, Microlock, State
from microlock.core.hold import Guard
from microlock.core.lease import Lease
from microlock.core.place import Place
from microlock.core.port import Found, Get, Lifetime, Revoke, Txn
from microlock.core.queue import Change, Holder, Standing
from microlock.core.view import View
from microlock.errors import (
    DestroyedError,
    LockLostError,
    LockNotOwnedError,
    StorePermissionError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from microlock.events import LockEvent
from microlock.holding import Holding


@pytest.fixture
def told(foo: Microlock) -> list[LockEvent]:
    """The events of the hold, from here on."""
    told: list[LockEvent] = []
    for name in ("acquired", "renewed", "suspended", "lost", "released", "error"):
        foo.on(name, told.append)
    return told


def names(told: list[LockEvent]) -> list[str]:
    return [event.name for event in told]


def deadline(foo: Microlock, store: Store) -> float:
    return store.now + foo.remaining


# What is known of it.


def test_what_is_known_of_a_hold_goes_with_it(foo, hold, store):
    assert (foo.held, foo.token, foo.hold, foo.lost_reason) == (True, hold.token, hold, None)
    store.pass_time(foo.remaining)
    assert (foo.held, foo.token, foo.hold) == (False, None, None)
    assert foo.lost_reason is LossReason.EXPIRED


def test_a_check_of_what_is_held_raises_nothing(foo, hold):
    foo.check()


def test_a_check_of_what_is_not_held_raises(foo):
    with pytest.raises(LockNotOwnedError) as raised:
        foo.check()
    assert type(raised.value) is LockNotOwnedError


def test_a_check_of_what_is_lost_says_why(foo, hold, store):
    store.pass_time(60)
    with pytest.raises(LockLostError) as raised:
        foo.check()
    assert raised.value.reason is LossReason.EXPIRED


def test_a_loss_that_a_check_notices_is_told_once(foo, hold, told, store):
    store.pass_time(60)
    for _ in range(2):
        with pytest.raises(LockLostError):
            foo.check()
    assert [(event.name, event.reason) for event in told] == [("lost", LossReason.EXPIRED)]


def test_a_guard_is_about_the_entry_of_the_hold(foo, hold, store):
    (entry,) = store.entries()
    assert foo.guard() == Guard(entry.name, entry.create_revision, "foo", "alpha")


def test_there_is_no_guard_of_what_is_not_held(foo):
    with pytest.raises(LockNotOwnedError):
        foo.guard()


# What the watch tells.


def watched(foo: Microlock, store: Store) -> View:
    """Has the lock told of what is there, as the watch does."""
    view = View(FOO.prefix)
    view.rebase(Found(store.revision, tuple(store.keys.values())))
    foo.on_watch(view, [], synthesised=False)
    return view


def test_a_hold_whose_entry_is_there_is_not_lost_by_the_watch(foo, hold, store):
    watched(foo, store)
    assert foo.held


def test_a_hold_whose_entry_was_deleted_is_lost_by_the_watch(foo, hold, told, store):
    store.remove(store.entries()[0].name)
    watched(foo, store)
    assert (foo.state, [event.reason for event in told]) == (State.LOST, [LossReason.DELETED])


def test_a_hold_that_the_watch_has_not_come_to_is_not_lost(foo, store):
    before = Found(store.revision, ())
    foo.lock()
    view = View(FOO.prefix)
    view.rebase(before)
    foo.on_watch(view, [], synthesised=False)
    assert foo.held


def test_the_deletion_by_its_own_unlock_is_no_loss(foo, hold, told, client, store):
    class Told:
        """The watch is faster than the answer."""

        def meet(self, request: Any, caller: Any) -> Any:
            reply = store.ask(request)
            watched(foo, store)
            return reply

    client.faults[Txn] = Told()
    foo.unlock()
    assert (names(told), foo.state) == (["released"], State.RELEASED)


@pytest.mark.parametrize("event", ["unlock", "destroy"])
def test_a_deletion_after_its_end_is_no_loss(foo, hold, told, store, event):
    getattr(foo, event)()
    watched(foo, store)
    assert "lost" not in names(told)


@pytest.mark.parametrize(("taken", "name"), [(True, "locked"), (False, "unlocked")])
def test_a_change_of_the_key_is_told_with_its_holder(foo, taken, name):
    told: list[LockEvent] = []
    foo.on(name, told.append)
    foo.on_watch(View(FOO.prefix), [Change(taken, Holder("beta", 7, 2))], synthesised=True)
    assert told == [LockEvent(name, "foo", "beta", token=7, synthesised=True)]


def test_a_lock_that_was_found_free_is_told_without_a_holder(foo):
    told: list[LockEvent] = []
    foo.on("unlocked", told.append)
    foo.on_watch(View(FOO.prefix), [Change(False, None)], synthesised=True)
    assert told == [LockEvent("unlocked", "foo", synthesised=True)]


def test_an_error_of_the_watch_is_told(foo, told):
    error = StoreUnavailableError("down")
    foo.on_watch_error(error, final=False)
    assert [(event.name, event.error) for event in told] == [("error", error)]


# What renewals bring.


def renewal(store: Store, ttl: int = 5) -> Lifetime:
    return Lifetime(ttl, store.now, store.now)


def test_a_renewal_moves_the_deadline_and_is_told(foo, hold, told, store):
    store.pass_time(2)
    before = foo.remaining
    foo.on_renewed(hold.lease_id, renewal(store))
    assert foo.remaining > before + 1
    assert names(told) == ["renewed"]


def test_a_renewal_of_a_lease_before_is_passed_over(foo, hold, told, store):
    foo.extend(9)
    told.clear()
    foo.on_renewed(hold.lease_id, renewal(store))
    assert told == []


def test_a_renewal_that_finds_the_lease_gone_is_a_loss(foo, hold, told, store):
    foo.on_renewed(hold.lease_id, renewal(store, ttl=0))
    assert (foo.lost_reason, names(told)) == (LossReason.LEASE_GONE, ["lost"])


def test_a_renewal_after_the_release_is_passed_over(foo, hold, told, store):
    foo.unlock()
    told.clear()
    foo.on_renewed(hold.lease_id, renewal(store))
    foo.on_renewed(hold.lease_id, renewal(store, ttl=0))
    assert (told, foo.state) == ([], State.RELEASED)


def test_a_renewal_before_the_first_hold_is_passed_over(foo, told, store):
    foo.on_renewed(1, renewal(store))
    assert told == []


def test_a_renewal_whose_answer_comes_too_late_is_a_loss(foo, hold, told, store):
    late = renewal(store)
    store.pass_time(60)
    foo.on_renewed(hold.lease_id, late)
    assert names(told) == ["lost"]


def test_silence_suspends_the_hold_and_is_told_once(foo, hold, told, store):
    error = StoreTimeoutError("silence")
    foo.on_silence(hold.lease_id, error, sent=store.now)
    foo.on_silence(hold.lease_id, error, sent=store.now)
    assert foo.state is State.SUSPENDED
    assert [(event.name, event.error) for event in told] == [("suspended", error)]


def test_silence_past_the_deadline_is_a_loss(foo, hold, told, store):
    store.pass_time(60)
    foo.on_silence(hold.lease_id, StoreTimeoutError("silence"), sent=store.now)
    assert names(told) == ["lost"]


def test_silence_before_the_first_hold_is_passed_over(foo, told, store):
    foo.on_silence(1, StoreTimeoutError("silence"), sent=store.now)
    assert told == []


def test_a_later_hold_is_not_suspended_by_what_was_asked_before_it(foo, hold, told, store):
    asked = store.now
    foo.unlock()
    assert foo.lock().lease_id == hold.lease_id
    told.clear()
    foo.on_silence(hold.lease_id, StoreTimeoutError("silence"), sent=asked)
    assert (foo.state, told) == (State.HELD, [])


def test_a_later_hold_is_not_lost_by_what_was_asked_before_it(foo, hold, told, store):
    asked = store.now
    foo.unlock()
    foo.lock()
    told.clear()
    foo.on_renewed(hold.lease_id, Lifetime(0, asked, store.now))
    assert (foo.state, told) == (State.HELD, [])


def test_an_extension_is_not_lost_by_a_renewal_of_the_lease_that_it_leaves(foo, hold, client):
    class RenewalMeanwhile:
        def meet(self, request: Any, caller: Any) -> Any:
            reply = caller.store.ask(request)
            now = caller.store.now
            foo.on_renewed(hold.lease_id, Lifetime(0, now, now))
            return reply

    client.faults[Revoke] = RenewalMeanwhile()
    assert foo.extend(30) > 25
    assert foo.held


def test_renew_does_not_put_a_later_renewal_back(foo, hold, client, store):
    class RenewalMeanwhile:
        def meet(self, request: Any, caller: Any) -> Any:
            store.pass_time(2)
            foo.on_renewed(hold.lease_id, Lifetime(5, store.now, store.now))
            return caller.store.ask(request)

    client.faults[Get] = RenewalMeanwhile()
    assert foo.renew() > 4.9


def test_a_deletion_that_the_watch_told_before_lock_returned_is_a_loss(foo, client, store):
    client.background.standing = Standing.GONE
    with pytest.raises(LockLostError):
        foo.lock()
    assert not foo.held
    assert store.entries() == []


def test_a_deletion_that_another_objects_watch_told_is_found_when_watching_begins(
    foo, hold, client, store, told
):
    client.background.standing = Standing.GONE
    store.pass_time(1)
    foo.tend(store.now)
    assert (foo.lost_reason, names(told)) == (LossReason.DELETED, ["lost"])


def test_a_watch_that_has_ended_is_tried_again_and_not_at_once(foo, hold, client, store):
    store.pass_time(1)
    foo.tend(store.now)
    client.background.watching[0].on_watch_error(StorePermissionError("no"), final=True)
    foo.tend(store.now)
    assert len(client.background.watching) == 1
    store.pass_time(3)
    foo.renew()
    store.pass_time(3)
    foo.tend(store.now)
    assert len(client.background.watching) == 2


def test_a_watch_that_cannot_start_is_no_reason_not_to_renew(client, store, monkeypatch):
    foo = Microlock(client, "foo", "alpha", ttl=5, auto_renew=True)
    foo.lock()
    store.pass_time(3)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(client.background, "watch", fail)
    assert foo.tend(store.now)


def test_a_hold_is_remembered_for_the_exit(foo, hold, client, store):
    (place,) = client.background.places
    assert [lease.id for lease in place.surrender(store.now)] == [hold.lease_id]
    assert not foo.held


def test_a_hold_that_was_given_back_has_nothing_to_give_back_at_exit(foo, hold, client, store):
    foo.unlock()
    (place,) = client.background.places
    assert place.surrender(store.now) == ()


def test_a_call_that_is_not_answered_suspends_the_hold_too(foo, hold, client, told):
    client.faults[Txn] = Refusal(StoreUnavailableError)
    with pytest.raises(StoreUnavailableError):
        foo.extend(9)
    assert (foo.state, names(told)) == (State.SUSPENDED, ["suspended"])


# What time does.


@pytest.fixture
def renewed(client: Client) -> Microlock:
    """One that is renewed in the background, and held."""
    lock = Microlock(client, "foo", "alpha", ttl=5, auto_renew=True)
    lock.lock()
    return lock


def test_what_is_held_is_looked_after(foo, hold, client):
    assert client.background.kept == [foo]


def test_what_is_not_held_needs_nothing(foo):
    assert foo.tend_at() is None


def test_what_was_given_back_needs_nothing(foo, hold, store):
    foo.unlock()
    assert (foo.tend_at(), foo.tend(store.now)) == (None, ())


def test_what_was_destroyed_needs_nothing(foo, hold, store):
    foo.destroy()
    assert (foo.tend_at(), foo.tend(store.now)) == (None, ())


def test_a_hold_is_watched_a_moment_after_it_began(foo, hold, client, store):
    foo.tend(store.now)
    assert client.background.watching == []
    store.pass_time(foo.tend_at() - store.now)
    foo.tend(store.now)
    (sentry,) = client.background.watching
    assert (sentry.entry, sentry.concern) == (store.entries()[0].name, None)


def test_a_hold_that_is_watched_is_tended_at_its_deadline(foo, hold, store):
    store.pass_time(1)
    foo.tend(store.now)
    assert foo.tend_at() == pytest.approx(deadline(foo, store))


def test_a_loss_by_the_deadline_is_told_at_the_deadline(foo, hold, told, store):
    store.pass_time(1)
    foo.tend(store.now)
    store.pass_time(foo.tend_at() - store.now)
    assert foo.tend(store.now) == ()
    assert [(event.name, event.reason) for event in told] == [("lost", LossReason.EXPIRED)]


def test_a_hold_is_not_renewed_unless_that_was_asked_for(foo, hold, store):
    store.pass_time(4)
    assert foo.tend(store.now) == ()


def test_a_renewed_hold_is_due_within_a_third_of_its_ttl(renewed, store):
    store.pass_time(1)  # watched from here on
    renewed.tend(store.now)
    store.pass_time(renewed.tend_at() - store.now)
    assert renewed.tend(store.now) == renewed._holding.place.leases
    assert store.now <= 1000 + 5 / 3 + 1


def test_a_renewed_hold_is_not_renewed_before_it_is_due(renewed, store):
    assert renewed.tend(store.now) == ()


def test_a_renewal_that_failed_is_tried_again_before_the_deadline(renewed, store):
    store.pass_time(2)
    renewed.tend(store.now)
    renewed.on_silence(renewed.hold.lease_id, StoreTimeoutError("silence"), sent=store.now)
    assert renewed.tend(store.now) == ()
    store.pass_time(renewed.tend_at() - store.now)
    assert renewed.held
    assert renewed.tend(store.now) == renewed._holding.place.leases


def test_a_hold_is_not_renewed_past_the_most_that_it_may_last(client, store):
    lock = Microlock(client, "foo", "alpha", ttl=5, auto_renew=True, max_hold=1)
    lock.lock()
    store.pass_time(2)
    assert lock.tend(store.now) == ()
    assert lock.tend_at() == pytest.approx(deadline(lock, store))


# Listening.


def test_who_listens_to_the_key_watches_it(foo, client):
    foo.on("unlocked", print)
    assert client.background.watching == [foo]


def test_who_listens_to_the_object_watches_nothing(foo, client):
    foo.on("lost", print)
    assert client.background.watching == []


def test_nobody_listens_to_what_was_destroyed(foo):
    foo.destroy()
    with pytest.raises(DestroyedError):
        foo.on("lost", print)


def test_a_release_that_is_refused_while_the_entry_is_deleted_is_a_loss(foo, hold, client, told):
    """The watch has told of the deletion while the hold was being given back."""
    client.background.standing = Standing.GONE
    client.faults[Txn] = Refusal(StorePermissionError)
    with pytest.raises(StorePermissionError):
        foo.unlock()
    assert (foo.lost_reason, names(told)) == (LossReason.DELETED, ["lost"])


# What it is told of.


def a_hold(of: type[Holding] = Holding) -> Holding:
    return of(Place(b"foo/1", 7, Lease(1, asked=5, ttl=5, sent=1000.0)), now=1000.0)


def test_who_holds_is_told_of_its_own_entry_alone(foo):
    foo._begin(a_hold())
    assert foo.concern == b"foo/1"


def test_who_listens_to_the_key_is_told_of_every_entry(foo):
    foo.on("unlocked", print)
    foo._begin(a_hold())
    assert foo.concern is None


def test_who_listens_from_the_moment_on_that_a_hold_begins_is_told_of_every_entry(foo):
    """On another thread, between any two steps of the one that begins the hold."""

    class Interrupted(Holding):
        @property
        def place(self) -> Place:
            if not foo.listeners("unlocked"):
                foo.on("unlocked", print)
            return super().place

    foo._begin(a_hold(Interrupted))
    assert foo.concern is None


# Who hears of its entry alone.


def gone(store: Store) -> View:
    view = View(FOO.prefix)
    view.rebase(Found(store.revision, ()))
    return view


def test_what_is_told_of_the_entry_of_an_earlier_hold_is_not_of_the_present_one(
    foo, hold, client, store
):
    store.pass_time(1)
    foo.tend(store.now)
    (sentry,) = client.background.watching
    foo.unlock()
    foo.lock()
    sentry.on_watch(gone(store), [], synthesised=False)
    assert foo.held


def test_each_hold_is_watched_though_an_earlier_one_was_and_late(foo, hold, client, store):
    earlier = foo._holding
    foo.unlock()
    foo.lock()
    foo._post(earlier)
    store.pass_time(1)
    foo.tend(store.now)
    client.background.watching[-1].on_watch(gone(store), [], synthesised=False)
    assert foo.lost_reason is LossReason.DELETED


def test_a_hold_that_ends_is_watched_no_more(foo, hold, client, store):
    store.pass_time(1)
    foo.tend(store.now)
    foo.unlock()
    assert client.background.watching == []
