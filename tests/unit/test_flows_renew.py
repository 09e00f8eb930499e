"""Keeping the lock: putting the whole ttl back, and finding out that it is lost."""

from __future__ import annotations

import pytest
from faults import TTL, Caller, End, Fate, NoAnswer, Refusal
from store import FOO, Store

from microlock.errors import EtcdPermissionError, EtcdTimeoutError, LockUncertainError, LossReason
from microlock.queue import Holder
from microlock.requests import Get, KeepAlive, Put, Revoke, Txn
from microlock.tenure import Lost, Tenure


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def tenure(store) -> Tenure:
    tenure = Caller(store).try_lock()
    store.pass_time(1)
    return tenure


def under_another_lease(store: Store, tenure: Tenure) -> None:
    other = Caller(store)
    other.extend(other.adopt())


def recreated(store: Store, tenure: Tenure) -> None:
    """Somebody deletes the entry and puts it again."""
    store.remove(tenure.entry)
    store.apply(Txn((), (Put(tenure.entry, FOO.value, tenure.lease.id),)))


def test_a_renewal_looks_at_the_entry_after_the_keep_alive(store, tenure):
    caller = Caller(store)
    caller.renew(tenure)
    assert caller.requests == [KeepAlive(tenure.lease.id), Get(tenure.entry)]


def test_a_renewal_counts_from_when_it_was_sent(store, tenure):
    sent = store.now
    assert Caller(store).renew(tenure).lease.sent == sent


def test_a_renewal_keeps_the_token(store, tenure):
    assert Caller(store).renew(tenure).token == tenure.token


def test_a_renewal_changes_no_key(store, tenure):
    before = store.revision
    Caller(store).renew(tenure)
    assert store.revision == before


def test_a_renewal_keeps_the_doubt_on_the_lease(store):
    tenure = Caller(store, {2: NoAnswer(Fate.LATE, End.REPEAT)}).try_lock()
    assert Caller(store).renew(tenure).lease.doubtful


def test_a_lease_that_ended_is_a_loss(store, tenure):
    store.apply(Revoke(tenure.lease.id))
    assert isinstance(Caller(store).renew(tenure), Lost)


def test_a_lease_that_ended_before_its_entry_is_a_loss(store, tenure):
    del store.leases[tenure.lease.id]  # etcd ends the lease first, and then deletes its keys
    assert Caller(store).renew(tenure) == Lost(LossReason.LEASE_GONE)


def test_an_entry_that_is_gone_is_a_loss(store, tenure):
    store.remove(tenure.entry)
    assert Caller(store).renew(tenure) == Lost(LossReason.DELETED)


def test_an_entry_that_was_put_again_by_somebody_is_a_loss(store, tenure):
    recreated(store, tenure)
    assert Caller(store).renew(tenure) == Lost(LossReason.DELETED)


def test_an_entry_that_another_object_has_moved_to_its_lease_is_a_loss(store, tenure):
    under_another_lease(store, tenure)
    assert Caller(store).renew(tenure) == Lost(LossReason.LEASE_GONE)


def test_a_loss_to_another_object_of_our_node_leaves_its_entry_alone(store, tenure):
    under_another_lease(store, tenure)
    Caller(store).renew(tenure)
    assert [kv.create_revision for kv in store.entries()] == [tenure.token]


def test_a_lost_hold_leaves_no_lease(store, tenure):
    store.remove(tenure.entry)
    Caller(store).renew(tenure)
    assert store.ours() == []


def test_a_loss_is_told_also_where_its_lease_cannot_be_revoked(store, tenure):
    store.remove(tenure.entry)
    assert isinstance(Caller(store, {2: NoAnswer(Fate.NEVER)}).renew(tenure), Lost)


def test_a_loss_with_a_doubtful_put_is_uncertain_where_its_lease_cannot_be_revoked(store):
    caller = Caller(store, {2: NoAnswer(Fate.LATE, End.REPEAT), 5: NoAnswer(Fate.NEVER)})
    tenure = caller.try_lock()  # its put may come late
    store.remove(tenure.entry)
    with pytest.raises(LockUncertainError):
        caller.renew(tenure)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (NoAnswer(Fate.APPLIED), EtcdTimeoutError),
        (Refusal(EtcdPermissionError), EtcdPermissionError),
        (NoAnswer(Fate.APPLIED, End.INTERRUPT), KeyboardInterrupt),
    ],
    ids=["unanswered", "refused", "interrupted"],
)
def test_a_renewal_that_fails_leaves_the_hold(store, tenure, fault, error):
    with pytest.raises(error):
        Caller(store, {0: fault}).renew(tenure)
    assert [kv.create_revision for kv in store.entries()] == [tenure.token]


# A hold of our node, taken by an object that is no more.


def test_the_hold_of_our_node_is_adopted_with_its_token(store, tenure):
    adopted = Caller(store).adopt()
    assert (adopted.entry, adopted.token) == (tenure.entry, tenure.token)


def test_an_adopted_hold_is_held_from_its_first_renewal_on(store, tenure):
    caller = Caller(store)
    adopted = caller.adopt()
    assert adopted.deadline < store.now < caller.renew(adopted).deadline


def test_an_adopted_lease_lives_as_long_as_etcd_says(store, tenure):
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


def test_a_loss_does_not_end_the_lease_of_an_adopted_hold(store, tenure):
    caller = Caller(store)
    adopted = caller.adopt()
    store.remove(tenure.entry)
    caller.renew(adopted)
    assert store.ours() == [tenure.lease.id]
