"""The lock by the face under test: that of threads, or that of tasks, shown as the other.

A module whose claims are those of both faces has

    from faces import BOTH_FACES, Microlock

    pytestmark = BOTH_FACES

and a test in it that is about threads as such, or that waits long for what no face has a part in,
is marked with `ONLY_THREADS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import loop_face
import pytest

import microlock
from microlock import events

THREADS, TASKS = "threads", "tasks"
FACES = (THREADS, TASKS)
BOTH_FACES = pytest.mark.usefixtures("face")
ONLY_THREADS = pytest.mark.parametrize("face", [THREADS], indirect=True)
ONLY_TASKS = pytest.mark.parametrize("face", [TASKS], indirect=True)


def _of_threads(*args: Any, kind: str = "Microlock", **kwargs: Any) -> Any:
    return getattr(microlock, kind)(*args, **kwargs)


_LOCKS = {THREADS: _of_threads, TASKS: loop_face.lock}
_MANAGERS = {THREADS: microlock.LockManager, TASKS: loop_face.manager}
_under_test = THREADS


@contextmanager
def under_test(face: str) -> Iterator[str]:
    """Locks and managers are made of this face in the block."""
    global _under_test
    before, _under_test = _under_test, face
    yield face
    _under_test = before


class Microlock:
    """A lock of the face under test; of another `kind`, if one is named."""

    events = events

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return _LOCKS[_under_test](*args, **kwargs)


class LockManager:
    """A manager of the face under test."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return _MANAGERS[_under_test](*args, **kwargs)
