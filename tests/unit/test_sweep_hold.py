"""Whatever goes wrong with a hold, wherever: the verdict agrees with what etcd holds in the end."""

from __future__ import annotations

from typing import Any

import pytest
from faults import Caller, End, Fate, NoAnswer
from shared_etcd import Store
from stage import Stage, plays

from microlock.core.lease import Lease
from microlock.core.place import Lost, Place
from microlock.core.port import Enter, Move, Revoke
from microlock.errors import LockUncertainError, StoreError

Given = tuple[Place, Caller]


def held(store: Store) -> Given:
    caller = Caller(store)
    return caller.try_lock(), caller


def held_with_another_waiting(store: Store) -> Given:
    given = held(store)
    store.enter("beta")
    return given


def held_in_doubt(store: Store) -> Given:
    """A copy of the put is still under way."""
    caller = Caller(store, {Enter: NoAnswer(Fate.LATE, End.REPEAT)})
    return caller.try_lock(), caller


def extended_in_doubt(store: Store, fate: Fate) -> Given:
    place, _ = held(store)
    caller = Caller(store, {Move: NoAnswer(fate)})
    place, _ = caller.extend(place)
    return place, caller


def extended_and_not_told(store: Store) -> Given:
    return extended_in_doubt(store, Fate.APPLIED)


def not_extended_and_not_told(store: Store) -> Given:
    return extended_in_doubt(store, Fate.NEVER)


def extended_later(store: Store) -> Given:
    return extended_in_doubt(store, Fate.LATE)


def deleted(store: Store) -> Given:
    place, caller = held(store)
    store.remove(place.entry)
    return place, caller


def deleted_in_doubt(store: Store) -> Given:
    place, caller = held_in_doubt(store)
    store.remove(place.entry)
    return place, caller


def deleted_while_extended(store: Store) -> Given:
    place, caller = extended_later(store)
    store.remove(place.entry)
    return place, caller


def taken_over(store: Store) -> Given:
    given = deleted(store)
    store.enter("beta")
    return given


def without_its_lease(store: Store) -> Given:
    place, caller = held(store)
    store.apply(Revoke(place.lease.id))
    return place, caller


SCENES = [
    held,
    held_with_another_waiting,
    held_in_doubt,
    extended_and_not_told,
    not_extended_and_not_told,
    extended_later,
    deleted,
    deleted_in_doubt,
    deleted_while_extended,
    taken_over,
    without_its_lease,
]
in_each_scene = pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)


def a_release(caller: Caller, place: Place) -> Any:
    return caller.release(place)


def a_renewal(caller: Caller, place: Place) -> Any:
    return caller.renew(place)


def an_extension(caller: Caller, place: Place) -> Any:
    left, _ = caller.extend(place)
    return left


keeping = pytest.mark.parametrize("act", [a_renewal, an_extension])


def kept(stage: Stage) -> Place | None:
    """What is still held: what the flow returned, or as before if it raised."""
    if not stage.before.tokens:
        return None  # it was lost before; who gets no answer can't know yet
    if isinstance(stage.verdict, StoreError | KeyboardInterrupt):
        return stage.given
    return stage.verdict if isinstance(stage.verdict, Place) else None


@in_each_scene
def test_nothing_is_left_of_what_was_released(scene):
    for stage in plays(scene, a_release):
        if stage.verdict is None or isinstance(stage.verdict, Lease | Lost):
            assert stage.settled.tokens == [], stage


@in_each_scene
def test_a_lease_that_a_release_leaves_is_there(scene):
    for stage in plays(scene, a_release):
        if isinstance(stage.verdict, Lease):
            assert list(stage.settled.leases) == [stage.verdict.id], stage


@in_each_scene
def test_a_release_that_etcd_refused_leaves_the_hold_as_it_was(scene):
    for stage in plays(scene, a_release):
        if isinstance(stage.verdict, StoreError):
            assert stage.reported.entries == stage.before.entries, stage


@in_each_scene
def test_a_release_is_uncertain_only_where_a_revocation_failed(scene):
    for stage in plays(scene, a_release):
        if isinstance(stage.verdict, LockUncertainError):
            assert stage.met(Revoke), stage


@in_each_scene
def test_an_interrupted_release_leaves_an_entry_only_where_a_revocation_failed(scene):
    for stage in plays(scene, a_release):
        if isinstance(stage.verdict, KeyboardInterrupt) and not stage.met(Revoke):
            assert stage.settled.tokens == [], stage


@keeping
@in_each_scene
def test_a_hold_that_was_kept_has_its_entry(act, scene):
    for stage in plays(scene, act):
        if place := kept(stage):
            assert stage.settled.tokens == [place.token], stage


@keeping
@in_each_scene
def test_a_hold_that_was_kept_is_under_one_of_its_leases(act, scene):
    for stage in plays(scene, act):
        if place := kept(stage):
            under = stage.settled.entries[0].lease_id
            assert under in [lease.id for lease in place.leases], stage


@keeping
@in_each_scene
def test_a_hold_that_was_kept_knows_no_later_deadline_than_etcd(act, scene):
    for stage in plays(scene, act):
        if place := kept(stage):
            assert place.deadline <= stage.settled.leases[stage.settled.entries[0].lease_id], stage


@keeping
@in_each_scene
def test_a_hold_that_was_kept_can_be_renewed(act, scene):
    for stage in plays(scene, act):
        if place := kept(stage):
            assert isinstance(Caller(stage.store).renew(place), Place), stage


@keeping
@in_each_scene
def test_a_hold_that_was_kept_is_gone_once_released(act, scene):
    def and_a_release(caller: Caller, place: Place) -> Any:
        left = act(caller, place)
        if isinstance(left, Place):
            Caller(caller.store).release(left)
        return left

    for stage in plays(scene, and_a_release):
        if isinstance(stage.verdict, Place):
            assert stage.settled.tokens == [], stage


@keeping
@in_each_scene
def test_nothing_is_left_of_what_was_lost(act, scene):
    for stage in plays(scene, act):
        if isinstance(stage.verdict, Lost):
            assert stage.settled.tokens == [], stage


@keeping
@in_each_scene
def test_a_hold_that_stands_is_not_lost(act, scene):
    for stage in plays(scene, act):
        if isinstance(stage.verdict, Lost):
            assert not stage.before.tokens, stage
