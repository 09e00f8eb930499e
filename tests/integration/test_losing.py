"""Losing: a hold that has ended is no hold, whoever ended it and whoever looks, and that is told.

`held` is never True past the deadline: the moment `lock()` was called, plus the ttl, at the latest.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from operator import methodcaller
from time import sleep

import pytest
from cluster import hang
from conftest import Etcd
from ctl import Etcdctl
from faces import BOTH_FACES, ONLY_THREADS, TASKS, THREADS, LockManager, Microlock
from nodes import LONG, Make, begin, nodes
from test_processes import started
from watching import DEADLINE, Recorder, eventually
from witness import AT_ONCE, at_most

from microlock import (
    Hold,
    LockEvent,
    LockLostError,
    LockNotOwnedError,
    LossReason,
    MicrolockError,
    State,
)
from microlock.engine import clock

pytestmark = BOTH_FACES


@dataclass(frozen=True)
class Taken:
    """A hold that is watched by now, and whoever may end it.

    Attributes:
        foo: whose hold it is.
        heir: another object of its node, which speaks for the node.
        manager: of another node.
    """

    foo: Microlock
    hold: Hold
    heir: Microlock
    manager: LockManager
    etcdctl: Etcdctl

    @property
    def lease(self) -> str:
        return f"{self.hold.lease_id:x}"

    def delete(self) -> None:
        self.etcdctl("del", f"{self.foo.key}/{self.lease}")


WAYS: dict[str, Callable[[Taken], object]] = {
    "etcdctl del": Taken.delete,
    "etcdctl lease revoke": lambda taken: taken.etcdctl("lease", "revoke", taken.lease),
    "break_lock": lambda taken: taken.manager.break_lock(taken.foo.key),
    "release": lambda taken: taken.manager.release(taken.foo.key, taken.hold.token),
    "unlock by another object of the node": lambda taken: taken.heir.unlock(),
}


@pytest.fixture
def take(make: Make, etcdctl: Etcdctl) -> Callable[..., Taken]:
    """Takes a lock, and waits until the hold is old enough to be watched."""

    def take(**options: object) -> Taken:
        foo, two = make("one", **options), make("two")
        hold = foo.lock()
        sleep(0.3)
        return Taken(foo, hold, make("one"), LockManager(two._etcd, "two"), etcdctl)

    return take


@pytest.fixture
def taken(take: Callable[..., Taken]) -> Taken:
    return take()


@pytest.fixture
def lost(taken: Taken) -> Microlock:
    """A lock that was lost, and knows."""
    taken.delete()
    assert taken.foo.lost.wait(DEADLINE)
    return taken.foo


# Noticed at once


@pytest.mark.parametrize("auto_renew", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_hold_that_is_ended_from_elsewhere_is_lost_at_once(
    take: Callable[..., Taken], way: str, auto_renew: bool
) -> None:
    taken = take(auto_renew=auto_renew)
    foo = taken.foo
    WAYS[way](taken)
    assert eventually(lambda: foo.state is State.LOST, AT_ONCE)
    assert (foo.held, foo.lost_reason) == (False, LossReason.DELETED)


@pytest.mark.parametrize("way", WAYS)
def test_a_loss_is_told_once(take: Callable[..., Taken], make: Make, way: str) -> None:
    taken = take(auto_renew=True)
    seen = Recorder(taken.foo, "lost")
    WAYS[way](taken)
    after = Recorder(taken.foo, "failed")  # told after all that came before
    seen.wait_for(1)
    other = make("two")
    other.lock()
    with pytest.raises(MicrolockError):
        taken.foo.lock()
    after.wait_for(1)
    assert seen.events == [
        LockEvent(
            "lost",
            taken.foo.key,
            node_id="one",
            token=taken.hold.token,
            reason=LossReason.DELETED,
        )
    ]


def test_a_loss_is_told_with_listeners_for_the_key_too(taken: Taken) -> None:
    seen = Recorder(taken.foo, "lost", "unlocked")
    taken.delete()
    assert sorted(event.name for event in seen.wait_for(2)) == ["lost", "unlocked"]


def test_a_hold_that_nobody_ended_is_not_lost(taken: Taken) -> None:
    foo = taken.foo
    seen = Recorder(foo, "lost")
    foo.renew()
    foo.extend(LONG)
    foo.unlock()
    assert (foo.lost.wait(0), foo.lost_reason, seen.events) == (False, None, [])


# State first


def test_the_state_is_lost_before_a_handler_runs(taken: Taken) -> None:
    foo, seen = taken.foo, threading.Event()
    states: list[object] = []

    def note() -> None:
        states.extend([foo.held, foo.state, foo.token, foo.remaining, foo.lost.is_set()])
        seen.set()

    foo.on("lost", note)
    taken.delete()
    assert seen.wait(DEADLINE)
    assert states == [False, State.LOST, None, 0.0, True]


def test_waiting_for_the_loss_ends_with_it(taken: Taken) -> None:
    waiting = begin(lambda: taken.foo.lost.wait(DEADLINE))
    taken.delete()
    with at_most(AT_ONCE):
        assert waiting.result(DEADLINE) is True


def test_waiting_for_the_loss_ends_when_the_lock_is_given_back(taken: Taken) -> None:
    waiting = begin(lambda: taken.foo.lost.wait(DEADLINE))
    taken.foo.unlock()
    with at_most(AT_ONCE):
        assert waiting.result(DEADLINE) is False


def test_waiting_for_the_loss_ends_with_its_own_time(taken: Taken) -> None:
    with at_most(AT_ONCE):
        assert taken.foo.lost.wait(0.1) is False


CALLS: dict[str, Callable[[Microlock], object]] = {
    "check": methodcaller("check"),
    "guard": methodcaller("guard"),
    "renew": methodcaller("renew"),
    "extend": lambda foo: foo.extend(LONG),
    "unlock": methodcaller("unlock"),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_lost_hold_raises(lost: Microlock, call: str) -> None:
    with pytest.raises(LockLostError) as caught:
        CALLS[call](lost)
    assert caught.value.reason is LossReason.DELETED


@pytest.mark.parametrize("call", CALLS)
def test_a_lost_hold_leaves_the_next_holder_alone(lost: Microlock, make: Make, call: str) -> None:
    other = make("two")
    hold = other.lock()
    with pytest.raises(LockLostError):
        CALLS[call](lost)
    holder = lost.holder()
    assert holder
    assert holder.token == hold.token


def test_a_transaction_with_the_guard_of_a_lost_hold_is_refused(taken: Taken, prefix: str) -> None:
    guard = taken.foo.guard()
    taken.delete()
    with pytest.raises(LockLostError):
        taken.foo._host.client.transaction(guard, put={f"{prefix}report": "late"})
    assert taken.etcdctl("get", f"{prefix}report") == ""


# Never undone


def test_a_loss_is_not_undone_by_itself(take: Callable[..., Taken], make: Make) -> None:
    taken = take(ttl=2, auto_renew=True)
    other = make("one", key=f"{taken.foo.key}-2", ttl=2, auto_renew=True)
    taken.delete()
    assert taken.foo.lost.wait(DEADLINE)
    renewed = Recorder(other, "renewed")
    other.lock()
    assert len(renewed.wait_for(3)) >= 3  # by the same thread
    assert (taken.foo.state, taken.foo.held) == (State.LOST, False)
    assert taken.foo.holder() is None


def test_lock_takes_it_again_with_a_higher_token(lost: Microlock, make: Make) -> None:
    between = make("two").lock()
    with pytest.raises(MicrolockError):
        lost.lock()
    waiting = begin(lambda: lost.lock(timeout=DEADLINE))
    LockManager(lost._etcd, "two").break_lock(lost.key)
    assert waiting.result(DEADLINE).token > between.token
    assert (lost.state, lost.lost_reason, lost.lost.is_set()) == (State.HELD, None, False)


def test_a_second_hold_is_lost_as_the_first(taken: Taken) -> None:
    foo = taken.foo
    seen = Recorder(foo, "lost")
    taken.delete()
    assert foo.lost.wait(DEADLINE)
    again = foo.lock()
    taken.manager.break_lock(foo.key)
    assert foo.lost.wait(DEADLINE)
    assert seen.told(2) == [("lost", taken.hold.token), ("lost", again.token)]


# Found by a call


@pytest.mark.parametrize("call", ["renew", "extend", "unlock"])
def test_a_loss_that_a_call_finds_first_is_told_once(
    make: Make, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr("microlock.core.tracker.UNWATCHED", LONG)  # or the watch would be first
    foo, two = make("one"), make("two")
    seen, after = Recorder(foo, "lost"), Recorder(foo, "acquired")
    token = foo.lock().token
    LockManager(two._etcd, "two").break_lock(foo.key)
    assert foo.held
    for _ in range(2):
        with pytest.raises(LockLostError) as caught:
            CALLS[call](foo)
        assert caught.value.reason is LossReason.DELETED
    foo.lock()
    after.wait_for(2)
    assert [(event.name, event.token, event.reason) for event in seen.events] == [
        ("lost", token, LossReason.DELETED)
    ]


# By the deadline


@pytest.mark.parametrize("fault", ["kill", "hang"])
@pytest.mark.parametrize(
    ("face", "auto_renew"), [(THREADS, False), (THREADS, True), (TASKS, True)], indirect=["face"]
)
def test_the_deadline_needs_no_network(
    own_etcd: Callable[..., Etcd], auto_renew: bool, fault: str
) -> None:
    etcd = own_etcd()
    with nodes(etcd.endpoint, "foo", timeout=0.5) as make:
        foo = make(ttl=1, auto_renew=auto_renew)
        seen = Recorder(foo, "lost")
        called = clock.now()
        hold = foo.lock()
        etcd.kill() if fault == "kill" else hang(etcd)
        assert foo.lost.wait(DEADLINE)
        assert clock.now() < called + hold.ttl + 1
        assert (foo.held, foo.state, foo.lost_reason) == (False, State.LOST, LossReason.EXPIRED)
        assert [(event.token, event.reason) for event in seen.wait_for(1)] == [
            (hold.token, LossReason.EXPIRED)
        ]


@ONLY_THREADS
@pytest.mark.parametrize("looks", range(5))
@pytest.mark.parametrize("call", ["check", "guard"])
def test_a_deadline_that_passes_during_a_check_is_a_loss(
    make: Make, monkeypatch: pytest.MonkeyPatch, call: str, looks: int
) -> None:
    foo, me, now, looked = make(), threading.get_ident(), clock.now, count()
    foo.lock()

    def passing() -> float:
        """The time, which goes past the deadline after so many looks of this thread."""
        return now() + (LONG if threading.get_ident() == me and next(looked) >= looks else 0)

    monkeypatch.setattr(clock.REAL, "now", passing)

    def look_on() -> None:
        for _ in range(looks + 1):
            CALLS[call](foo)

    with pytest.raises(LockLostError):
        look_on()


# `held` is never True past the deadline


@dataclass
class Sweep:
    """Looks at a lock from one thread, again and again, until `end`.

    Attributes:
        deadline: of its hold, at the latest.
        looks: all that were made.
        seen: those that found it held.
        late: what was found held though the deadline had passed before the look.
    """

    lock: Microlock
    deadline: float
    end: float
    looks: int = 0
    seen: int = 0
    after: int = 0
    late: list[tuple[str, float, object]] = field(default_factory=list)

    def run(self) -> None:
        checks: dict[str, Callable[[], object]] = {
            "held": lambda: self.lock.held,
            "remaining": lambda: self.lock.remaining,
            "state": lambda: self.lock.state in (State.HELD, State.SUSPENDED),
            "token": lambda: self.lock.token,
            "hold": lambda: self.lock.hold,
            "check": lambda: self._passes(self.lock.check),
            "guard": lambda: self._passes(self.lock.guard),
        }
        while (now := clock.now()) < self.end:
            self.after += now > self.deadline
            for name, check in checks.items():
                before = clock.now()
                found = check()
                self.looks += 1
                self.seen += bool(found)
                if found and before > self.deadline:
                    self.late.append((name, before - self.deadline, found))
            before = clock.now()
            remaining = self.lock.remaining
            if remaining and before + remaining > self.deadline:
                self.late.append(("remaining too long", before - self.deadline, remaining))

    @staticmethod
    def _passes(check: Callable[[], object]) -> bool:
        try:
            check()
        except LockNotOwnedError:
            return False
        return True


@pytest.fixture
def pressure() -> Iterator[None]:
    """Threads that leave no other the interpreter for longer than it has to."""
    over, interval = threading.Event(), sys.getswitchinterval()

    def spin() -> None:
        while not over.is_set():
            sum(range(1000))

    sys.setswitchinterval(1e-4)
    spinning = [begin(spin) for _ in range(3)]
    yield
    over.set()
    sys.setswitchinterval(interval)
    for each in spinning:
        each.result(DEADLINE)


@ONLY_THREADS
@pytest.mark.usefixtures("pressure")
def test_nothing_is_held_past_the_deadline_whoever_looks_while_etcd_is_frozen(
    own_etcd: Callable[..., Etcd],
) -> None:
    etcd = own_etcd()
    with nodes(etcd.endpoint, "foo", timeout=0.5) as make:
        locks = [make(key=f"foo-{auto}", ttl=5, auto_renew=auto) for auto in (False, True)]
        deadlines = []
        for lock in locks:
            lock.lock()
            lock.unlock()
        for lock in locks:
            # Under the lease of the cycle before, so that its ttl begins before the call, or as
            # soon as it.
            called = clock.now()
            deadlines.append(called + lock.lock().ttl)
        hang(etcd)
        end = max(deadlines) + 0.5
        sweeps = [
            Sweep(lock, deadline, end)
            for lock, deadline in zip(locks, deadlines, strict=True)
            for _ in range(3)
        ]
        sweeping = [begin(sweep.run) for sweep in sweeps]
        for each in sweeping:
            each.result(2 * DEADLINE)
        assert [late for sweep in sweeps for late in sweep.late] == []
        # The sweep has seen both sides of the deadline.
        assert all(sweep.seen and sweep.after for sweep in sweeps)
        assert sum(sweep.looks for sweep in sweeps) > 2000
        etcd.resume()


SAMPLING = """
import time
from microlock.engine import clock

etcd = connect(endpoint)
foo = Microlock(etcd, key, "one", ttl=2, auto_renew={auto_renew})
done = threading.Event()


def look():
    'When it was found held for the last time, and how many looks followed.'
    last, later = 0.0, 0
    while not done.is_set():
        before = clock.now()
        if foo.held or foo.token or foo.remaining:
            last, later = before, 0
        else:
            later += 1
        time.sleep(0)
    found.append((last, later))


found = []
foo.lock()
threads = [threading.Thread(target=look) for _ in range(4)]
for thread in threads:
    thread.start()
print(flush=True)
sys.stdin.readline()
time.sleep(0.5)
done.set()
for thread in threads:
    thread.join()
for last, later in found:
    print(repr(last), later, flush=True)
"""


@ONLY_THREADS
@pytest.mark.parametrize("auto_renew", [False, True])
def test_nothing_is_held_by_a_process_that_was_stopped_while_another_took_the_lock(
    etcd_server: Etcd, make: Make, key: str, auto_renew: bool
) -> None:
    other = make("two")
    script = SAMPLING.format(auto_renew=auto_renew)
    with started(script, etcd_server.endpoint, key) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        sleep(0.5)  # somewhere in the middle
        os.kill(process.pid, signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        stopped = clock.now()
        other.lock(timeout=DEADLINE)
        taken = clock.now()
        process.stdin.write("\n")
        process.stdin.flush()
        os.kill(process.pid, signal.SIGCONT)
        looks = [process.stdout.readline().split() for _ in range(4)]
        last = max(float(last) for last, _ in looks)
        assert last < min(stopped + 2, taken)
        assert all(int(later) > 0 for _, later in looks)
        assert other.held
