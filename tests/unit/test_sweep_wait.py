"""Whatever goes wrong in a wait, wherever: its verdict agrees with what etcd holds in the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from faults import TTL, Caller, End, Fate, NoAnswer, Refusal
from meanwhile import (
    Happening,
    enters,
    long_silence,
    passes,
    silence,
    the_first_leaves,
    the_lease_is_renewed,
    the_lease_is_revoked,
    the_place_is_deleted,
)
from shared_etcd import Store
from stage import Stage, plays

from microlock.core.place import Contended, Place
from microlock.core.port import Enter, Grant, Join, Revoke
from microlock.errors import DestroyedError, LockUncertainError, StoreError

# The lease of an earlier cycle, a hold that was lost, what happens meanwhile.
Given = tuple[tuple[Any, Any, Sequence[Happening]], Caller]


def given(store: Store, *course: Happening, lease: Any = None, lost: Any = None) -> Given:
    return (lease, lost, course), Caller(store)


def free(store: Store) -> Given:
    return given(store)


def nested(store: Store) -> Given:
    store.enter("beta", key="foo/bar")
    return given(store)


def free_and_warm(store: Store) -> Given:
    caller = Caller(store)
    return given(store, lease=caller.release(caller.try_lock()))


def free_and_lukewarm(store: Store) -> Given:
    gives = free_and_warm(store)
    store.pass_time(1)
    return gives


def warm_without_its_lease(store: Store) -> Given:
    gives = free_and_warm(store)
    store.apply(Revoke(1))
    return gives


def behind_one(store: Store) -> Given:
    store.enter("beta")
    return given(store, enters("gamma"), the_first_leaves)


def behind_one_and_warm(store: Store) -> Given:
    caller = Caller(store)
    lease = caller.release(caller.try_lock())
    store.enter("beta")
    return given(store, the_first_leaves, lease=lease)


def behind_two(store: Store) -> Given:
    store.enter("beta")
    store.enter("")
    return given(store, the_first_leaves, the_first_leaves)


def far_back(store: Store) -> Given:
    """Behind so many that it does not hear of all of them."""
    for name in ("beta", "", "gamma", "delta"):
        store.enter(name)
    course = [the_first_leaves, the_first_leaves, the_lease_is_renewed, enters("epsilon")]
    return given(store, *course, the_first_leaves, the_first_leaves)


def far_back_behind_a_nested_name(store: Store) -> Given:
    store.enter("beta", key="foo/bar")
    return far_back(store)


def far_back_and_deleted(store: Store) -> Given:
    for name in ("beta", "gamma", "delta"):
        store.enter(name)
    return given(store, the_place_is_deleted, *[the_first_leaves] * 3)


def far_back_in_vain(store: Store) -> Given:
    for name in ("beta", "gamma", "delta"):
        store.enter(name)
    return given(store, the_first_leaves, passes(1))


def far_back_in_silence(store: Store) -> Given:
    for name in ("beta", "gamma", "delta"):
        store.enter(name)
    return given(store, silence, *[the_first_leaves] * 3)


def behind_one_that_expires(store: Store) -> Given:
    store.enter("beta", ttl=4)
    return given(store, passes(2), the_lease_is_renewed, passes(2.5))


def in_vain(store: Store) -> Given:
    store.enter("beta")
    return given(store, enters("gamma"), passes(1))


def in_vain_and_warm(store: Store) -> Given:
    gives = free_and_warm(store)
    store.enter("beta")
    return gives


def deleted(store: Store) -> Given:
    store.enter("beta")
    return given(store, the_place_is_deleted, the_first_leaves)


def deleted_in_vain(store: Store) -> Given:
    store.enter("beta")
    return given(store, the_place_is_deleted)


def without_its_lease(store: Store) -> Given:
    store.enter("beta")
    return given(store, the_lease_is_revoked, enters("gamma"), the_first_leaves, the_first_leaves)


def in_silence(store: Store) -> Given:
    store.enter("beta")
    return given(store, silence, the_first_leaves)


def in_a_long_silence(store: Store) -> Given:
    store.enter("beta")
    return given(store, long_silence, the_first_leaves)


def expired_by_our_clock(store: Store) -> Given:
    return given(store, the_first_leaves, lost=Caller(store).try_lock())


def expired_in_doubt(store: Store) -> Given:
    caller = Caller(store, {Enter: NoAnswer(Fate.LATE, End.REPEAT)})
    lost = caller.try_lock()
    store.enter("beta")
    (lease, _, course), _ = given(store, the_first_leaves, the_first_leaves)
    return (lease, lost, course), caller


SCENES = [
    free,
    nested,
    free_and_warm,
    free_and_lukewarm,
    warm_without_its_lease,
    behind_one,
    behind_one_and_warm,
    behind_two,
    far_back,
    far_back_behind_a_nested_name,
    far_back_and_deleted,
    far_back_in_vain,
    far_back_in_silence,
    behind_one_that_expires,
    in_vain,
    in_vain_and_warm,
    deleted,
    deleted_in_vain,
    without_its_lease,
    in_silence,
    in_a_long_silence,
    expired_by_our_clock,
    expired_in_doubt,
]
in_each_scene = pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)

DESTROYED = Refusal(DestroyedError)


def a_wait(caller: Caller, given: tuple[Any, Any, Any]) -> Any:
    lease, lost, course = given
    return caller.wait(lease, lost=lost, course=course)


def a_wait_and_a_release(caller: Caller, given: tuple[Any, Any, Any]) -> Any:
    verdict = a_wait(caller, given)
    if isinstance(verdict, Place):
        Caller(caller.store).release(verdict)
    return verdict


def left(stage: Stage) -> set[int]:
    """The tokens of what there is of ours in the end, and was not before."""
    return set(stage.settled.tokens) - set(stage.before.tokens)


@in_each_scene
def test_who_is_told_that_its_turn_has_come_is_the_holder(scene):
    for stage in plays(scene, a_wait, DESTROYED):
        if isinstance(stage.verdict, Place):
            assert stage.reported.holder.token == stage.verdict.token, stage


@in_each_scene
def test_who_is_told_that_its_turn_has_come_stays_the_holder(scene):
    for stage in plays(scene, a_wait, DESTROYED):
        if isinstance(stage.verdict, Place):
            assert stage.settled.holder.token == stage.verdict.token, stage


@in_each_scene
def test_who_is_told_that_its_turn_has_come_has_one_entry(scene):
    for stage in plays(scene, a_wait, DESTROYED):
        if isinstance(stage.verdict, Place):
            assert stage.settled.tokens == [stage.verdict.token], stage


@in_each_scene
def test_who_is_told_that_its_turn_has_come_knows_no_later_deadline_than_etcd(scene):
    for stage in plays(scene, a_wait, DESTROYED):
        if isinstance(stage.verdict, Place):
            lease = stage.verdict.lease
            assert lease.deadline <= stage.reported.leases[lease.id], stage


@in_each_scene
def test_who_is_told_that_its_turn_has_come_has_the_whole_ttl_ahead(scene):
    for stage in plays(scene, a_wait, DESTROYED):
        if isinstance(stage.verdict, Place):
            assert stage.verdict.deadline - stage.store.now > 0.85 * TTL, stage


@in_each_scene
def test_nothing_comes_back_after_the_release(scene):
    for stage in plays(scene, a_wait_and_a_release, DESTROYED):
        if isinstance(stage.verdict, Place):
            assert stage.settled.tokens == [], stage


@in_each_scene
def test_who_is_told_that_it_waited_in_vain_has_no_entry(scene):
    for stage in plays(scene, a_wait, DESTROYED):
        if isinstance(stage.verdict, Contended | StoreError | DestroyedError):
            assert not left(stage), stage


@in_each_scene
def test_an_interrupt_leaves_an_entry_only_where_it_could_not_be_undone(scene):
    for stage in plays(scene, a_wait, DESTROYED):
        if isinstance(stage.verdict, KeyboardInterrupt) and not stage.met(Revoke):
            assert not left(stage), stage


@in_each_scene
def test_a_wait_is_uncertain_only_where_a_revocation_failed(scene):
    for stage in plays(scene, a_wait, DESTROYED):
        if isinstance(stage.verdict, LockUncertainError):
            assert stage.met(Revoke), stage


@in_each_scene
def test_an_uncertain_wait_names_the_lease_of_the_entry_that_may_be_left(scene):
    for stage in plays(scene, a_wait, DESTROYED):
        if isinstance(stage.verdict, LockUncertainError):
            leases = {
                kv.lease_id for kv in stage.settled.entries if kv.create_revision in left(stage)
            }
            assert leases <= {stage.verdict.lease_id}, stage


@in_each_scene
def test_waiting_in_vain_leaves_no_lease_but_those_of_before(scene):
    for stage in plays(scene, a_wait, DESTROYED):
        if not isinstance(stage.verdict, Place) and not stage.met(Revoke, Grant):
            assert stage.settled.leases.keys() <= stage.before.leases.keys(), stage


@in_each_scene
def test_waiting_in_vain_leaves_no_lease_for_the_next_try(scene):
    for stage in plays(scene, a_wait, DESTROYED):
        if isinstance(stage.verdict, Contended):
            assert stage.verdict.lease is None, stage


@in_each_scene
def test_a_lease_with_a_join_under_way_is_known_to_be_doubtful(scene):
    for stage in plays(scene, a_wait, DESTROYED):
        if isinstance(stage.verdict, Place):
            puts = [each.lease_id for each in stage.under_way if isinstance(each, Enter | Join)]
            assert stage.verdict.lease.doubtful or stage.verdict.lease.id not in puts, stage
