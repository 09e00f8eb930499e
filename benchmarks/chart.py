"""The headlines as bars, in SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from plans import Run
from report import US, Results, headline_of, middle

LABEL, BARS, VALUE = 170, 420, 90  # widths in pixels
BAR, GAP = 18, 6


def chart(results: Results, runs: Sequence[Run]) -> str:
    """A group of bars for each scenario and cell, each with a scale of its own."""
    by_scenario = {run.scenario: run for run in runs}
    parts: list[str] = []
    y = 0
    for (scenario, cell), contenders in results.values.items():
        headline = headline_of(by_scenario[scenario], contenders)
        values = {
            name: value
            for name, mine in contenders.items()
            if (value := middle(mine.get(headline, []))) is not None
        }
        if not values:
            continue
        y += 34
        parts.append(_text(0, y, f"{scenario}: {cell}: {headline}", "title"))
        most = max(*values.values(), 1e-9)
        for name, value in values.items():
            y += BAR + GAP
            width = max(1.0, BARS * value / most)
            kind = "us" if name.startswith(US) else "them"
            parts.append(_text(LABEL - 8, y, name, "name"))
            parts.append(
                f'<rect class="{kind}" x="{LABEL}" y="{y - BAR + 4}" '
                f'width="{width:.1f}" height="{BAR}"/>'
            )
            parts.append(_text(LABEL + width + 6, y, f"{value:,.4g}", "value"))
    style = (
        "text{font:13px sans-serif;fill:#222}.title{font-weight:bold}.name{text-anchor:end}"
        ".us{fill:#1f6feb}.them{fill:#a8b1bb}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LABEL + BARS + VALUE}" '
        f'height="{y + 20}">\n<style>{style}</style>\n'
        '<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y}">{escape(text)}</text>'
