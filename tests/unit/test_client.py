"""The half of a client that knows no etcd: what it does with a store, and what reaches a user."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from threading import RLock
from typing import Any
from weakref import ref

import pytest

from microlock import LockUncertainError, Microlock
from microlock.core.port import Get, Request, Revoke
from microlock.core.retry import Budget
from microlock.engine import clock
from microlock.engine.backoff import backoff, jitter
from microlock.engine.client import Client
from microlock.engine.clock import REAL
from microlock.engine.drive import drive
from microlock.errors import (
    DestroyedError,
    ForkedError,
    MicrolockError,
    StoreError,
    StorePermissionError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from microlock.etcd.client import EtcdClient

GET = Get(b"foo")


class Wired:
    """A store that fails as a wire does: by an error that has another one for its cause.

    Attributes:
        error: what all requests meet; None: they are answered.
        asked: the members, in the order of the attempts.
    """

    members: tuple[str, ...] = ("a", "b")
    answered = True

    def __init__(self) -> None:
        self.error: Callable[[], MicrolockError] | None = None
        self.asked: list[str] = []
        self.closed = False

    def attempt(self, member: str, request: Request, *, timeout: float, repeated: bool) -> Any:
        self.asked.append(member)
        if self.error is None:
            return "answer"
        try:
            {}["of the wire"]
        except LookupError as cause:
            raise self.error() from cause

    def open_watch(self, member: str, sink: object, *, timeout: float) -> str:
        return f"a stream from {member}"

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def store() -> Wired:
    return Wired()


@pytest.fixture
def client(store: Wired) -> Iterator[Client]:
    with Client(store, timeout=0.5) as made:
        yield made


def ask(client: Client, request: Request = GET) -> Any:
    return client.perform(request, Budget.of(clock.now(), client.timeout))


def test_a_request_is_answered(client):
    assert ask(client) == "answer"


def test_a_client_names_its_members(client):
    assert repr(client) == "<Client a, b>"


def test_a_watch_is_opened_at_the_member_that_answers(client, store):
    client.move_on("a")
    assert client.open_watch(print) == "a stream from b"


def test_a_watch_is_opened_for_a_user_who_may_not_read_everything(client, store):
    store.error = lambda: StorePermissionError("no")
    assert client.open_watch(print) == "a stream from a"


def test_a_store_that_fails_is_asked_again_with_pauses(client, store):
    store.error = lambda: StoreUnavailableError("down")
    started, used = clock.now(), time.thread_time()
    with pytest.raises(StoreUnavailableError):
        ask(client)
    assert store.asked[:4] == ["a", "b", "a", "b"]
    assert clock.now() - started < client.timeout
    assert time.thread_time() - used < 0.2


@pytest.mark.parametrize("error", [StoreUnavailableError, StorePermissionError, DestroyedError])
def test_an_error_comes_without_what_stood_on_the_way_to_it(client, store, error):
    store.error = lambda: error("no")
    with pytest.raises(error) as raised:
        ask(client)
    assert (raised.value.__cause__, raised.value.__context__) == (None, None)
    assert "of the wire" not in "".join(traceback.format_exception(raised.value))


def test_a_closed_client_asks_nothing(client, store):
    client.close()
    assert store.closed
    with pytest.raises(DestroyedError, match="<Client a, b> is closed"):
        ask(client)
    assert store.asked == []


def test_a_forked_child_asks_nothing(client, store, monkeypatch):
    monkeypatch.setattr(client, "_pid", 0)
    with pytest.raises(ForkedError, match="<Client a, b> was made before"):
        ask(client)
    assert store.asked == []
    monkeypatch.undo()


@pytest.mark.parametrize("ends", [False, True])
def test_a_client_that_is_closed_waits_for_its_threads_unless_they_stand_still(
    client, monkeypatch, ends
):
    """As they do when a `__del__` closes it at the end of the interpreter."""

    class Shared:
        waited = 0

        def __init__(self, client: Client) -> None: ...

        def finish(self, timeout: float) -> None:
            Shared.waited += 1

        def close(self) -> None: ...

    client.one(Shared)
    monkeypatch.setattr("microlock.engine.client.sys.is_finalizing", lambda: ends)
    client.close()
    assert Shared.waited == (not ends)
    assert client.closed.is_set()


def test_closing_ends_the_pause_of_a_call(client, store):
    def fail() -> StoreError:
        if len(store.asked) == 2:
            client.close()
        return StoreUnavailableError("down")

    store.error = fail
    with pytest.raises(DestroyedError):
        ask(client)
    assert store.asked == ["a", "b"]


def test_the_pauses_are_those_of_tenacity():
    assert all(0 <= jitter(1) <= backoff.multiplier for _ in range(100))
    assert backoff.multiplier < max(jitter(20) for _ in range(100)) <= backoff.max


# What a flow is driven to


def test_the_error_of_a_flow_comes_without_its_steps_and_with_its_cause():
    def flow() -> Generator[str, Any, None]:
        try:
            yield "ask"
        except StoreError as error:
            raise LockUncertainError("foo", "node-a", 5, error) from error

    def fail(_: Any) -> None:
        raise StoreTimeoutError("no answer")

    with pytest.raises(LockUncertainError) as raised:
        drive(flow(), fail, RLock(), REAL)
    assert isinstance(raised.value.__cause__, StoreTimeoutError)
    assert raised.value.__cause__.__traceback__ is None
    assert [each.name for each in traceback.extract_tb(raised.value.__traceback__)][1:] == ["drive"]


def test_the_steps_of_an_error_that_is_no_lock_s_are_kept():
    def flow() -> Generator[str, Any, None]:
        yield "ask"
        raise LookupError("a bug")

    with pytest.raises(LookupError) as raised:
        drive(flow(), lambda _: None, RLock(), REAL)
    assert [each.name for each in traceback.extract_tb(raised.value.__traceback__)][-1] == "flow"


# What is left behind


class Wire:
    """A member that fails as it is told."""

    address, answered = "etcd0", True

    def __init__(self, error: Callable[[], StoreError]) -> None:
        self._error = error

    def call(self, method: str, message: Any, reply: Any, **_: Any) -> Any:
        raise self._error()

    def close(self) -> None: ...


@pytest.fixture
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


FAILURES: dict[str, Callable[[], StoreError]] = {
    "down": lambda: StoreUnavailableError("down"),
    "in doubt": lambda: StoreTimeoutError("no answer", may_have_happened=True),
    "refused": lambda: StorePermissionError("no"),
}
CALLS: dict[str, Callable[[Microlock], object]] = {
    "lock": lambda foo: foo.lock(),
    "wait": lambda foo: foo.lock(timeout=0.1),
    "unlock": lambda foo: foo.unlock(),
    "renew": lambda foo: foo.renew(),
    "extend": lambda foo: foo.extend(5),
    "holder": lambda foo: foo.holder(),
}


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("call", CALLS)
def test_a_dropped_lock_dies_at_once_after_a_failed_call(call, failure):
    with EtcdClient([Wire(FAILURES[failure])], timeout=0.05) as client:
        foo = Microlock(client, "foo", "node-a")
        with pytest.raises(MicrolockError) as raised:
            CALLS[call](foo)
        del raised
        dropped = ref(foo)
        del foo
        assert dropped() is None


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize("request_", [GET, Revoke(1)], ids=repr)
@pytest.mark.parametrize("failure", FAILURES)
def test_an_error_of_a_client_dies_with_its_last_name(failure, request_):
    seen: list[Any] = []

    def fail() -> StoreError:
        seen.append(ref(error := FAILURES[failure]()))
        return error

    with EtcdClient([Wire(fail)], timeout=0.05) as client:
        with pytest.raises(StoreError) as raised:
            ask(client, request_)
        assert raised.value in [each() for each in seen]
        del raised
    assert [each() for each in seen if each()] == []
