"""A place far from the turn: what the join reads of a long queue, and what it then waits for."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from faults import Caller, End, Fate, NoAnswer, Refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from meanwhile import (
    enters,
    leaves,
    long_silence,
    silence,
    the_first_leaves,
    the_lease_is_revoked,
    the_place_is_deleted,
)
from shared_etcd import FOO, Store

from microlock.core.admission import NEAR
from microlock.core.place import AwaitTurn, Contended, Place
from microlock.core.port import Grant, Join, Read, Revoke
from microlock.core.queue import Holder, places
from microlock.errors import StoreUnavailableError

JOIN, LOOK = 1, 2


@pytest.fixture
def store() -> Store:
    return Store()


def enter(store: Store, count: int) -> list[bytes]:
    """So many others join, one after the other."""
    return [store.enter(f"node-{number}") for number in range(count)]


def nested(store: Store) -> None:
    """A lock of a longer name is taken."""
    store.enter("below", key="foo/bar")


def a_users_own(store: Store) -> None:
    """A key that has the name of an entry, and no lease."""
    name = FOO.prefix + b"%x" % (0xABC000 + store.revision)
    store.put(name, b"theirs")
    store.others[name] = store.keys[name]


def place(store: Store, name: bytes) -> tuple[bytes, int]:
    return name, store.keys[name].create_revision


def asked(caller: Caller) -> list[AwaitTurn]:
    return [each for each in caller.requests if isinstance(each, AwaitTurn)]


def first_asked(store: Store) -> AwaitTurn:
    """What it waits for at its first place."""
    caller = Caller(store)
    caller.wait()
    return asked(caller)[0]


# Which entry.


@pytest.mark.parametrize("count", range(1, NEAR + 1))
def test_who_has_few_before_it_is_near(store, count):
    enter(store, count)
    assert first_asked(store).after is None


@pytest.mark.parametrize("count", [NEAR + 1, NEAR + 2, 4, 10])
def test_who_has_more_before_it_waits_behind_one_that_is_near_to_it(store, count):
    names = enter(store, count)
    after = place(store, names[-NEAR])
    assert first_asked(store).after == after


@pytest.mark.parametrize("count", [1, 2, 3, 4, 10])
def test_the_holder_of_a_queue_of_any_length_is_the_oldest(store, count):
    enter(store, count)
    assert first_asked(store).holder == Holder("node-0", 2, 0xF00)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 10])
def test_who_joins_a_queue_of_any_length_asks_once(store, count):
    enter(store, count)
    caller = Caller(store)
    caller.wait()
    assert [type(each) for each in caller.requests] == [Grant, Join, AwaitTurn, Revoke]


def test_what_is_read_by_a_join_does_not_grow_with_the_queue(store):
    found = []

    class Counts:
        def meet(self, request, caller):
            joined = caller.ask(request)
            found.append(len(joined.before))
            return joined

    enter(store, 50)
    Caller(store, {JOIN: Counts()}).wait()
    assert found == [1 + NEAR]


# The turn.


@pytest.mark.parametrize("count", [NEAR + 1, NEAR + 2, 10])
def test_who_is_far_holds_when_all_before_it_have_left(store, count):
    enter(store, count)
    place = Caller(store).wait(course=[the_first_leaves] * count)
    assert [kv.create_revision for kv in store.entries()] == [place.token]


def test_who_is_far_does_not_hold_while_one_before_it_is_there(store):
    names = enter(store, 5)
    refused = Caller(store).wait(course=[leaves(name) for name in names[1:]])
    assert refused.holder.node_id == "node-0"


def test_who_is_far_holds_whatever_the_order_in_which_the_others_leave(store):
    names = enter(store, 5)
    place = Caller(store).wait(course=[leaves(name) for name in reversed(names)])
    assert [kv.create_revision for kv in store.entries()] == [place.token]


def test_who_comes_after_one_that_is_far_is_not_waited_for(store):
    enter(store, 4)
    course = [enters("late"), *[the_first_leaves] * 4]
    assert isinstance(Caller(store).wait(course=course), Place)


def test_who_is_far_in_vain_is_told_who_holds_by_then_and_leaves_nothing(store):
    enter(store, 5)
    refused = Caller(store).wait(course=[the_first_leaves])
    assert refused == Contended(Holder("node-1", 3, 0xF01), None)
    assert (store.entries(), store.ours()) == ([], [])


@pytest.mark.parametrize("loss", [the_place_is_deleted, the_lease_is_revoked, long_silence])
def test_who_is_far_and_has_lost_its_place_joins_again_and_holds_in_turn(store, loss):
    enter(store, 4)
    caller = Caller(store)
    place = caller.wait(course=[loss, *[the_first_leaves] * 5])
    assert [kv.create_revision for kv in store.entries()] == [place.token]
    assert asked(caller)[0].place.token < place.token


# In doubt.


@pytest.mark.parametrize("fate", Fate)
@pytest.mark.parametrize("count", [3, 4, 10])
def test_a_repeated_join_of_a_long_queue_takes_one_place(store, fate, count):
    enter(store, count)
    caller = Caller(store, {JOIN: NoAnswer(fate, End.REPEAT)})
    place = caller.wait(course=[the_first_leaves] * count)
    caller.deliver()
    assert [kv.create_revision for kv in store.entries()] == [place.token]
    assert place.lease.doubtful


@pytest.mark.parametrize("fate", Fate)
def test_a_repeated_join_of_a_long_queue_knows_the_holder(store, fate):
    enter(store, 10)
    caller = Caller(store, {JOIN: NoAnswer(fate, End.REPEAT)})
    caller.wait()
    assert asked(caller)[0].holder.node_id == "node-0"


def test_a_repeated_join_that_was_applied_is_as_far_as_any_other(store):
    names = enter(store, 10)
    after = place(store, names[-NEAR])
    caller = Caller(store, {JOIN: NoAnswer(Fate.APPLIED, End.REPEAT)})
    caller.wait()
    assert asked(caller)[0].after == after


def test_a_repeated_join_behind_which_others_came_has_its_own_place(store):
    """The first copy was applied; who came meanwhile is not waited for."""

    class AppliedAndOvertaken:
        def meet(self, request, caller):
            caller.store.apply(request)
            enter(caller.store, 4)
            return NoAnswer(Fate.NEVER, End.REPEAT).meet(request, caller)

    enter(store, 3)
    caller = Caller(store, {JOIN: AppliedAndOvertaken()})
    place = caller.wait(course=[the_first_leaves] * 3)
    assert [kv.create_revision for kv in store.entries()] == [place.token]


def test_who_is_far_is_near_after_silence(store):
    enter(store, 4)
    caller = Caller(store)
    place = caller.wait(course=[silence, *[the_first_leaves] * 4])
    assert [each.after is None for each in asked(caller)] == [False, True]
    assert asked(caller)[1].place.token == place.token


def test_who_joins_again_in_a_long_queue_is_far_again(store):
    names = enter(store, 5)
    caller = Caller(store)
    caller.wait(course=[the_place_is_deleted, leaves(names[-NEAR])])
    assert [each.after is None for each in asked(caller)] == [False, False]


# What is no entry.


@pytest.mark.parametrize("other", [nested, a_users_own])
@pytest.mark.parametrize("at", ["oldest", "next", "middle", "newest", "all the newest", "both"])
def test_what_is_no_entry_is_never_waited_for_and_hides_nobody(store, other, at):
    for number in range(5):
        if (at == "both" and number == 0) or (at, number) in {
            ("oldest", 0),
            ("next", 1),
            ("middle", 3),
        }:
            other(store)
        enter(store, 1)
    for _ in range({"newest": 1, "all the newest": NEAR + 1, "both": NEAR + 1}.get(at, 0)):
        other(store)
    real = places(FOO.prefix, store.keys.values())
    request = first_asked(store)
    assert request.holder == real[0][1]
    assert request.after is None or request.after in [(name, e.token) for name, e in real]


def test_with_a_nested_name_before_all_the_whole_queue_is_read_and_it_is_as_far_as_ever(store):
    nested(store)
    names = enter(store, 5)
    after = place(store, names[-NEAR])
    caller = Caller(store)
    caller.wait(course=[the_first_leaves])
    assert caller.requests[LOOK] == Read(FOO.prefix)
    assert asked(caller)[0].after == after


def test_a_read_of_the_whole_queue_that_fails_is_undone(store):
    nested(store)
    enter(store, 5)
    with pytest.raises(StoreUnavailableError) as raised:
        Caller(store, {LOOK: Refusal(StoreUnavailableError)}).wait()
    assert (store.entries(), store.ours()) == ([], [])
    assert not raised.value.may_have_happened


def test_an_interrupt_in_the_read_of_the_whole_queue_leaves_nothing(store):
    nested(store)
    enter(store, 5)
    with pytest.raises(KeyboardInterrupt):
        Caller(store, {LOOK: NoAnswer(Fate.NEVER, End.INTERRUPT)}).wait()
    assert (store.entries(), store.ours()) == ([], [])


class Vanishes:
    """Who held leaves just before the queue is read."""

    def meet(self, request, caller):
        (name, _), *_ = places(FOO.prefix, caller.store.keys.values())
        caller.store.remove(name)
        return caller.ask(request)


def test_who_left_before_the_whole_queue_was_read_is_not_waited_for(store):
    nested(store)
    nested(store)
    enter(store, 1)
    caller = Caller(store, {LOOK: Vanishes()})
    assert isinstance(caller.wait(), Place)
    assert asked(caller) == []


def test_who_came_before_the_whole_queue_was_read_is_not_waited_for(store):
    class Comes:
        def meet(self, request, caller):
            enter(caller.store, 2)
            return caller.ask(request)

    nested(store)
    nested(store)
    nested(store)
    assert isinstance(Caller(store, {LOOK: Comes()}).wait(), Place)


# By chance: what the flow decides, against the whole queue.

KEYS = st.lists(st.sampled_from(["entry", "entry", "nested", "own"]), max_size=9)


def lay_out(kinds: Sequence[str]) -> Store:
    store = Store()
    for kind in kinds:
        if kind == "entry":
            enter(store, 1)
        elif kind == "nested":
            nested(store)
        else:
            a_users_own(store)
    return store


@settings(deadline=None)
@given(KEYS)
def test_it_is_the_first_if_and_only_if_no_older_entry_is_there(kinds):
    store = lay_out(kinds)
    real = places(FOO.prefix, store.keys.values())
    caller = Caller(store)
    verdict = caller.wait()
    assert isinstance(verdict, Place) == (not real)


@settings(deadline=None)
@given(KEYS)
def test_a_try_takes_the_lock_if_and_only_if_no_older_entry_is_there(kinds):
    store = lay_out(kinds)
    real = places(FOO.prefix, store.keys.values())
    assert isinstance(Caller(store).try_lock(), Place) == (not real)


@settings(deadline=None)
@given(KEYS)
def test_who_waits_knows_the_holder_and_waits_behind_an_entry_with_one_at_most_after_it(kinds):
    store = lay_out(kinds)
    real = [(name, each.token) for name, each in places(FOO.prefix, store.keys.values())]
    caller = Caller(store)
    caller.wait()
    for request in asked(caller):
        assert request.holder.token == real[0][1]
        assert request.after in (None, *real[-NEAR:])
        if len(real) <= NEAR:
            assert request.after is None


@settings(deadline=None)
@given(KEYS, st.data())
def test_whoever_leaves_first_it_holds_when_the_last_has_left_and_not_before(kinds, data):
    store = lay_out(kinds)
    names = [name for name, _ in places(FOO.prefix, store.keys.values())]
    names = data.draw(st.permutations(names))
    left = data.draw(st.integers(0, len(names)))
    verdict = Caller(store).wait(course=[leaves(name) for name in names[:left]])
    assert isinstance(verdict, Place) == (left == len(names))
