"""What is in memory changes as a whole, or not at all."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import permutations
from typing import Any

import pytest

from microlock.core.port import Enter, Get, Grant, Join, KeepAlive, Leave, Move, Revoke, Transaction
from microlock.errors import LeaseNotFoundError, StoreError
from microlock.memory import state as state_module
from microlock.memory.state import CompactedError, State

TTL = 60
FOO = Enter(b"foo/", b"foo/1", b"alpha", 1)


@pytest.fixture
def state() -> State:
    state = State()
    state.apply(Grant(1, TTL))
    state.apply(Grant(2, TTL))
    return state


def seen(state: State) -> tuple[Any, ...]:
    """All that it holds, and that this fits together."""
    assert state._names == sorted(state.keys)
    for lease_id, lease in state.leases.items():
        assert lease.names == {kv.name for kv in state.keys.values() if kv.lease_id == lease_id}
    assert not state.history or state.history[-1][0].revision == state.revision
    assert min([lease.end for lease in state.leases.values()], default=0) >= state.now
    return dict(state.keys), dict(state.leases), list(state.history), state.revision


REQUESTS: dict[str, Any] = {
    "enter": Enter(b"bar/", b"bar/1", b"alpha", 1),
    "join": Join(b"foo/", b"foo/2", b"beta", 2, 1),
    "leave": Leave(b"foo/9", 2),
    "move": Move(b"foo/9", b"gamma", 2, 9, 2),
    "grant": Grant(3, 1),
    "keep alive": KeepAlive(1),
    "revoke": Revoke(9),
    "transaction": Transaction(b"foo/9", 2, ((b"a", b"1"), (b"b", b"2")), (b"foo/8",)),
}


def scene() -> State:
    state = State()
    for lease_id in (1, 2, 9):
        state.apply(Grant(lease_id, TTL))
    state.put(b"foo/9", b"gamma", 9)
    state.put(b"foo/8", b"gamma", 9)
    return state


def strike(at: int, act: Callable[[], object]) -> Callable[[], bool]:
    """Has `act` called at the `at`th line of the state's code from now on.

    Returns what ends that, and tells whether it was called."""
    left = [at]

    def trace(frame: Any, event: str, _: object) -> Any:
        if frame.f_code.co_filename != state_module.__file__:
            return None
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                sys.settrace(None)
                act()
        return trace

    def end() -> bool:
        sys.settrace(None)
        return left[0] <= 0

    sys.settrace(trace)
    return end


def interrupted() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("what", REQUESTS)
def test_a_request_that_is_interrupted_on_any_line_is_done_or_not(what: str) -> None:
    request = REQUESTS[what]
    before, after = seen(scene()), scene()
    after.apply(request)
    done = seen(after)
    outcomes = set()
    for at in range(1, 500):
        state = scene()
        end = strike(at, interrupted)
        with suppress(KeyboardInterrupt):
            state.apply(request)
        struck = end()
        assert seen(state) in (before, done), f"at line {at}"
        outcomes.add(seen(state) == done)
        if not struck:
            break
    else:
        pytest.fail("it has no end")
    assert True in outcomes


@pytest.mark.parametrize(("what", "other"), [*permutations(REQUESTS, 2)])
def test_a_request_in_the_middle_of_another_is_as_one_before_or_after_it(
    what: str, other: str
) -> None:
    """As by the handler of a signal."""
    orders = []
    for order in ((what, other), (other, what)):
        state = scene()
        replies = {name: state.apply(REQUESTS[name]) for name in order}
        orders.append((seen(state), replies))
    for at in range(1, 500):
        state = scene()
        replies: dict[str, Any] = {}

        def handler(state: State = state, replies: dict[str, Any] = replies) -> None:
            replies[other] = state.apply(REQUESTS[other])

        end = strike(at, handler)
        replies[what] = state.apply(REQUESTS[what])
        if not end():
            break
        assert (seen(state), replies) in orders, f"at line {at}"
    else:
        pytest.fail("it has no end")


def test_a_lease_ends_in_its_time_and_its_keys_with_it(state: State) -> None:
    state.apply(FOO)
    state.pass_time(TTL - 1)
    state.apply(KeepAlive(2))
    assert state.apply(Get(b"foo/1")).keys
    state.pass_time(1)
    assert (state.keys, [*state.leases]) == ({}, [2])
    assert state.next_end == state.now + TTL - 1


def test_leases_that_end_together_end_in_the_order_of_their_ends(state: State) -> None:
    state.put(b"foo/1", b"", 1)
    state.pass_time(1)
    state.apply(Grant(3, TTL - 10))
    state.put(b"foo/3", b"", 3)
    state.pass_time(2 * TTL)
    assert [event.name for event in state.events(b"", 4)] == [b"foo/3", b"foo/1"]


def test_a_copy_goes_its_own_way(state: State) -> None:
    state.apply(FOO)
    other, before = state.copy(), seen(state)
    other.apply(Revoke(1))
    other.put(b"bar", b"")
    assert seen(state) == before
    assert seen(other) != before


def test_what_is_restored_has_the_time_that_it_had_left(state: State) -> None:
    state.pass_time(10)
    backup = state.copy()
    state.pass_time(2 * TTL)
    state.restore(backup)
    assert [lease.end - state.now for lease in state.leases.values()] == [TTL - 10] * 2
    state.pass_time(TTL - 10)
    assert not state.leases


def test_only_so_many_changes_are_remembered(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "REMEMBERED", 3)
    state = State()
    for number in range(5):
        state.put(b"foo", b"%d" % number)
    assert [event.revision for event in state.events(b"foo", 4)] == [4, 5, 6]
    with pytest.raises(CompactedError):
        state.events(b"foo", 3)


def test_a_transaction_does_all_or_nothing(state: State) -> None:
    token = state.apply(FOO).token
    puts = ((b"report", b"1"), (b"other", b"2"))
    assert state.apply(Transaction(b"foo/1", token, puts, (b"foo/7",))) == token + 1
    state.apply(Leave(b"foo/1", token))
    assert state.apply(Transaction(b"foo/1", token, ((b"report", b"late"),), ())) is None
    assert state.keys[b"report"].value == b"1"


@pytest.mark.parametrize(
    "wrong",
    [
        Transaction(b"foo/1", 1, ((b"a", b""),), (b"a",)),
        Transaction(b"foo/1", 1, tuple((b"%d" % n, b"") for n in range(129)), ()),
    ],
)
def test_a_transaction_that_etcd_would_refuse_is_refused(state: State, wrong: Transaction) -> None:
    with pytest.raises(StoreError):
        state.apply(wrong)


def test_nothing_is_put_under_a_lease_that_is_not_there(state: State) -> None:
    before = seen(state)
    with pytest.raises(LeaseNotFoundError):
        state.change((b"foo/1", b"", 1), (b"foo/9", b"", 9))
    assert seen(state) == before
