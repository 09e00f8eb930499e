"""What the tests of both faces rely on: the lock of tasks, shown as that of threads."""

from __future__ import annotations

import inspect
from concurrent.futures import Future

from faces import BOTH_FACES, TASKS
from nodes import Make, begin
from watching import DEADLINE

import microlock.asyncio
from microlock import LockEvent

pytestmark = BOTH_FACES


def test_the_face_under_test_is_the_one_that_is_named(make: Make, face: str) -> None:
    foo = make()
    shown = getattr(foo, "_shown", foo)
    on_loop = isinstance(shown, microlock.asyncio.Microlock)
    assert on_loop == (face == TASKS) == inspect.iscoroutinefunction(type(shown).lock)


def test_each_thread_calls_by_a_task_of_its_own(make: Make, face: str) -> None:
    foo, bar = make(), make("two")
    here = [foo._owner(), foo._owner(), bar._owner()]
    assert len(set(here)) == 1
    assert begin(foo._owner).result(DEADLINE) not in here


def test_a_handler_calls_as_a_handler_and_is_removed_by_its_own_name(make: Make) -> None:
    foo, owners = make(), list[object]()
    told: Future[LockEvent] = Future()

    def note(event: LockEvent) -> None:
        owners.append(foo._owner())
        told.set_result(event)

    foo.on("acquired", note)
    token = foo.lock().token
    assert told.result(DEADLINE).token == token
    assert owners == [None]
    foo.remove_listener("acquired", note)
    assert foo.listeners("acquired") == []
