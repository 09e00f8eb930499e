"""Calls that are dropped at each of their requests, and what undoes or finishes them afterwards."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from shared_etcd import Store
from walk import OTHER, Foo, Going

from microlock.core.call import NOW, Park
from microlock.core.port import Grant, KeepAlive

Scene = Callable[[Foo], Going[Any]]


def held(act: Scene) -> Scene:
    def scene(foo: Foo) -> Going[Any]:
        foo.lock().result()
        return act(foo)

    return scene


TAKING: dict[str, Scene] = {
    "a try": lambda foo: foo.lock(),
    "a wait": lambda foo: foo.lock(timeout=None),
}
KEEPING: dict[str, Scene] = {
    "renew": held(lambda foo: foo.renew()),
    "extend": held(lambda foo: foo.extend(20)),
}
ENDING: dict[str, Scene] = {
    "unlock": held(lambda foo: foo.unlock()),
    "exit": held(lambda foo: foo.exit(foo.status.hold)),
    "destroy": held(lambda foo: foo.destroy()),
}


def dropped(foo: Foo, scene: Scene, at: int, *, applied: bool) -> bool:
    """Whether it came to so many requests, and was dropped there."""
    going, count = scene(foo), -1
    while not going.over:
        if going.request is not None and going.request is not NOW:
            count += 1
            if count == at:
                if isinstance(going.request, Park):
                    going.drop()
                elif applied:
                    going.perform()
                    going.drop()
                else:  # it is under way, and never comes
                    going.call.budget(going.request, foo.store.now)
                    going.drop()
                for _ in range(2):  # twice is fine
                    foo.caller.run(foo.core.orphaned(going.call))
                return True
        going.step()
    return False


@pytest.mark.parametrize("applied", [True, False], ids=["applied", "lost"])
@pytest.mark.parametrize("name", TAKING | KEEPING | ENDING)
def test_a_call_that_is_dropped_is_undone_or_finished(name: str, applied: bool) -> None:
    scene = (TAKING | KEEPING | ENDING)[name]
    for at in itertools.count():
        foo = Foo(Store())
        if not dropped(foo, scene, at, applied=applied):
            break
        if name in KEEPING:
            assert foo.held
            assert len(foo.entries) == 1
            foo.renew().result()
            foo.unlock().result()
        assert (foo.held, foo.entries) == (False, [])
        if name == "destroy":
            assert foo.status.closed
        else:
            foo.lock().result()
            foo.unlock().result()
            foo.destroy().result()
        assert foo.store.ours() == []
    assert at > 0


def test_a_waiter_that_is_dropped_leaves_the_queue(store: Store) -> None:
    foo, other = Foo(store), Foo(store, node_id="beta")
    other.lock().result()
    waiting = foo.lock(timeout=None).go()
    assert waiting.waits
    waiting.drop()
    foo.caller.run(foo.core.orphaned(waiting.call))
    assert [kv.value for kv in store.keys.values()] == [b"beta"]


def test_a_dropped_unlock_leaves_what_min_hold_keeps(store: Store) -> None:
    foo = Foo(store, min_hold=60.0)
    foo.lock().result()
    unlocking = foo.unlock().to(Grant)
    unlocking.perform()
    unlocking.drop()
    foo.caller.run(foo.core.orphaned(unlocking.call))
    assert not foo.held
    assert len(foo.entries) == 1


def test_a_call_that_is_dropped_while_it_waits_for_its_turn_changes_nothing(store: Store) -> None:
    foo = Foo(store)
    foo.lock().result()
    renewing = foo.renew().to(KeepAlive)
    unlocking = foo.unlock(OTHER).go()
    unlocking.drop()
    foo.caller.run(foo.core.orphaned(unlocking.call))
    assert foo.held
    renewing.result()
    foo.unlock().result()
