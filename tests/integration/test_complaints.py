"""What users of other lock libraries complain about, and what becomes of it here.

entering `with` without the lock            python-etcd3 #599, #1314
not being told of the loss                  etcd #6127, #10811, redisson #4698, kazoo #565
waiting for ever when the store is down     etcd #18082, kazoo #83
a cancelled waiter, or a late unlock, that  redis-py #3847, etcd #22082
    breaks the next holder
renewal that goes on after unlock           redisson #2714
a ttl guessed wrong                         ShedLock #9, #606
import broken by protobuf                   python-etcd3 #1957, #2000, #2709
fork                                        grpc #32992
names where one is a prefix of another      etcd #6278
no fencing token                            redislock #93, ShedLock #2201
a waiter whose own entry died waits on      etcd #19597
`unlocked` only on release, not on expiry   the npm package microlock
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from time import sleep

import pytest
from cluster import Cluster
from conftest import Etcd
from ctl import Etcdctl
from nodes import Make, begin, nodes, queued
from test_processes import started
from watching import DEADLINE, Recorder, eventually
from witness import AT_ONCE, at_most, entries

from microlock import (
    AlreadyLockedError,
    DestroyedError,
    LockLostError,
    LockUncertainError,
    LossReason,
    Microlock,
    StoreError,
    connect,
)


def place(lock: Microlock, token: int) -> str:
    """The name of the entry that stands there."""
    (lease,) = (each.lease_id for each in lock.waiters() if each.token == token)
    return f"{lock.key}/{lease:x}"


# Entering `with` without the lock


def test_with_is_never_entered_without_the_lock(make: Make) -> None:
    make("two").lock()
    entered = False
    with pytest.raises(AlreadyLockedError), make("one", timeout=0.5):
        entered = True
    assert not entered


# Not being told of the loss


def test_the_loss_is_told_at_once(make: Make, etcdctl: Etcdctl, key: str) -> None:
    foo = make()
    seen = Recorder(foo, "lost")
    foo.lock()
    sleep(0.3)  # by now it is watched
    etcdctl("del", "--prefix", f"{key}/")
    assert [event.reason for event in seen.wait_for(1, AT_ONCE)] == [LossReason.DELETED]
    assert not foo.held


# Waiting for ever when the store is down (one etcd alone that goes down: test_waiting)


@pytest.mark.parametrize("joined", [False, True])
def test_waiting_ends_when_etcd_has_no_majority(cluster: Cluster, joined: bool) -> None:
    with nodes(cluster.endpoints[0], "foo", timeout=1) as make:
        one, two = make("one", ttl=2), make("two")
        two.lock()
        one.holder()
        if joined:
            waiting = begin(lambda: one.lock(timeout=None))
            assert queued(two)
        for member in cluster.members[1:]:
            member.kill()
        if not joined:
            waiting = begin(lambda: one.lock(timeout=None))
        assert isinstance(waiting.exception(DEADLINE), StoreError | LockUncertainError)


# A cancelled waiter, or a late unlock, that breaks the next holder


def test_a_cancelled_waiter_leaves_the_queue_in_order(
    make: Make, etcdctl: Etcdctl, key: str
) -> None:
    one, two, three = make("one"), make("two"), make("three")
    one.lock()
    cancelled = begin(lambda: two.lock(timeout=None))
    assert queued(one)
    waiting = begin(lambda: three.lock(timeout=DEADLINE))
    assert queued(one, 2)
    two.destroy()
    assert isinstance(cancelled.exception(DEADLINE), DestroyedError)
    assert len(entries(etcdctl, key)) == 2
    assert not waiting.done()
    one.unlock()
    assert waiting.result(AT_ONCE).token == three.token


def test_a_late_unlock_leaves_the_next_holder_alone(make: Make) -> None:
    late, following = make("one", ttl=1), make("one")  # of one node, too
    late.lock()
    hold = following.lock(timeout=DEADLINE)
    with pytest.raises(LockLostError):
        late.unlock()
    holder = late.holder()
    assert holder
    assert holder.token == hold.token
    assert following.renew() > 0


# Renewal that goes on after unlock


def test_no_renewal_brings_a_lock_back_after_unlock(make: Make, etcdctl: Etcdctl, key: str) -> None:
    foo, other = make("one", ttl=2, auto_renew=True), make("two", ttl=2, auto_renew=True)
    renewed = Recorder(foo, "renewed")
    lease = foo.lock().lease_id
    renewed.wait_for(1)
    foo.unlock()
    assert other.lock().token
    others = Recorder(other, "renewed")
    assert len(others.wait_for(4)) >= 4  # more than a ttl
    assert not foo.held
    assert eventually(lambda: "expired" in etcdctl("lease", "timetolive", f"{lease:x}"))


# A ttl guessed wrong


def test_work_that_takes_longer_than_the_ttl_keeps_the_lock(make: Make) -> None:
    with make("one", ttl=2, auto_renew=True) as foo:
        token = foo.token
        assert len(Recorder(foo, "renewed").wait_for(4)) >= 4  # more than a ttl
        foo.check()
        holder = foo.holder()
    assert holder
    assert holder.token == token


def test_a_holder_that_died_is_waited_for_no_longer_than_its_ttl(
    etcd_server: Etcd, make: Make, key: str
) -> None:
    script = """
foo = Microlock(connect(endpoint), key, "one", ttl=2, auto_renew=True)
foo.lock()
print(flush=True)
sys.stdin.readline()
"""
    other = make("two")
    with started(script, etcd_server.endpoint, key) as process:
        assert process.stdout
        process.stdout.readline()
        process.kill()
        with at_most(2 + AT_ONCE):
            other.lock(timeout=DEADLINE)


def test_the_hold_says_which_ttl_was_granted(own_etcd: Callable[..., Etcd]) -> None:
    with nodes(own_etcd(fast=False).endpoint, "foo") as make:
        foo = make(ttl=1)
        assert foo.lock().ttl == 2  # the least that etcd grants by default
        assert 1 < foo.remaining < 2


# Import broken by protobuf


def test_python_etcd3_can_be_imported_as_protobuf_is(etcd_server: Etcd, key: str) -> None:
    script = """
import os, sys
from google.protobuf.internal import api_implementation
from microlock import Microlock, etcd3

host, _, port = sys.argv[1].rpartition(":")
etcd = etcd3.client(host=host, port=int(port))
etcd.put(sys.argv[2], "value")
foo = Microlock(etcd, sys.argv[2], "one", ttl=5)
with foo:
    print(etcd.get(sys.argv[2])[0], foo.held, api_implementation.Type())
"""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PROTOCOL_")}
    told = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, etcd_server.endpoint, key],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
        timeout=2 * DEADLINE,
        check=True,
    ).stdout
    assert told == "b'value' True upb\n"


# Fork


def test_a_fork_neither_hangs_nor_shares_the_lock(etcd_server: Etcd, key: str) -> None:
    script = """
foo = Microlock(connect(endpoint), key, "one", ttl=30, auto_renew=True)
foo.lock()


def body():
    with connect(endpoint) as mine:
        bar = Microlock(mine, key + "-2", "child", ttl=30)
        with bar:
            return foo.held, raised(foo.unlock), bar.held

print(in_a_child(body), foo.held, foo.renew() > 0)
"""
    with started(script, etcd_server.endpoint, key) as process:
        output, _ = process.communicate(timeout=2 * DEADLINE)
    assert output == "(False, 'ForkedError', True) True True\n"


# Names where one is a prefix of another


@pytest.mark.parametrize(
    ("name", "nested"), [("a", "ab"), ("a", "a/b"), ("a", "a/"), ("a", "a/b/c"), ("a", "a/1f/b")]
)
def test_a_name_that_begins_with_another_is_another_lock(
    make: Make, prefix: str, name: str, nested: str
) -> None:
    one, two = make("one", key=prefix + name), make("two", key=prefix + nested)
    tokens = {one.lock(timeout=1).token, two.lock(timeout=1).token}
    assert tokens == {one.token, two.token}
    one.unlock()
    assert two.renew() > 0


# No fencing token


def test_tokens_rise_whoever_holds_the_lock_and_however_it_ends(
    make: Make, etcdctl: Etcdctl, key: str
) -> None:
    tokens = []
    for end in ("unlock", "delete", "expire", "destroy", "renew and unlock") * 2:
        foo = make(ttl=1 if end == "expire" else 30)
        tokens.append(foo.lock(timeout=DEADLINE).token)
        if end == "delete":
            etcdctl("del", "--prefix", f"{key}/")
        elif end == "destroy":
            foo.destroy()
        elif "unlock" in end:
            if "renew" in end:
                foo.renew()
            foo.unlock()
    assert tokens == sorted(set(tokens))


def test_etcd_refuses_what_a_late_holder_writes(make: Make, etcdctl: Etcdctl, prefix: str) -> None:
    late, following = make("one", ttl=1), make("two")
    late.lock()
    guard = late.guard()
    following.lock(timeout=DEADLINE)
    etcd = following._host.client
    etcd.transaction(following.guard(), put={f"{prefix}report": "new"})
    with pytest.raises(LockLostError):
        etcd.transaction(guard, put={f"{prefix}report": "old"})
    assert etcdctl("get", "--print-value-only", f"{prefix}report") == "new\n"


# A waiter whose own entry died waits on


@pytest.mark.parametrize("way", ["its entry is deleted", "its lease is revoked"])
def test_a_waiter_whose_own_entry_died_joins_again_and_gets_its_turn(
    make: Make, etcdctl: Etcdctl, way: str
) -> None:
    one, two = make("one"), make("two")
    one.lock()
    waiting = begin(lambda: two.lock(timeout=DEADLINE))
    assert queued(one)
    (result,) = one.waiters()
    if way == "its entry is deleted":
        etcdctl("del", place(one, result.token))
    else:
        etcdctl("lease", "revoke", f"{result.lease_id:x}")
    assert eventually(lambda: [each for each in one.waiters() if each.token > result.token])
    one.unlock()
    hold = waiting.result(DEADLINE)
    assert (hold.attempts, hold.token > result.token) == (2, True)


# `unlocked` only on release, not on expiry


def test_unlocked_is_told_when_a_hold_expires(etcd_server: Etcd, make: Make, key: str) -> None:
    foo = make("two")
    seen = Recorder(foo, "unlocked")
    with connect(etcd_server.endpoint) as etcd:  # closed: nothing is given back
        token = Microlock(etcd, key, "one", ttl=1).lock().token
    assert [event.token for event in seen.wait_for(1)] == [token]
