"""What a cell of the matrix has: a cluster, the client that the fault happens to, and one that it
does not; and the truth in etcd, to compare with what the caller was told."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic, sleep

import faces
import pytest
import requests
from nemesis import Ground
from situations import NODE, Case, Situation
from test_auth import PASSWORD, ROOT, Guarded
from watching import eventually, threads_of_microlock
from witness import AT_ONCE, at_most, entries, leases

from microlock import LockUncertainError, Microlock, State, connect
from microlock.server import find_binary

KEY = "mine"  # what users may do without being root
SLACK = 1.5  # for a machine that is busy
STEADY = 5.0  # the timeout of the other client


class Scene:
    """The actors of one cell.

    Attributes:
        foo: the lock that the fault happens to, of the face under test.
        theirs: the same lock, of another node, whose client goes to etcd straight; of threads.
    """

    def __init__(
        self, situation: Situation, ground: Ground, call: str, patch: pytest.MonkeyPatch
    ) -> None:
        self.situation = situation
        self.ground = ground
        self.before = threads_of_microlock()
        leader = ground.cluster.leader()  # while everybody may ask
        guarded = Guarded(ground.cluster.members[0]) if situation.guarded else None
        user = {"user": "worker", "password": PASSWORD} if guarded else {}
        self.case = Case(ground, call, situation.ttl, guarded, patch)
        ground.near = leader if situation.at_leader else (leader + 1) % 3
        order = [ground.near, *(i for i in range(3) if i != ground.near)]
        straight = [ground.cluster.endpoints[i] for i in order]
        self._clients = ExitStack()
        etcd = self._clients.enter_context(
            connect(
                straight if situation.separate else ground.endpoints,
                timeout=situation.timeout,
                **user,
            )
        )
        other = self._clients.enter_context(connect(straight[::-1], timeout=STEADY, **user))
        self.foo = faces.Microlock(etcd, KEY, NODE, situation.ttl, auto_renew=call == "auto_renew")
        self.theirs = Microlock(other, KEY, "another", 60)
        self.foo.holder()  # the client has had an answer

    def ctl(self, *command: str) -> str:
        user = [f"--user={':'.join(ROOT)}"] if self.case.guarded else []
        return self.ground.etcdctl(*user, *command)

    @contextmanager
    def fault(self) -> Iterator[Callable[..., None]]:
        """It is there in the block. Gives what is to be called once the call is under way: it
        returns when the fault has lasted long enough."""
        situation = self.situation
        with situation.block(self.case) as act:
            begun = monotonic()

            def last(ended: Callable[[], object], floor: float = situation.floor) -> None:
                if act:
                    act()
                if situation.lasts is None:
                    eventually(ended)
                    sleep(max(0.0, begun + floor * situation.ttl - monotonic()))
                else:
                    eventually(ended, situation.lasts)

            yield last

    @contextmanager
    def elsewhere(self) -> Iterator[subprocess.Popen[str]]:
        """In half a second another machine takes the lock, prints its token and gives it back."""
        endpoints = ",".join(self.ground.cluster.endpoints)
        etcdctl = [str(find_binary("etcdctl")), f"--endpoints={endpoints}", "lock", "--ttl=1", KEY]
        inside = self.ground.network.inside(0) if self.ground.network else []
        with subprocess.Popen(
            [*inside, "sh", "-c", 'sleep 0.5; exec "$@" printenv ETCD_LOCK_REV', "sh", *etcdctl],
            env={"ETCDCTL_API": "3", "PATH": os.environ["PATH"]},
            text=True,
            stdout=subprocess.PIPE,
        ) as process:
            yield process

    # The truth.

    def ours(self) -> bool:
        """Whether etcd has an entry of ours."""
        places = [self.theirs.holder(), *self.theirs.waiters()]
        return any(place and place.node_id == NODE for place in places)

    def assert_told_the_truth(self, error: BaseException | None) -> None:
        """The fault is over; the caller was told this."""
        if self.foo.held:
            holder = self.theirs.holder()
            assert holder
            assert (holder.token, holder.node_id) == (self.foo.token, NODE)
        elif isinstance(error, LockUncertainError) or self.foo.state is State.LOST:
            # The ttl, and once more for an election.
            assert eventually(lambda: not self.ours(), 2 * self.situation.ttl + SLACK)
        else:
            assert not self.ours()

    def assert_works(self) -> None:
        """The lock can be had at once, by this client and by the other one."""
        if self.foo.held:
            with at_most(AT_ONCE):
                self.foo.unlock()
        for lock in (self.foo, self.theirs, self.foo):
            with at_most(AT_ONCE):
                lock.lock()
                lock.unlock()

    def assert_leaves_nothing(self) -> None:
        """Ends it all."""
        for lock in (self.foo, self.theirs):
            lock.destroy()
        assert entries(self.ctl, KEY) == []
        assert eventually(lambda: not leases(self.ctl), 2 * self.situation.ttl + SLACK), leases(
            self.ctl
        )
        assert eventually(lambda: self._watch_streams() == 0)
        self.close()
        assert eventually(lambda: threads_of_microlock() <= self.before)

    def _watch_streams(self) -> int:
        texts = [
            requests.get(f"http://{each}/metrics", timeout=5).text
            for each in self.ground.cluster.endpoints
        ]
        name = "etcd_debugging_mvcc_watch_stream_total "
        lines = [line for text in texts for line in text.splitlines() if line.startswith(name)]
        return sum(int(line.split()[1]) for line in lines)

    def close(self) -> None:
        self._clients.close()
