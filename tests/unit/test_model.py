"""Clients of one lock on one etcd: whatever happens, in whatever order, the queue is right.

The same model is gone through by chance, in depth, and from end to end, with few faults. By chance
for longer, with other seeds:

    MODEL_EXAMPLES=20000 python -m pytest tests/unit/test_model.py -k chance

which then ends with the shortest story that it found.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from explore import FAULTS, Visited, explore
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
from microlock.core.admission import NEAR
from microlock.core.flows import keeping, taking
from microlock.core.hold import HoldState
from microlock.core.keys import Names
from microlock.core.lease import Lease
from microlock.core.lock import LockCore
from microlock.core.place import AwaitTurn, Place
from microlock.core.port import Enter, Entered, Join, Joined, Leave, Left, Lifetime, Revoke
from microlock.core.tracker import Tracker
from microlock.core.turns import Turns
from microlock.core.wait import Wait
from microlock.memory.state import State, Steps

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

    @initialize(
        clients=st.sampled_from([2, 2, 3, ("foo bar", "bar foo"), ("foo", "bar foo", "bar")]),
        threads=st.sampled_from([1, 1, 2]),
        ahead=st.sampled_from([0, 0, 0, NEAR + 1]),
        min_hold=st.sampled_from([0.0, 0.0, 4.0]),
    )
    def begins(
        self, clients: int | Sequence[str], threads: int, ahead: int, min_hold: float
    ) -> None:
        self.model = Model.of(clients, threads=threads, ahead=ahead, min_hold=min_hold)
        self._moves: dict[str, list[Any]] | None = None

    def moves(self, *kinds: str) -> list[Any]:
        if self._moves is None:
            self._moves = {}
            for move in self.model.moves():
                self._moves.setdefault(move[0], []).append(move)
            self._moves["begin"] = [
                ("begin", client.index, (owner, op))
                for client in self.model.clients
                for owner in range(len(client.todo))
                for op in self.model.ops(client, owner)
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

    @precondition(some("wake", "watch"))
    @rule(number=numbers)
    def tell(self, number: int) -> None:
        self.one_of(number, "wake", "watch")

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

    @precondition(some("due", "renewed", "rest"))
    @rule(number=numbers)
    def renew(self, number: int) -> None:
        self.one_of(number, "due", "renewed", "rest")

    @precondition(some("interfere", "forget", "crash"))
    @rule(number=numbers)
    def disturb(self, number: int) -> None:
        self.one_of(number, "interfere", "forget", "refuse", "silent", "crash")

    @precondition(some("cancel", "signal"))
    @rule(number=numbers)
    def end(self, number: int) -> None:
        self.one_of(number, "cancel", "signal")

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


A_WHILE = ("wait a while", "unlock")
BOTH = ("foo bar", "bar foo")


class Course(NamedTuple):
    """What the clients do, or the threads of each, the number of faults, and their kinds."""

    plans: list[Any]
    faults: int = 0
    of: Sequence[str] = ()
    ahead: int = 0
    min_hold: float = 0.0
    keys: Sequence[str] | None = None

    def explore(self) -> Visited:
        return explore(
            self.plans,
            faults=self.faults,
            of=self.of,
            ahead=self.ahead,
            min_hold=self.min_hold,
            keys=self.keys,
        )


@pytest.mark.parametrize(
    ("course", "least"),
    [
        (Course([TRY, WAIT], 2, ["timeout", "repeat"]), 8_000),
        (Course([WAIT, WAIT], 1, FAULTS), 5_000),
        (Course([TRY, TRY], 1, FAULTS), 5_000),
        (Course([EXTEND, WAIT], 1, ["lose", "time"]), 5_000),
        (Course([TRY, WAIT, WAIT], 1, ["timeout"]), 5_000),
        (Course([WAIT, WAIT], ahead=NEAR + 1), 1_000),
        (Course([WAIT], 1, FAULTS, ahead=NEAR + 1), 2_000),
        (Course([[WAIT, WAIT], TRY]), 900),
        (Course([[WAIT, TRY]], 1, FAULTS), 500),
        (Course([[WAIT, TRY], WAIT], 1, ["cancel"]), 2_000),
        (Course([[A_WHILE, ("destroy",)], WAIT], 1, ["timeout", "interrupt"]), 5_000),
        (Course([TRY, WAIT], 1, FAULTS, min_hold=4.0), 5_000),
        (Course([WAIT, WAIT, WAIT], keys=("foo bar", "bar", "foo")), 750),
        (Course([WAIT, TRY], 1, FAULTS, keys=BOTH), 5_000),
    ],
    ids=[
        "two faults",
        "waiting",
        "trying",
        "extending",
        "three clients",
        "far",
        "far, a fault",
        "threads",
        "threads, a fault",
        "cancelling",
        "destroying",
        "min_hold",
        "several keys",
        "several keys, a fault",
    ],
)
def test_whatever_the_order_nothing_goes_wrong(course, least):
    assert course.explore().states > least


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
    def leaves(store: State, request: Leave) -> tuple[Left, Steps]:
        return Left(True, store.now), store._changes((request.entry, None, 0))

    patch.setattr(State, "_leave", leaves)


def puts_whoever_is_there(patch: pytest.MonkeyPatch) -> None:
    def enters(store: State, request: Enter) -> tuple[Entered, Steps]:
        put = store._changes((request.entry, request.value, request.lease_id))
        return Entered(store.revision + 1, (), store.now), put

    patch.setattr(State, "_enter", enters)


def knows_no_margin(patch: pytest.MonkeyPatch) -> None:
    def knows(lease: Lease) -> None:
        object.__setattr__(lease, "deadline", lease.sent + lease.ttl)

    patch.setattr(Lease, "__post_init__", knows)


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
    join = State._join

    def reads(store: State, request: Join) -> tuple[Joined, Steps]:
        joined, steps = join(store, request)
        return replace(joined, before=()), steps

    patch.setattr(State, "_join", reads)


def waits_behind_itself(patch: pytest.MonkeyPatch) -> None:
    begin = Wait.begin

    def begins(wait: Wait, request: AwaitTurn, now: float) -> bool:
        itself = request.place.entry, request.place.token
        return begin(wait, replace(request, after=itself), now)

    patch.setattr(Wait, "begin", begins)


def forgets_an_extension_in_doubt(patch: pytest.MonkeyPatch) -> None:
    extend = flows.extend

    def extends(*args: Any, **kwargs: Any) -> Any:
        left, error = yield from extend(*args, **kwargs)
        return (replace(left, next_lease=None) if error else left), error

    patch.setattr(flows, "extend", extends)


def gives_up_without_leaving(patch: pytest.MonkeyPatch) -> None:
    def leaves(request: Any) -> Any:
        return Revoke(0xFFFF) if isinstance(request, Revoke) else request

    patch.setattr(flows, "wait", altered(flows.wait, leaves))


# What is wrong with an object that ...


def renews_what_it_has_lost(patch: pytest.MonkeyPatch) -> None:
    def due(tracker: Tracker, now: float) -> Sequence[Lease]:
        hold = tracker._status.hold
        return hold.leases if hold else ()

    def next_due(tracker: Tracker) -> float:
        hold = tracker._status.hold
        return hold.place.lease.sent + 1 if hold else math.inf

    patch.setattr(Tracker, "due", due)
    patch.setattr(Tracker, "next_due", property(next_due))


def believes_again_when_it_is_renewed(patch: pytest.MonkeyPatch) -> None:
    renewed = HoldState.renewed

    def revives(hold: HoldState, lease_id: int, lifetime: Lifetime) -> bool:
        hold._expired, hold._reason, hold.alive = False, None, True
        hold.ended.clear()
        return renewed(hold, lease_id, lifetime)

    patch.setattr(HoldState, "renewed", revives)


def gives_the_turn_to_two(patch: pytest.MonkeyPatch) -> None:
    def gives(turns: Turns) -> None:
        for call in turns.calls:
            turns.current = call
            call.wake()

    patch.setattr(Turns, "pass_on", gives)


def ignores_a_watch_that_tells_of_a_deletion(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Tracker, "look", lambda tracker: None)


def wakes_nobody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Tracker, "_stir", lambda tracker: None)


def forgets_what_it_took_when_it_is_cancelled(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LockCore, "_withdraw", nothing)


def frees_the_lock_too_early(patch: pytest.MonkeyPatch) -> None:
    def release(core: LockCore, hold: HoldState, ttl: int, now: float) -> Any:
        return (yield from flows.release(core.names, hold.place, ttl))

    patch.setattr(LockCore, "_release", release)


# What is wrong with several keys that ...


def wait_in_the_first_queue_alone(patch: pytest.MonkeyPatch) -> None:
    join = State._join

    def reads(store: State, request: Join) -> tuple[Joined, Steps]:
        joined, steps = join(store, request)
        before = [kv for kv in joined.before or () if kv.name.startswith(request.lock)]
        return replace(joined, before=tuple(before)), steps

    patch.setattr(State, "_join", reads)


def are_held_though_one_is_gone(patch: pytest.MonkeyPatch) -> None:
    look = Tracker.look

    def looks(tracker: Tracker) -> None:
        views, others = tracker.views, tracker._status.names.others
        tracker.views = {name: view for name, view in views.items() if not name.startswith(others)}
        look(tracker)
        tracker.views = views

    patch.setattr(Tracker, "look", looks)


# With what it is found.
BROKEN: dict[Callable[[pytest.MonkeyPatch], None], Course] = {
    undoes_no_failed_try: Course([TRY, TRY], 1, ["lose"]),
    undoes_no_failed_release: Course([TRY, TRY], 1, ["lose"]),
    deletes_whatever_is_there: Course([TRY + TRY, TRY], 1, ["lose"]),
    puts_whoever_is_there: Course([TRY, TRY]),
    knows_no_margin: Course([TRY, TRY], 1, ["time"]),
    counts_from_the_reply: Course([TRY, TRY], 2, ["time"]),
    keeps_a_doubtful_lease: Course([TRY, TRY], 1, ["lose"]),
    does_not_look_who_is_older: Course([WAIT, WAIT]),
    reads_no_more_than_its_own_entry: Course([WAIT, WAIT]),
    waits_behind_itself: Course([WAIT, WAIT]),
    forgets_an_extension_in_doubt: Course([("lock", "shorten"), ()], 2, ["lose", "time"]),
    gives_up_without_leaving: Course([A_WHILE, A_WHILE], 1, ["time"]),
    renews_what_it_has_lost: Course([("lock",), ()], 2, ["time"]),
    believes_again_when_it_is_renewed: Course([("lock", "lock"), ()], 2, ["time"]),
    gives_the_turn_to_two: Course([[TRY, WAIT]]),
    ignores_a_watch_that_tells_of_a_deletion: Course([WAIT, WAIT], 1, ["interfere"]),
    wakes_nobody: Course([WAIT, WAIT]),
    forgets_what_it_took_when_it_is_cancelled: Course([WAIT], 1, ["cancel"]),
    frees_the_lock_too_early: Course([TRY, ()], min_hold=4.0),
    wait_in_the_first_queue_alone: Course([WAIT, WAIT], keys=("foo bar", "bar")),
    are_held_though_one_is_gone: Course([WAIT, WAIT], 1, ["interfere"], keys=BOTH),
}
# What is soon come by.
SOON = [
    puts_whoever_is_there,
    does_not_look_who_is_older,
    reads_no_more_than_its_own_entry,
    gives_the_turn_to_two,
]


@pytest.mark.parametrize("breaks", SOON, ids=lambda each: each.__name__)
def test_by_chance_it_is_found_out_what_goes_wrong_if_it(breaks, monkeypatch):
    breaks(monkeypatch)
    with pytest.raises(Violation):
        run_state_machine_as_test(Clients, settings=SEARCH)


@pytest.mark.parametrize("breaks", BROKEN, ids=lambda each: each.__name__)
def test_from_end_to_end_it_is_found_out_what_goes_wrong_if_it(breaks, monkeypatch):
    breaks(monkeypatch)
    with pytest.raises(Violation):
        BROKEN[breaks].explore()
