"""The pages as plain files: how long the README is, and that every link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "benchmarks/README.md",
    ]
)


def test_the_readme_is_read_in_three_minutes() -> None:
    words = [each for each in (ROOT / "README.md").read_text().split() if re.search(r"\w", each)]
    assert len(words) <= 900


def anchors(page: Path) -> set[str]:
    """Those of its headings, as GitHub and MkDocs name them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    named = [re.sub(r"[^\w\- ]", "", heading.lower()).strip() for heading in headings]
    return {heading.replace(" ", "-") for heading in named}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_link_of_a_page_leads_somewhere(page: Path) -> None:
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", prose) if "://" not in link]
    dead = []
    for link in links:
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert dead == []


def test_the_list_of_decisions_has_each_with_its_title() -> None:
    decisions = ROOT / "docs/decisions"
    listed = re.findall(
        r"^\* \[(\d+)\]\((.*?)\): (.*)$", (decisions / "README.md").read_text(), re.M
    )
    assert listed == [
        (page.name[:3], page.name, page.read_text().partition("\n")[0].removeprefix("# "))
        for page in sorted(decisions.glob("0*.md"))
    ]
