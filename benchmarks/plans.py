"""What is run: the scenarios and their settings, in two sizes."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any


@dataclass(frozen=True)
class Run:
    """Attributes:
    scenario: a name of `contenders.Contender.scenarios`.
    setting: for the scenario; its times are in seconds.
    headline: the measure that the ratio and the chart are about.
    besides: what else the overview shows.
    only: some contenders, if not all that can do the scenario.
    """

    scenario: str
    setting: dict[str, Any]
    headline: str
    besides: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    def does(self, name: str) -> bool:
        return not self.only or name in self.only

    @property
    def timeout(self) -> float:
        return 120 + 5 * float(self.setting.get("keep", self.setting.get("seconds", 0)))


def _single(keys: int, seconds: float) -> Run:
    setting = {"seconds": seconds, "keys": keys}
    return Run("single", setting, "cycles/s", ("CPU us", "raft writes"))


def _handover(clients: str, seconds: float, *more: int) -> Run:
    setting = {"clients": clients, "waiters": [2, 10, 50, *more], "seconds": seconds}
    return Run("handover", setting, "hand-overs/s", ("fairness",))


def _idle(locks: int, listeners: int, only: tuple[str, ...] = ()) -> Run:
    setting = {"locks": locks, "listeners": listeners}
    return Run("idle", setting, "MiB more than one", ("all watch s",), only)


def _renewal(holds: int, keep: float) -> Run:
    return Run("renewal", {"holds": holds, "keep": keep}, "CPU % of a core", ("lost",))


def _shared(seconds: float, *nodes: tuple[int, int]) -> Run:
    return Run("shared", {"nodes": nodes, "seconds": seconds}, "holds/s", ("writes/s",))


def _several(seconds: float, *numbers: int) -> Run:
    random = Random(7)
    wanted = [random.sample(range(6), 3) for _ in range(8)]
    setting = {"numbers": numbers, "wanted": wanted, "seconds": seconds}
    return Run("several", setting, "cycles/s")


# For a first look, in a few minutes.
SMALL = (
    _single(0, 0.5),
    Run("workers", {"workers": [8], "seconds": 0.5}, "cycles/s"),
    _handover("one", 0.5),
    _idle(1_000, 1_000, only=("microlock", "raw")),
    _renewal(1_000, 4),
    _shared(0.5, (8, 0), (0, 8), (8, 2)),
    _several(0.5, 3),
)

FULL = (
    _single(64, 1.5),
    Run("workers", {"workers": [1, 8, 32, 128], "seconds": 1.5}, "cycles/s"),
    _handover("one", 1.5),
    _handover("each", 1.5),
    _handover("processes", 3, 200),
    _idle(1_000, 1_000),
    _idle(10_000, 0),
    _renewal(1_000, 20),
    _renewal(10_000, 20),
    _shared(1.5, (8, 0), (32, 0), (0, 8), (8, 2), (32, 4)),
    _several(1.5, 2, 4, 16),
)
