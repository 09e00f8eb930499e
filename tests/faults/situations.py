"""The faults of the matrix, and how each is put: to whom it is done, for how long, and what others
can do meanwhile."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle
from subprocess import CalledProcessError

import disk
import nemesis
import network
import pytest
from nemesis import Ground
from test_auth import TOKEN_TTL, Guarded

from microlock.engine import clock

NODE = "node-whose-name-marks-the-put"  # in no other request of a try or an extension
STEP = 3600  # seconds
QUOTA, FILLING = 24 * 4096, 3500  # bytes

Act = Callable[[], None]


@dataclass(frozen=True)
class Case:
    """What a block is told of its cell.

    Attributes:
        patch: what is patched stays so until the end of the test.
    """

    ground: Ground
    call: str
    ttl: float
    guarded: Guarded | None
    patch: pytest.MonkeyPatch


Block = Callable[[Case], AbstractContextManager[Act | None]]


@dataclass(frozen=True)
class Situation:
    """A fault, and what is around it.

    Attributes:
        block: in which the fault is there; what it gives is done once the call is under way.
        ttl: of the lock.
        timeout: of the client.
        lasts: seconds, or until the call has ended if that is sooner; None: until it has ended.
        floor: ttls that it lasts at least.
        cut_off: the client can reach nobody in the block, however long that is.
        others: another client can take and give back the lock in the block.
        leaves: another client can give it back there.
        compacts: what happens in the block is compacted.
        stands_still: so does this process, for a part of the block.
        at_leader: the client talks to the leader, else to a follower.
        separate: the members need networks of their own, and the client goes there without a
            proxy, whose own connections would live on.
        guarded: etcd has users, whose tokens expire.
        quota: of etcd's database, in bytes.
        fast: etcd has fast timers.
        why_not: what is missing for it here; None if nothing is.
    """

    block: Block
    ttl: float = 3
    timeout: float = 5
    lasts: float | None = None
    floor: float = 0
    cut_off: bool = False
    others: bool = True
    leaves: bool = True
    compacts: bool = False
    stands_still: bool = False
    at_leader: bool = False
    separate: bool = False
    guarded: bool = False
    quota: int | None = None
    fast: bool = True
    why_not: Callable[[], str | None] = lambda: None

    @property
    def flags(self) -> list[str]:
        """Of etcd."""
        flags = [f"--auth-token-ttl={TOKEN_TTL}"] if self.guarded else []
        return [*flags, f"--quota-backend-bytes={self.quota}"] if self.quota else flags


def of(fault: Callable[[Ground], AbstractContextManager[None]]) -> Block:
    return lambda case: fault(case.ground)


@contextmanager
def drop_replies(case: Case) -> Iterator[None]:
    """From the transaction that puts the entry on, in calls that have one; else from the first."""
    with nemesis.drop_replies(case.ground):
        if case.call in ("try", "extend"):
            for way in case.ground.ways:
                way.withhold_replies_from(NODE.encode())
                way.replies.set()
        yield


@contextmanager
def reset(case: Case) -> Iterator[None]:
    """Breaks the connections that there are, and the next ones with a reply on them."""
    with nemesis.reset(case.ground), nemesis.drop_replies(case.ground):
        yield


@contextmanager
def pause_client(case: Case) -> Iterator[Act]:
    """The pause comes between requests and their replies."""
    with nemesis.late_replies(case.ground):
        yield lambda: nemesis.pause_this_process(2 * case.ttl)


@contextmanager
def suspend(case: Case) -> Iterator[None]:
    """Only the clock goes on: what is in etcd stands, whose time this is not."""
    real = clock.now
    case.patch.setattr(clock.REAL, "now", lambda: real() + 2 * case.ttl)
    case.patch.setattr(clock, "now", clock.REAL.now)
    yield


@contextmanager
def wall_clock(case: Case) -> Iterator[None]:
    """It is stepped between any two readings."""
    real, steps = time.time, cycle([STEP, -STEP])

    def stepped() -> float:
        # grpc hands a deadline at once to C code, which reads a clock that is not stepped here.
        caller = sys._getframe(1).f_globals.get("__name__", "")
        return real() if caller.startswith("grpc") else real() + next(steps)

    case.patch.setattr(time, "time", stepped)
    yield


@contextmanager
def no_space(case: Case) -> Iterator[None]:
    """Its quota is really used up: an alarm that is only raised refuses less."""
    ground = case.ground
    with suppress(CalledProcessError):
        while True:  # a put that takes less than a page is not refused before all pages are used
            ground.etcdctl("put", "filling", "x" * FILLING)
    try:
        yield
    finally:
        fields = ground.etcdctl("get", "filling", "--limit=1", "-w=fields")
        (revision,) = re.findall(r'^"Revision" : (\d+)', fields, flags=re.MULTILINE)
        ground.etcdctl("compact", "--physical", revision)
        ground.etcdctl("defrag")
        ground.etcdctl("alarm", "disarm")


@contextmanager
def token_expiry(case: Case) -> Iterator[None]:
    assert case.guarded
    case.guarded.outlive_the_tokens()
    yield


SITUATIONS = {
    "kill_leader": Situation(of(nemesis.kill_leader)),
    "kill_connected": Situation(of(nemesis.kill_near)),
    "restart_all": Situation(of(nemesis.restart_all), lasts=0, others=False, leaves=False),
    "pause_leader": Situation(of(nemesis.pause_leader), ttl=2, timeout=3, floor=3, at_leader=True),
    "pause_client": Situation(
        pause_client, ttl=2, timeout=10, lasts=0, others=False, leaves=False, stands_still=True
    ),
    "partition_leader": Situation(
        of(nemesis.partition_leader), at_leader=True, separate=True, why_not=network.why_not
    ),
    "partition_client": Situation(
        of(nemesis.partition_client),
        timeout=1.5,
        cut_off=True,
        others=False,
        leaves=False,
        separate=True,
        why_not=network.why_not,
    ),
    "black_hole": Situation(of(nemesis.black_hole)),
    "drop_requests": Situation(of(nemesis.drop_requests), timeout=1.5, cut_off=True),
    "drop_replies": Situation(drop_replies, timeout=1.5, cut_off=True),
    "late_replies": Situation(of(nemesis.late_replies), lasts=1),
    "reset": Situation(reset, lasts=0.2),
    "loss": Situation(of(nemesis.loss), ttl=6, separate=True, why_not=network.why_not),
    "slow_disk": Situation(of(nemesis.slow_disk), ttl=5, why_not=disk.why_not),
    "no_space": Situation(no_space, ttl=5, others=False, quota=QUOTA),
    "compaction": Situation(of(nemesis.compaction), lasts=0, compacts=True),
    "token_expiry": Situation(token_expiry, ttl=10, lasts=8, guarded=True),
    "suspend": Situation(suspend, ttl=2),
    "wall_clock": Situation(wall_clock, ttl=2),
}
