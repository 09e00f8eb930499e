"""Results of all rounds, as medians and ratios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from contenders import CONTENDERS
from plans import Run

US = "microlock"


@dataclass
class Results:
    """`values`: of each round, by scenario, cell, contender and measure; None: not measurable."""

    about: dict[str, Any]
    left_out: dict[str, str]
    values: dict[tuple[str, str], dict[str, dict[str, list[float | None]]]] = field(
        default_factory=dict
    )
    failures: list[tuple[str, str, str]] = field(default_factory=list)

    def add(self, scenario: str, cell: str, contender: str, measures: dict[str, Any]) -> None:
        if error := measures.pop("error", None):
            self.failed(f"{scenario}, {cell}", contender, error)
        mine = self.values.setdefault((scenario, cell), {}).setdefault(contender, {})
        for measure, value in measures.items():
            mine.setdefault(measure, []).append(value)

    def failed(self, scenario: str, contender: str, why: str) -> None:
        if (scenario, contender, why) not in self.failures:
            self.failures.append((scenario, contender, why))

    def complete(self, contender: str) -> bool:
        return not any(name == contender for _, name, _ in self.failures)

    def ratio(self, key: tuple[str, str], contender: str, measure: str) -> float | None:
        """microlock over the contender: the median of the ratios of the rounds, since what
        disturbs a round disturbs both."""
        ours = self.values[key].get(US, {}).get(measure, [])
        theirs = self.values[key][contender].get(measure, [])
        ratios = [
            us / them for us, them in zip(ours, theirs, strict=False) if us is not None and them
        ]
        return median(ratios) if ratios else None

    def as_json(self) -> dict[str, Any]:
        rows = []
        for (scenario, cell), contenders in self.values.items():
            for contender, measures in contenders.items():
                for measure, values in measures.items():
                    known = [value for value in values if value is not None]
                    rows.append(
                        {
                            "scenario": scenario,
                            "cell": cell,
                            "contender": contender,
                            "measure": measure,
                            "median": median(known) if known else None,
                            "min": min(known, default=None),
                            "max": max(known, default=None),
                            "rounds": values,
                            "microlock / it": self.ratio((scenario, cell), contender, measure),
                        }
                    )
        return {
            "about": self.about,
            "left out": self.left_out,
            "failures": self.failures,
            "results": rows,
        }


def middle(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def table(results: Results, runs: Sequence[Run]) -> str:
    """What is printed: a table for each scenario and cell."""
    by_scenario = {run.scenario: run for run in runs}
    lines = [", ".join(f"{key}: {value}" for key, value in results.about.items())]
    for (scenario, cell), contenders in results.values.items():
        measures = list(dict.fromkeys(m for mine in contenders.values() for m in mine))
        headline = headline_of(by_scenario[scenario], contenders)
        rows = [["", *measures, f"microlock / it, {headline}"]]
        for contender, mine in contenders.items():
            ratio = results.ratio((scenario, cell), contender, headline)
            values = [_number(middle(mine.get(measure, []))) for measure in measures]
            last = "" if contender == US else _number(ratio)
            rows.append([contender, *values, last])
        lines += ["", f"{scenario}: {cell}", *_aligned(rows)]
    notes = {each.name: each.note for each in CONTENDERS if each.note}
    seen = list(dict.fromkeys(name for mine in results.values.values() for name in mine))
    lines += ["", *(f"{name}: {notes[name]}" for name in seen if name in notes)]
    lines += [f"left out: {name}: {why}" for name, why in results.left_out.items()]
    lines += [f"failed: {scenario}: {name}: {why}" for scenario, name, why in results.failures]
    return "\n".join([*lines, ""])


def overview(results: Results, runs: Sequence[Run]) -> str:
    """All in one table, in Markdown: medians, and in brackets microlock over the contender."""
    by_scenario = {run.scenario: run for run in runs}
    names = list(dict.fromkeys(name for mine in results.values.values() for name in mine))
    lines = [f"| | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for (scenario, cell), contenders in results.values.items():
        headline = headline_of(by_scenario[scenario], contenders)
        for measure in (headline, *by_scenario[scenario].besides):
            values = [contenders.get(name, {}).get(measure) for name in names]
            if not any(values):
                continue
            shown = [_number(middle(value)) if value else "" for value in values]
            if measure == headline:
                for place, name in enumerate(names):
                    if shown[place] and name != US:
                        ratio = results.ratio((scenario, cell), name, headline)
                        shown[place] += f" ({_number(ratio)})"
            lines.append(f"| {scenario}, {cell}: {measure} | {' | '.join(shown)} |")
    return "\n".join([*lines, ""])


def headline_of(run: Run, contenders: Mapping[str, Mapping[str, object]]) -> str:
    """The measure that the ratio and the chart of a cell are about."""
    measures = [measure for mine in contenders.values() for measure in mine]
    return run.headline if run.headline in measures else measures[0]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
