"""Giving a hold another ttl: a new lease under the same entry."""

from __future__ import annotations

import pytest
from faults import TTL, Caller, End, Fate, NoAnswer, Refusal
from shared_etcd import Store

from microlock.core.place import Lost, Place
from microlock.core.port import Join, Move, Revoke
from microlock.errors import (
    LeaseNotFoundError,
    LossReason,
    StoreNoSpaceError,
    StoreTimeoutError,
)

GRANT, MOVE, DISCARD = range(3)
FATES = pytest.mark.parametrize("fate", Fate)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def place(store) -> Place:
    return Caller(store).try_lock()


def in_doubt(store: Store, place: Place, fate: Fate) -> tuple[Caller, Place]:
    """An extension whose answer was lost, and who carries its copy."""
    caller = Caller(store, {MOVE: NoAnswer(fate)})
    left, error = caller.extend(place)
    assert isinstance(error, StoreTimeoutError)
    return caller, left


def test_an_extension_keeps_the_token(store, place):
    extended, _ = Caller(store).extend(place)
    assert store.entries()[0].create_revision == extended.token == place.token


def test_an_extension_keeps_the_place(store, place):
    store.enter("beta")
    Caller(store).extend(place)
    assert Caller(store).adopt().token == place.token


def test_an_extended_hold_survives_the_end_of_the_old_lease(store, place):
    extended, _ = Caller(store).extend(place)
    store.pass_time(TTL + 1)
    assert isinstance(Caller(store).renew(extended), Place)


def test_an_extended_hold_has_the_deadline_of_the_new_lease(store, place):
    extended, _ = Caller(store).extend(place, ttl=30)
    assert 29 < extended.deadline - store.now < 30


def test_a_hold_can_be_shortened(store, place):
    shortened, _ = Caller(store).extend(place, ttl=2)
    assert shortened.deadline < place.deadline


def test_an_extension_leaves_one_lease(store, place):
    extended, _ = Caller(store).extend(place)
    assert store.ours() == [extended.lease.id]


def test_an_extension_of_a_hold_that_is_gone_is_a_loss(store, place):
    store.remove(place.entry)
    assert Caller(store).extend(place) == (Lost(LossReason.DELETED), None)


def test_an_extension_of_a_hold_that_is_gone_leaves_no_lease(store, place):
    store.remove(place.entry)
    Caller(store).extend(place)
    assert store.ours() == []


def test_an_extension_of_what_another_object_has_extended_is_a_loss(store, place):
    caller = Caller(store)
    caller.extend(caller.adopt())
    assert caller.extend(place) == (Lost(LossReason.LEASE_GONE), None)


@pytest.mark.parametrize("at", [GRANT, MOVE])
def test_a_refused_extension_leaves_the_hold_as_it_was(store, place, at):
    with pytest.raises(StoreNoSpaceError):
        Caller(store, {at: Refusal(StoreNoSpaceError)}).extend(place)
    assert store.entries()[0].lease_id == place.lease.id


@pytest.mark.parametrize("at", [GRANT, MOVE])
def test_a_refused_extension_leaves_no_lease(store, place, at):
    with pytest.raises(StoreNoSpaceError):
        Caller(store, {at: Refusal(StoreNoSpaceError)}).extend(place)
    assert store.ours() == [place.lease.id]


def test_a_new_lease_that_ended_before_the_move_leaves_the_hold_as_it_was(store, place):
    class Gone:
        def meet(self, request, caller):
            store.apply(Revoke(2))
            return store.ask(request)

    with pytest.raises(LeaseNotFoundError):
        Caller(store, {MOVE: Gone()}).extend(place)
    assert store.entries()[0].lease_id == place.lease.id


@FATES
def test_an_extension_in_doubt_stands_until_the_earlier_of_both_deadlines(store, place, fate):
    _, left = in_doubt(store, place, fate)
    assert left.deadline == min(place.deadline, left.next_lease.deadline)


@FATES
def test_an_extension_in_doubt_keeps_both_leases(store, place, fate):
    _, left = in_doubt(store, place, fate)
    assert store.ours() == [lease.id for lease in left.leases]


@FATES
def test_the_next_renewal_finishes_an_extension_in_doubt(store, place, fate):
    caller, left = in_doubt(store, place, fate)
    renewed = caller.renew(left)
    caller.deliver()
    assert renewed.lease.id == store.entries()[0].lease_id == left.next_lease.id


@FATES
def test_the_next_extension_finishes_an_extension_in_doubt(store, place, fate):
    caller, left = in_doubt(store, place, fate)
    extended, _ = caller.extend(left, ttl=60)
    caller.deliver()
    assert store.entries()[0].lease_id == extended.lease.id
    assert store.ours() == [extended.lease.id]


@FATES
def test_a_release_ends_an_extension_in_doubt(store, place, fate):
    caller, left = in_doubt(store, place, fate)
    assert caller.release(left) is None
    caller.deliver()
    assert (store.entries(), store.ours()) == ([], [])


@pytest.mark.parametrize("fate", [Fate.NEVER, Fate.SOON, Fate.LATE])
def test_an_extension_whose_lease_ended_before_the_move_falls_back_to_the_old(store, place, fate):
    caller, left = in_doubt(store, place, fate)
    store.apply(Revoke(left.next_lease.id))
    renewed = caller.renew(left)
    caller.deliver()
    assert [lease.id for lease in renewed.leases] == [store.entries()[0].lease_id]


def test_an_extension_whose_lease_ended_after_the_move_is_a_loss(store, place):
    caller, left = in_doubt(store, place, Fate.APPLIED)
    store.apply(Revoke(left.next_lease.id))
    assert caller.renew(left) == Lost(LossReason.DELETED)


@FATES
def test_an_extension_in_doubt_of_an_entry_that_is_gone_is_a_loss(store, place, fate):
    caller, left = in_doubt(store, place, fate)
    store.remove(place.entry)
    assert caller.extend(left) == (Lost(LossReason.DELETED), None)
    assert store.ours() == []


@FATES
def test_a_repeated_extension_is_one(store, place, fate):
    caller = Caller(store, {MOVE: NoAnswer(fate, End.REPEAT)})
    extended, error = caller.extend(place)
    caller.deliver()
    assert error is None
    assert store.entries()[0].lease_id == extended.lease.id


def test_a_late_copy_does_not_move_the_entry_back(store, place):
    caller = Caller(store, {MOVE: NoAnswer(Fate.LATE, End.REPEAT)})
    once, _ = caller.extend(place)
    twice, _ = caller.extend(once, ttl=60)
    caller.deliver()
    assert store.entries()[0].lease_id == twice.lease.id


@FATES
@pytest.mark.parametrize("at", [MOVE, DISCARD])
def test_an_interrupted_extension_can_be_finished(store, place, at, fate):
    caller = Caller(store, {at: NoAnswer(fate, End.INTERRUPT)})
    left, error = caller.extend(place)
    assert isinstance(error, KeyboardInterrupt)
    assert isinstance(caller.renew(left), Place)


def test_an_interrupt_before_the_move_leaves_the_hold_as_it_was(store, place):
    with pytest.raises(KeyboardInterrupt):
        Caller(store, {GRANT: NoAnswer(Fate.APPLIED, End.INTERRUPT)}).extend(place)
    assert store.ours() == [place.lease.id]


def test_an_old_lease_that_cannot_be_revoked_does_not_matter(store, place):
    extended, error = Caller(store, {DISCARD: NoAnswer(Fate.NEVER)}).extend(place)
    assert error is None
    assert extended.leases == (extended.lease,)


def test_a_doubtful_put_under_an_old_lease_does_not_come_back_after_the_release(store):
    caller = Caller(store, {2: NoAnswer(Fate.LATE, End.REPEAT), 5: NoAnswer(Fate.NEVER)})
    place = caller.try_lock()  # its put may come late
    extended, _ = caller.extend(place)  # and its lease can't be revoked now
    caller.release(extended)
    caller.deliver()
    assert store.entries() == []


def test_an_extension_in_doubt_of_an_adopted_hold_does_not_end_it(store, place):
    caller = Caller(store, {Move: NoAnswer(Fate.APPLIED)})
    left, _ = caller.extend(caller.adopt())
    assert left.deadline > store.now


def test_an_adopted_hold_is_extended_without_revoking_the_lease_of_the_other_object(store, place):
    caller = Caller(store)
    extended, _ = caller.extend(caller.adopt())
    assert store.ours() == [place.lease.id, extended.lease.id]


def test_a_late_copy_of_the_put_that_joined_the_queue_leaves_an_extension_alone(store):
    first = Caller(store, {Join: NoAnswer(Fate.LATE, End.REPEAT)})
    place = first.wait()

    class BeforeTheOldLeaseIsRevoked:
        def meet(self, request, caller):
            first.deliver()
            return caller.ask(request)

    extended, _ = Caller(store, {Revoke: BeforeTheOldLeaseIsRevoked()}).extend(place)
    assert [kv.create_revision for kv in store.entries()] == [extended.token]
