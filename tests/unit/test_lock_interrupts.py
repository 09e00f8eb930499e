"""Ctrl-C at every moment of every call: what the object says is what etcd has, and nobody waits for
a call that is not there any more."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from faults import Refusal
from shared_etcd import Store
from walk import OTHER, Foo, Going

from microlock.core.call import NOW, Call, Park
from microlock.core.port import Leave, Revoke
from microlock.core.turns import Turns
from microlock.errors import LockCancelledError, MicrolockError, StoreUnavailableError

Scene = Callable[[], Going[Any]]


def locks() -> Going[Any]:
    return Foo(Store()).lock()


def locks_again() -> Going[Any]:
    foo = Foo(Store())
    foo.lock().result()
    foo.unlock().result()
    foo.store.pass_time(1)  # so that its lease is to be renewed
    return foo.lock()


def locks_after_a_loss() -> Going[Any]:
    foo = Foo(Store())
    foo.store.latency = 0.001
    foo.lock().result()
    foo.store.pass_time(4.955)  # its entry is still there
    return foo.lock()


def is_refused() -> Going[Any]:
    foo = Foo(Store())
    foo.lock().result()
    foo.unlock().result()
    foo.store.enter("beta", ttl=100)
    return foo.lock()


def tries_again() -> Going[Any]:
    foo = Foo(Store())
    foo.store.enter("beta", ttl=3)
    return foo.lock(tries=5, pause=2.0)


def waits() -> Going[Any]:
    foo = Foo(Store())
    foo.store.enter("beta", ttl=4)
    return foo.lock(timeout=60)


def waits_far_from_its_turn() -> Going[Any]:
    foo = Foo(Store())
    for number in range(4):
        foo.store.enter("beta", ttl=4 + number)
    return foo.lock(timeout=None)


def waits_in_vain() -> Going[Any]:
    foo = Foo(Store())
    foo.store.enter("beta", ttl=100)
    return foo.lock(timeout=3)


def waits_for_another_thread() -> Going[Any]:
    foo = Foo(Store())
    foo.lock(OTHER).result()
    going = foo.lock(timeout=60).go()
    foo.unlock(OTHER).result()
    return going


def unlocks() -> Going[Any]:
    foo = Foo(Store())
    foo.lock().result()
    return foo.unlock()


def unlocks_too_early() -> Going[Any]:
    foo = Foo(Store(), ttl=60, min_hold=3)
    foo.lock().result()
    return foo.unlock()


def leaves_with() -> Going[Any]:
    foo = Foo(Store())
    foo.listened_to.add("unlocked")
    foo.tracker.listen()
    foo.sync()
    hold = foo.lock().result()
    return foo.exit(hold)


def renews() -> Going[Any]:
    foo = Foo(Store())
    foo.lock().result()
    foo.store.pass_time(1)
    return foo.renew()


def extends() -> Going[Any]:
    foo = Foo(Store())
    foo.lock().result()
    return foo.extend(30)


def takes_over() -> Going[Any]:
    store = Store()
    Foo(store).lock().result()
    return Foo(store).extend(30)


def destroys() -> Going[Any]:
    foo = Foo(Store())
    foo.lock().result()
    return foo.destroy()


def destroys_what_is_idle() -> Going[Any]:
    foo = Foo(Store())
    foo.lock().result()
    foo.unlock().result()
    return foo.destroy()


def is_destroyed_meanwhile() -> Going[Any]:
    foo = Foo(Store())
    foo.lock().result()
    going = foo.renew()
    while foo.core.turns.current is not going.call:
        going.step()
    foo.core.begin_to_end(going.call.owner)
    return going


TAKING = [
    locks,
    locks_again,
    locks_after_a_loss,
    is_refused,
    tries_again,
    waits,
    waits_far_from_its_turn,
    waits_in_vain,
    waits_for_another_thread,
]
GIVING = [unlocks, unlocks_too_early, leaves_with]
KEEPING = [renews, extends, takes_over]
ENDING = [destroys, destroys_what_is_idle, is_destroyed_meanwhile]
ALL = [*TAKING, *GIVING, *KEEPING, *ENDING]
scenes = pytest.mark.parametrize("scene", ALL, ids=lambda scene: scene.__name__)


def moments(scene: Scene) -> Iterator[Going[Any]]:
    """The call, stopped at each of its requests, one after the other."""
    for count in range(1, 1000):
        going = scene()
        for _ in range(count):
            going.step()
            if going.over:
                return
        yield going


def interrupted(scene: Scene) -> Iterator[Going[Any]]:
    """The call, interrupted at each of its requests, before it was sent, and after it was done;
    and driven to its end."""
    for done in (False, True):
        for going in moments(scene):
            asked = going.request
            if done:
                if asked is NOW or isinstance(asked, Park):
                    continue
                with suppress(MicrolockError):
                    going.perform()
            going.throw(KeyboardInterrupt())
            while not going.over:
                going.step()
            yield going


def is_true(foo: Foo) -> bool:
    """Whether what the object says of itself is what etcd has."""
    entries = foo.store.entries(foo.core.names.value)
    hold = foo.hold
    if hold is None:
        return True
    (entry,) = entries
    lives = foo.store.leases[entry.lease_id].end >= hold.place.deadline
    ours = entry.lease_id in {lease.id for lease in hold.leases}
    return lives and ours and (entry.name, entry.create_revision) == (hold.place.entry, hold.token)


def the_turn_is_free(foo: Foo) -> bool:
    return foo.core.turns.current is None and not foo.core.turns.calls


@scenes
def test_an_interrupt_is_raised_and_nothing_in_its_place(scene):
    for going in interrupted(scene):
        assert isinstance(going.error, KeyboardInterrupt)


@scenes
def test_what_the_object_says_after_an_interrupt_is_what_etcd_has(scene):
    for going in interrupted(scene):
        assert is_true(going.foo)


@scenes
def test_after_an_interrupt_the_turn_is_free(scene):
    for going in interrupted(scene):
        assert the_turn_is_free(going.foo)


@pytest.mark.parametrize("scene", [*TAKING, leaves_with, unlocks], ids=lambda scene: scene.__name__)
def test_an_interrupted_call_leaves_no_entry_that_the_object_does_not_hold(scene):
    for going in interrupted(scene):
        foo = going.foo
        if not (foo.held or scene is locks_after_a_loss):
            assert foo.entries == []


@pytest.mark.parametrize("scene", TAKING, ids=lambda scene: scene.__name__)
def test_an_interrupted_lock_holds_nothing_and_leaves_nothing(scene):
    """But what could be there before it."""
    for going in interrupted(scene):
        foo = going.foo
        assert not foo.held
        foo.destroy().result()
        if scene is not is_refused or not foo.store.ours():
            assert foo.entries == []


@pytest.mark.parametrize("scene", TAKING, ids=lambda scene: scene.__name__)
def test_an_interrupted_lock_tells_once_that_it_was_cancelled(scene):
    for going in moments(scene):
        if going.request is NOW:  # in the middle of a step, which may have told of a failure
            continue
        going.throw(KeyboardInterrupt())
        while not going.over:
            going.step()
        (failed,) = (event for event in going.foo.told if event.name == "failed")
        assert isinstance(failed.error, LockCancelledError)
        assert failed.waited == pytest.approx(going.foo.store.now - going.call.started)


@scenes
def test_an_object_can_be_used_after_an_interrupt(scene):
    for going in interrupted(scene):
        foo = going.foo
        if foo.status.destroyed:
            continue
        if foo.held:
            foo.unlock().result()
        foo.lock(timeout=None).result()
        assert is_true(foo)
        assert foo.held


@pytest.mark.parametrize("scene", [renews, extends], ids=lambda scene: scene.__name__)
def test_an_interrupt_of_a_renewal_leaves_the_hold(scene):
    for going in interrupted(scene):
        assert going.foo.held


@pytest.mark.parametrize("scene", ENDING, ids=lambda scene: scene.__name__)
def test_an_interrupted_end_is_an_end(scene):
    for going in interrupted(scene):
        foo = going.foo
        assert (foo.held, foo.tracker.next_due, foo.tracker.watches) == (False, math.inf, {})


def test_what_an_interrupt_has_left_held_on_the_way_out_can_be_abandoned(monkeypatch):
    """In the middle of a step, as Python runs a signal's handler."""
    give = Turns.give
    interrupts = iter([KeyboardInterrupt()])

    def interrupted_once(turns: Turns, call: Call) -> None:
        give(turns, call)
        for interrupt in interrupts:
            raise interrupt

    gc.collect()  # calls of other tests that were dropped on their way would meet it
    monkeypatch.setattr(Turns, "give", interrupted_once)
    foo = Foo(Store())
    with pytest.raises(KeyboardInterrupt):
        foo.lock().result()
    assert foo.hold
    foo.abandon(foo.hold).result()
    assert (foo.held, foo.entries) == (False, [])
    assert the_turn_is_free(foo)
    assert foo.names == ["acquired", "released"]


# A second interrupt, while the first is cleaned up after; and an etcd that does not answer then.


def twice(scene: Scene) -> Iterator[Going[Any]]:
    for first in range(1, 1000):
        for second in range(1000):
            going = scene()
            for _ in range(first):
                going.step()
            if going.over:
                return
            going.throw(KeyboardInterrupt())
            for _ in range(second):
                going.step() if not going.over else None
            if going.over:
                break
            going.throw(KeyboardInterrupt())
            while not going.over:
                going.step()
            yield going


@scenes
def test_a_second_interrupt_is_raised_too_and_the_turn_is_free(scene):
    for going in twice(scene):
        assert isinstance(going.error, KeyboardInterrupt)
        assert is_true(going.foo)
        assert the_turn_is_free(going.foo)


@scenes
def test_where_nothing_can_be_revoked_the_object_claims_nothing_that_is_not_there(scene):
    for going in moments(scene):
        foo = going.foo
        foo.faults[Revoke] = foo.faults[Leave] = Refusal(StoreUnavailableError)
        going.throw(KeyboardInterrupt())
        while not going.over:
            going.step()
        assert isinstance(going.error, KeyboardInterrupt)
        assert is_true(foo)
        assert the_turn_is_free(foo)


# Whoever drives the call is gone: a task, or a thread at the end of its process.


@scenes
def test_a_call_that_is_dropped_asks_for_nothing_more_and_frees_the_turn(scene):
    for going in moments(scene):
        asked = len(going.foo.caller.requests)
        going.drop()  # raises if the generator goes on
        assert len(going.foo.caller.requests) == asked
        assert the_turn_is_free(going.foo)
        assert going.foo.core.turns.current is None


@scenes
def test_an_object_can_be_used_after_a_call_was_dropped(scene):
    for going in moments(scene):
        foo = going.foo
        going.drop()
        if foo.status.destroyed:
            continue
        if foo.held:
            foo.unlock().result()
        foo.pass_time(100)  # until what the call has left is gone
        foo.lock(timeout=60).result()
        assert is_true(foo)
