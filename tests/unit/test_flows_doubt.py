"""A try whose replies are lost: what is unknown is settled before anything is reported."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from faults import NO_ANSWER, TTL, Caller, End, Fate, NoAnswer, Refusal, Slow
from shared_etcd import FOO, Store

from microlock.core import flows
from microlock.core.place import Contended
from microlock.core.port import Enter, Grant, Read, Revoke
from microlock.errors import (
    LockUncertainError,
    StoreError,
    StorePermissionError,
    StoreTimeoutError,
    StoreUnavailableError,
)

LOOK, GRANT, PUT, UNDO = range(4)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.mark.parametrize("fate", Fate)
def test_a_put_without_an_answer_is_undone_before_it_is_reported(store, fate):
    caller = Caller(store, {PUT: NoAnswer(fate)})
    with pytest.raises(StoreTimeoutError):
        caller.try_lock()
    caller.deliver()
    assert (store.entries(), store.ours()) == ([], [])


def test_a_put_that_was_undone_did_not_happen(store):
    with pytest.raises(StoreTimeoutError) as raised:
        Caller(store, {PUT: NoAnswer(Fate.APPLIED)}).try_lock()
    assert not raised.value.may_have_happened


@pytest.mark.parametrize("at", [LOOK, GRANT])
def test_a_try_that_never_came_to_its_put_did_not_happen(store, at):
    faults = {at: NoAnswer(Fate.APPLIED), GRANT + 2: Refusal(StoreUnavailableError)}
    with pytest.raises(StoreTimeoutError) as raised:
        Caller(store, faults).try_lock()
    assert not raised.value.may_have_happened


def test_a_put_that_cannot_be_undone_is_uncertain(store):
    faults = {PUT: NoAnswer(Fate.LATE), UNDO: NoAnswer(Fate.NEVER)}
    with pytest.raises(LockUncertainError) as raised:
        Caller(store, faults).try_lock()
    assert (raised.value.key, raised.value.node_id, raised.value.lease_id) == ("foo", "alpha", 1)


def test_an_uncertain_try_says_what_it_came_from(store):
    faults = {PUT: NoAnswer(Fate.LATE), UNDO: NoAnswer(Fate.NEVER)}
    with pytest.raises(LockUncertainError) as raised:
        Caller(store, faults).try_lock()
    assert isinstance(raised.value.__cause__, StoreTimeoutError)


@pytest.mark.parametrize("fate", Fate)
def test_a_repeated_put_takes_the_lock_once(store, fate):
    caller = Caller(store, {PUT: NoAnswer(fate, End.REPEAT)})
    place = caller.try_lock()
    caller.deliver()
    assert [kv.create_revision for kv in store.entries()] == [place.token]


def test_the_token_of_a_repeated_put_is_of_the_copy_that_was_first(store):
    class MeanwhileAnother:
        def meet(self, request, caller):
            store.apply(request)
            store.enter("beta")
            return NoAnswer(Fate.NEVER, End.REPEAT).meet(request, caller)

    place = Caller(store, {PUT: MeanwhileAnother()}).try_lock()
    assert store.entries()[0].create_revision == place.token


def test_a_put_that_was_too_slow_and_cannot_be_renewed_or_undone_is_uncertain(store):
    faults = {PUT: Slow(back=4.95), UNDO: Refusal(StoreUnavailableError), 4: NoAnswer(Fate.NEVER)}
    with pytest.raises(LockUncertainError):
        Caller(store, faults).try_lock()


def test_a_lease_with_a_doubtful_put_is_revoked_after_the_release(store):
    caller = Caller(store, {PUT: NoAnswer(Fate.LATE, End.REPEAT)})
    assert caller.release(caller.try_lock()) is None
    caller.deliver()
    assert (store.entries(), store.ours()) == ([], [])


def test_a_doubtful_lease_that_cannot_be_revoked_after_the_release_is_uncertain(store):
    faults = {PUT: NoAnswer(Fate.LATE, End.REPEAT), 4: NoAnswer(Fate.NEVER)}
    caller = Caller(store, faults)
    place = caller.try_lock()
    with pytest.raises(LockUncertainError):
        caller.release(place)


def test_a_repeated_put_that_came_second_is_undone(store):
    lease = Caller(store).release(Caller(store).try_lock())
    store.enter("beta")
    caller = Caller(store, {0: NoAnswer(Fate.LATE, End.REPEAT)})
    assert caller.try_lock(lease).lease is None
    assert caller.requests[-1] == Revoke(lease.id)


def test_a_repeated_put_that_came_second_and_cannot_be_undone_is_uncertain(store):
    lease = Caller(store).release(Caller(store).try_lock())
    store.enter("beta")
    faults = {0: NoAnswer(Fate.LATE, End.REPEAT), 1: Refusal(StoreUnavailableError)}
    with pytest.raises(LockUncertainError):
        Caller(store, faults).try_lock(lease)


def test_a_refused_put_leaves_no_lease(store):
    with pytest.raises(StorePermissionError):
        Caller(store, {PUT: Refusal(StorePermissionError)}).try_lock()
    assert store.ours() == []


def test_a_refused_put_whose_empty_lease_cannot_be_revoked_is_a_plain_refusal(store):
    faults = {PUT: Refusal(StorePermissionError), UNDO: NoAnswer(Fate.NEVER)}
    with pytest.raises(StorePermissionError):
        Caller(store, faults).try_lock()


@pytest.mark.parametrize("fate", Fate)
def test_a_grant_without_an_answer_is_made_anew_under_another_id(store, fate):
    caller = Caller(store, {GRANT: NoAnswer(fate)})
    assert caller.try_lock().lease.id == 2
    asked = [Grant(1, TTL), Revoke(1), Grant(2, TTL)]
    if fate in (Fate.NEVER, Fate.LATE):
        asked.insert(1, Revoke(1))  # the first has found nothing
    assert caller.requests[1 : 1 + len(asked)] == asked


class Overtakes:
    """A revocation is at etcd before the grant that was sent before it."""

    def meet(self, request: Any, caller: Caller) -> Any:
        reply = caller.ask(request)
        caller.store.apply(caller.requests[GRANT])
        return reply


@pytest.mark.parametrize("end", [End.ERROR, End.INTERRUPT])
def test_a_grant_that_its_revocation_overtakes_leaves_no_lease(store, end):
    faults = {GRANT: NoAnswer(Fate.NEVER, end), GRANT + 1: Overtakes()}
    with suppress(KeyboardInterrupt):
        Caller(store, faults).try_lock()
    assert 1 not in store.leases


@pytest.mark.parametrize("fate", [Fate.NEVER, Fate.APPLIED])
def test_a_grant_without_an_answer_leaves_no_lease(store, fate):
    Caller(store, {GRANT: NoAnswer(fate)}).try_lock()
    assert store.ours() == [2]


def test_the_first_grant_without_an_answer_is_told_when_the_time_is_over(store):
    faults = {GRANT: NoAnswer(Fate.NEVER), GRANT + 3: Refusal(StoreUnavailableError)}
    with pytest.raises(StoreTimeoutError):
        Caller(store, faults).try_lock()


@pytest.mark.parametrize("fate", Fate)
@pytest.mark.parametrize("at", [LOOK, GRANT, PUT])
def test_an_interrupt_leaves_no_entry(store, at, fate):
    caller = Caller(store, {at: NoAnswer(fate, End.INTERRUPT)})
    with pytest.raises(KeyboardInterrupt):
        caller.try_lock()
    caller.deliver()
    assert store.entries() == []


@pytest.mark.parametrize("end", [End.ERROR, End.INTERRUPT])
def test_an_interrupt_stays_one_where_it_cannot_be_cleaned_up_after(store, end):
    faults = {PUT: NoAnswer(Fate.APPLIED, End.INTERRUPT), UNDO: NoAnswer(Fate.NEVER, end)}
    with pytest.raises(KeyboardInterrupt):
        Caller(store, faults).try_lock()


def test_an_interrupted_clean_up_is_an_interrupt(store):
    faults = {PUT: NoAnswer(Fate.APPLIED), UNDO: NoAnswer(Fate.NEVER, End.INTERRUPT)}
    with pytest.raises(KeyboardInterrupt):
        Caller(store, faults).try_lock()


@pytest.mark.parametrize("fault", NO_ANSWER, ids=str)
def test_a_look_without_an_answer_asks_for_nothing_more(store, fault):
    caller = Caller(store, {LOOK: fault})
    if fault.end is End.REPEAT:
        caller.try_lock()
        assert [type(each) for each in caller.requests] == [Read, Grant, Enter]
    else:
        with pytest.raises((StoreError, KeyboardInterrupt)):
            caller.try_lock()
        assert [type(each) for each in caller.requests] == [Read]


def test_an_expired_hold_that_cannot_be_revoked_refuses_its_successor(store):
    lost = Caller(store).try_lock()
    refused = Caller(store, {1: NoAnswer(Fate.NEVER)}).try_lock(lost=lost)
    assert isinstance(refused, Contended)
    assert refused.holder.token == lost.token


@pytest.mark.parametrize("requests", [1, 2, 3])
def test_a_try_that_is_dropped_half_way_asks_for_nothing_more(store, requests):
    flow = flows.try_lock(FOO, 5, None, now=store.now, lease_ids=store.lease_ids)
    request = next(flow)
    for _ in range(requests - 1):
        request = flow.send(store.ask(request))
    flow.close()  # raises RuntimeError if the flow asks on


def test_a_late_copy_of_a_grant_does_not_bring_a_revoked_entry_back(store):
    caller = Caller(store, {GRANT: NoAnswer(Fate.LATE), GRANT + 4: NoAnswer(Fate.LATE)})
    with pytest.raises(StoreTimeoutError):
        caller.try_lock()
    caller.deliver()
    assert store.entries() == []
