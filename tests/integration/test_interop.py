"""The lock and `etcdctl lock` exclude each other, and queue together on one name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from subprocess import Popen

import pytest
from conftest import Etcd
from ctl import Etcdctl, taken
from watching import DEADLINE, Recorder, eventually

from microlock import AlreadyLockedError, LockNotOwnedError, Microlock, connect

LONG = 60  # no test takes so long


@pytest.fixture
def lock(etcd_server: Etcd, key: str) -> Iterator[Microlock]:
    with connect(etcd_server.endpoint) as etcd:
        lock = Microlock(etcd, key, "one", LONG)
        yield lock
        lock.destroy()


def test_etcdctl_waits_while_we_hold_the_lock(
    lock: Microlock, etcdctl_lock: Callable[[], Popen[str]]
) -> None:
    hold = lock.lock()
    etcdctl_lock()
    assert eventually(lock.waiters)
    holder = lock.holder()
    assert holder
    assert holder.token == hold.token


def test_etcdctl_gets_the_lock_when_we_unlock(
    lock: Microlock, etcdctl_lock: Callable[[], Popen[str]], key: str
) -> None:
    lock.lock()
    waiter = etcdctl_lock()
    assert eventually(lock.waiters)
    lock.unlock()
    assert taken(waiter).startswith(f"{key}/")


def test_etcdctl_gets_the_lock_when_ours_is_destroyed(
    lock: Microlock, etcdctl_lock: Callable[[], Popen[str]], key: str
) -> None:
    lock.lock()
    waiter = etcdctl_lock()
    assert eventually(lock.waiters)
    lock.destroy()
    assert taken(waiter).startswith(f"{key}/")


def test_an_extended_hold_keeps_etcdctl_waiting(
    lock: Microlock, etcdctl_lock: Callable[[], Popen[str]]
) -> None:
    hold = lock.lock()
    etcdctl_lock()
    assert eventually(lock.waiters)
    lock.extend(2 * LONG)
    holder = lock.holder()
    assert holder
    assert (holder.token, len(lock.waiters())) == (hold.token, 1)


def test_lock_raises_while_etcdctl_holds_it(
    lock: Microlock, etcdctl_lock: Callable[[], Popen[str]], key: str
) -> None:
    entry = taken(etcdctl_lock())
    with pytest.raises(AlreadyLockedError) as caught:
        lock.lock()
    assert caught.value.holder.node_id is None
    assert f"{key}/{caught.value.holder.lease_id:x}" == entry


def test_unlock_does_not_touch_what_etcdctl_holds(
    lock: Microlock, etcdctl_lock: Callable[[], Popen[str]]
) -> None:
    taken(etcdctl_lock())
    with pytest.raises(LockNotOwnedError):
        lock.unlock()
    assert lock.holder() is not None


def test_lock_takes_what_etcdctl_gave_back(
    lock: Microlock, etcdctl_lock: Callable[[], Popen[str]]
) -> None:
    process = etcdctl_lock()
    taken(process)
    process.terminate()  # it unlocks at a signal
    process.wait(DEADLINE)
    assert eventually(lambda: lock.holder() is None)
    assert lock.lock().token


def test_waiters_are_listed_in_order(
    lock: Microlock, etcdctl_lock: Callable[[], Popen[str]]
) -> None:
    lock.lock()
    tokens = []
    for count in (1, 2, 3):
        etcdctl_lock()
        assert eventually(lambda count=count: len(lock.waiters()) == count)
        tokens.append(lock.waiters()[-1].token)
    assert [waiter.token for waiter in lock.waiters()] == tokens == sorted(tokens)
    assert {waiter.node_id for waiter in lock.waiters()} == {None}


def test_the_lock_goes_to_the_waiters_in_order(
    lock: Microlock, etcdctl_lock: Callable[[], Popen[str]]
) -> None:
    lock.lock()
    waiters = []
    for count in (1, 2, 3):
        waiters.append(etcdctl_lock())
        assert eventually(lambda count=count: len(lock.waiters()) == count)
    expected = [waiter.lease_id for waiter in lock.waiters()]
    lock.unlock()
    got = []
    for waiter in waiters:
        got.append(int(taken(waiter).rpartition("/")[2], 16))
        waiter.terminate()
    assert got == expected


def test_the_events_tell_of_etcdctl(
    lock: Microlock, etcdctl_lock: Callable[[], Popen[str]]
) -> None:
    seen = Recorder(lock)
    process = etcdctl_lock()
    taken(process)
    process.terminate()
    locked, unlocked = seen.wait_for(2)
    assert (locked.name, locked.node_id) == ("locked", None)
    assert (unlocked.name, unlocked.token) == ("unlocked", locked.token)


def test_etcdctl_reads_what_is_stored_as_the_documents_say(
    lock: Microlock, etcdctl: Etcdctl, key: str
) -> None:
    hold = lock.lock()
    assert etcdctl("get", "--prefix", key).splitlines() == [f"{key}/{hold.lease_id:x}", "one"]
