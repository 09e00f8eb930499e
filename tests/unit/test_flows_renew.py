"""Keeping the lock: putting the whole ttl back, and finding out that it is lost."""

from __future__ import annotations

import pytest
from faults import TTL, Caller, End, Fate, NoAnswer, Refusal
from meanwhile import the_first_leaves
from shared_etcd import FOO, Store

from microlock.core.place import Lost, Place
from microlock.core.port import Get, KeepAlive, Revoke
from microlock.core.queue import Holder
from microlock.errors import LockUncertainError, LossReason, StorePermissionError, StoreTimeoutError


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def place(store) -> Place:
    place = Caller(store).try_lock()
    store.pass_time(1)
    return place


def under_another_lease(store: Store, place: Place) -> None:
    other = Caller(store)
    other.extend(other.adopt())


def recreated(store: Store, place: Place) -> None:
    """Somebody deletes the entry and puts it again."""
    store.remove(place.entry)
    store.put(place.entry, FOO.value, place.lease.id)


def without_its_lease(store: Store, place: Place) -> None:
    store.put(place.entry, FOO.value)


def test_a_renewal_looks_at_the_entry_after_the_keep_alive(store, place):
    caller = Caller(store)
    caller.renew(place)
    assert caller.requests == [KeepAlive(place.lease.id), Get(place.entry)]


def test_a_renewal_counts_from_when_it_was_sent(store, place):
    sent = store.now
    assert Caller(store).renew(place).lease.sent == sent


def test_a_renewal_keeps_the_token(store, place):
    assert Caller(store).renew(place).token == place.token


def test_a_renewal_changes_no_key(store, place):
    before = store.revision
    Caller(store).renew(place)
    assert store.revision == before


def test_a_renewal_keeps_the_doubt_on_the_lease(store):
    place = Caller(store, {2: NoAnswer(Fate.LATE, End.REPEAT)}).try_lock()
    assert Caller(store).renew(place).lease.doubtful


def test_a_lease_that_ended_is_a_loss(store, place):
    store.apply(Revoke(place.lease.id))
    assert isinstance(Caller(store).renew(place), Lost)


def test_a_lease_that_ended_before_its_entry_is_a_loss(store, place):
    del store.leases[place.lease.id]  # etcd ends the lease first, and then deletes its keys
    assert Caller(store).renew(place) == Lost(LossReason.LEASE_GONE)


def test_an_entry_that_is_gone_is_a_loss(store, place):
    store.remove(place.entry)
    assert Caller(store).renew(place) == Lost(LossReason.DELETED)


def test_an_entry_that_was_put_again_by_somebody_is_a_loss(store, place):
    recreated(store, place)
    assert Caller(store).renew(place) == Lost(LossReason.DELETED)


def test_an_entry_that_another_object_has_moved_to_its_lease_is_a_loss(store, place):
    under_another_lease(store, place)
    assert Caller(store).renew(place) == Lost(LossReason.LEASE_GONE)


def test_an_entry_that_was_put_again_without_its_lease_is_a_loss(store, place):
    without_its_lease(store, place)
    assert Caller(store).renew(place) == Lost(LossReason.LEASE_GONE)


def test_an_entry_without_its_lease_is_in_nobodys_way(store, place):
    without_its_lease(store, place)
    assert isinstance(Caller(store).try_lock(), Place)
    assert isinstance(Caller(store).wait(course=[the_first_leaves]), Place)


def test_a_loss_to_another_object_of_our_node_leaves_its_entry_alone(store, place):
    under_another_lease(store, place)
    Caller(store).renew(place)
    assert [kv.create_revision for kv in store.entries()] == [place.token]


def test_a_lost_hold_leaves_no_lease(store, place):
    store.remove(place.entry)
    Caller(store).renew(place)
    assert store.ours() == []


def test_a_loss_is_told_also_where_its_lease_cannot_be_revoked(store, place):
    store.remove(place.entry)
    assert isinstance(Caller(store, {2: NoAnswer(Fate.NEVER)}).renew(place), Lost)


def test_a_loss_with_a_doubtful_put_is_uncertain_where_its_lease_cannot_be_revoked(store):
    caller = Caller(store, {2: NoAnswer(Fate.LATE, End.REPEAT), 5: NoAnswer(Fate.NEVER)})
    place = caller.try_lock()  # its put may come late
    store.remove(place.entry)
    with pytest.raises(LockUncertainError):
        caller.renew(place)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (NoAnswer(Fate.APPLIED), StoreTimeoutError),
        (Refusal(StorePermissionError), StorePermissionError),
        (NoAnswer(Fate.APPLIED, End.INTERRUPT), KeyboardInterrupt),
    ],
    ids=["unanswered", "refused", "interrupted"],
)
def test_a_renewal_that_fails_leaves_the_hold(store, place, fault, error):
    with pytest.raises(error):
        Caller(store, {0: fault}).renew(place)
    assert [kv.create_revision for kv in store.entries()] == [place.token]


# A hold of our node, taken by an object that is no more.


def test_the_hold_of_our_node_is_adopted_with_its_token(store, place):
    adopted = Caller(store).adopt()
    assert (adopted.entry, adopted.token) == (place.entry, place.token)


def test_an_adopted_hold_is_held_from_its_first_renewal_on(store, place):
    caller = Caller(store)
    adopted = caller.adopt()
    assert adopted.deadline < store.now < caller.renew(adopted).deadline


def test_an_adopted_lease_lives_as_long_as_etcd_says(store, place):
    caller = Caller(store)
    assert caller.renew(caller.adopt()).lease.ttl == TTL


def test_a_hold_of_another_node_is_not_adopted(store):
    store.enter("beta")
    assert Caller(store).adopt() == Holder("beta", store.revision, 0xF00)


def test_a_place_in_the_queue_is_not_adopted(store):
    store.enter("beta")
    store.enter("alpha")
    assert Caller(store).adopt().node_id == "beta"


def test_there_is_nothing_to_adopt_where_nobody_holds(store):
    store.enter("alpha", key="foo/bar")
    assert Caller(store).adopt() is None


def test_a_loss_does_not_end_the_lease_of_an_adopted_hold(store, place):
    caller = Caller(store)
    adopted = caller.adopt()
    store.remove(place.entry)
    caller.renew(adopted)
    assert store.ours() == [place.lease.id]
