"""Keeping: `auto_renew` renews a hold for as long as it is one, and not a moment longer."""

from __future__ import annotations

import gc
import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, product
from operator import methodcaller
from time import sleep
from typing import Any
from weakref import ref

import pytest
from cluster import Cluster, hang
from conftest import Etcd
from ctl import Etcdctl
from faces import BOTH_FACES, FACES, ONLY_THREADS, Microlock, under_test
from nodes import LONG, Make, begin, nodes, queued
from test_auth import TOKEN_TTL, Guarded
from test_processes import started
from watching import DEADLINE, Recorder, eventually, threads_of_microlock

from microlock import EtcdClient, Holder, LossReason, State, connect
from microlock.core.port import KeepAlives, Request
from microlock.core.retry import Budget
from microlock.engine import clock

pytestmark = BOTH_FACES

SHORT = 2  # a ttl to be waited out, and to be renewed in time on a machine that stalls


class Renewals:
    """Notes which leases a client renews in the background."""

    def __init__(self, client: EtcdClient, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[tuple[int, ...]] = []
        self.go_on = threading.Event()  # while it is not set, they are not sent
        self.go_on.set()
        self._perform = client.perform
        monkeypatch.setattr(client, "perform", self._performing)

    def _performing(self, request: Request, budget: Budget) -> Any:
        if isinstance(request, KeepAlives):
            self.batches.append(request.lease_ids)
            assert self.go_on.wait(DEADLINE)
        return self._perform(request, budget)

    def of(self, lease_id: int) -> int:
        """How often this lease was renewed."""
        return sum(lease_id in batch for batch in self.batches)

    def run_through(self, times: int, *lease_ids: int) -> bool:
        """Whether so many more renewals of these come to be asked for."""
        counts = {lease_id: self.of(lease_id) + times for lease_id in lease_ids}
        return eventually(lambda: all(self.of(each) >= count for each, count in counts.items()))


@pytest.fixture
def client(etcd_server: Etcd) -> Iterator[EtcdClient]:
    with connect(etcd_server.endpoint) as client:
        yield client


@pytest.fixture
def renewals(client: EtcdClient, monkeypatch: pytest.MonkeyPatch) -> Renewals:
    return Renewals(client, monkeypatch)


def ended_with_its_ttl(lock: Microlock, ttl: float) -> bool:
    """Whether the key comes free within a ttl, seen with a lock that has nothing to do with it.

    etcd looks for leases that have ended twice a second, and a machine that is busy takes longer.
    """
    return eventually(lambda: lock.holder() is None, ttl + 3)


# As long as it is a hold


def taken(make: Make, key: str) -> Microlock:
    foo = make(key=key, ttl=SHORT, auto_renew=True)
    foo.lock()
    return foo


def taken_again_and_again(make: Make, key: str) -> Microlock:
    foo = taken(make, key)
    for _ in range(20):
        foo.unlock()
        foo.lock()
    return foo


def taken_over(make: Make, key: str) -> Microlock:
    make(key=key, ttl=SHORT).lock()
    foo = make(key=key, auto_renew=True)
    foo.renew()
    return foo


def waited_for(make: Make, key: str) -> Microlock:
    foo, other = make(key=key, ttl=SHORT, auto_renew=True), make("two", key=key)
    other.lock()
    waiting = begin(partial(foo.lock, timeout=None))
    assert queued(other)
    other.unlock()
    waiting.result(DEADLINE)
    return foo


def shortened(make: Make, key: str) -> Microlock:
    foo = make(key=key, ttl=LONG, auto_renew=True)
    foo.lock()
    foo.extend(SHORT)
    return foo


BEGINNINGS = [waited_for, taken, taken_again_and_again, taken_over, shortened]


@dataclass
class Kept:
    """A hold that was looked at again and again for three ttls.

    Attributes:
        token: at first.
        looks, held: how often it was looked at, and found held.
        holder: whom etcd named in the end.
    """

    lock: Microlock
    token: int | None
    looks: int = 0
    held: int = 0
    holder: Holder | None = None

    def look(self) -> None:
        self.looks += 1
        self.held += self.lock.held


@pytest.fixture(scope="module")
def kept(etcd_server: Etcd, task_loop: None) -> Iterator[dict[tuple[str, str], Kept]]:
    """Holds of both faces and every beginning: waits once for all the tests."""
    with nodes(etcd_server.endpoint, f"test-{uuid.uuid4().hex[:8]}") as make:
        holds = {}
        for face, beginning in product(FACES, BEGINNINGS):
            with under_test(face):
                lock = beginning(make, f"test-{uuid.uuid4().hex[:8]}/{beginning.__name__}")
            holds[face, beginning.__name__] = Kept(lock, lock.token)
        end = clock.now() + 3 * SHORT
        while clock.now() < end:
            for hold in holds.values():
                hold.look()
            sleep(0.01)
        for hold in holds.values():
            hold.holder = hold.lock.holder()
        yield holds


@pytest.mark.parametrize("beginning", [each.__name__ for each in BEGINNINGS])
def test_a_hold_is_kept_for_many_ttls(
    kept: dict[tuple[str, str], Kept], face: str, beginning: str
) -> None:
    hold = kept[face, beginning]
    assert hold.held == hold.looks > 10
    assert hold.token
    assert (hold.lock.token, hold.holder and hold.holder.token) == (hold.token, hold.token)


def test_a_hold_without_auto_renew_is_not_kept(make: Make) -> None:
    foo, other = make(ttl=1), make("two")
    foo.lock()
    assert ended_with_its_ttl(other, 1)


def test_renewals_are_told(make: Make) -> None:
    foo = make(ttl=SHORT, auto_renew=True)
    seen = Recorder(foo, "renewed", "suspended", "lost")
    token = foo.lock().token
    assert seen.told(3)[:3] == [("renewed", token)] * 3


def test_extend_gives_the_ttl_that_is_kept(make: Make, etcdctl: Etcdctl) -> None:
    foo = make(ttl=SHORT, auto_renew=True)
    foo.lock()
    foo.extend(6)
    seen = Recorder(foo, "renewed")
    seen.wait_for(1)
    assert foo.remaining > 3
    holder = foo.holder()
    assert holder
    assert "granted with TTL(6s)" in etcdctl("lease", "timetolive", f"{holder.lease_id:x}")


@dataclass(frozen=True)
class Crowd:
    """200 holds of one client, each renewed three times."""

    locks: list[Microlock]
    threads: list[str]
    batches: list[tuple[int, ...]]


@pytest.fixture(scope="module")
def crowd(face: str, etcd_server: Etcd) -> Iterator[Crowd]:
    name = f"test-{uuid.uuid4().hex[:8]}/"
    with (
        connect(etcd_server.endpoint) as client,
        pytest.MonkeyPatch.context() as monkeypatch,
        ThreadPoolExecutor(8) as pool,
    ):
        renewals, before = Renewals(client, monkeypatch), threads_of_microlock()
        locks = [Microlock(client, f"{name}{i}", "one", 6, auto_renew=True) for i in range(200)]
        leases = [hold.lease_id for hold in pool.map(methodcaller("lock"), locks)]
        assert renewals.run_through(3, *leases)
        threads = [thread.name for thread in threads_of_microlock() - before]
        yield Crowd(locks, threads, renewals.batches)
        list(pool.map(methodcaller("destroy"), locks))


@ONLY_THREADS
def test_200_holds_of_a_client_are_all_kept(crowd: Crowd) -> None:
    assert [lock.held for lock in crowd.locks] == [True] * 200


@ONLY_THREADS
def test_200_holds_of_a_client_are_kept_by_one_thread(crowd: Crowd) -> None:
    assert sorted(crowd.threads) == ["microlock-renewal", "microlock-watch"]


@ONLY_THREADS
def test_holds_that_are_due_together_are_renewed_together(crowd: Crowd) -> None:
    assert len(crowd.batches) < 300  # for 600 renewals


# And not a moment longer


def drop(locks: list[Microlock]) -> None:
    locks.clear()
    gc.collect()


ENDS: dict[str, Callable[[list[Microlock], Etcdctl], object]] = {
    "unlocked": lambda locks, _: locks[0].unlock(),
    "destroyed": lambda locks, _: locks[0].destroy(),
    "lost": lambda locks, etcdctl: etcdctl("del", "--prefix", f"{locks[0].key}/"),
    "dropped": lambda locks, _: drop(locks),
}


@pytest.fixture(scope="module")
def later(face: str, etcd_server: Etcd) -> Iterator[dict[str, int]]:
    """How often a hold was renewed after each of its ends: waits once for all the tests."""
    prefix, etcdctl = f"test-{uuid.uuid4().hex[:8]}/", Etcdctl(etcd_server.endpoint)
    with (
        connect(etcd_server.endpoint) as client,
        pytest.MonkeyPatch.context() as monkeypatch,
    ):
        renewals = Renewals(client, monkeypatch)
        other = Microlock(client, f"{prefix}bar", "one", SHORT, auto_renew=True)
        bar = other.lock().lease_id
        holds = {
            end: [Microlock(client, f"{prefix}{end}", "one", SHORT, auto_renew=True)]
            for end in ENDS
        }
        leases = {end: locks[0].lock().lease_id for end, locks in holds.items()}
        assert renewals.run_through(1, *leases.values())
        for end, locks in holds.items():
            ENDS[end](locks, etcdctl)
            assert not locks or eventually(lambda locks=locks: not locks[0].held)
            # dropped: soon
            assert eventually(lambda end=end: not etcdctl("get", "--prefix", f"{prefix}{end}/"))
        so_far = {end: renewals.of(lease) for end, lease in leases.items()}
        # The thread goes on, for another hold.
        assert renewals.run_through(4, bar)
        yield {end: renewals.of(leases[end]) - count for end, count in so_far.items()}
        for lock in (other, *chain.from_iterable(holds.values())):
            lock.destroy()


@pytest.mark.parametrize("end", ENDS)
def test_no_renewal_follows_the_end_of_a_hold(later: dict[str, int], end: str) -> None:
    assert later[end] == 0


def test_a_dropped_hold_ends_with_its_ttl(client: EtcdClient, make: Make, key: str) -> None:
    other = make("two")
    foo = Microlock(client, key, "one", SHORT, auto_renew=True)
    seen = Recorder(foo, "renewed")
    foo.lock()
    seen.wait_for(2)
    gone = ref(foo)
    del foo, seen
    gc.collect()
    assert eventually(lambda: gone() is None, 2)
    assert ended_with_its_ttl(other, SHORT)


@ONLY_THREADS
def test_the_thread_ends_with_the_last_hold(client: EtcdClient, prefix: str) -> None:
    before = threads_of_microlock()
    foo = Microlock(client, prefix, "one", 3, auto_renew=True)
    foo.lock()
    (thread,) = threads_of_microlock() - before
    foo.destroy()
    thread.join(DEADLINE)
    assert not thread.is_alive()


@ONLY_THREADS
def test_a_closed_client_renews_nothing(etcd_server: Etcd, make: Make, key: str) -> None:
    other = make("two")
    with connect(etcd_server.endpoint) as client:
        foo = Microlock(client, key, "one", SHORT, auto_renew=True)
        seen = Recorder(foo, "renewed")
        foo.lock()
        seen.wait_for(2)
    assert ended_with_its_ttl(other, SHORT)
    assert not foo.held


@ONLY_THREADS
def test_max_hold_ends_the_renewals(make: Make) -> None:
    foo, other = make(ttl=SHORT, auto_renew=True, max_hold=2), make("two")
    foo.lock()
    taken = clock.now()
    assert foo.lost.wait(DEADLINE)
    lasted = clock.now() - taken
    assert foo.lost_reason is LossReason.EXPIRED
    assert 2 < lasted < 2 + SHORT + 1
    assert ended_with_its_ttl(other, 1)


@ONLY_THREADS
def test_a_late_reply_to_a_renewal_does_not_touch_the_next_hold(
    client: EtcdClient, renewals: Renewals, key: str
) -> None:
    foo = Microlock(client, key, "one", SHORT, auto_renew=True)
    seen = Recorder(foo, "lost", "suspended")
    foo.lock()
    foo.extend(3)  # under a lease that ends with this hold
    renewals.batches.clear()
    renewals.go_on.clear()
    assert eventually(lambda: renewals.batches)
    foo.unlock()
    hold = foo.lock()
    renewals.go_on.set()  # and is answered that its lease is gone
    assert renewals.run_through(3, hold.lease_id)
    assert foo.token == hold.token
    assert seen.events == []
    foo.destroy()


# Processes

HOLDER = f"""
import time
etcd = connect(endpoint)
foo = Microlock(etcd, key, "one", ttl={SHORT}, auto_renew=True)
foo.lock()
"""


@ONLY_THREADS
def test_a_killed_process_renews_nothing(etcd_server: Etcd, make: Make, key: str) -> None:
    other = make("two")
    script = f"{HOLDER}\nprint(flush=True)\nsys.stdin.readline()"
    with started(script, etcd_server.endpoint, key) as process:
        assert process.stdout
        process.stdout.readline()
        begun = clock.now()
        while clock.now() < begun + 1.5 * SHORT:
            assert other.holder()
            sleep(0.05)
        process.kill()
        assert ended_with_its_ttl(other, SHORT)


@ONLY_THREADS
def test_a_forked_child_renews_nothing(etcd_server: Etcd, make: Make, key: str) -> None:
    other = make("two")
    script = f"""{HOLDER}
read, write = os.pipe()
child = os.fork()
if child:
    os.write(1, b"%d\\n" % child)
    sys.stdin.readline()
else:
    os.close(write)
    os.read(read, 1)  # until the parent is gone
    time.sleep(60)
    os._exit(0)
"""
    with started(script, etcd_server.endpoint, key) as process:
        assert process.stdout
        child = int(process.stdout.readline())
        try:
            process.kill()
            process.wait(DEADLINE)
            assert ended_with_its_ttl(other, SHORT)
            os.kill(child, 0)  # it was there all the time
        finally:
            os.kill(child, signal.SIGKILL)


# Faults


@ONLY_THREADS
def test_a_restart_of_etcd_is_survived(own_etcd: Callable[..., Etcd]) -> None:
    etcd = own_etcd()
    with nodes(etcd.endpoint, "foo") as make:
        foo = make(ttl=10, auto_renew=True)
        seen = Recorder(foo, "renewed")
        lost = Recorder(foo, "lost")
        token = foo.lock().token
        etcd.kill()
        etcd.start()
        so_far = len(seen.events)
        assert len(seen.wait_for(so_far + 1)) > so_far
        holder = make("two").holder()
        assert holder
        assert (foo.state, foo.token, holder.token) == (State.HELD, token, token)
        assert lost.events == []


@ONLY_THREADS
def test_a_pause_of_etcd_within_the_ttl_suspends_the_hold_once(
    own_etcd: Callable[..., Etcd],
) -> None:
    etcd = own_etcd()
    with nodes(etcd.endpoint, "foo", timeout=0.5) as make:
        foo = make(ttl=8, auto_renew=True)
        seen = Recorder(foo, "suspended", "renewed", "lost")
        foo.lock()
        hang(etcd)
        (first, *_) = seen.wait_for(1)
        assert (first.name, foo.state, foo.held) == ("suspended", State.SUSPENDED, True)
        assert first.error
        assert eventually(lambda: foo.remaining < 3)  # by then it has failed again
        assert (foo.state, len(seen.events)) == (State.SUSPENDED, 1)
        etcd.resume()
        assert [event.name for event in seen.wait_for(2)][:2] == ["suspended", "renewed"]
        assert foo.state is State.HELD
        assert foo.remaining > 3


@ONLY_THREADS
def test_each_pause_of_etcd_suspends_the_hold_anew(own_etcd: Callable[..., Etcd]) -> None:
    etcd = own_etcd()
    with nodes(etcd.endpoint, "foo", timeout=0.5) as make:
        foo = make(ttl=6, auto_renew=True)
        seen = Recorder(foo, "suspended", "lost")
        foo.lock()
        for pause in (1, 2):
            hang(etcd)
            assert len(seen.wait_for(pause)) == pause
            etcd.resume()
            assert eventually(lambda: foo.state is State.HELD)
        assert [event.name for event in seen.events] == ["suspended"] * 2


@ONLY_THREADS
def test_a_pause_of_etcd_beyond_the_deadline_is_a_loss_told_once(
    own_etcd: Callable[..., Etcd],
) -> None:
    etcd = own_etcd()
    with nodes(etcd.endpoint, "foo", timeout=0.5) as make:
        foo = make(ttl=3, auto_renew=True)
        seen = Recorder(foo, "suspended", "lost")
        foo.lock()
        hang(etcd)
        assert [event.name for event in seen.wait_for(2)] == ["suspended", "lost"]
        assert (foo.state, foo.lost_reason) == (State.LOST, LossReason.EXPIRED)
        etcd.resume()
        # A hold of the same client is kept again, and the lost one is not.
        bar = make(key="bar", ttl=SHORT, auto_renew=True)
        renewed = Recorder(bar, "renewed")
        bar.lock()
        assert len(renewed.wait_for(2)) >= 2
        assert [event.name for event in seen.events] == ["suspended", "lost"]
        assert foo.state is State.LOST


@ONLY_THREADS
@pytest.mark.parametrize("role", ["leader", "follower"])
@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_a_hold_is_kept_though_the_connected_member_fails(
    cluster: Cluster, fault: str, role: str
) -> None:
    victim = cluster.leader() if role == "leader" else (cluster.leader() + 1) % 3
    others = [endpoint for i, endpoint in enumerate(cluster.endpoints) if i != victim]
    with (
        connect([cluster.endpoints[victim], *others]) as etcd,
        nodes(",".join(others), "foo") as make,
    ):
        foo = Microlock(etcd, "foo", "one", 8, auto_renew=True)
        renewed, lost = Recorder(foo, "renewed"), Recorder(foo, "lost")
        token = foo.lock().token
        getattr(cluster.members[victim], fault)()
        so_far = len(renewed.events)
        assert len(renewed.wait_for(so_far + 1)) > so_far
        assert foo.renew() > 6
        holder = make("two").holder()
        assert holder
        assert (foo.held, foo.token, holder.token) == (True, token, token)
        assert lost.events == []
        foo.destroy()


# Users


@ONLY_THREADS
def test_renewals_go_on_when_the_token_of_the_user_has_expired(
    own_etcd: Callable[..., Etcd],
) -> None:
    guarded = Guarded(own_etcd(flags=[f"--auth-token-ttl={TOKEN_TTL}"]))
    with guarded.client() as etcd:
        foo = Microlock(etcd, "mine", "node-a", ttl=10, auto_renew=True)
        seen, lost = Recorder(foo, "renewed"), Recorder(foo, "lost", "suspended")
        hold = foo.lock()
        for renewal in (1, 2):
            guarded.outlive_the_tokens()
            assert len(seen.wait_for(renewal)) >= renewal
        left = guarded.ctl("lease", "timetolive", f"{hold.lease_id:x}")
        assert "granted with TTL(10s), remaining(" in left
        assert (foo.token, lost.events) == (hold.token, [])
        foo.unlock()
