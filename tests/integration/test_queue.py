"""Many that wait all the time: one at a time, in the order of arrival, and nobody starves.

What happened is read from three places that know nothing of each other: what each wrote into files
while it had the lock, what it wrote into etcd then, and etcd's own history of the queue.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from subprocess import Popen

import pytest
from conftest import Etcd
from ctl import Etcdctl
from nodes import LONG, begin, nodes, queued
from test_processes import started
from witness import entries, leases

from microlock import Microlock
from microlock.server import find_binary

PATIENCE = 120  # seconds for a whole race, on a machine that is busy

# What one of ours does in each round. A fenced counter is read and written in two steps, and what
# is appended to the log in one.
OURS = """
etcd = connect(endpoint)
lock = Microlock(etcd, key, name, ttl=60)
log = open("log", "a")

def note(what):
    print(what, hold.token, name, file=log, flush=True)

for _ in range(rounds):
    hold = lock.lock(timeout=120)
    note("in")
    with open("counter") as counter:
        count, fence = map(int, counter.read().split())
    if hold.token <= fence:
        sys.exit(f"the counter refuses {hold.token} after {fence}")
    etcd.transaction(lock.guard(), put={key + "-acts": str(hold.token)})
    with open("counter", "w") as counter:
        counter.write(f"{count + 1} {hold.token}")
    note("out")
    lock.unlock()
lock.destroy()
etcd.close()
"""

# The same for `etcdctl lock`, which tells its command the name of the entry, and not its token.
THEIRS = """
echo in $ETCD_LOCK_KEY etcdctl >>log
read count fence <counter
"$0" "--endpoints=$1" put "$2-acts" $ETCD_LOCK_KEY >acts || exit
echo $((count + 1)) $fence >counter
echo out $ETCD_LOCK_KEY etcdctl >>log
"""


@dataclass(frozen=True)
class Change:
    """What etcd remembers of one key; `value` is None for a deletion."""

    revision: int
    name: str
    value: str | None


def history(etcdctl: Etcdctl, prefix: str, since: int) -> Iterator[Change]:
    """All that has happened under the prefix from this revision until now."""
    end = f"{prefix}end"
    etcdctl("put", end, "")
    with etcdctl.start("watch", "--prefix", prefix, f"--rev={since}", "-w=json") as process:
        try:
            assert process.stdout
            for line in process.stdout:
                for event in json.loads(line).get("Events", ()):
                    kv = event["kv"]
                    name = base64.b64decode(kv["key"]).decode()
                    if name == end:
                        return
                    value = base64.b64decode(kv.get("value", "")).decode()
                    yield Change(kv["mod_revision"], name, None if event.get("type") else value)
        finally:
            process.kill()


@dataclass(frozen=True)
class Race:
    """What was left of a race.

    Attributes:
        total: rounds, of all together.
        log: what (`in` or `out`), whose entry or token it was, and who.
        count: what the counter came to.
        past: etcd's history, from the first entry on.
        entries: under the lock, when all were done.
        leases: in etcd, when all were done.
    """

    key: str
    total: int
    log: list[tuple[str, str, str]]
    count: int
    past: list[Change]
    entries: list[str]
    leases: set[int]

    @property
    def arrivals(self) -> list[Change]:
        """The entries as they were put, but for the first, which kept all waiting."""
        _, *puts = [each for each in self.past if self._is_entry(each) and each.value is not None]
        return puts

    @property
    def tokens(self) -> list[int]:
        """Of those who had the lock, in the order in which they had it."""
        named = {each.name: each.revision for each in self.arrivals}
        entered = [whose for what, whose, _ in self.log if what == "in"]
        return [int(whose) if whose.isdigit() else named[whose] for whose in entered]

    @property
    def acts(self) -> list[tuple[str | None, set[str]]]:
        """Who wrote into etcd, and what the oldest entry was called at that revision."""
        found = []
        line: dict[str, int] = {}  # oldest first
        for each in self.past:
            if each.name == f"{self.key}-acts":
                name, token = next(iter(line.items()), ("nobody", 0))
                found.append((each.value, {name, str(token)}))
            elif self._is_entry(each):
                if each.value is None:
                    del line[each.name]
                else:
                    line[each.name] = each.revision
        return found

    def _is_entry(self, change: Change) -> bool:
        return change.name.startswith(f"{self.key}/")


def race(etcd: Etcd, directory: Path, *, ours: int, theirs: int, rounds: int) -> Race:
    """All are in line before the first of them has its turn."""
    etcdctl = Etcdctl(etcd.endpoint)
    prefix = f"race-{uuid.uuid4().hex[:8]}/"
    key = f"{prefix}foo"
    (directory / "counter").write_text("0 0")
    with ExitStack() as stack:
        make = stack.enter_context(nodes(etcd.endpoint, key))
        first = make("first")
        since = first.lock().token

        def run_ours(number: int) -> Popen[str]:
            script = f"os.chdir({str(directory)!r})\nname, rounds = 'ours-{number}', {rounds}\n"
            return stack.enter_context(started(script + OURS, etcd.endpoint, key))

        def run_theirs() -> None:
            binary = str(find_binary("etcdctl"))
            command = ["sh", "-c", f"cd '{directory}'\n{THEIRS}", binary, etcd.endpoint, key]
            for _ in range(rounds):
                etcdctl("lock", key, "--", *command, timeout=PATIENCE)

        processes = [run_ours(number) for number in range(ours)]
        loops = [begin(run_theirs) for _ in range(theirs)]
        assert queued(first, ours + theirs)
        first.unlock()
        for loop in loops:
            loop.result(PATIENCE)
        for process in processes:
            assert process.wait(PATIENCE) == 0
    log = [line.split() for line in (directory / "log").read_text().splitlines()]
    return Race(
        key=key,
        total=(ours + theirs) * rounds,
        log=[(what, whose, who) for what, whose, who in log],
        count=int((directory / "counter").read_text().split()[0]),
        past=list(history(etcdctl, prefix, since)),
        entries=entries(etcdctl, key),
        leases={int(lease, 16) for lease in leases(etcdctl)},
    )


@pytest.fixture(scope="module")
def ours(etcd_server: Etcd, tmp_path_factory: pytest.TempPathFactory) -> Race:
    """8 processes."""
    return race(etcd_server, tmp_path_factory.mktemp("race"), ours=8, theirs=0, rounds=50)


@pytest.fixture(scope="module")
def mixed(etcd_server: Etcd, tmp_path_factory: pytest.TempPathFactory) -> Race:
    """4 processes, and 4 who start `etcdctl lock` over and over."""
    return race(etcd_server, tmp_path_factory.mktemp("race"), ours=4, theirs=4, rounds=10)


@pytest.fixture(params=["ours", "mixed"])
def ran(request: pytest.FixtureRequest) -> Race:
    made: Race = request.getfixturevalue(request.param)
    return made


def test_nobody_comes_in_before_the_last_one_has_left(ran: Race) -> None:
    visits = list(zip(ran.log[::2], ran.log[1::2], strict=True))
    assert [visit for visit in visits if visit[1] != ("out", *visit[0][1:])] == []
    assert {coming for (coming, _, _), _ in visits} == {"in"}


def test_a_counter_that_refuses_lower_tokens_counts_every_round(ran: Race) -> None:
    assert ran.count == ran.total


def test_tokens_rise_in_the_order_in_which_the_rounds_were_run(ran: Race) -> None:
    assert len(ran.tokens) == ran.total
    assert ran.tokens == sorted(set(ran.tokens))


def test_whoever_acts_is_the_oldest_entry_at_that_revision(ran: Race) -> None:
    assert len(ran.acts) == ran.total
    assert [(who, oldest) for who, oldest in ran.acts if who not in oldest] == []


def test_the_lock_is_had_in_the_order_of_arrival(ran: Race) -> None:
    assert ran.tokens == [each.revision for each in ran.arrivals]


def test_while_one_waits_nobody_else_has_the_lock_twice(ours: Race) -> None:
    who = {str(each.revision): each.value for each in ours.arrivals}
    turns = [
        (each.revision, who[str(each.value)])
        for each in ours.past
        if each.name == f"{ours.key}-acts"
    ]
    assert len(set(who.values())) == 8
    for turn, arrival in enumerate(ours.tokens):
        meanwhile = [name for revision, name in turns[:turn] if revision > arrival]
        assert len(meanwhile) == len({*meanwhile, who[str(arrival)]}) - 1


def test_nothing_is_left_when_all_are_done(ran: Race) -> None:
    assert ran.entries == []
    # etcdctl, which stores no name, leaves its leases to their ttl.
    ours = {int(each.name.rpartition("/")[2], 16) for each in ran.arrivals if each.value}
    assert ours & ran.leases == set()


# Both kinds in one line


def test_ours_and_etcdctl_have_the_lock_in_the_order_in_which_they_came(
    etcd_server: Etcd, etcdctl: Etcdctl, prefix: str, tmp_path: Path
) -> None:
    log, names = tmp_path / "log", [f"{kind}-{n}" for n in range(4) for kind in ("ours", "theirs")]
    with nodes(etcd_server.endpoint, f"{prefix}foo") as make:

        def ours(name: str) -> None:
            with make(name), log.open("a") as file:
                file.write(f"{name} in\n")
                file.flush()
                file.write(f"{name} out\n")

        def theirs(name: str) -> None:
            script = f"echo {name} in >>'{log}'; echo {name} out >>'{log}'"
            etcdctl("lock", f"{prefix}foo", "--", "sh", "-c", script, timeout=PATIENCE)

        first = make("first")
        first.lock()
        waiting = []
        for count, name in enumerate(names, 1):
            take = ours if name.startswith("ours") else theirs
            waiting.append(begin(partial(take, name)))
            assert queued(first, count)
        first.unlock()
        for each in waiting:
            each.result(PATIENCE)
    assert log.read_text().split("\n")[:-1] == [
        f"{name} {what}" for name in names for what in ("in", "out")
    ]


# Threads and objects of one process


@pytest.mark.parametrize("clients", ["one client", "a client each"])
def test_objects_of_one_process_have_the_lock_in_the_order_in_which_they_came(
    etcd_server: Etcd, prefix: str, clients: str
) -> None:
    had: list[int] = []
    with nodes(etcd_server.endpoint, f"{prefix}foo") as make:

        def take(number: int) -> None:
            with make("one" if clients == "one client" else f"number-{number}"):
                had.append(number)

        first = make("first")
        first.lock()
        waiting = []
        for number in range(8):
            waiting.append(begin(partial(take, number)))
            assert queued(first, number + 1)
        first.unlock()
        for each in waiting:
            each.result(PATIENCE)
    assert had == list(range(8))


@pytest.mark.parametrize("clients", ["one client", "a client each"])
def test_threads_of_one_process_exclude_each_other(
    etcd_server: Etcd, prefix: str, clients: str
) -> None:
    inside: list[int] = []
    tokens: list[int] = []
    crowds: list[list[int]] = []

    def work(lock: Microlock) -> None:
        for _ in range(50):
            token = lock.lock(timeout=LONG).token
            inside.append(token)
            tokens.append(token)
            if len(inside) > 1:
                crowds.append(list(inside))
            inside.remove(token)
            lock.unlock()

    with nodes(etcd_server.endpoint, f"{prefix}foo") as make:
        both = [make("one"), make("one" if clients == "one client" else "two")]
        for each in [begin(partial(work, lock)) for lock in both]:
            each.result(PATIENCE)
    assert crowds == []
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 100
