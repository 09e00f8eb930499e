"""The two faces: the same names, arguments and docstrings. `await` is the only difference."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

import microlock
import microlock.asyncio as tasks
from microlock.engine.loops import TaskLoss
from microlock.engine.loss import ThreadLoss

PAIRS: dict[str, tuple[type, type]] = {
    "Microlock": (microlock.Microlock, tasks.Microlock),
    "Semaphore": (microlock.Semaphore, tasks.Semaphore),
    "ReadLock": (microlock.ReadLock, tasks.ReadLock),
    "WriteLock": (microlock.WriteLock, tasks.WriteLock),
    "MultiLock": (microlock.MultiLock, tasks.MultiLock),
    "Election": (microlock.Election, tasks.Election),
    "LockManager": (microlock.LockManager, tasks.LockManager),
    "lost": (ThreadLoss, TaskLoss),
}
KINDS = [name for name in PAIRS if name not in ("LockManager", "lost")]
# What a loop can do and threads can't.
ONLY_ON_LOOPS = {kind: {"bound", "listening"} for kind in KINDS} | {
    "LockManager": set[str](),
    "lost": set[str](),
}
# What asks etcd, or waits.
OF_LOCKS = {"lock", "unlock", "renew", "extend", "destroy", "holder", "holders", "waiters"}
AWAITED = dict.fromkeys(KINDS, OF_LOCKS) | {
    "Election": OF_LOCKS | {"campaign", "proclaim", "resign", "leader"},
    "LockManager": {
        *("lock", "holder", "locks", "remaining", "release", "extend", "break_lock"),
    },
    "lost": {"wait"},
}


def public(face: type) -> set[str]:
    return {name for name in dir(face) if not name.startswith("_")}


SHARED = [
    (pair, name)
    for pair, (blocking, _) in PAIRS.items()
    for name in ("__init__", *sorted(public(blocking) - {"events"}))
]


def both(pair: str, name: str) -> list[Any]:
    """What each face has by this name; of a property, what gets it."""
    found = [getattr(face, name) for face in PAIRS[pair]]
    return [each.fget if isinstance(each, property) else each for each in found]


def words(text: str | None) -> list[str]:
    """But for `await` and `async`."""
    return re.sub(r"\b(await|async) ", "", " ".join((text or "").split())).split()


def arguments(face: type) -> str:
    """What the docstring of a class says of its arguments and errors."""
    _, args, rest = (face.__doc__ or "").partition("Args:")
    return args + rest


@pytest.mark.parametrize("pair", PAIRS)
def test_both_faces_have_the_same_names(pair: str) -> None:
    blocking, on_loop = map(public, PAIRS[pair])
    assert on_loop == blocking | ONLY_ON_LOOPS[pair]


@pytest.mark.parametrize(("pair", "name"), SHARED)
def test_both_faces_take_the_same_arguments(pair: str, name: str) -> None:
    blocking, on_loop = both(pair, name)
    if callable(blocking):
        signatures = [inspect.signature(each) for each in (blocking, on_loop)]
        assert signatures[0].parameters == signatures[1].parameters
        if name not in ("lost", "observe"):  # a loop has a loss, and iterates, in its own way
            assert signatures[0].return_annotation == signatures[1].return_annotation


@pytest.mark.parametrize(("pair", "name"), SHARED)
def test_both_faces_are_documented_in_the_same_words(pair: str, name: str) -> None:
    blocking, on_loop = both(pair, name)
    assert words(inspect.getdoc(on_loop)) == words(inspect.getdoc(blocking))


@pytest.mark.parametrize("pair", [*KINDS, "LockManager"])
def test_the_arguments_of_both_classes_are_documented_in_the_same_words(pair: str) -> None:
    blocking, on_loop = map(arguments, PAIRS[pair])
    assert words(on_loop) == words(blocking) != []


@pytest.mark.parametrize("pair", PAIRS)
def test_what_asks_etcd_is_awaited_and_nothing_else(pair: str) -> None:
    _, on_loop = PAIRS[pair]
    awaited = {
        name for name in public(on_loop) if inspect.iscoroutinefunction(getattr(on_loop, name))
    }
    assert awaited == AWAITED[pair] | (ONLY_ON_LOOPS[pair] - {"bound"})


@pytest.mark.parametrize("pair", [*KINDS, "LockManager"])
def test_each_public_name_is_documented(pair: str) -> None:
    for face in PAIRS[pair]:
        bare = {name for name in public(face) if not inspect.getdoc(getattr(face, name))}
        assert bare <= {"events"}
