"""What is logged: what happens to a hold, by name, and never a secret."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable

import pytest
from cluster import hang
from conftest import Etcd
from ctl import Etcdctl
from nodes import Make, begin, nodes, queued
from test_auth import PASSWORD, Guarded
from watching import DEADLINE, eventually

from microlock import AlreadyLockedError, LockManager, Microlock, StoreError
from microlock.engine import blocked_loop

Logged = Callable[[str], list[logging.LogRecord]]


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Logged:
    """The records of the logger `microlock` that tell of this."""
    caplog.set_level(logging.DEBUG, "microlock")

    def of(name: str) -> list[logging.LogRecord]:
        return [
            record
            for record in caplog.records
            if record.name == "microlock" and re.search(rf"\b{name}\b", record.getMessage())
        ]

    return of


def assert_tells(record: logging.LogRecord, level: int, *words: object) -> None:
    """It has this level, and all of these in its text."""
    text = record.getMessage()
    assert record.levelno == level
    assert [word for word in words if str(word) not in text] == [], text


def test_acquired_is_logged_with_key_node_and_token(make: Make, logged: Logged, key: str) -> None:
    token = make("one").lock().token
    (record,) = logged("acquired")
    assert_tells(record, logging.DEBUG, key, "one", token)


def test_released_is_logged_with_key_node_and_token(make: Make, logged: Logged, key: str) -> None:
    foo = make("one")
    token = foo.lock().token
    foo.unlock()
    (record,) = logged("released")
    assert_tells(record, logging.DEBUG, key, "one", token)


def test_renewed_is_logged_with_key_node_and_token(make: Make, logged: Logged, key: str) -> None:
    foo = make("one")
    token = foo.lock().token
    foo.renew()
    (record,) = logged("renewed")
    assert_tells(record, logging.DEBUG, key, "one", token)


def test_renewals_in_the_background_are_logged(make: Make, logged: Logged, key: str) -> None:
    token = make("one", ttl=2, auto_renew=True).lock().token
    assert eventually(lambda: len(logged("renewed")) > 1)
    assert_tells(logged("renewed")[1], logging.DEBUG, key, "one", token)


def test_failed_is_logged_with_who_holds_it(make: Make, logged: Logged, key: str) -> None:
    make("two").lock()
    with pytest.raises(AlreadyLockedError):
        make("one").lock()
    (record,) = logged("failed")
    assert_tells(record, logging.DEBUG, key, "one", "two")


def test_waiting_is_logged_with_key_node_and_the_token_to_be(
    make: Make, logged: Logged, key: str
) -> None:
    one, two = make("one"), make("two")
    two.lock()
    waiting = begin(lambda: one.lock(timeout=DEADLINE))
    assert queued(two)
    two.unlock()
    token = waiting.result(DEADLINE).token
    (record,) = logged("waiting")
    assert_tells(record, logging.DEBUG, key, "one", token)


def test_lost_is_a_warning_with_the_reason(make: Make, logged: Logged, key: str) -> None:
    foo = make("one", ttl=1)
    token = foo.lock().token
    assert foo.lost.wait(DEADLINE)
    assert eventually(lambda: logged("lost"))
    (record,) = logged("lost")
    assert foo.lost_reason
    assert_tells(record, logging.WARNING, key, "one", token, foo.lost_reason.value)


def test_suspended_is_a_warning_with_what_went_wrong(
    own_etcd: Callable[..., Etcd], logged: Logged
) -> None:
    etcd = own_etcd()
    with nodes(etcd.endpoint, "foo", timeout=0.5) as make:
        foo = make("one", ttl=4, auto_renew=True)
        token = foo.lock().token
        hang(etcd)
        assert eventually(lambda: logged("suspended"))
        (record,) = logged("suspended")
        assert_tells(record, logging.WARNING, "'foo'", "'one'", token, etcd.endpoint)
        etcd.resume()


def test_a_broken_lock_is_a_warning_with_its_holder(make: Make, logged: Logged, key: str) -> None:
    token = make("one").lock().token
    LockManager(make("two")._etcd, "operator").break_lock(key)
    (record, *_) = logged("broke")
    assert_tells(record, logging.WARNING, key, "one", token, "operator")


def test_nothing_above_debug_is_logged_while_all_is_well(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    one, two = make("one", ttl=2, auto_renew=True), make("two")
    one.on("unlocked", print)
    two.lock()
    with pytest.raises(AlreadyLockedError):
        one.lock()
    waiting = begin(lambda: one.lock(timeout=DEADLINE))
    assert queued(two)
    two.unlock()
    waiting.result(DEADLINE)
    one.renew()
    one.extend(5)
    one.unlock()
    one.destroy()
    assert caplog.records == []


def test_each_thing_is_logged_once(make: Make, logged: Logged) -> None:
    foo = make("one")
    for name in ("acquired", "renewed", "released"):
        for _ in range(3):
            foo.on(name, lambda: None)
    foo.lock()
    foo.renew()
    foo.unlock()
    assert [len(logged(name)) for name in ("acquired", "renewed", "released")] == [1, 1, 1]


def test_only_loggers_of_microlock_log(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    foo = make()
    foo.on("unlocked", print)
    with foo:
        foo.renew()
    assert {record.name.partition(".")[0] for record in caplog.records} == {"microlock"}


# Secrets (while all that can happen happens: test_security)


def everything(records: list[logging.LogRecord]) -> str:
    """All that a handler of logs could write of them."""
    formatter = logging.Formatter()
    return "\n".join(f"{formatter.format(each)} {vars(each)!r}" for each in records)


@pytest.fixture
def guarded(own_etcd: Callable[..., Etcd]) -> Guarded:
    return Guarded(own_etcd())


def test_a_user_that_is_gone_is_logged_without_its_password(
    guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with guarded.client() as etcd:
        foo = Microlock(etcd, "mine", "node-a", ttl=3, auto_renew=True)
        foo.lock()
        token = dict(etcd.store._identity.known() or ()).get("token")  # type: ignore[attr-defined]
        Etcdctl(guarded.endpoint)("--user=root:root-of-all", "user", "delete", "worker")
        for call in (foo.renew, foo.unlock, foo.destroy):
            with pytest.raises(StoreError):
                call()
    assert token
    told = everything(caplog.records)
    assert (PASSWORD in told, token in told) == (False, False)


def test_a_wait_on_the_thread_of_an_event_loop_is_warned_of(
    make: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        foo = make("one")
        foo.lock()
        foo.unlock()
        assert not caplog.records  # it never waits
        foo.lock(timeout=1)
        foo.unlock()
        with foo:
            pass

    monkeypatch.setattr(blocked_loop, "_first", iter((True,)))
    asyncio.run(main())
    (record,) = caplog.records
    assert (record.levelname, "event loop" in record.message) == ("WARNING", True)
