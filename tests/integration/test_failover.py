"""Members that die, hang, come back or are full: calls end in time, and say the truth."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import etcds
import pytest
from cluster import Cluster, hang
from conftest import Etcd
from ctl import Etcdctl
from proxy import Proxy
from watching import DEADLINE, eventually
from witness import AT_ONCE, Witness, assert_works, at_most, entries, leases

from microlock import (
    LockUncertainError,
    Microlock,
    StoreError,
    StoreNoSpaceError,
    StoreTimeoutError,
    StoreUnavailableError,
    connect,
)
from microlock.core.port import Get
from microlock.core.retry import Budget
from microlock.engine import clock
from microlock.server import HOST, EtcdServer

TIMEOUT = 10.0
LESS = 5.0  # with half of which for each member there is time for three
# For what comes after a call's own time: a busy machine, the handlers of the last events.
SLACK = 1.5
OwnEtcd = Callable[..., Etcd]


@pytest.fixture
def refusing() -> Iterator[list[str]]:
    """Two addresses that refuse connections."""
    with socket.socket() as one, socket.socket() as two:
        for each in (one, two):  # bound, so that nobody else takes it; but it does not listen
            each.bind((HOST, 0))
        yield [f"{HOST}:{each.getsockname()[1]}" for each in (one, two)]


@pytest.fixture
def black_holes() -> Iterator[list[str]]:
    """Two addresses that take connections and never say a word."""
    with socket.create_server((HOST, 0)) as one, socket.create_server((HOST, 0)) as two:
        yield [f"{HOST}:{each.getsockname()[1]}" for each in (one, two)]


@pytest.fixture(params=["refusing", "black_holes"])
def dead(request: pytest.FixtureRequest) -> list[str]:
    addresses: list[str] = request.getfixturevalue(request.param)
    return addresses


# Some of three endpoints


@pytest.mark.parametrize("count", [1, 2])
def test_a_call_reaches_the_member_that_lives(
    etcd_server: Etcd, prefix: str, dead: list[str], count: int
) -> None:
    with connect([*dead[:count], etcd_server.endpoint], timeout=LESS) as etcd:
        foo = Microlock(etcd, prefix + "foo", "node-a", ttl=5)
        with at_most(LESS):
            foo.lock()
        # Who was found dead is not asked again.
        with at_most(AT_ONCE):
            foo.renew()
            foo.unlock()
        foo.destroy()


@pytest.mark.parametrize("count", [1, 2])
def test_a_listener_hears_the_very_next_change_though_the_first_members_are_dead(
    etcd_server: Etcd, prefix: str, dead: list[str], count: int
) -> None:
    """`on()` returns when it watches, since some member can be reached."""
    with (
        connect([*dead[:count], etcd_server.endpoint], timeout=LESS) as etcd,
        connect(etcd_server.endpoint) as other,
    ):
        theirs = Microlock(other, prefix + "foo", "node-b", ttl=5)
        theirs.lock()
        foo = Microlock(etcd, prefix + "foo", "node-a")
        with at_most(LESS + SLACK):
            witness = Witness(foo, "unlocked")
        theirs.unlock()
        assert witness.saw("unlocked", within=5)
        theirs.destroy()


def test_a_call_says_in_time_that_all_members_are_dead(
    refusing: list[str], black_holes: list[str]
) -> None:
    addresses = [*refusing, *black_holes]
    with (
        connect(addresses, timeout=3) as etcd,
        at_most(3 + SLACK),
        pytest.raises(StoreUnavailableError) as told,
    ):
        Microlock(etcd, "foo", "node-a").lock()
    assert all(address in str(told.value) for address in addresses)


def test_a_call_without_time_says_who_was_asked_and_what_was_the_matter(
    own_etcd: OwnEtcd,
) -> None:
    server = own_etcd()
    with connect(server.endpoint, timeout=1) as etcd:
        foo = Microlock(etcd, "foo", "node-a", ttl=60)
        assert foo.holder() is None
        server.kill()
        with pytest.raises(StoreUnavailableError):
            foo.holder()
        now = clock.now()
        with pytest.raises(StoreTimeoutError, match="no time was left") as told:
            etcd.perform(Get(b"foo"), Budget(now, now))
    assert server.endpoint in str(told.value)
    assert "Connection refused" in str(told.value)


# A real cluster


@pytest.mark.parametrize("role", ["leader", "follower"])
def test_the_next_call_and_the_watch_survive_the_connected_member(
    cluster: Cluster, role: str
) -> None:
    victim = cluster.leader() if role == "leader" else (cluster.leader() + 1) % 3
    others = [endpoint for i, endpoint in enumerate(cluster.endpoints) if i != victim]
    with (
        connect([cluster.endpoints[victim], *others], timeout=TIMEOUT) as etcd,
        connect(others, timeout=TIMEOUT) as other,
    ):
        foo = Microlock(etcd, "foo", "node-a", ttl=60)
        token = foo.lock().token
        bar = Microlock(etcd, "bar", "node-a", ttl=60)
        witness = Witness(bar, "locked", "unlocked")
        tokens = []
        theirs = Microlock(other, "bar", "node-b", ttl=60)

        def cycle() -> None:
            tokens.append(theirs.lock().token)
            theirs.unlock()

        cycle()
        assert witness.saw("locked", "unlocked")
        cluster.members[victim].kill()
        with at_most(TIMEOUT):
            assert foo.renew() > 50
        assert foo.token == token
        for _ in range(5):
            cycle()
        assert witness.saw(*["locked", "unlocked"] * 6)
        assert [event.token for event in witness.events[::2]] == tokens
        assert not any(event.synthesised for event in witness.events)
        foo.unlock()


def test_nothing_is_lost_or_doubled_while_each_member_in_turn_dies_and_comes_back(
    cluster: Cluster,
) -> None:
    with (
        connect(cluster.endpoints, timeout=TIMEOUT) as etcd,
        connect(cluster.endpoints[::-1], timeout=TIMEOUT) as other,
    ):
        foo = Microlock(etcd, "foo", "node-a", ttl=60)
        witness = Witness(foo, "locked", "unlocked")
        theirs = Microlock(other, "foo", "node-b", ttl=60)
        tokens = []
        done = threading.Event()

        def cycles() -> None:
            while not done.is_set():
                tokens.append(theirs.lock().token)
                theirs.unlock()
                done.wait(0.02)

        with ThreadPoolExecutor(1) as pool:
            working = pool.submit(cycles)
            try:
                for member in cluster.members:
                    member.kill()
                    seen = len(tokens)
                    assert _grows(tokens, seen + 4) or working.done()
                    member.start()
            finally:
                done.set()
            working.result()
        assert witness.saw(*["locked", "unlocked"] * len(tokens))
        assert [event.token for event in witness.events[::2]] == tokens
        assert not any(event.synthesised for event in witness.events)


def _grows(tokens: list[int], length: int) -> bool:
    return eventually(lambda: len(tokens) >= length)


@pytest.mark.usefixtures("soon_silent")
def test_calls_and_watch_leave_a_member_that_hangs(cluster: Cluster) -> None:
    victim = (cluster.leader() + 1) % 3
    others = [endpoint for i, endpoint in enumerate(cluster.endpoints) if i != victim]
    with (
        connect([cluster.endpoints[victim], *others], timeout=TIMEOUT) as etcd,
        connect(others, timeout=TIMEOUT) as other,
    ):
        foo = Microlock(etcd, "foo", "node-a", ttl=60)
        witness = Witness(foo, "locked", "unlocked")
        bar = Microlock(etcd, "bar", "node-a", ttl=60)
        bar.lock()
        hang(cluster.members[victim])
        try:
            with at_most(TIMEOUT):
                assert bar.renew() > 45
            theirs = Microlock(other, "foo", "node-b", ttl=60)
            for _ in range(3):
                theirs.lock()
                theirs.unlock()
            assert witness.saw(*["locked", "unlocked"] * 3)
        finally:
            cluster.members[victim].resume()
        bar.unlock()
        assert_works(foo)


@pytest.mark.parametrize("role", ["leader", "follower"])
def test_lock_without_a_majority_ends_in_time_and_leaves_what_it_said(
    cluster: Cluster, role: str
) -> None:
    """The transaction waits in the log of the member that took it, and is applied seconds later."""
    leader = cluster.leader()
    kept = leader if role == "leader" else (leader + 1) % 3
    rest = [member for i, member in enumerate(cluster.members) if i != kept]
    with (
        connect(cluster.endpoints[kept], timeout=2) as etcd,
        connect(cluster.endpoints, timeout=TIMEOUT) as other,
    ):
        foo = Microlock(etcd, "foo", "node-a", ttl=4)
        foo.lock()
        foo.unlock()  # leaves a lease, so that the next request is the one that takes the lock
        for member in rest:
            hang(member)
        try:
            with (
                at_most(2 + SLACK),
                pytest.raises((StoreUnavailableError, LockUncertainError)) as told,
            ):
                foo.lock()
        finally:
            for member in rest:
                member.resume()
        assert not foo.held
        theirs = Microlock(other, "foo", "node-b", ttl=60)
        if isinstance(told.value, LockUncertainError):  # the ttl, and once more for an election
            theirs.lock(timeout=15)
        else:
            assert not eventually(lambda: theirs.holder() is not None, within=2)
            theirs.lock()
        theirs.unlock()


# One member that goes away


def test_the_next_call_works_after_etcd_came_back(own_etcd: OwnEtcd) -> None:
    server = own_etcd()
    with connect(server.endpoint, timeout=TIMEOUT) as etcd:
        foo = Microlock(etcd, "foo", "node-a", ttl=60)
        token = foo.lock().token
        server.kill()
        server.start()
        with at_most(AT_ONCE):
            assert foo.renew() > 50
        assert foo.token == token
        foo.unlock()
        assert_works(foo)


def test_a_call_waits_for_an_etcd_that_is_on_its_way_back(own_etcd: OwnEtcd) -> None:
    server = own_etcd()
    with connect(server.endpoint, timeout=TIMEOUT) as etcd:
        foo = Microlock(etcd, "foo", "node-a", ttl=60)
        foo.lock()
        server.kill()
        with ThreadPoolExecutor(1) as pool:
            renewed = pool.submit(foo.renew)
            with pytest.raises(futures.TimeoutError):
                renewed.result(timeout=0.3)
            server.start()
            assert renewed.result(timeout=AT_ONCE) > 50
        foo.unlock()


def test_lock_says_at_once_that_etcd_is_down_to_who_never_reached_it(own_etcd: OwnEtcd) -> None:
    server = own_etcd()
    server.kill()
    with connect(server.endpoint, timeout=TIMEOUT) as etcd:
        foo = Microlock(etcd, "foo", "node-a", ttl=60)
        with at_most(AT_ONCE), pytest.raises(StoreUnavailableError):
            foo.lock()


def test_lock_says_in_time_that_etcd_went_down(own_etcd: OwnEtcd) -> None:
    server = own_etcd()
    with connect(server.endpoint, timeout=2) as etcd:
        foo = Microlock(etcd, "foo", "node-a", ttl=60)
        assert foo.holder() is None
        server.kill()
        with at_most(2 + SLACK), pytest.raises(StoreUnavailableError):
            foo.lock()
        server.start()
        assert_works(foo)


@pytest.mark.usefixtures("soon_silent")
@pytest.mark.parametrize("how", ["kill", "pause"])
def test_an_outage_is_told_once_and_the_watch_does_not_spin_in_it(
    own_etcd: OwnEtcd, how: str
) -> None:
    server = own_etcd()
    with connect(server.endpoint, timeout=2) as etcd:
        foo = Microlock(etcd, "foo", "node-a", ttl=60)
        witness = Witness(foo, "error")
        foo.on("unlocked", print)
        if how == "kill":
            server.kill()
        else:
            hang(server)
        assert witness.saw("error", within=15)
        started, used = time.monotonic(), time.process_time()
        time.sleep(2)  # the measurement itself
        share = (time.process_time() - used) / (time.monotonic() - started)
        assert share < 0.05
        assert witness.names == ["error"]


# One member that hangs


HANGING = 1.5


@pytest.mark.parametrize("call", ["lock", "unlock", "renew", "extend", "holder", "destroy", "on"])
def test_a_call_to_a_paused_etcd_ends_in_time_and_leaves_what_it_said(
    own_etcd: OwnEtcd, call: str
) -> None:
    server = own_etcd()
    with (
        connect(server.endpoint, timeout=HANGING) as etcd,
        connect(server.endpoint, timeout=20) as other,
    ):
        foo = Microlock(etcd, "foo", "node-a", ttl=4)
        assert foo.holder() is None
        had = call not in ("lock", "on")
        if had:
            foo.lock()
        error: Exception | None = None
        hang(server)
        try:
            with at_most(HANGING + SLACK):
                try:
                    calls: dict[str, Callable[[], object]] = {
                        "lock": foo.lock,
                        "unlock": foo.unlock,
                        "renew": foo.renew,
                        "extend": lambda: foo.extend(7),
                        "holder": foo.holder,
                        "destroy": foo.destroy,
                        "on": lambda: foo.on("unlocked", print),
                    }
                    calls[call]()
                except (StoreUnavailableError, LockUncertainError) as exc:
                    error = exc
        finally:
            server.resume()
        assert call == "on" or error is not None
        theirs = Microlock(other, "foo", "node-b", ttl=6)
        etcdctl = Etcdctl(server.endpoint)
        if call in ("renew", "extend", "holder"):
            assert foo.held
            assert foo.renew() > 3
            assert [entry.rpartition("/")[2] for entry in entries(etcdctl, "foo")]
            foo.unlock()
            foo.destroy()  # ends its lease
        elif isinstance(error, StoreError):
            assert not error.may_have_happened
        assert not foo.held
        # Uncertain: what is left ends with its ttl. Anything else: nothing is left.
        within = 12.0 if isinstance(error, LockUncertainError) else 0.2
        assert eventually(lambda: theirs.holder() is None, within)
        # And nothing comes later, either.
        assert not eventually(lambda: theirs.holder() is not None, within=1.5)
        assert eventually(lambda: leases(etcdctl) == [] or call == "on")


@pytest.mark.parametrize("with_lease", [False, True])
def test_an_entry_that_a_paused_etcd_did_not_confirm_ends_with_its_ttl(
    own_etcd: OwnEtcd, with_lease: bool
) -> None:
    server = own_etcd()
    with (
        connect(server.endpoint, timeout=HANGING) as etcd,
        connect(server.endpoint, timeout=20) as other,
    ):
        foo = Microlock(etcd, "foo", "node-a", ttl=5)
        foo.holder()
        if with_lease:  # then the first request is the one that takes the lock
            foo.lock()
            foo.unlock()
        hang(server)
        try:
            with (
                at_most(HANGING + SLACK),
                pytest.raises((StoreUnavailableError, LockUncertainError)) as told,
            ):
                foo.lock()
        finally:
            server.resume()
        theirs = Microlock(other, "foo", "node-b", ttl=60)
        # The revocation was sent too, but etcd may pass it over: nobody waits for it any more.
        within = 12.0 if isinstance(told.value, LockUncertainError) else 0.5
        assert eventually(lambda: theirs.holder() is None, within)
        lease_id = theirs.lock().lease_id
        assert entries(Etcdctl(server.endpoint), "foo") == [f"foo/{lease_id:x}"]
        theirs.unlock()


@pytest.mark.parametrize("stream", ["a new stream", "an old stream"])
def test_a_listener_is_told_in_time_that_etcd_hangs_and_hears_of_changes_after_it(
    own_etcd: OwnEtcd, stream: str
) -> None:
    server = own_etcd()
    with (
        connect(server.endpoint, timeout=HANGING) as etcd,
        connect(server.endpoint, timeout=20) as other,
    ):
        foo = Microlock(etcd, "foo", "node-a", ttl=60)
        foo.holder()
        bar = Microlock(etcd, "bar", "node-a")
        if stream == "an old stream":
            bar.on("unlocked", print)
        errors = Witness(foo, "error")
        hang(server)
        try:
            with at_most(HANGING + SLACK):
                witness = Witness(foo, "unlocked")
            told = errors.saw("error", within=1)
        finally:
            server.resume()
        theirs = Microlock(other, "foo", "node-b", ttl=60)

        def heard() -> bool:
            theirs.lock()
            theirs.unlock()
            return bool(witness.events)

        assert eventually(heard)
        assert told, "on() returned without a word of the etcd that hangs"


# One member that is full


@pytest.fixture
def nearly_full(own_etcd: OwnEtcd) -> Etcd:
    return own_etcd(flags=["--quota-backend-bytes=1048576"])


def fill(server: Etcd) -> None:
    """Puts until etcd takes no more."""
    etcdctl = Etcdctl(server.endpoint)
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        try:
            etcdctl("put", "filling", "x" * 100_000)
        except subprocess.CalledProcessError:
            return
    raise AssertionError("etcd has room for everything")


@pytest.mark.parametrize("with_lease", [False, True])
def test_lock_without_space_says_so_at_once_and_leaves_nothing(
    nearly_full: Etcd, with_lease: bool
) -> None:
    with connect(nearly_full.endpoint, timeout=TIMEOUT) as etcd:
        foo = Microlock(etcd, "foo", "node-a", ttl=60)
        if with_lease:
            foo.lock()
            foo.unlock()
        fill(nearly_full)
        with at_most(AT_ONCE), pytest.raises(StoreNoSpaceError) as refused:
            foo.lock()
        assert nearly_full.endpoint in str(refused.value)
        assert not refused.value.may_have_happened
        assert foo.holder() is None
        etcdctl = Etcdctl(nearly_full.endpoint)
        assert entries(etcdctl, "foo") == []
        assert leases(etcdctl) == []


def test_a_held_lock_can_be_renewed_and_given_back_without_space(nearly_full: Etcd) -> None:
    with connect(nearly_full.endpoint, timeout=TIMEOUT) as etcd:
        foo = Microlock(etcd, "foo", "node-a", ttl=60)
        witness = Witness(foo, "locked", "unlocked")
        foo.lock()
        fill(nearly_full)
        assert foo.renew() > 50
        with at_most(AT_ONCE), pytest.raises(StoreNoSpaceError):
            foo.extend(60)
        assert foo.held
        with at_most(AT_ONCE):
            foo.unlock()
        assert witness.saw("locked", "unlocked")
        assert entries(Etcdctl(nearly_full.endpoint), "foo") == []


def test_a_black_hole_on_the_way_is_left_for_another_member(etcd_server: Etcd, prefix: str) -> None:
    with ExitStack() as stack:
        proxy = Proxy(etcd_server.endpoint)
        stack.callback(proxy.close)
        addresses = [proxy.endpoint, etcd_server.endpoint]
        etcd = stack.enter_context(connect(addresses, timeout=6))
        foo = Microlock(etcd, prefix + "foo", "node-a", ttl=60)
        token = foo.lock().token
        proxy.swallow()
        with at_most(6):
            assert foo.renew() > 50
        assert foo.token == token
        with at_most(AT_ONCE):
            foo.unlock()


def test_a_listener_goes_on_when_etcd_came_back_with_older_data(
    etcd_choice: etcds.Choice, tmp_path: Path
) -> None:
    """Restored from a backup, say: its revisions begin before those that were told."""
    if etcd_choice.tag is not None:
        pytest.skip("the data of a container is its own")
    with EtcdServer(data_dir=tmp_path / "new", binary=etcd_choice.binary, fast=True) as server:
        port = int(server.endpoint.rpartition(":")[2])
        etcd = connect(server.endpoint, timeout=TIMEOUT)
        foo = Microlock(etcd, "foo", "node-a", ttl=60)
        witness = Witness(foo, "locked", "unlocked")
        with connect(server.endpoint, timeout=TIMEOUT) as other:
            theirs = Microlock(other, "foo", "node-b", ttl=60)
            for _ in range(5):
                theirs.lock()
                theirs.unlock()
            last = theirs.lock().token
        assert witness.saw(*["locked", "unlocked"] * 5, "locked")
    older = EtcdServer(data_dir=tmp_path / "old", port=port, binary=etcd_choice.binary, fast=True)
    with etcd, older:
        assert eventually(lambda: len(witness.events) == 12)
        assert (witness.events[-1].name, witness.events[-1].token) == ("unlocked", last)
        assert witness.events[-1].synthesised
        assert_works(Microlock(etcd, "foo", "node-c", ttl=60))
        assert [event.synthesised for event in witness.events[12:]] == [False, False]


def test_a_member_that_closes_connections_has_no_tls_to_do_with_once_another_answered(
    own_etcd: OwnEtcd, refusing: list[str]
) -> None:
    server = own_etcd()
    with (
        closing(Proxy(refusing[0])) as dead,  # it takes connections, and closes them at once
        connect([server.endpoint, dead.endpoint], timeout=2) as etcd,
    ):
        foo = Microlock(etcd, "foo", "node-a", ttl=60)
        foo.lock()
        server.kill()
        with pytest.raises(StoreUnavailableError):
            foo.renew()
