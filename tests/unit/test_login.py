"""Who calls: one login for all who ask at the same time, renewed when etcd no longer takes it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from watching import eventually

from microlock.core.port import Get
from microlock.errors import StoreAuthenticationError, StoreTimeoutError, StoreUnavailableError
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.login import Login
from microlock.etcd.messages import AUTHENTICATE
from microlock.etcd.store import EtcdStore

GET = Get(b"foo")


class Wire:
    """A member that gives the tokens t1, t2 and so on, and takes those that are not `expired`.

    Attributes:
        logins: how often it was asked for a token.
        calls: the tokens of the other calls.
        before_login: what happens before it gives one.
    """

    address, answered = "etcd0:2379", True

    def __init__(self, *expired: str) -> None:
        self.expired = set(expired)
        self.logins = 0
        self.calls: list[str] = []
        self.before_login: Callable[[], object] = lambda: None

    def call(self, method: str, message: Any, reply: Any, *, timeout: float, metadata: Any) -> Any:
        assert timeout > 0
        if method == AUTHENTICATE:
            self.logins += 1
            token = f"t{self.logins}"
            self.before_login()
            return pb.AuthenticateResponse(token=token)
        self.calls.append(dict(metadata)["token"])
        if self.calls[-1] in self.expired:
            raise StoreAuthenticationError("invalid auth token")
        return reply(header=pb.ResponseHeader(revision=1))

    def close(self) -> None: ...


def asked(wire: Any, login: Login | None = None, timeout: float = 20.0) -> Any:
    store = EtcdStore([wire], login or Login("root", "secret"))
    return store.attempt(wire.address, GET, timeout=timeout, repeated=False)


def test_a_call_carries_the_token():
    wire = Wire()
    asked(wire)
    assert wire.calls == ["t1"]


def test_the_next_call_needs_no_login():
    wire, login = Wire(), Login("root", "secret")
    asked(wire, login)
    asked(wire, login)
    assert (wire.logins, wire.calls) == (1, ["t1", "t1"])


def test_a_token_that_expired_is_renewed_within_the_attempt():
    wire = Wire("t1")
    asked(wire)
    assert wire.calls == ["t1", "t2"]


def test_a_new_token_that_is_refused_is_the_end():
    wire = Wire("t1", "t2")
    with pytest.raises(StoreAuthenticationError):
        asked(wire)
    assert wire.calls == ["t1", "t2"]


def test_the_call_after_that_logs_in_again():
    wire, login = Wire("t1", "t2"), Login("root", "secret")
    with pytest.raises(StoreAuthenticationError):
        asked(wire, login)
    asked(wire, login)
    assert wire.calls == ["t1", "t2", "t3"]


def test_a_token_that_expired_is_not_renewed_when_the_time_is_over(monkeypatch):
    wire = Wire("t1")
    monkeypatch.setattr("microlock.engine.clock.now", lambda: 100.0 * len(wire.calls))
    with pytest.raises(StoreAuthenticationError):
        asked(wire)
    assert wire.calls == ["t1"]


@pytest.mark.parametrize("error", [StoreAuthenticationError, StoreUnavailableError])
def test_a_login_that_fails_is_the_end_of_the_attempt(error):
    def fail() -> None:
        raise error("no")

    wire = Wire()
    wire.before_login = fail
    with pytest.raises(error):
        asked(wire)
    assert (wire.logins, wire.calls) == (1, [])


def test_a_login_that_failed_does_not_hinder_the_next():
    def fail() -> None:
        wire.before_login = lambda: None
        raise StoreUnavailableError("no")

    wire, login = Wire(), Login("root", "secret")
    wire.before_login = fail
    with pytest.raises(StoreUnavailableError):
        asked(wire, login)
    asked(wire, login)
    assert wire.calls == ["t2"]


def test_all_who_ask_at_the_same_time_share_one_login():
    wire, login = Wire(), Login("root", "secret")
    all_here = threading.Barrier(8)

    def ask() -> None:
        all_here.wait(20)
        asked(wire, login)

    with ThreadPoolExecutor(8) as pool:
        for each in [pool.submit(ask) for _ in range(8)]:
            each.result(20)
    assert (wire.logins, set(wire.calls)) == (1, {"t1"})


def test_who_waits_too_long_for_the_login_of_another_is_told_which_member_was_asked():
    wire, login = Wire(), Login("root", "secret")
    waits, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        waits.set()
        go_on.wait(20)

    wire.before_login = hang
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(asked, wire, login)
        assert waits.wait(20)
        with pytest.raises(StoreTimeoutError, match=r"etcd0:2379"):
            asked(wire, login, timeout=0.01)
        go_on.set()
        first.result(20)


def test_a_login_that_does_not_come_back_says_which_member_was_asked(monkeypatch):
    wire, login, go_on = Wire(), Login("root", "secret"), threading.Event()
    monkeypatch.setattr("microlock.etcd.login._GRACE", 0.0)
    wire.before_login = lambda: go_on.wait(20)
    with pytest.raises(StoreTimeoutError, match=r"etcd0:2379"):
        asked(wire, login, timeout=0.01)
    go_on.set()


def test_an_interrupt_of_a_login_leaves_it_to_the_others():
    wire, login = Wire(), Login("root", "secret")
    interrupted = threading.Event()
    main = threading.main_thread().ident
    assert main

    def interrupt() -> None:
        signal.pthread_kill(main, signal.SIGINT)
        interrupted.wait(20)

    wire.before_login = interrupt
    with pytest.raises(KeyboardInterrupt):
        asked(wire, login)
    interrupted.set()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asked, wire, login).result(20)
    assert eventually(lambda: wire.calls == ["t1"])


def test_a_handler_that_calls_in_the_middle_of_a_login_gets_the_same_token():
    wire, login, main = Wire(), Login("root", "secret"), threading.main_thread().ident
    handled = threading.Event()
    assert main

    def handle(*_: object) -> None:
        handled.set()  # the login goes on while this waits for it
        asked(wire, login)

    def signalled() -> None:
        signal.pthread_kill(main, signal.SIGUSR1)
        assert handled.wait(20)

    wire.before_login = signalled
    before = signal.signal(signal.SIGUSR1, handle)
    try:
        asked(wire, login)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert (wire.logins, wire.calls) == (1, ["t1", "t1"])
