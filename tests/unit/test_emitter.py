"""How handlers are called: with the event if they take one, in order, and whatever they raise."""

from __future__ import annotations

import copy
import functools
import logging
import pickle
import re
import sys
from collections import deque
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest

from microlock import events
from microlock.engine.emitter import LockEmitter
from microlock.engine.handlers import Mailbox, ThreadRunner
from microlock.errors import DestroyedError, InvalidArgumentError, LossReason
from microlock.events import LockEvent

LOCKED = LockEvent("locked", "foo", "alpha", token=5)


class Client:
    """What an emitter needs of one: the threads of the handlers, run here by hand."""

    def __init__(self) -> None:
        self.jobs: deque[Callable[[], object]] = deque()
        self.closed = False
        self.timeouts: list[float] = []

    def one(self, kind: object) -> Client:
        if self.closed:
            raise DestroyedError("closed")
        return self

    def submit(self, mailbox: Mailbox, job: Callable[[], object]) -> None:
        self.jobs.append(job)

    def end(self, mailbox: Mailbox, job: Callable[[], object], *, timeout: float) -> None:
        self.timeouts.append(timeout)
        self.jobs.append(job)

    def run(self) -> None:
        while self.jobs:
            self.jobs.popleft()()


class Foo(LockEmitter):
    """An emitter, and what its handlers were called with."""

    def __init__(self) -> None:
        self.client = Client()
        super().__init__("foo", ThreadRunner(self.client))  # type: ignore[arg-type]
        self.calls: list[Any] = []

    def tell(self, name: str = "locked", **fields: Any) -> Any:
        logged = self._tell(name, node_id="alpha", token=5, **fields)
        self.client.run()
        return logged

    def note(self, *args: Any) -> None:
        self.calls.append(args)


@pytest.fixture
def foo() -> Foo:
    return Foo()


class Methods:
    def __init__(self, note: Callable[..., None]) -> None:
        self._note = note

    def without(self) -> None:
        self._note()

    def given(self, event: LockEvent) -> None:
        self._note(event)


class Callable0(Methods):
    def __call__(self) -> None:
        self._note()


class Callable1(Methods):
    def __call__(self, event: LockEvent) -> None:
        self._note(event)


HANDLERS: dict[str, tuple[Callable[[Any], Callable[..., Any]], tuple[Any, ...]]] = {
    "lambda": (lambda note: lambda: note(), ()),
    "lambda event": (lambda note: lambda event: note(event), (LOCKED,)),
    "lambda event=None": (lambda note: lambda event=None: note(event), (LOCKED,)),
    "lambda event, more=1": (lambda note: lambda event, more=1: note(event), (LOCKED,)),
    "lambda *args": (lambda note: lambda *args: note(*args), (LOCKED,)),
    "lambda **more": (lambda note: lambda **more: note(*more), ()),
    "lambda *, more=1": (lambda note: lambda *, more=1: note(), ()),
    "partial, none left": (lambda note: functools.partial(lambda one: note(), 1), ()),
    "partial, one left": (
        lambda note: functools.partial(lambda one, event: note(event), 1),
        (LOCKED,),
    ),
    "partial by name": (
        lambda note: functools.partial(lambda event, more: note(event), more=1),
        (LOCKED,),
    ),
    "method": (lambda note: Methods(note).without, ()),
    "method of event": (lambda note: Methods(note).given, (LOCKED,)),
    "callable object": (Callable0, ()),
    "callable object of event": (Callable1, (LOCKED,)),
    "class": (lambda note: type("Made", (), {"__init__": lambda self: note()}), ()),
    "class of event": (
        lambda note: type("Made", (), {"__init__": lambda self, event: note(event)}),
        (LOCKED,),
    ),
    "mock": (lambda note: Mock(side_effect=note), (LOCKED,)),
}
handlers = pytest.mark.parametrize(
    ("make", "expected"), list(HANDLERS.values()), ids=list(HANDLERS)
)


@handlers
def test_a_handler_is_called_as_it_can_be(foo, make, expected):
    foo.on("locked", make(foo.note))
    foo.tell()
    assert foo.calls == [expected]


@handlers
def test_a_handler_for_once_is_called_as_it_can_be(foo, make, expected):
    foo.once("locked", make(foo.note))
    foo.tell()
    assert foo.calls == [expected]


def test_a_builtin_is_called_with_the_event(foo, capsys):
    foo.on("locked", print)
    foo.tell()
    assert capsys.readouterr().out == f"{LOCKED}\n"


def test_a_builtin_that_tells_no_signature_is_called_with_the_event(foo):
    foo.on("locked", max)
    foo.on("error", foo.note)
    foo.tell()
    assert "'LockEvent' object is not iterable" in str(foo.calls[0][0].error)


def test_a_handler_for_once_is_called_once(foo):
    foo.once("locked", foo.note)
    foo.tell()
    foo.tell()
    assert len(foo.calls) == 1


def test_a_handler_for_once_can_be_removed(foo):
    foo.once("locked", foo.note)
    foo.remove_listener("locked", foo.note)
    foo.tell()
    assert foo.calls == []


def test_a_handler_can_be_added_as_a_decorator(foo):
    @foo.on("locked")
    def handler() -> None:
        foo.note()

    foo.tell()
    assert foo.calls == [()]


def test_a_name_and_its_constant_are_one(foo):
    foo.on(events.locked, foo.note)
    foo.tell("locked")
    assert foo.calls == [(LOCKED,)]


def test_handlers_are_called_in_the_order_they_were_added(foo):
    for number in range(5):
        foo.on("locked", functools.partial(foo.note, number))
    foo.tell()
    assert [number for number, _ in foo.calls] == [0, 1, 2, 3, 4]


def test_a_handler_removed_before_its_turn_is_not_called(foo):
    foo.on("locked", foo.note)
    foo._tell("locked")
    foo.remove_listener("locked", foo.note)
    foo.client.run()
    assert foo.calls == []


def test_an_event_whose_handlers_were_all_removed_has_none(foo):
    foo.on("locked", foo.note)
    foo.remove_all_listeners("locked")
    assert not foo._listened("locked")


def test_an_event_nobody_listens_to_is_not_dispatched(foo):
    foo._tell("locked")
    assert not foo.client.jobs


@pytest.mark.parametrize("handler", [None, 5, "handler"])
def test_what_cannot_be_called_is_no_handler(foo, handler):
    with pytest.raises(InvalidArgumentError, match="must be callable"):
        foo.add_listener("locked", handler)


def test_a_handler_that_could_not_be_listened_for_is_not_kept():
    class Closed(Foo):
        def _listens(self, event: str) -> None:
            raise DestroyedError("closed")

    foo = Closed()
    with pytest.raises(DestroyedError):
        foo.on("locked", foo.note)
    assert foo.listeners("locked") == []


def test_after_the_client_was_closed_nothing_is_told(foo):
    foo.on("locked", foo.note)
    foo.client.closed = True
    foo.tell()
    assert foo.calls == []


@pytest.mark.parametrize("event", ["unlokced", "", 5, None, ["lost"], b"lost"])
def test_an_event_that_nobody_tells_is_refused(foo, event):
    with pytest.raises(InvalidArgumentError, match=re.escape(f"not {event!r}")):
        foo.on(event, foo.note)
    assert not foo.event_names()
    with pytest.raises(InvalidArgumentError, match=re.escape(f"not {event!r}")):
        foo.remove_listener(event, foo.note)


@pytest.mark.parametrize("handler", [lambda one, two: None, lambda *, one: None])
def test_a_handler_that_takes_more_than_the_event_is_refused(foo, handler):
    with pytest.raises(InvalidArgumentError, match="the event or nothing"):
        foo.once("lost", handler)
    assert not foo.event_names()


def test_pyees_own_event_is_told_as_it_is(foo):
    foo.on("new_listener", foo.note)
    foo.on("lost", fail)
    assert foo.calls == [("lost", fail)]


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_lock_is_neither_copied_nor_pickled(foo, way):
    with pytest.raises(TypeError, match="can't be copied or pickled"):
        way(foo)


def test_the_lock_of_the_listeners_is_reentrant_for_a_signals_handler(foo):
    with foo._lock:
        assert foo._lock.acquire(blocking=False)
        foo._lock.release()


def fail() -> None:
    raise LookupError("a bug of the user's")


def test_a_handler_that_raises_is_reported_as_error(foo):
    foo.on("locked", fail)
    foo.on("error", foo.note)
    foo.tell()
    ((event,),) = foo.calls
    assert (event.name, type(event.error)) == ("error", LookupError)


def test_a_handler_that_raises_is_logged(foo, caplog):
    foo.on("locked", fail)
    foo.tell()
    assert [(r.name, r.levelno) for r in caplog.records] == [("microlock", logging.ERROR)]


def test_a_handler_that_raises_stops_no_other(foo):
    foo.on("locked", fail)
    foo.on("locked", foo.note)
    foo.tell()
    assert foo.calls == [(LOCKED,)]


def test_a_handler_of_error_that_raises_is_not_told_of_itself(foo):
    def handler(event: LockEvent) -> None:
        foo.note(event)
        fail()

    foo.on("error", handler)
    foo.tell("error")
    assert len(foo.calls) == 1


@pytest.mark.parametrize("how", [sys.exit, functools.partial(next, iter([]))])
def test_a_handler_ends_nothing_but_itself(foo, how):
    foo.on("locked", lambda: how())
    foo.on("locked", foo.note)
    foo.tell()
    assert foo.calls == [(LOCKED,)]


def test_an_error_nobody_listens_to_is_none(foo):
    foo.tell("error")
    assert not foo.client.jobs


def test_an_error_whose_listener_has_left_is_none(foo):
    foo.on("error", foo.note)
    foo._tell("error")
    foo.remove_all_listeners()
    foo.client.run()
    assert foo.calls == []


def test_an_async_handler_is_refused(foo):
    async def handler() -> None: ...

    with pytest.raises(InvalidArgumentError, match="async"):
        foo.on("locked", handler)


def test_a_refused_second_registration_leaves_the_first(foo, monkeypatch):
    foo.on("locked", foo.note)

    def refuse(event: str) -> None:
        raise DestroyedError("no more")

    monkeypatch.setattr(foo, "_listens", refuse)
    with pytest.raises(DestroyedError):
        foo.on("locked", foo.note)
    assert foo.listeners("locked") == [foo.note]


# Its end.


def test_listeners_are_removed_when_they_have_been_told_of_what_was_before(foo):
    foo.on("released", foo.note)
    foo._tell("released")
    foo._runner.end(foo.remove_all_listeners, 60.0)
    foo.client.run()
    assert len(foo.calls) == 1
    assert not foo.event_names()


@pytest.mark.parametrize(("patience", "waits"), [(60.0, 1.0), (0.5, 0.5), (-1.0, 0.0)])
def test_nobody_waits_long_for_slow_handlers(foo, patience, waits):
    foo._runner.end(foo.remove_all_listeners, patience)
    assert foo.client.timeouts == [waits]


def test_listeners_are_removed_also_when_the_client_is_closed(foo):
    foo.on("released", foo.note)
    foo.client.closed = True
    foo._runner.end(foo.remove_all_listeners, 60.0)
    assert not foo.event_names()


def test_what_nobody_could_be_told_of_is_logged_and_harms_nothing(foo, monkeypatch, caplog):
    def refuse(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(foo.client, "submit", refuse)
    foo.on("locked", foo.note)
    foo.tell()
    (record,) = caplog.records
    assert record.getMessage() == (
        "no thread can be started: handlers of 'locked' of lock 'foo' miss it"
    )


# What is logged, by whoever tells.


def test_what_happens_to_a_hold_is_logged_with_why(foo):
    level, text, *about = foo.tell("lost", reason=LossReason.DELETED)
    why = LossReason.DELETED.value
    assert level == logging.WARNING
    assert text % tuple(about) == f"lost: lock 'foo', node 'alpha', token 5: {why}"


def test_an_error_is_logged_where_it_suspends_a_hold(foo):
    _, text, *about = foo.tell("suspended", error=DestroyedError("gone"))
    assert (text % tuple(about)).endswith("token 5: gone")


def test_what_goes_well_is_logged_for_those_who_debug(foo, caplog):
    assert foo.tell("acquired") is None
    with caplog.at_level(logging.DEBUG, "microlock"):
        level, text, *about = foo.tell("acquired")
    assert level == logging.DEBUG
    assert text % tuple(about) == "acquired: lock 'foo', node 'alpha', token 5"


def test_changes_of_the_key_are_not_logged(foo, caplog):
    with caplog.at_level(logging.DEBUG, "microlock"):
        assert foo.tell("locked") is None


def test_what_pyee_emits_itself_is_run_by_pyee(foo):
    seen: list[Any] = []
    foo.on("locked", seen.append)
    foo.emit("locked", "not an event of ours")
    assert seen == ["not an event of ours"]
