"""Nodes with locks of all kinds on shared keys, in any order of their requests: who excludes whom,
and that nobody waits for ever. Broken on purpose, it is noticed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from random import Random
from typing import Any

import pytest
from meanwhile import EARLY, Watched
from shared_etcd import Store

from microlock.core import flows
from microlock.core.admission import MUTEX, READER, WRITER, semaphore
from microlock.core.flows import Flow, taking
from microlock.core.keys import Names, is_prefix, lock_of
from microlock.core.place import AwaitTurn, Contended, Place
from microlock.core.port import Enter, Get, Join, Read
from microlock.core.view import View
from microlock.core.wait import Wait
from microlock.memory.state import State

LIMIT = 2
TTL = 1_000_000  # nothing ends by itself
SCHEDULES = 150
# More requests than all nodes of a schedule make, if none waits for another in vain.
ENOUGH = 4000


@dataclass
class Node:
    """A node that takes its lock and gives it back, one request at a time."""

    names: Names
    store: Store
    try_first: bool
    cycles: int = 3
    place: Place | None = None

    def __post_init__(self) -> None:
        self._wait: Wait | None = None
        self._request: Any = None
        self._work = self._run()
        self._ask(None)

    @property
    def ended(self) -> bool:
        return self._request is None

    def step(self) -> bool:
        """Whether it did something; else it waits."""
        request = self._request
        if isinstance(request, AwaitTurn):
            result = self._look(request)
            if result is None:
                return False
            self._ask(result)
        elif request == "work":
            self._ask(None)
        else:
            self._ask(self.store.apply(request))
        return True

    def _ask(self, reply: Any) -> None:
        self._request = next(self._work, None) if reply is None else self._send(reply)

    def _send(self, reply: Any) -> Any:
        try:
            return self._work.send(reply)
        except StopIteration:
            return None

    def _run(self) -> Flow[None]:
        how = {"now": 0.0, "lease_ids": self.store.lease_ids}
        while self.cycles:
            taken: Any = Contended
            if self.try_first:
                taken = yield from flows.try_lock(self.names, TTL, None, **how)
            if not isinstance(taken, Place):
                taken = yield from flows.wait(self.names, TTL, None, **how)
            self.place = taken
            yield "work"
            self.place = None
            yield from flows.release(self.names, taken, 0)
            self.cycles -= 1

    def _look(self, request: AwaitTurn) -> Any:
        """What a watch that has just been opened tells."""
        if self._wait is None or self._wait.place is not request.place:
            self._wait = Wait(self.names.locks, None, EARLY)
            self._wait.begin(request, 0.0)
        while True:
            watched = self._wait.watches
            result = self._wait.result({name: self._view(name) for name in watched}, 0.0)
            if result or self._wait.watches == watched:
                return result

    def _view(self, name: bytes) -> Watched:
        view = View(lock_of(name) or name)
        view.rebase(self.store.apply(Read(name) if is_prefix(name) else Get(name)))
        return Watched(view)


def kinds() -> Iterator[Names]:
    """What may be on the keys `a`, `b` and `c`, each by a node of its own."""
    number = count()

    def node() -> str:
        return f"node-{next(number)}"

    for _ in range(2):
        yield Names.of_all([*"ab"], node())
        yield Names.of_all([*"bca"], node())
        yield Names.of_all([*"cb"], node())
        yield Names.of("a", node(), MUTEX)
    for _ in range(4):
        yield Names.of("s", node(), semaphore(LIMIT))
    for _ in range(3):
        yield Names.of("rw", node(), READER)
        yield Names.of("rw", node(), WRITER)


class WrongError(Exception):
    """Something that must not be."""


def check(nodes: list[Node]) -> None:
    """Who may hold together, said without a word of how that is decided."""
    holding = [node.names for node in nodes if node.place]
    for key in "abc":
        if sum(key in names.key.split(", ") for names in holding) > 1:
            raise WrongError(f"{key!r} is held twice")
    if sum(names.key == "s" for names in holding) > LIMIT:
        raise WrongError("more than the limit")
    kinds = [names.admission.part for names in holding if names.key == "rw"]
    if b"write/" in kinds and len(kinds) > 1:
        raise WrongError(f"together: {kinds}")


def play(seed: int) -> set[str]:
    """One schedule; returns what was seen to be possible."""
    random, store, seen = Random(seed), Store(), set[str]()
    nodes = [Node(names, store, random.random() < 0.5) for names in kinds()]
    for _ in range(ENOUGH):
        left = [node for node in nodes if not node.ended]
        if not left:
            return seen
        random.shuffle(left)
        if not any(node.step() for node in left):
            raise WrongError("all wait")
        check(nodes)
        holding = [node.names for node in nodes if node.place]
        if sum(names.key == "s" for names in holding) == LIMIT:
            seen.add("limit")
        if sum(names.admission is READER for names in holding) > 1:
            seen.add("readers together")
    raise WrongError("it does not end")


def play_all() -> set[str]:
    return set().union(*map(play, range(SCHEDULES)))


def test_in_any_order_each_has_its_turn_and_nobody_too_many() -> None:
    assert play_all() == {"limit", "readers together"}


# Broken on purpose.


def a_reader_overlooks_writers(patch: pytest.MonkeyPatch) -> None:
    blind = replace(READER, rivals=b"none/")
    patch.setitem(globals(), "READER", blind)


def a_writer_overlooks_readers(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(globals(), "WRITER", replace(WRITER, rivals=b"write/"))


def a_limit_is_off_by_one(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(globals(), "semaphore", lambda limit: semaphore_of(limit + 1))


def a_try_does_not_guard_what_it_has_read(patch: pytest.MonkeyPatch) -> None:
    enter = State._enter

    def forgets(store: State, request: Enter) -> Any:
        return enter(store, replace(request, since=store.revision) if request.since else request)

    patch.setattr(State, "_enter", forgets)


def keys_are_put_one_after_the_other(patch: pytest.MonkeyPatch) -> None:
    join = taking._join

    def one_by_one(names: Names, entry: bytes, lease: Any) -> Flow[Any]:
        for lock, other in taking._others(names, lease):
            yield Join(lock, other, names.value, lease.id, 0)
        return (yield from join(names, entry, lease))

    patch.setattr(taking, "_join", one_by_one)


semaphore_of: Callable[[int], Any] = semaphore
BROKEN = {
    a_reader_overlooks_writers: "together",
    a_writer_overlooks_readers: "together",
    a_limit_is_off_by_one: "more than the limit",
    a_try_does_not_guard_what_it_has_read: "more than the limit",
    keys_are_put_one_after_the_other: "all wait|does not end",
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_what_is_broken_is_noticed(broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    with pytest.raises(WrongError, match=BROKEN[broken]):
        play_all()
