"""Every course that things can take, for clients with a plan and a few faults: not by chance, but
one after the other, each state that was met before passed over."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from model import Client, Model, Move, Violation

from microlock.core.queue import Standing

# What may go wrong. The rest happens by itself.
FAULTS = ("lose", "time", "crash", "interfere")


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
    plans: Sequence[Sequence[str]],
    *,
    faults: int,
    of: Sequence[str] = FAULTS,
    ahead: int = 0,
    finish: bool = True,
) -> Visited:
    """Plays all interleavings of clients that each do what their plan says, one thing after the
    other, if they can, with so many faults of these kinds at most. Raises the first Violation,
    which tells its story.

    `ahead`: so many others are in the queue before them.
    `finish`: whether from each end all is tidied up, and the lock is to be free.
    """
    visited = Visited()
    begun = Model.of(len(plans), ahead=ahead, lagging=False)
    for client, plan in zip(begun.clients, plans, strict=True):
        client.todo = tuple(plan)
    met = {hash((begun.state(), faults))}
    stack = [(begun, faults)]
    while stack:
        model, left = stack.pop()
        visited.states += 1
        last = True
        for move, cost in _choices(model, left, of):
            last = False
            then = model.copy()
            _do(then, move)
            visited.moves += 1
            key = hash((then.state(), left - cost))
            if key not in met:
                met.add(key)
                stack.append((then, left - cost))
        if last:
            visited.ends += 1
            if finish:
                _finish(model.copy())
    return visited


def _choices(model: Model, left: int, of: Sequence[str]) -> Iterable[tuple[Move, int]]:
    """What can happen next, and how many of the faults it takes."""
    begin = [begun for client in model.clients if (begun := _next(model, client))]
    moves = model.moves()
    if not left:
        # As no time passes, nothing depends on when a client does what it does alone, as long as
        # it believes nothing: it does that first.
        alone = [
            move
            for move in (*begin, *moves)
            if move[0] in ("begin", "answer") and not model.believes(model.clients[move[1]])
        ]
        if alone:
            return [(alone[0], 0)]
    choices = [(move, 0) for move in begin]
    for move in moves:
        kind, _, how = move
        if kind in ("arrive", "answer", "late", "leave") or how in (Standing.FIRST, Standing.GONE):
            choices.append((move, 0))
        elif left and (kind in of or kind == "stand") and how not in ("soon", "later"):
            choices.append((move, 1))
    return choices


def _next(model: Model, client: Client) -> Move | None:
    """What a client is to begin. What can't be done, as it was not held before, is passed over."""
    ops = model.ops(client)
    while client.todo and ops and client.todo[0] not in ops:
        client.todo = client.todo[1:]
    return ("begin", client.index, client.todo[0]) if client.todo and ops else None


def _do(model: Model, move: Move) -> None:
    kind, index, _ = move
    if kind == "begin":
        model.clients[index].todo = model.clients[index].todo[1:]
    try:
        model.do(move)
    except Violation as violation:
        raise Violation(f"{violation}, after {model.story}") from None


def _finish(model: Model) -> None:
    try:
        model.finish()
    except Violation as violation:
        raise Violation(f"{violation}, after {model.story}") from None
