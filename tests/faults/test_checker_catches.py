"""The checker on what really happens: the library as it is passes, and each deliberate bug in it is
caught, for the reason that it was put there for. And the instruments that it relies on."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

import pytest
from actors import Stage
from checker import Report, check
from cluster import Cluster
from faces import BOTH_FACES, ONLY_THREADS
from fenced import Fenced
from history import Changed, read
from recorder import Recorder
from sabotage import SABOTAGES, Sabotage
from scenarios import LIMITS

from microlock import Microlock, connect
from microlock.server import EtcdServer

SCENARIOS = list(dict.fromkeys(sabotage.scenario for sabotage in SABOTAGES))
Play = Callable[..., Report]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with EtcdServer(fast=True) as server:
        yield server.endpoint


@pytest.fixture
def play(endpoint: str, tmp_path: Path) -> Play:
    """Plays a scenario, with a bug or without, and judges it."""

    def play(
        scenario: Callable[[Stage], None],
        bug: Callable[[], AbstractContextManager[Any]] = nullcontext,
        *,
        fenced: bool = True,
    ) -> Report:
        prefix = f"{uuid.uuid4().hex[:8]}/"
        with bug(), Stage(endpoint, tmp_path, prefix, fenced=fenced) as stage:
            scenario(stage)
        return check(tmp_path, LIMITS)

    return play


@BOTH_FACES
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_the_library_as_it_is_passes(play: Play, scenario: Callable[[Stage], None]) -> None:
    report = play(scenario)
    assert not report.violations, str(report)


@ONLY_THREADS
@BOTH_FACES
@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda sabotage: sabotage.name)
def test_a_bug_is_caught(play: Play, sabotage: Sabotage) -> None:
    report = play(sabotage.scenario, sabotage.bug, fenced=sabotage.fenced)
    assert sabotage.rule in report.rules, str(report)


def test_the_recorder_misses_nothing_while_members_die_in_turn(tmp_path: Path) -> None:
    with (
        closing(Cluster(None)) as cluster,
        Recorder(cluster.endpoints, tmp_path) as recorder,
        connect(cluster.endpoints, timeout=10) as etcd,
    ):
        lock = Microlock(etcd, "foo", "one", ttl=60)
        for member in cluster.members:
            member.kill()
            for _ in range(3):
                lock.lock()
                lock.unlock()
            member.start()
        recorder.finish()
    noted = [each for each in read(tmp_path / "etcd.jsonl") if isinstance(each, Changed)]
    # A put and a delete in each cycle, each of a revision of its own, and the last word.
    assert [each.revision for each in noted] == list(range(2, 2 + 3 * 3 * 2 + 1))
    assert noted[-1].name == "settled"


def test_the_store_accepts_no_token_lower_than_one_before(tmp_path: Path) -> None:
    def write(token: int) -> bool:
        return Fenced(tmp_path / "store.db").write("p", "foo", token)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(write, [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 9]))
    attempts = Fenced(tmp_path / "store.db").attempts()
    accepted = [each.token for each in attempts if each.accepted]
    assert accepted == sorted(accepted)
    assert len(accepted) == sum(answers)
    refused = [i for i, each in enumerate(attempts) if not each.accepted]
    assert all(
        attempts[i].token < max(a.token for a in attempts[:i] if a.accepted) for i in refused
    )
