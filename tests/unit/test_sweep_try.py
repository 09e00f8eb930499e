"""Whatever goes wrong in a try, wherever: its verdict agrees with what etcd holds in the end."""

from __future__ import annotations

from typing import Any

import pytest
from faults import TTL, Caller
from shared_etcd import PUTS, Store
from stage import plays

from microlock.core.place import Contended, Place
from microlock.core.port import Grant, Revoke
from microlock.errors import LockUncertainError, StoreError
from microlock.memory.state import OLDEST

Given = tuple[tuple[Any, Any], Caller]  # the lease of an earlier cycle, a hold that was lost


def free(store: Store) -> Given:
    return (None, None), Caller(store)


def held(store: Store) -> Given:
    store.enter("beta")
    return free(store)


def held_without_a_name(store: Store) -> Given:
    store.enter("")
    return free(store)


def nested(store: Store) -> Given:
    store.enter("beta", key="foo/bar")
    return free(store)


def nested_and_held(store: Store) -> Given:
    nested(store)
    return held(store)


def hidden(store: Store) -> Given:
    for number in range(OLDEST):
        store.enter("beta", key=f"foo/{number}")
    return held(store)


def free_and_warm(store: Store) -> Given:
    caller = Caller(store)
    return (caller.release(caller.try_lock()), None), caller


def free_and_lukewarm(store: Store) -> Given:
    given = free_and_warm(store)
    store.pass_time(1)
    return given


def held_and_warm(store: Store) -> Given:
    given = free_and_warm(store)
    store.enter("beta")
    return given


def nested_and_warm(store: Store) -> Given:
    given = free_and_warm(store)
    nested(store)
    return given


def hidden_and_warm(store: Store) -> Given:
    given = free_and_warm(store)
    hidden(store)
    return given


def warm_without_its_lease(store: Store) -> Given:
    given = free_and_warm(store)
    store.apply(Revoke(1))
    return given


def warm_past_its_deadline(store: Store) -> Given:
    given = free_and_warm(store)
    store.pass_time(TTL - 0.08)
    return given


def expired_by_our_clock(store: Store) -> Given:
    caller = Caller(store)
    return (None, caller.try_lock()), caller


def expired_behind_another(store: Store) -> Given:
    given = expired_by_our_clock(store)
    store.enter("beta")
    return given


SCENES = [
    free,
    held,
    held_without_a_name,
    nested,
    nested_and_held,
    hidden,
    free_and_warm,
    free_and_lukewarm,
    held_and_warm,
    nested_and_warm,
    hidden_and_warm,
    warm_without_its_lease,
    warm_past_its_deadline,
    expired_by_our_clock,
    expired_behind_another,
]
in_each_scene = pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)


def a_try(caller: Caller, given: tuple[Any, Any]) -> Any:
    lease, lost = given
    return caller.try_lock(lease, lost=lost)


def a_try_and_a_release(caller: Caller, given: tuple[Any, Any]) -> Any:
    verdict = a_try(caller, given)
    if isinstance(verdict, Place):
        Caller(caller.store).release(verdict)
    return verdict


@in_each_scene
def test_who_is_told_that_it_holds_is_the_holder(scene):
    for stage in plays(scene, a_try):
        if isinstance(stage.verdict, Place):
            assert stage.settled.holder.token == stage.verdict.token, stage


@in_each_scene
def test_who_is_told_that_it_holds_has_one_entry(scene):
    for stage in plays(scene, a_try):
        if isinstance(stage.verdict, Place):
            assert stage.settled.tokens == [stage.verdict.token], stage


@in_each_scene
def test_who_holds_knows_no_later_deadline_than_etcd(scene):
    for stage in plays(scene, a_try):
        if isinstance(stage.verdict, Place):
            lease = stage.verdict.lease
            assert lease.deadline <= stage.reported.leases[lease.id], stage


@in_each_scene
def test_nothing_comes_back_after_the_release(scene):
    for stage in plays(scene, a_try_and_a_release):
        if isinstance(stage.verdict, Place):
            assert stage.settled.tokens == [], stage


@in_each_scene
def test_who_is_told_that_it_does_not_hold_has_no_entry(scene):
    for stage in plays(scene, a_try):
        if isinstance(stage.verdict, Contended | StoreError):
            # An expired hold that could not be revoked ends by itself.
            assert set(stage.settled.tokens) <= set(stage.before.tokens), stage


@in_each_scene
def test_an_interrupt_leaves_an_entry_only_where_it_could_not_be_undone(scene):
    for stage in plays(scene, a_try):
        if isinstance(stage.verdict, KeyboardInterrupt) and not stage.met(Revoke):
            assert set(stage.settled.tokens) <= set(stage.before.tokens), stage


@in_each_scene
def test_a_try_is_uncertain_only_where_a_revocation_failed(scene):
    for stage in plays(scene, a_try):
        if isinstance(stage.verdict, LockUncertainError):
            assert stage.met(Revoke), stage


@in_each_scene
def test_a_failed_try_leaves_no_lease_but_those_of_before(scene):
    for stage in plays(scene, a_try):
        if not isinstance(stage.verdict, Place) and not stage.met(Revoke, Grant):
            assert stage.settled.leases.keys() <= stage.before.leases.keys(), stage


@in_each_scene
def test_a_lease_for_the_next_try_has_no_put_under_way(scene):
    for stage in plays(scene, a_try):
        if isinstance(stage.verdict, Contended) and stage.verdict.lease:
            assert not any(isinstance(each, PUTS) for each in stage.under_way), stage
