"""A call that waits on the thread of an event loop is warned of, once."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import pytest

from microlock.engine import blocked_loop


@pytest.fixture(autouse=True)
def anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked_loop, "_first", iter((True,)))


def on_a_loop(call: Callable[[], object]) -> None:
    async def main() -> None:
        call()

    asyncio.run(main())


def test_it_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        on_a_loop(blocked_loop.warn_of_waiting)
    assert ["event loop" in each for each in caplog.messages] == [True]


def test_a_thread_without_a_loop_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    blocked_loop.warn_of_waiting()
    on_a_loop(lambda: None)
    assert caplog.messages == []


@pytest.mark.parametrize("module", [None, object()], ids=["not imported", "half imported"])
def test_a_process_without_asyncio_is_not_warned_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, module: Any
) -> None:
    monkeypatch.delitem(sys.modules, "asyncio")
    if module:
        monkeypatch.setitem(sys.modules, "asyncio", module)
    blocked_loop.warn_of_waiting()
    assert caplog.messages == []
