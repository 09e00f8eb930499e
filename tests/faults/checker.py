"""Whether a run under faults was in order: every rule, over its whole history.

    report = check(Path("the directory of the run"))
    assert not report.violations, report

What is said to be broken is broken: where the history leaves open when something happened, the
earliest or the latest moment is taken that speaks for the library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import holding_rules
import leaving_rules
import telling_rules
from history import Record, read
from verdict import Limits, Report, Rule, Run, Violation

__all__ = ["Limits", "Report", "Rule", "Violation", "check"]


def check(run: Path | Mapping[str, Iterable[Record]], limits: Limits | None = None) -> Report:
    """Judges a run: its directory, or the records of its files by their names without suffix."""
    if isinstance(run, Path):
        run = {path.stem: read(path) for path in sorted(run.glob("*.jsonl"))}
    report = Report()
    history = Run(run, limits or Limits())
    for rule in _RULES:
        report.violations += rule(history, report)
    return report


def _something(run: Run, report: Report) -> Iterator[Violation]:
    """A history without events breaks no rule, and proves nothing."""
    report.counts["changes in etcd"] = run.replay.count
    for what, there in {
        "calls": run.calls,
        "changes in etcd": run.replay.count,
        "locks taken": run.holds,
    }.items():
        if not there:
            yield Violation(Rule.NOTHING, "the history", f"there are no {what}")


_RULES: tuple[Callable[[Run, Report], Iterable[Violation]], ...] = (
    _something,
    holding_rules.recorder,
    holding_rules.tokens,
    holding_rules.reigns,
    holding_rules.claims,
    holding_rules.writes,
    holding_rules.ends,
    telling_rules.changes,
    telling_rules.losses,
    leaving_rules.leftovers,
    leaving_rules.times,
    leaving_rules.crashes,
)
