"""The decisions know no thread, no clock and no network; import-linter holds the layers."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import microlock

PACKAGE = Path(microlock.__file__).parent
CORE = (PACKAGE / "core").rglob("*.py")
PURE = ["errors", "events", *sorted(f"{path.relative_to(PACKAGE)}"[:-3] for path in CORE)]
FORBIDDEN = {"asyncio", "grpc", "pyee", "socket", "tenacity", "threading", "time"}


def imported(module: str) -> set[str]:
    """Everything that a module names in an import, wherever it stands."""
    names = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


@pytest.mark.parametrize("module", PURE)
def test_a_decision_imports_no_thread_no_clock_and_no_network(module):
    assert not {name.split(".")[0] for name in imported(module)} & FORBIDDEN


@pytest.mark.parametrize("module", PURE)
def test_a_decision_imports_only_decisions_of_ours(module):
    ours = {".".join(name.split(".")[:2]) for name in imported(module)}
    assert {each for each in ours if each.startswith("microlock.")} <= {
        "microlock.core",
        "microlock.errors",
        "microlock.events",
    }
