"""A wire that blocks, on a loop: how many threads its calls take, and for how long."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from microlock.errors import StoreTimeoutError
from microlock.etcd import messages
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.wire import aside
from microlock.etcd.wire.aside import ThreadsWire


class Slow:
    """Answers when a test says so."""

    address = "nowhere"

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self.calls = 0

    def call(self, method: str, message: Any, reply: Any, **_: Any) -> Any:
        self.calls += 1
        assert self.goes_on.wait(10)
        return reply()


async def call(wire: ThreadsWire, timeout: float) -> Any:
    request = pb.RangeRequest(key=b"a")
    return await wire.call(messages.RANGE, request, pb.RangeResponse, timeout=timeout, metadata=())


def test_a_call_that_gets_no_turn_in_time_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside, "_AT_ONCE", 2)

    async def main() -> None:
        slow = Slow()
        wire = ThreadsWire(slow)  # type: ignore[arg-type]
        two = [asyncio.create_task(call(wire, 10)) for _ in range(2)]
        while slow.calls < 2:
            await asyncio.sleep(0.001)
        with pytest.raises(StoreTimeoutError) as error:
            await call(wire, 0.05)
        slow.goes_on.set()
        await asyncio.gather(*two)
        assert (slow.calls, error.value.may_have_happened) == (2, False)

    asyncio.run(main())


def test_a_cancelled_call_keeps_its_turn_as_long_as_its_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(aside, "_AT_ONCE", 1)

    async def main() -> None:
        slow = Slow()
        wire = ThreadsWire(slow)  # type: ignore[arg-type]
        first = asyncio.create_task(call(wire, 10))
        while slow.calls < 1:
            await asyncio.sleep(0.001)
        first.cancel()
        await asyncio.wait({first})
        with pytest.raises(StoreTimeoutError):
            await call(wire, 0.05)
        slow.goes_on.set()
        await call(wire, 10)
        assert slow.calls == 2

    asyncio.run(main())
