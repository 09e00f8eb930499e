"""Whatever goes wrong with a lock of any kind, wherever: its verdict agrees with what etcd holds in
the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from faults import Caller
from meanwhile import Happening, Stay, enters, the_lease_is_revoked
from shared_etcd import FOO, Store
from stage import Scene, Stage, plays

from microlock.core.admission import READER, WRITER, semaphore
from microlock.core.keys import Names
from microlock.core.place import Contended, Place
from microlock.core.port import Enter, Grant, Join, Revoke
from microlock.errors import LockUncertainError, StoreError

LIMIT = 2
# Each kind, with where others have their entries that are beside it, and those that keep it out.
KINDS: dict[str, tuple[Names, list[str], list[str]]] = {
    "semaphore": (Names.of("foo", FOO.node_id, semaphore(LIMIT)), ["foo"], ["foo"] * LIMIT),
    "reader": (
        Names.of("foo", FOO.node_id, READER),
        ["foo/read"],
        ["foo/read", "foo/write", "foo/read"],
    ),
    "writer": (Names.of("foo", FOO.node_id, WRITER), ["foo"], ["foo/read", "foo/write"]),
    "several": (Names.of_all(["foo", "bar"], FOO.node_id), ["fop"], ["bar", "foo"]),
    "several behind one": (Names.of_all(["foo", "bar"], FOO.node_id), ["bar/1/2"], ["bar"]),
}

# The lease of an earlier cycle, a hold that was lost, what happens while it waits.
Given = tuple[tuple[Any, Any, Sequence[Happening]], Caller]


def a_rival_leaves(stay: Stay) -> None:
    stay.store.remove(next(iter(stay.store.others)))


def scenes(names: Names, beside: list[str], rivals: list[str]) -> list[Scene]:
    def given(
        store: Store, others: list[str], *course: Happening, warm: bool = False, lost: bool = False
    ) -> Given:
        store.names = names
        caller = Caller(store)
        place = caller.try_lock() if warm or lost else None
        lease = caller.release(place) if warm else None
        for key in others:
            store.enter("beta", key=key)
        return (lease, place if lost else None, course), caller

    leave: list[Happening] = [a_rival_leaves] * len(rivals)

    def free(store: Store) -> Given:
        return given(store, beside)

    def free_and_warm(store: Store) -> Given:
        return given(store, beside, warm=True)

    def kept_out(store: Store) -> Given:
        return given(store, rivals, *leave)

    def kept_out_and_warm(store: Store) -> Given:
        return given(store, rivals, *leave, warm=True)

    def kept_out_and_revoked(store: Store) -> Given:
        return given(store, rivals, the_lease_is_revoked, *leave)

    def overtaken_by_nobody(store: Store) -> Given:
        return given(store, rivals, enters("gamma"), *leave)

    def lost_before(store: Store) -> Given:
        return given(store, beside, lost=True)

    def lost_behind_others(store: Store) -> Given:
        return given(store, rivals, *leave, lost=True)

    return [
        free,
        free_and_warm,
        kept_out,
        kept_out_and_warm,
        kept_out_and_revoked,
        overtaken_by_nobody,
        lost_before,
        lost_behind_others,
    ]


SCENES = [(name, scene) for name, kind in KINDS.items() for scene in scenes(*kind)]
in_each_scene = pytest.mark.parametrize(
    "scene", [scene for _, scene in SCENES], ids=[f"{name}-{s.__name__}" for name, s in SCENES]
)


def a_try(caller: Caller, given: tuple[Any, Any, Any]) -> Any:
    lease, lost, _ = given
    return caller.try_lock(lease, lost=lost)


def a_wait(caller: Caller, given: tuple[Any, Any, Any]) -> Any:
    lease, lost, course = given
    return caller.wait(lease, lost=lost, course=course)


def and_a_release(caller: Caller, given: tuple[Any, Any, Any]) -> Any:
    verdict = a_wait(caller, given)
    if isinstance(verdict, Place):
        Caller(caller.store).release(verdict)
    return verdict


def _new(stage: Stage) -> set[int]:
    """The tokens of our entries. That of an expired hold which could not be revoked is not new."""
    left = stage.before.tokens if stage.met(Revoke) else ()
    return {*stage.settled.tokens}.difference(left)


in_both_ways = pytest.mark.parametrize("act", [a_try, a_wait])


@in_both_ways
@in_each_scene
def test_who_is_told_that_it_holds_has_one_entry_which_holds(scene, act):
    for stage in plays(scene, act):
        if isinstance(stage.verdict, Place):
            assert stage.verdict.token in [each.token for each in stage.settled.holders], stage
            assert _new(stage) == {stage.verdict.token}, stage


@in_both_ways
@in_each_scene
def test_who_is_told_that_it_does_not_hold_has_no_entry(scene, act):
    for stage in plays(scene, act):
        if isinstance(stage.verdict, Contended | StoreError):
            assert set(stage.settled.tokens) <= set(stage.before.tokens), stage


@in_both_ways
@in_each_scene
def test_it_is_uncertain_only_where_a_revocation_failed(scene, act):
    for stage in plays(scene, act):
        if isinstance(stage.verdict, LockUncertainError):
            assert stage.met(Revoke), stage


@in_both_ways
@in_each_scene
def test_a_failure_leaves_no_lease_but_those_of_before(scene, act):
    for stage in plays(scene, act):
        if not isinstance(stage.verdict, Place) and not stage.met(Revoke, Grant):
            assert stage.settled.leases.keys() <= stage.before.leases.keys(), stage


@in_each_scene
def test_nothing_comes_back_after_the_release(scene):
    for stage in plays(scene, and_a_release):
        if isinstance(stage.verdict, Place):
            assert not _new(stage), stage


@in_each_scene
def test_without_a_fault_it_is_had_in_the_end(scene):
    store = Store()
    given, caller = scene(store)
    assert isinstance(a_wait(caller, given), Place)


@in_each_scene
def test_a_try_without_a_fault_is_one_put_or_none(scene):
    """Unless other locks are nested in its name."""
    store = Store()
    given, _ = scene(store)
    caller = Caller(store)
    a_try(caller, given)
    assert sum(isinstance(each, Enter) for each in caller.requests) <= LIMIT
    if any(isinstance(each, Join) for each in caller.requests):
        others = (b"foo/read/", b"foo/write/") if store.names.admission is WRITER else ()
        assert [each for each in store.others if not each.startswith(others)]
