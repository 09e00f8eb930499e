"""Clients of one lock on one etcd: whatever happens, in whatever order, the queue is right.

The same model is gone through by chance, in depth, and from end to end, with few faults. By chance
for longer, with other seeds:

    MODEL_EXAMPLES=20000 python -m pytest tests/unit/test_model.py -k chance

which then ends with the shortest story that it found.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from explore import FAULTS, explore
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from model import Model, Violation

from microlock.core import flows
from microlock.core.flows import keeping, taking
from microlock.core.flows.taking import NEAR
from microlock.core.keys import Names
from microlock.core.lease import Lease
from microlock.core.place import AwaitTurn, Place
from microlock.core.port import Get, Lifetime, Read, Revoke, Txn

LONGER = int(os.environ.get("MODEL_EXAMPLES", "0"))
STEPS = 60
CHANCE = settings(
    max_examples=LONGER or 250,
    stateful_step_count=STEPS,
    derandomize=not LONGER,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
# To see that a fault is found, not to see it at its smallest.
SEARCH = settings(
    CHANCE, max_examples=1000, derandomize=True, phases=[Phase.generate], print_blob=False
)

numbers = st.integers(0, 999)


def some(*kinds: str) -> Callable[[Any], bool]:
    return lambda machine: machine.count(*kinds) > 0


class Clients(RuleBasedStateMachine):
    """Two or three clients; each rule is a kind of move."""

    steps = 0

    @initialize(clients=st.sampled_from([2, 2, 3]), ahead=st.sampled_from([0, 0, 0, NEAR + 1]))
    def begins(self, clients: int, ahead: int) -> None:
        self.model = Model.of(clients, ahead=ahead)
        self._moves: dict[str, list[Any]] | None = None

    def moves(self, *kinds: str) -> list[Any]:
        if self._moves is None:
            self._moves = {}
            for move in self.model.moves():
                self._moves.setdefault(move[0], []).append(move)
            self._moves["begin"] = [
                ("begin", client.index, op)
                for client in self.model.clients
                for op in self.model.ops(client)
            ]
        return [move for kind in kinds for move in self._moves.get(kind, ())]

    def count(self, *kinds: str) -> int:
        return len(self.moves(*kinds))

    def one_of(self, number: int, *kinds: str) -> None:
        moves = self.moves(*kinds)
        move = moves[number % len(moves)]
        self._moves = None
        type(self).steps += 1
        self.model.do(move)

    @precondition(some("begin"))
    @rule(number=numbers)
    def begin(self, number: int) -> None:
        self.one_of(number, "begin")

    @precondition(some("arrive", "answer"))
    @rule(number=numbers, more=st.integers(0, 5))
    def go_on(self, number: int, more: int) -> None:
        """All goes well for a while."""
        self.one_of(number, "arrive", "answer")
        for _ in range(more):
            if not self.moves("arrive", "answer"):
                break
            self.one_of(number, "arrive", "answer")

    @precondition(some("stand", "watch"))
    @rule(number=numbers)
    def tell(self, number: int) -> None:
        self.one_of(number, "stand", "watch")

    @precondition(some("lose"))
    @rule(number=numbers)
    def lose(self, number: int) -> None:
        self.one_of(number, "lose")

    @precondition(some("leave"))
    @rule(number=numbers)
    def leave(self, number: int) -> None:
        self.one_of(number, "leave")

    @precondition(some("late"))
    @rule(number=numbers)
    def late(self, number: int) -> None:
        self.one_of(number, "late")

    @rule(number=numbers)
    def time(self, number: int) -> None:
        self.one_of(number, "time")

    @precondition(some("beat", "beaten"))
    @rule(number=numbers)
    def renew(self, number: int) -> None:
        self.one_of(number, "beat", "beaten")

    @precondition(some("interfere", "forget", "crash"))
    @rule(number=numbers)
    def disturb(self, number: int) -> None:
        self.one_of(number, "interfere", "forget", "crash")

    def teardown(self) -> None:
        if hasattr(self, "model") and self.model.whole:
            self.model.finish()


def test_by_chance_nothing_goes_wrong():
    Clients.steps = 0
    run_state_machine_as_test(Clients, settings=CHANCE)
    assert Clients.steps > 10_000


# From end to end.

WAIT, TRY = ("wait", "unlock"), ("lock", "unlock")
EXTEND = ("lock", "extend", "unlock")


@pytest.mark.parametrize(
    ("plans", "faults", "of", "ahead", "least"),
    [
        ([TRY, WAIT], 2, ["lose"], 0, 30_000),
        ([WAIT, WAIT], 1, FAULTS, 0, 4_000),
        ([TRY, TRY], 1, FAULTS, 0, 4_000),
        ([EXTEND, WAIT], 1, FAULTS, 0, 4_000),
        ([TRY, WAIT, WAIT], 1, ["lose"], 0, 4_000),
        ([WAIT, WAIT], 0, [], NEAR + 1, 500),
        ([WAIT], 1, FAULTS, NEAR + 2, 500),
    ],
    ids=["two faults", "waiting", "trying", "extending", "three clients", "far", "far, a fault"],
)
def test_whatever_the_order_nothing_goes_wrong(plans, faults, of, ahead, least):
    assert explore(plans, faults=faults, of=of, ahead=ahead).states > least


# What is wrong with a protocol that ...


def altered(flow: Any, alter: Callable[[Any], Any]) -> Any:
    """The flow, with its requests altered."""

    def runs(*args: Any, **kwargs: Any) -> Any:
        inner = flow(*args, **kwargs)
        try:
            request = next(inner)
            while True:
                try:
                    reply = yield alter(request)
                except GeneratorExit:
                    inner.close()
                    raise
                except BaseException as error:  # noqa: BLE001  it is the flow's to judge
                    request = inner.throw(error)
                else:
                    request = inner.send(reply)
        except StopIteration as decided:
            return decided.value

    return runs


def nothing(*_: Any, **__: Any) -> Any:
    """A flow that does nothing."""
    yield from ()


def undoes_no_failed_try(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(taking, "discard", nothing)


def undoes_no_failed_release(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(keeping, "discard", nothing)


def deletes_whatever_is_there(patch: pytest.MonkeyPatch) -> None:
    def unguarded(request: Any) -> Any:
        return replace(request, guards=()) if isinstance(request, Txn) else request

    patch.setattr(flows, "release", altered(flows.release, unguarded))


def puts_whoever_is_there(patch: pytest.MonkeyPatch) -> None:
    def unguarded(request: Any) -> Any:
        return replace(request, guards=()) if isinstance(request, Txn) else request

    patch.setattr(flows, "try_lock", altered(flows.try_lock, unguarded))


def knows_no_margin(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Lease, "deadline", property(lambda lease: lease.sent + lease.ttl))


def counts_from_the_reply(patch: pytest.MonkeyPatch) -> None:
    def renewed(lease: Lease, lifetime: Lifetime) -> Lease:
        return replace(lease, ttl=lifetime.ttl, sent=lifetime.at)

    patch.setattr(Lease, "renewed", renewed)


def keeps_a_doubtful_lease(patch: pytest.MonkeyPatch) -> None:
    def release(names: Names, place: Place, ttl: int) -> Any:
        lease = replace(place.lease, doubtful=False)
        return (yield from keeping.release(names, replace(place, lease=lease), ttl))

    patch.setattr(flows, "release", release)


def does_not_look_who_is_older(patch: pytest.MonkeyPatch) -> None:
    join = taking._join

    def joins(names: Names, entry: bytes, lease: Lease) -> Any:
        place, _, at = yield from join(names, entry, lease)
        return place, None, at

    patch.setattr(taking, "_join", joins)


def reads_no_more_than_its_own_entry(patch: pytest.MonkeyPatch) -> None:
    def reads(request: Any) -> Any:
        if not isinstance(request, Txn):
            return request
        then = [e for e in request.then if not isinstance(e, Read)]
        return replace(request, then=(*then, Read(b"foo/", 1, newest=True)))

    patch.setattr(flows, "wait", altered(flows.wait, reads))


def waits_behind_itself(patch: pytest.MonkeyPatch) -> None:
    def waits(request: Any) -> Any:
        if not isinstance(request, AwaitTurn):
            return request
        return replace(request, after=(request.place.entry, request.place.token))

    patch.setattr(flows, "wait", altered(flows.wait, waits))


def forgets_an_extension_in_doubt(patch: pytest.MonkeyPatch) -> None:
    extend = flows.extend

    def extends(*args: Any, **kwargs: Any) -> Any:
        left, error = yield from extend(*args, **kwargs)
        return (replace(left, next_lease=None) if error else left), error

    patch.setattr(flows, "extend", extends)


def gives_up_without_leaving(patch: pytest.MonkeyPatch) -> None:
    def leaves(request: Any) -> Any:
        return Get(b"foo/") if isinstance(request, Revoke) else request

    patch.setattr(flows, "wait", altered(flows.wait, leaves))


# With what it is found: the plans of the clients, the number of faults, and their kinds.
BROKEN: dict[Callable[[pytest.MonkeyPatch], None], tuple[list[tuple[str, ...]], int, list[str]]] = {
    undoes_no_failed_try: ([TRY, TRY], 1, ["lose"]),
    undoes_no_failed_release: ([TRY, TRY], 1, ["lose"]),
    deletes_whatever_is_there: ([TRY + TRY, TRY], 1, ["lose"]),
    puts_whoever_is_there: ([TRY, TRY], 0, []),
    knows_no_margin: ([TRY, TRY], 1, ["time"]),
    counts_from_the_reply: ([TRY, TRY], 2, ["time"]),
    keeps_a_doubtful_lease: ([TRY, TRY], 1, ["lose"]),
    does_not_look_who_is_older: ([WAIT, WAIT], 0, []),
    reads_no_more_than_its_own_entry: ([WAIT, WAIT], 0, []),
    waits_behind_itself: ([WAIT, WAIT], 0, []),
    forgets_an_extension_in_doubt: ([("lock", "shorten"), ()], 2, ["lose", "time"]),
    gives_up_without_leaving: ([WAIT, WAIT], 1, []),
}
# What it takes a long story to come by.
DEEP = {
    deletes_whatever_is_there,
    counts_from_the_reply,
    keeps_a_doubtful_lease,
    forgets_an_extension_in_doubt,
}


@pytest.mark.parametrize(
    "breaks", [each for each in BROKEN if each not in DEEP], ids=lambda each: each.__name__
)
def test_by_chance_it_is_found_out_what_goes_wrong_if_it(breaks, monkeypatch):
    breaks(monkeypatch)
    with pytest.raises(Violation):
        run_state_machine_as_test(Clients, settings=SEARCH)


@pytest.mark.parametrize("breaks", BROKEN, ids=lambda each: each.__name__)
def test_from_end_to_end_it_is_found_out_what_goes_wrong_if_it(breaks, monkeypatch):
    breaks(monkeypatch)
    plans, faults, of = BROKEN[breaks]
    with pytest.raises(Violation):
        explore(plans, faults=faults, of=of)
