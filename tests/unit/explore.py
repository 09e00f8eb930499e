"""Every course that things can take, for clients with a plan and a few faults: not by chance, but
one after the other, each state that was met before passed over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from model import Client, Model, Move, Violation

# What may go wrong, or be done on a whim. The rest happens by itself.
FAULTS = ("lose", "time", "crash", "interfere", "cancel", "signal")
BY_ITSELF = ("arrive", "answer", "wake", "late", "leave", "due", "renewed", "rest")
ALONE = ("begin", "answer", "wake")


@dataclass
class Visited:
    """How far it went.

    Attributes:
        states: different ones.
        moves: that led from one to another.
        ends: states in which nothing more could happen.
    """

    states: int = 0
    moves: int = 0
    ends: int = 0


def explore(
    plans: Sequence[Sequence[str] | list[Sequence[str]]],
    *,
    faults: int,
    of: Sequence[str] = FAULTS,
    ahead: int = 0,
    min_hold: float = 0.0,
    finish: bool = True,
    keys: Sequence[str] | None = None,
) -> Visited:
    """Plays all interleavings of clients that each do what their plan says, one thing after the
    other, if they can, with so many faults of these kinds at most. Raises the first Violation,
    which tells its story.

    `plans`: of each client, or a list of those of its threads.
    `of`: kinds of moves, or ways to lose a request.
    `keys`: that each takes in one, if not all the same.
    `ahead`: so many others are in the queue before them.
    `finish`: whether from each end all is tidied up, and the lock is to be free.
    """
    visited = Visited()
    begun = Model.of(keys or len(plans), ahead=ahead, lagging=False, min_hold=min_hold)
    for client, plan in zip(begun.clients, plans, strict=True):
        client.todo = tuple(map(tuple, plan)) if isinstance(plan, list) else (tuple(plan),)
    met = {hash((begun.state(), faults))}
    stack = [(begun, faults)]
    while stack:
        model, left = stack.pop()
        visited.states += 1
        choices = list(_choices(model, left, of))
        for number, (move, cost) in enumerate(choices, 1):
            then = model.copy() if number < len(choices) else model
            _do(then, move)
            visited.moves += 1
            key = hash((then.state(), left - cost))
            if key not in met:
                met.add(key)
                stack.append((then, left - cost))
        if not choices:
            visited.ends += 1
            if finish:
                _finish(model)
    return visited


def _choices(model: Model, left: int, of: Sequence[str]) -> Iterable[tuple[Move, int]]:
    """What can happen next, and how many of the faults it takes."""
    begin = [begun for client in model.clients for begun in _next(model, client)]
    moves = model.moves()
    if not left:
        # As no time passes, nothing depends on when a client does what it does alone, as long as
        # it believes nothing, and no other thread of it does anything: it does that first.
        alone = [
            move
            for move in (*begin, *moves)
            if move[0] in ALONE and _is_alone(model, model.clients[move[1]])
        ]
        if alone:
            return [(alone[0], 0)]
    choices = [(move, 0) for move in begin]
    for move in moves:
        kind, _, how = move
        if kind in BY_ITSELF:
            choices.append((move, 0))
        elif left and (kind in of or _way(how) in of) and how not in ("soon", "later"):
            choices.append((move, 1))
    return choices


def _way(how: Any) -> Any:
    return how[1] if isinstance(how, tuple) else None


def _is_alone(model: Model, client: Client) -> bool:
    busy = sum(bool(todo) for todo in client.todo) + len(client.actor.tasks)
    return not model.believes(client) and (len(client.todo) == 1 or busy <= 1)


def _next(model: Model, client: Client) -> Iterable[Move]:
    """What a client is to begin. What can't be done, as it was not held before, is passed over."""
    for owner, todo in enumerate(client.todo):
        ops = model.ops(client, owner)
        left = todo
        while left and ops and left[0] not in ops:
            left = left[1:]
        if left and ops:
            yield "begin", client.index, (owner, left[0])


def _do(model: Model, move: Move) -> None:
    kind, index, how = move
    if kind == "begin":
        owner, op = how
        client = model.to_change(index)
        todo = client.todo[owner]
        done = todo[todo.index(op) + 1 :]
        client.todo = (*client.todo[:owner], done, *client.todo[owner + 1 :])
    try:
        model.do(move)
    except Violation as violation:
        raise Violation(f"{violation}, after {model.story}") from None


def _finish(model: Model) -> None:
    try:
        model.finish()
    except Violation as violation:
        raise Violation(f"{violation}, after {model.story}") from None
