"""Many locks under one prefix, and a hold that is ended or extended from elsewhere.

`jobs` takes the locks, over one client; `elsewhere` is another manager, of another node and client.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from itertools import pairwise
from subprocess import Popen
from time import monotonic
from typing import Any

import pytest
from clients import python_etcd3
from conftest import Etcd
from ctl import Etcdctl
from faces import BOTH_FACES, LockManager, Microlock
from managers import Keep, before_each, kept, noted, queue, standing, tries
from nodes import LONG, begin, queued
from proxy import Proxy
from watching import DEADLINE, Recorder, eventually
from witness import AT_ONCE, at_most, entries

from microlock import (
    AlreadyLockedError,
    ClientRequiredError,
    DestroyedError,
    EtcdClient,
    InvalidArgumentError,
    InvalidTtlError,
    KeyRequiredError,
    LockLostError,
    LockNotOwnedError,
    LossReason,
    NodeIdRequiredError,
    State,
    StoreError,
    StoreUnavailableError,
    connect,
)
from microlock.core.port import Read, ReadAll, Request

pytestmark = BOTH_FACES

SHORT = 2  # a ttl to be waited out, and to be renewed in time on a machine that stalls
LONGER = 600


@pytest.fixture(scope="module")
def etcd(etcd_server: Etcd) -> Iterator[EtcdClient]:
    with connect(etcd_server.endpoint) as client:
        yield client


@pytest.fixture(scope="module")
def other_etcd(etcd_server: Etcd) -> Iterator[EtcdClient]:
    with connect(etcd_server.endpoint) as client:
        yield client


@pytest.fixture
def jobs(etcd: EtcdClient, prefix: str) -> LockManager:
    return LockManager(etcd, "one", prefix=prefix, ttl=LONG)


@pytest.fixture
def elsewhere(other_etcd: EtcdClient, prefix: str) -> LockManager:
    return LockManager(other_etcd, "elsewhere", prefix=prefix, ttl=LONG)


@pytest.fixture
def keep() -> Iterator[Keep]:
    """`foo = keep(jobs.lock("foo"))` destroys it at the end of the test."""
    with kept() as keep:
        yield keep


@pytest.fixture
def foo(jobs: LockManager, keep: Keep) -> Microlock:
    """A lock that is held by `jobs`."""
    return keep(jobs.lock("foo"))


@pytest.fixture
def token(foo: Microlock) -> int:
    assert foo.token
    return foo.token


@pytest.fixture
def asked(etcd: EtcdClient, monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """What is asked of etcd over the client of `jobs`."""
    return noted(etcd, monkeypatch)


@pytest.fixture
def etcdctl_lock(etcdctl: Etcdctl, prefix: str) -> Iterator[Callable[[str], Popen[str]]]:
    """Has `etcdctl lock` take a lock, which stores no name."""
    processes: list[Popen[str]] = []

    def lock(name: str) -> Popen[str]:
        processes.append(etcdctl.start("lock", prefix + name))
        stdout = processes[-1].stdout
        assert stdout
        assert stdout.readline().startswith(prefix)
        return processes[-1]

    yield lock
    for process in processes:
        process.kill()
        process.communicate()


# create()


def test_create_takes_the_prefix_the_node_and_the_ttl_of_the_manager(
    jobs: LockManager, prefix: str
) -> None:
    lock = jobs.create("foo")
    assert (lock.key, lock.node_id, lock.ttl) == (f"{prefix}foo", "one", LONG)


def test_create_sends_nothing(jobs: LockManager, asked: list[Request]) -> None:
    assert jobs.create("foo").state is State.RELEASED
    assert asked == []


def test_create_takes_another_ttl(jobs: LockManager) -> None:
    assert jobs.create("foo", ttl=7).ttl == 7


def test_what_create_makes_is_held_in_its_with(jobs: LockManager, elsewhere: LockManager) -> None:
    with jobs.create("foo") as foo:
        assert elsewhere.holder("foo") == standing(foo)
    assert elsewhere.holder("foo") is None
    foo.destroy()


@pytest.mark.parametrize(
    ("default", "override", "event"),
    [
        (True, None, "renewed"),
        (False, None, "lost"),
        (False, True, "renewed"),
        (True, False, "lost"),
    ],
)
def test_create_renews_as_the_manager_says_or_as_it_is_told(
    etcd: EtcdClient, prefix: str, keep: Keep, default: bool, override: bool | None, event: str
) -> None:
    ttl = SHORT if event == "renewed" else 1
    jobs = LockManager(etcd, "one", prefix=prefix, ttl=ttl, auto_renew=default)
    foo = keep(jobs.create("foo", auto_renew=override))
    seen = Recorder(foo, "renewed", "lost")
    foo.lock()
    assert seen.wait_for(1)[0].name == event


def test_create_takes_a_max_hold(jobs: LockManager, keep: Keep) -> None:
    foo = keep(jobs.create("foo", ttl=1, auto_renew=True, max_hold=0.1))
    foo.lock()
    assert foo.lost.wait(DEADLINE)
    assert foo.lost_reason is LossReason.EXPIRED


def test_create_takes_a_timeout_for_with(
    foo: Microlock, elsewhere: LockManager, keep: Keep
) -> None:
    waiting = keep(elsewhere.create("foo", timeout=0.2))
    with at_most(AT_ONCE), pytest.raises(AlreadyLockedError), waiting:
        pytest.fail("it is held by another")


# lock()


def test_lock_returns_a_lock_that_is_held(
    jobs: LockManager, elsewhere: LockManager, keep: Keep
) -> None:
    foo = keep(jobs.lock("foo"))
    assert foo.held
    assert elsewhere.holder("foo") == standing(foo)


def test_what_lock_returns_is_given_back_by_unlock(foo: Microlock, elsewhere: LockManager) -> None:
    foo.unlock()
    assert elsewhere.holder("foo") is None


@pytest.mark.parametrize(("ttl", "granted"), [(None, LONG), (LONGER, LONGER)])
def test_lock_asks_for_the_ttl_of_the_manager_or_for_another(
    jobs: LockManager, keep: Keep, ttl: float | None, granted: int
) -> None:
    hold = keep(jobs.lock("foo", ttl=ttl)).hold
    assert hold
    assert hold.ttl == granted


def test_lock_renews_as_the_manager_says(etcd: EtcdClient, prefix: str, keep: Keep) -> None:
    jobs = LockManager(etcd, "one", prefix=prefix, ttl=SHORT, auto_renew=True)
    assert Recorder(keep(jobs.lock("foo")), "renewed").wait_for(1)


def test_lock_raises_who_holds_it(foo: Microlock, elsewhere: LockManager) -> None:
    with pytest.raises(AlreadyLockedError) as caught:
        elsewhere.lock("foo")
    assert caught.value.holder == standing(foo)


def test_lock_takes_one_lock_once(foo: Microlock, jobs: LockManager) -> None:
    with pytest.raises(AlreadyLockedError):
        jobs.lock("foo")


def test_lock_waits_its_turn_with_a_timeout(
    foo: Microlock, elsewhere: LockManager, keep: Keep
) -> None:
    waiting = begin(lambda: elsewhere.lock("foo", timeout=LONG))
    assert queued(foo)
    foo.unlock()
    assert keep(waiting.result(DEADLINE)).held


def test_a_lock_that_gave_up_waiting_leaves_nothing(
    foo: Microlock, elsewhere: LockManager, etcdctl: Etcdctl
) -> None:
    with pytest.raises(AlreadyLockedError):
        elsewhere.lock("foo", timeout=0.2)
    assert entries(etcdctl, foo.key) == [f"{foo.key}/{standing(foo).lease_id:x}"]


@pytest.mark.parametrize(("retries", "count"), [(None, 4), (0, 1), (1, 2)])
def test_lock_tries_again_as_often_as_the_manager_says_or_as_it_is_told(
    etcd: EtcdClient,
    prefix: str,
    elsewhere: LockManager,
    keep: Keep,
    asked: list[Request],
    retries: int | None,
    count: int,
) -> None:
    keep(elsewhere.lock("foo"))
    jobs = LockManager(etcd, "one", prefix=prefix, retries=3, interval=0.01)
    with pytest.raises(AlreadyLockedError):
        jobs.lock("foo", retries=retries)
    assert tries(asked) == count


def test_lock_waits_between_tries_as_the_manager_says(
    etcd: EtcdClient, prefix: str, elsewhere: LockManager, keep: Keep
) -> None:
    keep(elsewhere.lock("foo"))
    jobs = LockManager(etcd, "one", prefix=prefix, retries=1, interval=0.6)
    started = monotonic()
    with pytest.raises(AlreadyLockedError):
        jobs.lock("foo")
    assert monotonic() - started > 0.29


def test_lock_waits_between_tries_as_it_is_told(
    etcd: EtcdClient, prefix: str, elsewhere: LockManager, keep: Keep
) -> None:
    keep(elsewhere.lock("foo"))
    jobs = LockManager(etcd, "one", prefix=prefix, retries=1, interval=LONG)
    with at_most(AT_ONCE), pytest.raises(AlreadyLockedError):
        jobs.lock("foo", interval=0.01)


def test_a_timeout_takes_the_place_of_the_managers_retries(
    foo: Microlock, other_etcd: EtcdClient, prefix: str, keep: Keep
) -> None:
    elsewhere = LockManager(other_etcd, "elsewhere", prefix=prefix, ttl=LONG, retries=3, interval=9)
    waiting = begin(lambda: elsewhere.lock("foo", timeout=LONG))
    assert queued(foo)  # a try would not be in the queue
    foo.unlock()
    assert keep(waiting.result(DEADLINE)).held


def test_a_timeout_and_retries_exclude_each_other(jobs: LockManager) -> None:
    with pytest.raises(InvalidArgumentError, match=r"retries .* timeout="):
        jobs.lock("foo", timeout=5, retries=3)


# holder()


def test_nobody_holds_a_free_lock(jobs: LockManager) -> None:
    assert jobs.holder("foo") is None


def test_holder_tells_the_oldest_of_the_queue(
    foo: Microlock, elsewhere: LockManager, keep: Keep
) -> None:
    waiting = begin(lambda: elsewhere.lock("foo", timeout=LONG))
    assert queued(foo)
    assert elsewhere.holder("foo") == standing(foo)
    foo.unlock()
    assert elsewhere.holder("foo") == standing(keep(waiting.result(DEADLINE)))


def test_holder_of_a_lock_knows_nothing_of_those_nested_in_it(
    jobs: LockManager, keep: Keep
) -> None:
    keep(jobs.lock("foo/bar"))
    assert jobs.holder("foo") is None


def test_etcdctl_holds_without_a_name(
    jobs: LockManager, etcdctl_lock: Callable[[str], Popen[str]]
) -> None:
    etcdctl_lock("foo")
    holder = jobs.holder("foo")
    assert holder
    assert holder.node_id is None


# locks()


def test_no_locks_are_there_at_first(jobs: LockManager) -> None:
    assert jobs.locks() == []


def test_locks_tells_each_holder_by_name(
    jobs: LockManager, elsewhere: LockManager, keep: Keep
) -> None:
    one, two = keep(jobs.lock("foo")), keep(elsewhere.lock("bar"))
    assert jobs.locks() == elsewhere.locks() == [queue("bar", two), queue("foo", one)]


def test_locks_tells_names_apart_that_begin_alike(jobs: LockManager, keep: Keep) -> None:
    names = ["job", "jobs", "job/1", "job/1/2", "job/", "job//1", "job/cafe/f00d"]
    taken = [queue(name, keep(jobs.lock(name))) for name in names]
    assert sorted(jobs.locks(), key=str) == sorted(taken, key=str)


def test_locks_tells_who_waits(
    foo: Microlock, jobs: LockManager, elsewhere: LockManager, keep: Keep
) -> None:
    waiting = begin(lambda: elsewhere.lock("foo", timeout=LONG))
    assert queued(foo)
    ((place,),) = [each.waiters for each in jobs.locks()]
    foo.unlock()
    got = keep(waiting.result(DEADLINE))
    assert jobs.locks() == [queue("foo", got)]
    assert standing(got) == place


def test_a_lock_that_was_given_back_is_not_told(foo: Microlock, jobs: LockManager) -> None:
    foo.unlock()
    assert jobs.locks() == []


@pytest.mark.parametrize("name", ["foo/1a", "foo/cafe", "foo/0", "1a", "foo/bar/7"])
def test_locks_leaves_out_a_users_key_that_only_looks_like_an_entry(
    jobs: LockManager, etcdctl: Etcdctl, prefix: str, name: str
) -> None:
    etcdctl("put", prefix + name, "a value")
    assert jobs.locks() == []


@pytest.mark.parametrize("name", ["foo", "foo/", "foo/bar", "foo/12345678901234567"])
def test_locks_leaves_out_a_key_under_a_lease_that_does_not_look_like_an_entry(
    jobs: LockManager, etcd_server: Etcd, prefix: str, name: str
) -> None:
    with closing(python_etcd3(etcd_server.endpoint)) as client:
        lease = client.lease(LONG)
        client.put(prefix + name, "a value", lease=lease)
        assert jobs.locks() == []
        lease.revoke()


def test_locks_tells_a_holder_without_a_name(
    jobs: LockManager, etcdctl_lock: Callable[[str], Popen[str]]
) -> None:
    etcdctl_lock("foo")
    assert [(each.name, each.holders[0].node_id) for each in jobs.locks()] == [("foo", None)]


def test_locks_of_the_whole_etcd_are_told_by_their_keys(
    foo: Microlock, other_etcd: EtcdClient
) -> None:
    assert queue(foo.key, foo) in LockManager(other_etcd, "elsewhere").locks()


def test_a_prefix_may_end_within_a_word(
    other_etcd: EtcdClient, etcd: EtcdClient, prefix: str, keep: Keep
) -> None:
    jobs = LockManager(etcd, "one", prefix=f"{prefix}job-", ttl=LONG)
    one, nested = keep(jobs.lock("1")), keep(jobs.lock("1/2"))
    keep(Microlock(etcd, f"{prefix}job", "one", LONG)).lock()
    keep(Microlock(etcd, f"{prefix}jobs", "one", LONG)).lock()
    assert jobs.locks() == [queue("1", one), queue("1/2", nested)]
    assert one.key == f"{prefix}job-1"


def test_the_lock_whose_key_is_the_prefix_is_none_of_those_under_it(
    etcd: EtcdClient, prefix: str, keep: Keep
) -> None:
    keep(Microlock(etcd, f"{prefix}jobs", "one", LONG)).lock()
    assert LockManager(etcd, "one", prefix=f"{prefix}jobs").locks() == []
    assert LockManager(etcd, "one", prefix=f"{prefix}jobs/").locks() == []


def test_locks_of_another_prefix_are_not_told(
    foo: Microlock, etcd: EtcdClient, prefix: str
) -> None:
    assert LockManager(etcd, "one", prefix=f"{prefix}other/").locks() == []


def test_a_name_that_is_no_utf_8_is_told_with_backslashes(
    jobs: LockManager, etcd_server: Etcd, prefix: str
) -> None:
    with closing(python_etcd3(etcd_server.endpoint)) as client:
        lease = client.lease(LONG)
        client.put(prefix.encode() + b"\xff/%x" % lease.id, b"\xfe", lease=lease)
        (told,) = jobs.locks()
        lease.revoke()
    assert (told.name, told.holders[0].node_id) == (r"\xff", r"\xfe")


def test_locks_is_one_request(
    jobs: LockManager, elsewhere: LockManager, keep: Keep, asked: list[Request]
) -> None:
    for name in ("foo", "foo/bar", "baz"):
        keep(elsewhere.lock(name))
    assert len(jobs.locks()) == 3
    assert [type(request) for request in asked] == [ReadAll]


def test_locks_tells_of_those_between_other_keys(
    jobs: LockManager, etcd_server: Etcd, prefix: str
) -> None:
    with closing(python_etcd3(etcd_server.endpoint)) as client:
        lease = client.lease(LONG)
        for number in range(9):
            client.put(f"{prefix}{number}/{lease.id:x}", f"node-{number}", lease=lease)
        for key in (f"{prefix}0/data", f"{prefix}4", f"{prefix}9"):
            client.put(key, "data")
        told = jobs.locks()
        lease.revoke()
    assert {each.name: each.holders[0].node_id for each in told} == {
        str(number): f"node-{number}" for number in range(9)
    }


# release()


def test_release_gives_back_what_was_taken_elsewhere(
    foo: Microlock, token: int, elsewhere: LockManager, etcdctl: Etcdctl
) -> None:
    elsewhere.release("foo", token)
    assert entries(etcdctl, foo.key) == []


def run_elsewhere(call: str, endpoint: str, prefix: str, token: int) -> None:
    """Calls it in another process."""
    script = f"""
import sys
from microlock import LockManager, connect

endpoint, prefix, token = sys.argv[1:]
with connect(endpoint) as etcd:
    manager = LockManager(etcd, "another process", prefix=prefix)
    manager.{call}
"""
    subprocess.run(
        [sys.executable, "-c", script, endpoint, prefix, str(token)], timeout=LONG, check=True
    )


def test_release_gives_back_what_was_taken_in_another_process(
    foo: Microlock, token: int, jobs: LockManager, etcd_server: Etcd, prefix: str
) -> None:
    run_elsewhere("release('foo', int(token))", etcd_server.endpoint, prefix, token)
    assert jobs.holder("foo") is None


def test_the_object_whose_hold_was_released_elsewhere_loses_it(
    foo: Microlock, token: int, elsewhere: LockManager
) -> None:
    seen = Recorder(foo, "lost", "released")
    elsewhere.release("foo", token)
    (event,) = seen.wait_for(1)
    assert (event.name, event.token, event.reason) == ("lost", token, LossReason.DELETED)
    assert (foo.held, foo.state, foo.lost_reason) == (False, State.LOST, LossReason.DELETED)
    with pytest.raises(LockLostError):
        foo.unlock()


def test_the_object_whose_hold_was_released_elsewhere_can_lock_again(
    foo: Microlock, token: int, elsewhere: LockManager
) -> None:
    elsewhere.release("foo", token)
    assert foo.lost.wait(DEADLINE)
    assert foo.lock().token > token
    assert elsewhere.holder("foo") == standing(foo)


def test_release_hands_over_to_the_next_in_the_queue(
    foo: Microlock, token: int, elsewhere: LockManager, keep: Keep
) -> None:
    waiting = begin(lambda: elsewhere.lock("foo", timeout=LONG))
    assert queued(foo)
    elsewhere.release("foo", token)
    assert keep(waiting.result(DEADLINE)).held


def test_release_gives_back_the_hold_of_etcdctl(
    jobs: LockManager, etcdctl_lock: Callable[[str], Popen[str]]
) -> None:
    etcdctl_lock("foo")
    holder = jobs.holder("foo")
    assert holder
    jobs.release("foo", holder.token)
    assert jobs.holder("foo") is None


def test_release_is_done_when_only_the_reply_was_lost(
    foo: Microlock, token: int, jobs: LockManager, etcd_server: Etcd, prefix: str
) -> None:
    with (
        closing(Proxy(etcd_server.endpoint)) as proxy,
        connect(proxy.endpoint, timeout=LONG) as way,
    ):
        elsewhere = LockManager(way, "elsewhere", prefix=prefix)
        proxy.withhold_replies_from(f"{standing(foo).lease_id:x}".encode())  # not in the read
        releasing = begin(lambda: elsewhere.release("foo", token))
        assert eventually(lambda: jobs.holder("foo") is None)
        assert not releasing.done()
        proxy.reset()
        assert releasing.result(DEADLINE) is None


# extend()


def test_extend_returns_the_seconds_left(
    foo: Microlock, token: int, elsewhere: LockManager
) -> None:
    assert LONGER - 20 < elsewhere.extend("foo", token, LONGER) <= LONGER


def granted(etcdctl: Etcdctl, lease_id: int) -> str:
    """The ttl of a lease, as etcdctl tells it."""
    _, _, told = etcdctl("lease", "timetolive", f"{lease_id:x}").partition("TTL(")
    return told.partition(")")[0]


def test_extend_gives_the_entry_another_ttl(
    foo: Microlock, token: int, elsewhere: LockManager, etcdctl: Etcdctl
) -> None:
    elsewhere.extend("foo", token, LONGER)
    holder = elsewhere.holder("foo")
    assert holder
    assert granted(etcdctl, holder.lease_id) == f"{LONGER}s"


def test_extend_leaves_the_name_the_token_and_the_place(
    foo: Microlock, token: int, elsewhere: LockManager, keep: Keep
) -> None:
    waiting = begin(lambda: elsewhere.lock("foo", timeout=LONG))
    assert queued(foo)
    elsewhere.extend("foo", token, LONGER)
    holder = elsewhere.holder("foo")
    assert holder
    assert (holder.node_id, holder.token) == ("one", token)
    assert len(foo.waiters()) == 1
    elsewhere.release("foo", token)
    keep(waiting.result(DEADLINE))


def test_extend_leaves_no_lease_behind(
    foo: Microlock, token: int, elsewhere: LockManager, etcdctl: Etcdctl
) -> None:
    elsewhere.extend("foo", token, LONGER)
    assert granted(etcdctl, standing(foo).lease_id) == ""


def test_extend_can_shorten(foo: Microlock, token: int, elsewhere: LockManager) -> None:
    elsewhere.extend("foo", token, 1)
    assert eventually(lambda: elsewhere.holder("foo") is None)


def test_extend_extends_again(foo: Microlock, token: int, elsewhere: LockManager) -> None:
    elsewhere.extend("foo", token, LONG)
    assert elsewhere.extend("foo", token, LONGER) > LONGER - 20


def test_extend_extends_what_was_taken_in_another_process(
    foo: Microlock,
    token: int,
    jobs: LockManager,
    etcd_server: Etcd,
    prefix: str,
    etcdctl: Etcdctl,
) -> None:
    run_elsewhere(f"extend('foo', int(token), {LONGER})", etcd_server.endpoint, prefix, token)
    holder = jobs.holder("foo")
    assert holder
    assert granted(etcdctl, holder.lease_id) == f"{LONGER}s"


def test_the_object_whose_hold_was_extended_elsewhere_gives_it_back_before_its_deadline(
    foo: Microlock, token: int, elsewhere: LockManager
) -> None:
    elsewhere.extend("foo", token, LONGER)
    foo.unlock()
    assert elsewhere.holder("foo") is None


def test_the_object_whose_hold_was_extended_elsewhere_locks_again_after_that(
    foo: Microlock, token: int, elsewhere: LockManager
) -> None:
    elsewhere.extend("foo", token, LONGER)
    foo.unlock()
    assert foo.lock().token > token
    assert elsewhere.holder("foo") == standing(foo)


def test_the_object_whose_hold_was_extended_elsewhere_holds_it_until_its_own_deadline(
    jobs: LockManager, elsewhere: LockManager, keep: Keep
) -> None:
    foo = keep(jobs.lock("foo", ttl=SHORT))
    assert foo.token
    elsewhere.extend("foo", foo.token, LONGER)
    assert foo.lost.wait(DEADLINE)
    assert foo.lost_reason is LossReason.EXPIRED
    assert elsewhere.holder("foo")


def test_the_object_whose_hold_was_shortened_elsewhere_loses_it_with_its_entry(
    foo: Microlock, token: int, elsewhere: LockManager
) -> None:
    elsewhere.extend("foo", token, 1)
    assert foo.lost.wait(DEADLINE)
    assert foo.lost_reason is LossReason.DELETED


@pytest.fixture
def renewing(etcd: EtcdClient, prefix: str, keep: Keep) -> Microlock:
    """A lock that is held, and renewed in the background every second."""
    return keep(LockManager(etcd, "one", prefix=prefix, ttl=3, auto_renew=True).lock("foo"))


def test_what_is_extended_elsewhere_is_not_renewed_any_more(
    renewing: Microlock, elsewhere: LockManager
) -> None:
    assert renewing.token
    elsewhere.extend("foo", renewing.token, LONGER)
    assert renewing.lost.wait(DEADLINE)
    assert renewing.lost_reason is LossReason.LEASE_GONE


@pytest.mark.parametrize("then", ["unlock", "renew", "destroy"])
def test_what_is_extended_elsewhere_lives_on_when_its_object_has_lost_it(
    renewing: Microlock, elsewhere: LockManager, etcdctl: Etcdctl, then: str
) -> None:
    token = renewing.token
    assert token
    elsewhere.extend("foo", token, LONGER)
    assert renewing.lost.wait(DEADLINE)
    with suppress(LockLostError):
        getattr(renewing, then)()
    holder = elsewhere.holder("foo")
    assert holder
    assert (holder.node_id, holder.token) == ("one", token)
    assert granted(etcdctl, holder.lease_id) == f"{LONGER}s"


def test_renew_after_an_extension_elsewhere_loses_the_hold_and_leaves_it(
    foo: Microlock, token: int, elsewhere: LockManager
) -> None:
    elsewhere.extend("foo", token, LONGER)
    with pytest.raises(LockLostError) as caught:
        foo.renew()
    assert caught.value.reason is LossReason.LEASE_GONE
    assert elsewhere.extend("foo", token, LONGER)


def test_a_guard_outlives_an_extension_elsewhere(
    foo: Microlock, token: int, elsewhere: LockManager, etcd: EtcdClient
) -> None:
    guard = foo.guard()
    elsewhere.extend("foo", token, LONGER)
    assert etcd.transaction(guard)


def test_extend_of_one_of_several_keys_extends_them_all(
    etcd: EtcdClient, prefix: str, elsewhere: LockManager, etcdctl: Etcdctl, keep: Keep
) -> None:
    several = LockManager(etcd, "one", prefix=prefix, ttl=3, auto_renew=True)
    both = keep(several.many(["foo", "bar"]))
    token = both.lock().token
    elsewhere.extend("foo", token, LONGER)
    foo, bar = elsewhere.holder("foo"), elsewhere.holder("bar")
    assert foo
    assert foo == bar
    assert foo.token == token
    assert granted(etcdctl, foo.lease_id) == f"{LONGER}s"
    assert both.lost.wait(DEADLINE)  # it does not renew, nor count on, what lives by another lease
    assert elsewhere.holder("bar") == bar


def test_extend_leaves_other_locks_of_a_session_alone(
    jobs: LockManager, etcd_server: Etcd, prefix: str, etcdctl: Etcdctl
) -> None:
    with closing(python_etcd3(etcd_server.endpoint)) as client:
        lease = client.lease(LONG)
        for name in ("foo", "bar"):
            client.put(f"{prefix}{name}/{lease.id:x}", "leader", lease=lease)
        foo, bar = jobs.holder("foo"), jobs.holder("bar")
        assert foo
        jobs.extend("foo", foo.token, LONGER)
        assert jobs.holder("bar") == bar
        moved = jobs.holder("foo")
        lease.revoke()
    assert moved
    assert moved.token == foo.token
    assert granted(etcdctl, moved.lease_id) == f"{LONGER}s"


def test_etcdctl_gives_back_what_was_extended_elsewhere(
    jobs: LockManager, etcdctl_lock: Callable[[str], Popen[str]], etcdctl: Etcdctl
) -> None:
    process = etcdctl_lock("foo")
    before = jobs.holder("foo")
    assert before
    jobs.extend("foo", before.token, LONGER)
    after = jobs.holder("foo")
    assert after
    assert (after.node_id, after.token) == (None, before.token)
    assert granted(etcdctl, before.lease_id)  # it may serve other locks of that session
    process.terminate()
    assert eventually(lambda: jobs.holder("foo") is None)


def test_an_extension_without_an_answer_can_be_done_again(
    etcd: EtcdClient, etcd_server: Etcd, prefix: str, keep: Keep
) -> None:
    mark = "node-whose-name-marks-the-put"
    token = keep(LockManager(etcd, mark, prefix=prefix, ttl=LONG).lock("foo")).token
    assert token
    with closing(Proxy(etcd_server.endpoint)) as proxy, connect(proxy.endpoint, timeout=2) as way:
        elsewhere = LockManager(way, "elsewhere", prefix=prefix)
        proxy.withhold_replies_from(mark.encode())
        with pytest.raises(StoreError) as caught:
            elsewhere.extend("foo", token, LONGER)
        assert caught.value.may_have_happened
        proxy.reset()
        assert elsewhere.extend("foo", token, LONGER) > LONGER - 20
        holder = elsewhere.holder("foo")
    assert holder
    assert (holder.node_id, holder.token) == (mark, token)


# A token that is not that of the hold

TAKE = {
    "release": lambda manager, token: manager.release("foo", token),
    "extend": lambda manager, token: manager.extend("foo", token, LONGER),
}


@pytest.fixture(params=TAKE)
def take(request: pytest.FixtureRequest, elsewhere: LockManager) -> Callable[[int], object]:
    """Releases or extends the lock `foo`, from elsewhere."""
    return lambda token: TAKE[request.param](elsewhere, token)


@pytest.mark.parametrize("difference", [-1, 1, 10**9])
def test_a_wrong_token_is_refused_and_nothing_is_changed(
    foo: Microlock,
    token: int,
    take: Callable[[int], object],
    elsewhere: LockManager,
    difference: int,
) -> None:
    with pytest.raises(LockNotOwnedError) as caught:
        take(token + difference)
    assert caught.value.holder == standing(foo) == elsewhere.holder("foo")
    assert foo.renew() > 0


def test_the_token_of_a_waiter_is_refused_and_nothing_is_changed(
    foo: Microlock, take: Callable[[int], object], jobs: LockManager, keep: Keep
) -> None:
    waiting = begin(lambda: jobs.lock("foo", timeout=LONG))
    assert queued(foo)
    (waiter,) = foo.waiters()
    with pytest.raises(LockNotOwnedError) as caught:
        take(waiter.token)
    assert caught.value.holder == standing(foo)
    assert foo.waiters() == [waiter]
    foo.unlock()
    keep(waiting.result(DEADLINE))


def test_a_token_of_a_free_lock_is_refused(take: Callable[[int], object]) -> None:
    with pytest.raises(LockNotOwnedError) as caught:
        take(5)
    assert caught.value.holder is None


def test_the_token_of_an_earlier_hold_is_refused_and_the_later_one_stands(
    foo: Microlock,
    token: int,
    take: Callable[[int], object],
    elsewhere: LockManager,
    keep: Keep,
) -> None:
    foo.unlock()
    later = keep(elsewhere.lock("foo"))
    with pytest.raises(LockNotOwnedError) as caught:
        take(token)
    assert caught.value.holder == standing(later)
    assert later.renew() > 0


def test_what_was_released_is_neither_released_nor_extended_again(
    foo: Microlock, token: int, take: Callable[[int], object], elsewhere: LockManager
) -> None:
    elsewhere.release("foo", token)
    with pytest.raises(LockNotOwnedError):
        take(token)
    assert elsewhere.holder("foo") is None


# break_lock()


def test_break_lock_frees_it_and_returns_whose_it_was(
    foo: Microlock, elsewhere: LockManager, etcdctl: Etcdctl
) -> None:
    assert elsewhere.break_lock("foo") == standing(foo)
    assert entries(etcdctl, foo.key) == []


def test_break_lock_returns_none_when_it_is_free(jobs: LockManager) -> None:
    assert jobs.break_lock("foo") is None


def test_break_lock_leaves_the_locks_nested_in_it(jobs: LockManager, keep: Keep) -> None:
    nested = keep(jobs.lock("foo/bar"))
    assert jobs.break_lock("foo") is None
    assert jobs.locks() == [queue("foo/bar", nested)]


def test_the_object_whose_hold_was_broken_loses_it(foo: Microlock, elsewhere: LockManager) -> None:
    elsewhere.break_lock("foo")
    assert foo.lost.wait(DEADLINE)
    assert foo.lost_reason is LossReason.DELETED


def test_the_next_in_the_queue_gets_a_lock_that_is_broken(
    foo: Microlock, elsewhere: LockManager, keep: Keep
) -> None:
    waiting = begin(lambda: elsewhere.lock("foo", timeout=LONG))
    assert queued(foo)
    assert elsewhere.break_lock("foo") == standing(foo)
    assert elsewhere.holder("foo") == standing(keep(waiting.result(DEADLINE)))


def test_break_lock_ends_the_hold_of_etcdctl(
    jobs: LockManager, etcdctl_lock: Callable[[str], Popen[str]]
) -> None:
    etcdctl_lock("foo")
    broken = jobs.break_lock("foo")
    assert broken
    assert broken.node_id is None
    assert jobs.holder("foo") is None


def test_break_lock_warns_of_what_it_did(
    foo: Microlock, token: int, elsewhere: LockManager, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "microlock"):
        elsewhere.break_lock("foo")
    (told,) = (record for record in caplog.records if "broke" in record.getMessage())
    assert told.levelno == logging.WARNING
    for part in ("elsewhere", foo.key, "one", str(token)):
        assert part in told.getMessage()


def test_break_lock_of_a_free_lock_warns_of_nothing(
    jobs: LockManager, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "microlock"):
        jobs.break_lock("foo")
    assert caplog.records == []


# What is refused

NAMED = "(name|key)"
NAMES: list[Any] = ["", None, 5, b"foo", "a\0b", "\ud800", "x" * 5000]
TOKENS: list[Any] = [None, 0, -1, "5", 1.5, True]
TTLS: list[Any] = [0, -1, None, "5", True, 1e10]
BAD_ARGUMENTS: dict[str, tuple[type[Exception], str, list[Any], Callable[..., object]]] = {
    "etcd": (ClientRequiredError, "etcd", [None, 5], lambda etcd, bad: LockManager(bad, "me")),
    "node_id": (NodeIdRequiredError, "node_id", NAMES, lambda etcd, bad: LockManager(etcd, bad)),
    "prefix": (
        InvalidArgumentError,
        "prefix",
        [None, 5, b"jobs/", "a\0b", "\ud800", "x" * 5000],
        lambda etcd, bad: LockManager(etcd, "me", prefix=bad),
    ),
    "ttl": (InvalidTtlError, "ttl", TTLS, lambda etcd, bad: LockManager(etcd, "me", ttl=bad)),
    "auto_renew": (
        InvalidArgumentError,
        "auto_renew",
        [None, 1, "yes"],
        lambda etcd, bad: LockManager(etcd, "me", auto_renew=bad),
    ),
    "retries": (
        InvalidArgumentError,
        "retries",
        [None, -1, 1.5, True],
        lambda etcd, bad: LockManager(etcd, "me", retries=bad),
    ),
    "interval": (
        InvalidArgumentError,
        "interval",
        [None, -1, "1", True],
        lambda etcd, bad: LockManager(etcd, "me", interval=bad),
    ),
    "name of create": (KeyRequiredError, NAMED, NAMES, lambda etcd, bad: made(etcd).create(bad)),
    "name of lock": (KeyRequiredError, NAMED, NAMES, lambda etcd, bad: made(etcd).lock(bad)),
    "name of holder": (KeyRequiredError, NAMED, NAMES, lambda etcd, bad: made(etcd).holder(bad)),
    "name of release": (
        KeyRequiredError,
        NAMED,
        NAMES,
        lambda etcd, bad: made(etcd).release(bad, 5),
    ),
    "name of extend": (
        KeyRequiredError,
        NAMED,
        NAMES,
        lambda etcd, bad: made(etcd).extend(bad, 5, 5),
    ),
    "name of break_lock": (
        KeyRequiredError,
        NAMED,
        NAMES,
        lambda etcd, bad: made(etcd).break_lock(bad),
    ),
    "token of release": (
        InvalidArgumentError,
        "token",
        TOKENS,
        lambda etcd, bad: made(etcd).release("foo", bad),
    ),
    "token of extend": (
        InvalidArgumentError,
        "token",
        TOKENS,
        lambda etcd, bad: made(etcd).extend("foo", bad, 5),
    ),
    "ttl of extend": (
        InvalidTtlError,
        "ttl",
        TTLS,
        lambda etcd, bad: made(etcd).extend("foo", 5, bad),
    ),
    "ttl of create": (
        InvalidTtlError,
        "ttl",
        [0, -1, "5", True],
        lambda etcd, bad: made(etcd).create("foo", ttl=bad),
    ),
    "ttl of lock": (
        InvalidTtlError,
        "ttl",
        [0, -1, "5", True],
        lambda etcd, bad: made(etcd).lock("foo", ttl=bad),
    ),
    "auto_renew of create": (
        InvalidArgumentError,
        "auto_renew",
        [1, "yes"],
        lambda etcd, bad: made(etcd).create("foo", auto_renew=bad),
    ),
    "max_hold of create": (
        InvalidArgumentError,
        "max_hold",
        [0, -1, "5", True],
        lambda etcd, bad: made(etcd).create("foo", max_hold=bad),
    ),
    "timeout of create": (
        InvalidArgumentError,
        "timeout",
        [-1, "5", True],
        lambda etcd, bad: made(etcd).create("foo", timeout=bad),
    ),
    "timeout of lock": (
        InvalidArgumentError,
        "timeout",
        [-1, "5", True],
        lambda etcd, bad: made(etcd).lock("foo", timeout=bad),
    ),
    "retries of lock": (
        InvalidArgumentError,
        "retries",
        [-1, 1.5, True],
        lambda etcd, bad: made(etcd).lock("foo", retries=bad),
    ),
    "interval of lock": (
        InvalidArgumentError,
        "interval",
        [-1, "1", True],
        lambda etcd, bad: made(etcd).lock("foo", interval=bad),
    ),
}


def made(etcd: EtcdClient) -> LockManager:
    return LockManager(etcd, "me", prefix="jobs/")


@pytest.mark.parametrize("argument", BAD_ARGUMENTS)
def test_a_bad_argument_is_refused_by_name_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch, argument: str
) -> None:
    error, named, values, call = BAD_ARGUMENTS[argument]
    with connect("127.0.0.1:1") as nowhere:
        asked = noted(nowhere, monkeypatch)
        for value in values:
            with pytest.raises(error, match=f"^{named}"):
                call(nowhere, value)
    assert asked == []


def test_a_prefix_and_a_name_that_are_too_long_together_are_refused(etcd: EtcdClient) -> None:
    with pytest.raises(KeyRequiredError):
        LockManager(etcd, "me", prefix="x" * 4000).create("y" * 200)


@pytest.mark.parametrize(
    "call",
    [
        lambda jobs: jobs.lock("foo"),
        lambda jobs: jobs.holder("foo"),
        lambda jobs: jobs.locks(),
        lambda jobs: jobs.release("foo", 5),
        lambda jobs: jobs.extend("foo", 5, 5),
        lambda jobs: jobs.break_lock("foo"),
    ],
    ids=["lock", "holder", "locks", "release", "extend", "break_lock"],
)
def test_a_manager_of_a_closed_client_raises(
    etcd_server: Etcd, call: Callable[[LockManager], object]
) -> None:
    with connect(etcd_server.endpoint) as client:
        jobs = LockManager(client, "one")
    with pytest.raises(DestroyedError):
        call(jobs)


def test_a_manager_works_on_a_lent_client(etcd_server: Etcd, prefix: str) -> None:
    with closing(python_etcd3(etcd_server.endpoint)) as client:
        jobs = LockManager(client, "one", prefix=prefix, ttl=LONG)
        foo = jobs.lock("foo")
        assert jobs.locks() == [queue("foo", foo)]
        foo.destroy()
        assert jobs.locks() == []


# Microlock.lock(retries=..., interval=...)


@pytest.fixture
def held(elsewhere: LockManager, keep: Keep) -> Microlock:
    """The lock `foo`, as somebody else holds it."""
    return keep(elsewhere.lock("foo"))


@pytest.fixture
def one(etcd: EtcdClient, held: Microlock, keep: Keep) -> Microlock:
    """An object that tries to get it."""
    return keep(Microlock(etcd, held.key, "one", LONG))


@pytest.mark.parametrize("retries", [0, 1, 4])
def test_n_retries_are_n_plus_1_tries(one: Microlock, asked: list[Request], retries: int) -> None:
    with pytest.raises(AlreadyLockedError) as caught:
        one.lock(retries=retries, interval=0.01)
    assert caught.value.holder.node_id == "elsewhere"
    assert tries(asked) == retries + 1


def test_attempts_counts_the_tries(
    etcd: EtcdClient, one: Microlock, held: Microlock, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0

    def freed_before_the_third_try(request: Request) -> None:
        nonlocal reads
        reads += isinstance(request, Read)
        if reads == 3 and held.held:
            held.unlock()

    before_each(etcd, monkeypatch, freed_before_the_third_try)
    assert one.lock(retries=9, interval=0.01).attempts == 3


def test_a_first_try_that_gets_it_is_the_only_one(one: Microlock, held: Microlock) -> None:
    held.unlock()
    with at_most(AT_ONCE):
        assert one.lock(retries=9, interval=LONG).attempts == 1


def test_all_tries_together_fail_once(one: Microlock) -> None:
    seen = Recorder(one, "failed", "waiting", "acquired")
    with pytest.raises(AlreadyLockedError):
        one.lock(retries=3, interval=0.01)
    one.destroy()  # after it has told what happened so far
    assert [event.name for event in seen.events] == ["failed"]


def test_the_intervals_between_tries_differ(
    etcd: EtcdClient, one: Microlock, monkeypatch: pytest.MonkeyPatch
) -> None:
    times: list[float] = []
    before_each(etcd, monkeypatch, lambda _: times.append(monotonic()))
    with pytest.raises(AlreadyLockedError):
        one.lock(retries=10, interval=0.1)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert len(gaps) == 10
    assert min(gaps) > 0.049
    assert max(gaps) - min(gaps) > 0.01  # of 0.1; the chance of less is 1 in 10 ** 8


def test_an_error_of_etcd_is_not_tried_again(keep: Keep) -> None:
    with connect("127.0.0.1:1", timeout=1) as nowhere, at_most(1 + AT_ONCE):
        lock = keep(Microlock(nowhere, "foo", "one"))
        with pytest.raises(StoreUnavailableError):
            lock.lock(retries=3, interval=LONG)


def test_an_objects_own_hold_is_not_tried_again(one: Microlock, held: Microlock) -> None:
    held.unlock()
    hold = one.lock()
    with at_most(AT_ONCE), pytest.raises(AlreadyLockedError) as caught:
        one.lock(retries=3, interval=LONG)
    assert caught.value.holder.token == hold.token
    assert one.held


def test_destroy_ends_the_time_between_two_tries_at_once(
    one: Microlock, asked: list[Request]
) -> None:
    trying = begin(lambda: one.lock(retries=3, interval=LONG))
    assert eventually(lambda: asked)
    with at_most(AT_ONCE):
        one.destroy()
        with pytest.raises(DestroyedError):
            trying.result(DEADLINE)


def test_other_calls_are_served_between_two_tries(one: Microlock, asked: list[Request]) -> None:
    trying = begin(lambda: one.lock(retries=3, interval=LONG))
    assert eventually(lambda: asked)
    with at_most(AT_ONCE):
        with pytest.raises(LockNotOwnedError):
            one.unlock()
        assert one.holder()
    one.destroy()
    with pytest.raises(DestroyedError):
        trying.result(DEADLINE)
