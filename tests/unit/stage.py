"""Playing a scene with every fault at every request, and with a second one after it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from faults import NO_ANSWER, REFUSALS, Caller, End, Fate, Fault, NoAnswer, Refusal
from shared_etcd import FOO, Store

from microlock.core.port import KeyValue
from microlock.core.queue import Holder, Queue
from microlock.errors import DestroyedError, LockUncertainError, StoreError, StorePermissionError

FAULTS: list[Fault] = [*NO_ANSWER, *REFUSALS]
SECOND: list[Fault] = [
    NoAnswer(Fate.NEVER),
    NoAnswer(Fate.LATE),
    NoAnswer(Fate.LATE, End.REPEAT),
    NoAnswer(Fate.APPLIED, End.INTERRUPT),
    Refusal(StorePermissionError),
]

# Sets the stage of an empty store, and returns what the flow is called with, and who was at work
# before: their copies may still be under way.
Scene = Callable[[Store], tuple[Any, Caller]]
# Runs a flow, with what the scene gave.
Act = Callable[[Caller, Any], Any]


@dataclass(frozen=True)
class Snapshot:
    """What etcd has of ours, and when its leases end; who holds the lock."""

    entries: tuple[KeyValue, ...]
    leases: dict[int, float]
    holders: list[Holder]

    @classmethod
    def of(cls, store: Store) -> Snapshot:
        ends = {lease_id: store.leases[lease_id].end for lease_id in store.ours()}
        queue = Queue(store.names.lock, store.keys.values())
        return cls(tuple(store.entries()), ends, [*queue.held.values()])

    @property
    def holder(self) -> Holder | None:
        return next(iter(self.holders), None)

    @property
    def tokens(self) -> list[int]:
        return [kv.create_revision for kv in self.entries]


class Stage:
    """One play of a scene.

    Attributes:
        given: what the scene left for the flow.
        faults: what the requests met, by their number.
        verdict: what the flow returned, or the error that it raised.
        before, reported, settled: what etcd had before the flow, after it, and in the end, when
            every copy had arrived that was `under_way` when the flow ended.
    """

    def __init__(self, scene: Scene, faults: dict[int, Fault]) -> None:
        self.store = Store()
        self.given, earlier = scene(self.store)
        self.before = Snapshot.of(self.store)
        self.faults = faults
        self.caller = Caller(self.store, faults)
        self.caller.late = earlier.late

    def __str__(self) -> str:
        met = (f"{self.faults.get(n, '-')!s:20} {r}" for n, r in enumerate(self.caller.requests))
        return "\n".join([f"{self.verdict!r} after these requests and faults:", *met])

    def play(self, act: Act) -> None:
        try:
            self.verdict = act(self.caller, self.given)
        except (StoreError, DestroyedError, LockUncertainError, KeyboardInterrupt) as error:
            self.verdict = error
        self.reported = Snapshot.of(self.store)
        self.under_way = [*self.caller.soon, *self.caller.late]
        self.caller.deliver()
        self.settled = Snapshot.of(self.store)
        others = [kv for kv in self.store.keys.values() if kv.value != FOO.value]
        assert others == [*self.store.others.values()], f"somebody else's was touched: {self}"

    def met(self, *kinds: type) -> bool:
        """Whether such a request met a fault."""
        requests = enumerate(self.caller.requests)
        return any(isinstance(request, kinds) for n, request in requests if n in self.faults)


@cache
def plays(scene: Scene, act: Act, *more: Fault) -> list[Stage]:
    """The scene, played with every fault at every request, and with a second one after it.

    `more`: faults to begin with, besides those that any request can meet.
    """
    played = []
    for first in [*FAULTS, *more]:
        for at in itertools.count():
            stage = _play(scene, act, {at: first})
            count = len(stage.caller.requests)
            if count == at:
                break
            played.append(stage)
            for then, second in itertools.product(range(at + 1, count), SECOND):
                played.append(_play(scene, act, {at: first, then: second}))
    return played


def _play(scene: Scene, act: Act, faults: dict[int, Fault]) -> Stage:
    stage = Stage(scene, faults)
    stage.play(act)
    return stage
