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
from microlock.etcd.login import Given, Login
from microlock.etcd.messages import AUTHENTICATE
from microlock.etcd.store import EtcdStore

GET = Get(b"foo")


class Wire:
    """A member that gives the tokens t1, t2 and so on, and takes those that are not `expired`.

    Attributes:
        logins: how often it was asked for a token.
        calls: the tokens of the other calls.
        before_login: what happens before it gives one.
        refusal: what it says to those that are expired; to None: to who brings none.
    """

    address, answered = "etcd0:2379", True

    def __init__(self, *expired: str | None) -> None:
        self.expired = set(expired)
        self.logins = 0
        self.calls: list[str | None] = []
        self.refusal = "invalid auth token"
        self.before_login: Callable[[], object] = lambda: None

    def call(self, method: str, message: Any, reply: Any, *, timeout: float, metadata: Any) -> Any:
        assert timeout > 0
        if method == AUTHENTICATE:
            self.logins += 1
            token = self.token()
            self.before_login()
            return pb.AuthenticateResponse(token=token)
        self.calls.append(dict(metadata).get("token"))
        if self.calls[-1] in self.expired:
            raise StoreAuthenticationError(self.refusal)
        return reply(header=pb.ResponseHeader(revision=1))

    def token(self) -> str:
        return f"t{self.logins}"

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


def test_two_new_tokens_in_a_row_may_be_unknown():
    wire = Wire("t1", "t2")
    asked(wire)
    assert wire.calls == ["t1", "t2", "t3"]


def test_a_third_new_token_in_a_row_that_is_unknown_is_the_end():
    wire = Wire("t1", "t2", "t3")
    with pytest.raises(StoreAuthenticationError):
        asked(wire)
    assert wire.calls == ["t1", "t2", "t3"]


def test_the_call_after_that_logs_in_again():
    wire, login = Wire("t1", "t2", "t3"), Login("root", "secret")
    with pytest.raises(StoreAuthenticationError):
        asked(wire, login)
    asked(wire, login)
    assert wire.calls == ["t1", "t2", "t3", "t4"]


def test_an_old_token_is_none_of_the_three():
    wire, login = Wire(), Login("root", "secret")
    asked(wire, login)
    wire.expired = {"t1", "t2", "t3"}
    asked(wire, login)
    assert wire.calls == ["t1", "t1", "t2", "t3", "t4"]


def test_when_the_time_is_over_a_token_that_expired_is_something_passing(monkeypatch):
    wire = Wire("t1")
    monkeypatch.setattr("microlock.engine.clock.now", lambda: 100.0 * len(wire.calls))
    with pytest.raises(StoreUnavailableError, match="invalid auth token"):
        asked(wire)
    assert wire.calls == ["t1"]


# Users and roles that change


OLD = "etcdserver: revision of auth store is old"


class Changing(Wire):
    """Users and roles change before each of so many calls."""

    def __init__(self, changes: int) -> None:
        super().__init__()
        self.changes = changes

    def call(self, method: str, message: Any, reply: Any, **options: Any) -> Any:
        if method != AUTHENTICATE and self.changes:
            self.changes -= 1
            self.calls.append(dict(options["metadata"])["token"])
            raise StoreAuthenticationError(OLD)
        return super().call(method, message, reply, **options)


@pytest.fixture
def no_pause(monkeypatch):
    monkeypatch.setattr("microlock.etcd.store.sleep", lambda _: None)


def test_a_simple_token_is_good_for_what_users_and_roles_are_now(no_pause):
    wire = Changing(20)
    asked(wire)
    assert (wire.logins, wire.calls) == (1, ["t1"] * 21)


def test_a_token_of_jwt_is_good_for_what_users_and_roles_were(no_pause, monkeypatch):
    wire = Changing(5)
    monkeypatch.setattr(wire, "token", lambda: f"head.body{wire.logins}.signature")
    asked(wire)
    assert wire.logins == len(set(wire.calls)) == 6


def test_changes_without_end_are_something_passing(no_pause, monkeypatch):
    wire = Changing(1000)
    monkeypatch.setattr("microlock.engine.clock.now", lambda: float(len(wire.calls)))
    with pytest.raises(StoreUnavailableError, match="is old"):
        asked(wire, timeout=30.0)
    assert len(wire.calls) == 30


def test_who_is_lent_a_simple_token_asks_again_too(no_pause):
    wire = Changing(3)
    lent = (("token", "lent"),)
    store = EtcdStore([wire], Given(lambda: lent))  # type: ignore[list-item]
    store.attempt(wire.address, GET, timeout=20.0, repeated=False)
    assert wire.calls == ["lent"] * 4


def test_who_is_lent_a_token_that_expired_is_told_so():
    wire = Wire("lent")
    lent = (("token", "lent"),)
    store = EtcdStore([wire], Given(lambda: lent))  # type: ignore[list-item]
    with pytest.raises(StoreAuthenticationError):
        store.attempt(wire.address, GET, timeout=20.0, repeated=False)
    assert wire.calls == ["lent"]


# Where etcd does not ask who calls


def off() -> None:
    raise StoreAuthenticationError("etcdserver: authentication is not enabled")


def test_where_authentication_is_off_nothing_is_sent():
    wire, login = Wire(), Login("root", "secret")
    wire.before_login = off
    asked(wire, login)
    asked(wire, login)
    assert (wire.logins, wire.calls) == (1, [None, None])


def test_where_authentication_is_switched_on_it_logs_in():
    wire, login = Wire(), Login("root", "secret")
    wire.before_login = off
    asked(wire, login)
    wire.before_login = lambda: None
    wire.expired, wire.refusal = {None}, "etcdserver: user name is empty"
    asked(wire, login)
    assert wire.calls == [None, None, "t2"]


def test_where_authentication_is_switched_off_no_token_is_sent():
    wire, login = Wire(), Login("root", "secret")
    asked(wire, login)
    wire.before_login, wire.expired = off, {"t1"}
    asked(wire, login)
    assert wire.calls == ["t1", "t1", None]


# Logins


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


def test_a_login_that_takes_longer_than_who_asked_has_serves_the_next():
    wire, login, go_on = Wire(), Login("root", "secret"), threading.Event()
    wire.before_login = lambda: go_on.wait(20)
    with pytest.raises(StoreTimeoutError, match=r"etcd0:2379"):
        asked(wire, login, timeout=0.01)
    go_on.set()
    asked(wire, login)
    assert (wire.logins, wire.calls) == (1, ["t1"])


def test_a_member_that_does_not_answer_a_login_keeps_nobody_from_another(no_pause):
    silent, other, go_on = Wire(), Wire(), threading.Event()
    other.address = "etcd1:2379"
    silent.before_login = lambda: go_on.wait(20)
    login = Login("root", "secret")
    with pytest.raises(StoreTimeoutError):
        asked(silent, login, timeout=0.01)
    asked(other, login)
    assert other.calls == ["t1"]
    go_on.set()


def test_a_login_that_fails_by_a_bug_of_ours_is_told_to_who_waits():
    def bug() -> None:
        raise ValueError("a bug")

    wire = Wire()
    wire.before_login = bug
    with pytest.raises(StoreUnavailableError, match="a bug"):
        asked(wire)


def test_where_no_thread_can_be_started_it_logs_in_on_that_of_who_asks(monkeypatch):
    def fail(_: object) -> None:
        raise RuntimeError("can't start new thread")

    wire, threads = Wire(), []
    wire.before_login = lambda: threads.append(threading.current_thread())
    monkeypatch.setattr("microlock.etcd.login.Daemon.start", fail)
    asked(wire)
    assert (wire.calls, threads) == (["t1"], [threading.current_thread()])


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
