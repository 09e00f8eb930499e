"""The pages as plain files: how long the README is, and that every link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import microlock
import microlock.asyncio

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "benchmarks/README.md",
    ]
)


def test_the_readme_is_read_in_three_minutes() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 900


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


@pytest.mark.parametrize(("page", "face"), [("api", microlock), ("api-asyncio", microlock.asyncio)])
def test_the_api_pages_have_each_class_of_a_face(page: str, face: ModuleType) -> None:
    own = {
        name
        for name in face.__all__
        if isinstance(kind := getattr(face, name), type)
        and not issubclass(kind, Exception)
        and (face is microlock or kind is not getattr(microlock, name))
    }
    listed = re.findall(r"^::: ([\w.]+)\.(\w+)$", (ROOT / f"docs/{page}.md").read_text(), re.M)
    assert own - {"EtcdClient"} <= {name for where, name in listed if where == face.__name__}


def test_the_changelog_begins_with_the_version_that_is_built() -> None:
    (built,) = re.findall(r"^version = (.*)$", (ROOT / "setup.cfg").read_text(), re.M)
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.findall(r"^## (.*)$", changelog, re.M)[0] == built


def test_the_workflow_calls_targets_of_make_on_each_python_and_etcd() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    jobs = workflow["jobs"].values()
    commands = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    targets = re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.M)
    assert {command.split()[0] for command in commands} == {"make"}
    assert {command.split()[1] for command in commands} <= set(targets)
    matrix = {}
    for job in jobs:
        matrix |= job.get("strategy", {}).get("matrix", {})
    assert matrix == {
        "python": ["3.10", "3.11", "3.12", "3.13", "3.14"],
        "etcd": ["v3.4", "v3.5", "v3.6"],
    }
