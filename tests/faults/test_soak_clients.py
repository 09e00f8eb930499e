"""The clients of the soak: what is said of one that does not end when it should, and only then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import soak
from history import now
from verdict import Rule
from watching import eventually

Start = Callable[..., soak.Clients]
NOBODY = "127.0.0.1:1"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the client "c0": `start([endpoint], seconds=1)`."""
    with ExitStack() as stack:

        def start(endpoints: list[str], *, seconds: float) -> soak.Clients:
            ground = cast(Any, SimpleNamespace(endpoints=endpoints))
            clients = soak.Clients(tmp_path, ground, seed=1, end=now() + seconds)
            stack.enter_context(closing(clients))
            clients.start("c0")
            return clients

        yield start


def test_a_client_that_ends_by_an_error_is_a_violation_with_what_it_said_last(
    start: Start,
) -> None:
    clients = start(["not an endpoint"], seconds=60)
    clients.join()
    (violation,) = clients.violations
    assert (violation.rule, violation.where) == (Rule.CLIENT, "c0")
    assert "InvalidArgumentError" in violation.evidence


def test_a_client_that_does_not_end_is_a_violation_with_its_stacks(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(soak, "PATIENCE", 0.5)
    clients = start([NOBODY], seconds=600)
    journal = tmp_path / "c0.jsonl"
    assert eventually(lambda: journal.exists() and "Called" in journal.read_text())
    clients.join()
    (violation,) = clients.violations
    assert (violation.rule, violation.where) == (Rule.CLIENT, "c0")
    assert "in main" in violation.evidence
    assert "in work" in violation.evidence


def test_a_client_that_is_killed_on_purpose_is_no_violation(start: Start) -> None:
    clients = start([NOBODY], seconds=600)
    clients.kill("c0")
    assert not clients.violations
