"""One attempt at a request: a reply that can't be right, and several keep-alives on one stream."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from microlock.core.port import Enter, Join, ReadAll
from microlock.engine import clock
from microlock.engine.drive import finished
from microlock.errors import StoreError, StoreTimeoutError, StoreUnavailableError
from microlock.etcd import calls
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.calls import attempt, keep_alives


class Wire:
    """Answers as many keep-alives as it is to, and then with `end` if there is one."""

    address, answered = "nowhere", True

    def __init__(self, answers: int, end: Exception | None = None) -> None:
        self.closed = self.finished = False
        self._answers = answers
        self._end = end

    def stream(
        self, method: str, reply: Any, sink: Callable[[Any], None], *, timeout: Any, metadata: Any
    ) -> Wire:
        self._sink = sink
        return self

    def send(self, *messages: Any) -> None:
        for message in messages:
            if self._answers:
                self._answers -= 1
                self._sink(pb.LeaseKeepAliveResponse(ID=message.ID, TTL=60))
            elif self._end:
                self._sink(self._end)

    def finish(self) -> None:
        self.finished = True

    def close(self) -> None:
        self.closed = True


def keep_alive(wire: Any, timeout: float = 0.02) -> Any:
    return keep_alives((1, 2, 3), wire, timeout=timeout, metadata=())


def test_each_lease_has_its_lifetime():
    wire = Wire(3)
    assert {lease: each.ttl for lease, each in keep_alive(wire).items()} == {1: 60, 2: 60, 3: 60}
    assert wire.closed


def test_for_one_lease_of_two_objects_there_is_no_third_answer_to_wait_for():
    wire = Wire(3)
    assert list(keep_alives((1, 1, 2), wire, timeout=60, metadata=())) == [1, 2]
    assert wire.finished


class Proxy(Wire):
    """Answers a little later, and cancels what it has to answer when the request ends before."""

    def __init__(self) -> None:
        super().__init__(3)
        self._finished = threading.Event()

    def send(self, *messages: Any) -> None:
        threading.Thread(target=self._answer, args=messages).start()

    def _answer(self, *messages: Any) -> None:
        if self._finished.wait(0.05):
            self._sink(StoreError("context canceled"))
        else:
            super().send(*messages)

    def finish(self) -> None:
        self._finished.set()


def test_the_request_ends_after_the_last_answer():
    assert len(keep_alive(Proxy(), timeout=20)) == 3


@pytest.mark.parametrize("end", [None, StoreUnavailableError("away")])
def test_those_without_an_answer_in_time_are_missing(end):
    wire = Wire(2, end)
    assert list(keep_alive(wire)) == [1, 2]
    assert wire.closed


def test_an_answer_that_never_comes_is_not_waited_for_as_long_as_the_others_were(monkeypatch):
    monkeypatch.setattr(calls, "_SILENCE", 0.02)
    begun = clock.now()
    assert list(keep_alive(Wire(2), timeout=60)) == [1, 2]
    assert clock.now() - begun < 30


def test_without_any_answer_in_time_it_is_an_error():
    wire = Wire(0)
    with pytest.raises(StoreTimeoutError):
        keep_alive(wire)
    assert wire.closed


def test_the_error_that_the_stream_ends_with_is_raised():
    with pytest.raises(StoreUnavailableError, match="away"):
        keep_alive(Wire(0, StoreUnavailableError("away")))


ENTER = Enter(b"foo/", b"foo/a1", b"one", 0xA1)


@pytest.mark.parametrize(
    ("request_", "reply"),
    [
        (ENTER, pb.TxnResponse()),
        (Join(b"foo/", b"foo/a1", b"one", 0xA1, 1), pb.TxnResponse(succeeded=True)),
        (ReadAll(b"foo"), pb.RangeResponse(more=True)),
    ],
    ids=["a try", "a wait", "a page"],
)
def test_a_reply_with_too_few_parts_names_the_member_and_may_have_happened(request_, reply):
    async def call(*_: Any, **__: Any) -> Any:
        return reply

    options = {"member": "nowhere", "timeout": 1, "metadata": (), "repeated": False}
    with pytest.raises(StoreError, match="the reply of nowhere has too few parts") as wrong:
        finished(attempt, request_, call, **options)
    assert wrong.value.may_have_happened
