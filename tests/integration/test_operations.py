"""What operators do to etcd while locks are held, waited for and listened to."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import sleep
from typing import Any

import loop_face
import pytest
from cluster import Cluster
from conftest import Etcd
from ctl import Etcdctl
from proxy import Proxy
from relays import relay
from watching import DEADLINE, Recorder, eventually
from witness import Witness, assert_works

from microlock import EtcdClient, Hold, LossReason, Microlock, connect
from microlock.server import HOST, EtcdServer, find_binary, free_ports

TTL = 4
OwnEtcd = Callable[..., Etcd]


class Users:
    """A lock that is kept, one that is waited for, and a listener, all of one client."""

    def __init__(self, etcd: EtcdClient, pool: ThreadPoolExecutor) -> None:
        self.etcd = etcd
        self.kept = Microlock(etcd, "kept", "one", TTL, auto_renew=True)
        self.told = Witness(self.kept, "locked", "unlocked", "lost", "released")
        self.kept.lock()
        self.holder = Microlock(etcd, "queue", "one", TTL, auto_renew=True)
        self.holder.lock()
        self.waiter = Microlock(etcd, "queue", "two", TTL, auto_renew=True)
        self.waiting: Future[Hold] = pool.submit(self.waiter.lock, timeout=60)
        assert eventually(lambda: len(self.holder.waiters()) == 1)

    def assert_nothing_was_lost(self) -> None:
        """Nor was anything told twice, and everybody goes on."""
        for renewed in [Recorder(each, "renewed") for each in (self.kept, self.holder)]:
            assert len(renewed.wait_for(2)) >= 2  # one may have been under way
        assert not self.kept.lost.wait(0)
        assert not self.waiting.done()
        self.kept.unlock()
        assert self.told.saw("locked", "released", "unlocked") or self.told.names == [
            "locked",
            "unlocked",
            "released",
        ], self.told.events
        token = self.holder.token
        self.holder.unlock()
        assert token
        assert self.waiting.result(DEADLINE).token > token
        assert_works(Microlock(self.etcd, "another", "one", ttl=5))
        self.waiter.unlock()


@contextmanager
def users(*endpoints: str, **options: Any) -> Iterator[Users]:
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(1))
        etcd = stack.enter_context(connect(endpoints, **options))
        made = Users(etcd, pool)
        stack.callback(made.waiter.cancel)
        yield made


class Member:
    """One more member of a cluster, added by `etcdctl member add`."""

    def __init__(self, cluster: Cluster, directory: Path, *flags: str) -> None:
        port, peer = free_ports(2)
        self.endpoint = f"{HOST}:{port}"
        added = reconfigured(cluster, "add", "added", f"--peer-urls=http://{HOST}:{peer}", *flags)
        environment = dict(
            line.replace('"', "").split("=", 1)
            for line in added.splitlines()
            if line.startswith("ETCD_INITIAL_CLUSTER=")
        )
        self._log = (directory / "added.log").open("w")
        self._process = subprocess.Popen(
            [
                *[str(cluster.members[0].binary), "--name=added", f"--data-dir={directory}/added"],
                *["--heartbeat-interval=50", "--election-timeout=250"],
                f"--listen-client-urls=http://{self.endpoint}",
                f"--advertise-client-urls=http://{self.endpoint}",
                f"--listen-peer-urls=http://{HOST}:{peer}",
                f"--initial-advertise-peer-urls=http://{HOST}:{peer}",
                "--initial-cluster-state=existing",
            ],
            env={name: each for name, each in os.environ.items() if name[:4] != "ETCD"}
            | environment,
            stdout=self._log,
            stderr=self._log,
        )
        assert eventually(self._serves)

    def _serves(self) -> bool:
        try:  # a learner serves that alone
            return bool(Etcdctl(self.endpoint)("endpoint", "status", timeout=2))
        except subprocess.SubprocessError:
            return False

    def close(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._log.close()


@pytest.fixture
def add(tmp_path: Path) -> Iterator[Callable[..., Member]]:
    with ExitStack() as stack:

        def add(cluster: Cluster, *flags: str) -> Member:
            made = Member(cluster, tmp_path, *flags)
            stack.callback(made.close)
            return made

        yield add


def reconfigured(cluster: Cluster, *arguments: str) -> str:
    """What `etcdctl member` prints, once the members have known each other for long enough."""
    done: list[str] = []

    def reconfigure() -> bool:
        with suppress(subprocess.CalledProcessError):
            done.append(Etcdctl(cluster.endpoints[1])("member", *arguments))
        return bool(done) or sleep(0.5) is not None

    assert eventually(reconfigure)
    return done[0]


def member_id(cluster: Cluster, number: int) -> str:
    """As `etcdctl member` has it."""
    listed = Etcdctl(cluster.endpoints[1])("member", "list")
    return next(line for line in listed.splitlines() if f" m{number}," in line).split(",")[0]


# Members


def test_a_learner_among_the_endpoints_is_passed_over(
    cluster: Cluster, add: Callable[..., Member]
) -> None:
    learner = add(cluster, "--learner")
    with users(learner.endpoint, *cluster.endpoints) as made:
        made.assert_nothing_was_lost()


def test_the_connected_member_is_removed_from_the_cluster(cluster: Cluster) -> None:
    gone = member_id(cluster, 0)
    with users(*cluster.endpoints) as made:
        reconfigured(cluster, "remove", gone)
        made.assert_nothing_was_lost()


def test_a_member_is_replaced_by_one_elsewhere_that_the_client_does_not_know(
    cluster: Cluster, add: Callable[..., Member]
) -> None:
    with users(*cluster.endpoints) as made:
        reconfigured(cluster, "remove", member_id(cluster, 0))
        add(cluster)
        made.assert_nothing_was_lost()


def test_the_lead_is_moved_again_and_again(cluster: Cluster) -> None:
    with users(*cluster.endpoints) as made:
        for number in (0, 1, 2, 0):
            leader = cluster.endpoints[cluster.leader()]
            if leader != cluster.endpoints[number]:
                Etcdctl(leader)("move-leader", member_id(cluster, number))
        made.assert_nothing_was_lost()


def test_all_members_restart_one_after_the_other(cluster: Cluster) -> None:
    with users(*cluster.endpoints) as made:
        for member in cluster.members:
            member.stop()
            member.start()
        made.assert_nothing_was_lost()


# Maintenance


def test_etcd_is_compacted_and_defragmented(own_etcd: OwnEtcd) -> None:
    server = own_etcd()
    ctl = Etcdctl(server.endpoint)
    with users(server.endpoint) as made:
        for number in range(3):
            ctl("put", "x", str(number))
            ctl("compact", str(made.kept.guard().revision + number))
            ctl("defrag")
        made.assert_nothing_was_lost()


# What stands in between


def test_a_balancer_closes_what_it_accepts_while_its_members_restart(own_etcd: OwnEtcd) -> None:
    server = own_etcd()
    proxy = Proxy(server.endpoint)
    try:
        with users(proxy.endpoint) as made:
            server.kill()
            proxy.reset()
            assert eventually(lambda: proxy.refused > 2)
            server.start()
            made.assert_nothing_was_lost()
    finally:
        proxy.close()


def test_a_client_that_starts_while_its_balancer_has_no_member_waits_for_one(
    own_etcd: OwnEtcd,
) -> None:
    server = own_etcd()
    proxy = Proxy(server.endpoint)
    server.kill()
    try:
        with ThreadPoolExecutor(1) as pool, connect(proxy.endpoint, timeout=DEADLINE) as etcd:
            foo = Microlock(etcd, "foo", "one", ttl=5)
            listening = pool.submit(Witness, foo, "locked")
            assert eventually(lambda: proxy.refused > 2)
            server.start()
            witness = listening.result(DEADLINE)
            foo.lock()
            assert witness.saw("locked")
    finally:
        proxy.close()


def test_a_grpc_proxy_restarts(own_etcd: OwnEtcd) -> None:
    server = own_etcd()
    (port,) = free_ports(1)
    with ExitStack() as stack:
        first = relay("grpc-proxy", server.endpoint, port=port)
        endpoint = first.__enter__()
        try:
            made = stack.enter_context(users(endpoint))
        finally:
            first.__exit__(None, None, None)
        with relay("grpc-proxy", server.endpoint, port=port):
            made.assert_nothing_was_lost()


# Restores


class Restorable:
    """An etcd that can be set back to an earlier state, on the same port."""

    def __init__(self, binary: Path | None, directory: Path) -> None:
        self._binary = binary
        self._snapshot, self._restored = directory / "snapshot", directory / "restored"
        self._server = EtcdServer(binary=binary, data_dir=directory / "data", fast=True)
        self.endpoint = ""
        self.close = self._server.close

    def start(self) -> None:
        self._server.start()
        self.endpoint = self._server.endpoint

    def save(self) -> None:
        Etcdctl(self.endpoint)("snapshot", "save", str(self._snapshot))

    def restore(self) -> None:
        """Brings back what was saved."""
        self._server.close()
        command = ["snapshot", "restore", str(self._snapshot), f"--data-dir={self._restored}"]
        subprocess.run([find_binary("etcdctl"), *command], check=True, capture_output=True)
        self._server = EtcdServer(
            binary=self._binary,
            data_dir=self._restored,
            port=int(self.endpoint.rpartition(":")[2]),
            fast=True,
            flags=["--force-new-cluster"],
        )
        self.close = self._server.close
        self._server.start()


@pytest.fixture
def restorable(etcd_choice: Any, tmp_path: Path) -> Iterator[Restorable]:
    if etcd_choice.tag is not None:
        pytest.skip("its files are in a container")
    made = Restorable(etcd_choice.binary, tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.close()


def test_a_restore_to_before_a_hold_is_a_loss_that_is_told(restorable: Restorable) -> None:
    with connect(restorable.endpoint) as etcd:
        before = Microlock(etcd, "before", "one", ttl=12, auto_renew=True)
        before.lock()
        restorable.save()
        after = Microlock(etcd, "after", "one", ttl=12, auto_renew=True)
        told = Witness(after, "lost")
        after.lock()
        assert not after.lost.wait(0.5)  # its entry is watched by now
        restorable.restore()
        assert after.lost.wait(DEADLINE)
        assert after.lost_reason in (LossReason.DELETED, LossReason.LEASE_GONE)
        assert told.saw("lost")
        assert before.renew() > 8
        before.unlock()
        assert_works(Microlock(etcd, "after", "one", ttl=5))


def test_a_restore_that_keeps_the_leases_of_a_hold_and_a_wait_ends_both(
    restorable: Restorable, task_loop: None
) -> None:
    """Their renewals succeed as before, and a watch says nothing of entries that never were."""
    with ThreadPoolExecutor(2) as pool, connect(restorable.endpoint) as etcd:
        faces = (Microlock, loop_face.lock)
        kept = [face(etcd, f"held-{face.__name__}", "one", 12, auto_renew=True) for face in faces]
        waiters = [face(etcd, "queue", f"{face.__name__}", 12, auto_renew=True) for face in faces]
        for each in (*kept, *waiters):
            each.lock()
            each.unlock()
        restorable.save()
        holder = Microlock(etcd, "queue", "one", ttl=12, auto_renew=True)
        holder.lock()
        told = [Witness(each, "lost") for each in kept]
        for each in kept:
            each.lock()
        waiting = [pool.submit(each.lock, timeout=60) for each in waiters]
        assert eventually(lambda: len(holder.waiters()) == 2)
        restorable.restore()
        for each, lost in zip(kept, told, strict=True):
            assert lost.saw("lost")
            assert each.lost_reason is LossReason.DELETED
            with Microlock(etcd, each.key, "two", ttl=5):
                pass
        for _ in waiting:
            first = next(as_completed(waiting, DEADLINE))
            assert not holder.held
            now_held = [each for each in waiters if each.held]
            assert [each.token for each in now_held] == [first.result().token]
            assert holder.holder().token == first.result().token
            waiting.remove(first)
            now_held[0].unlock()
