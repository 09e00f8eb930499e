"""The wire on a loop of asyncio: connections that are left or fail, and no thread to be had."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from member import DEADLINE, Member, serving

from microlock.core.port import Get
from microlock.engine import awaiting
from microlock.errors import DestroyedError, StoreTimeoutError, StoreUnavailableError
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.login import Login
from microlock.etcd.messages import GRANT
from microlock.etcd.on_loop import EtcdLoopStore
from microlock.etcd.wire import Address, aio, aside
from microlock.etcd.wire.aio import AioWire
from microlock.etcd.wire.aside import ThreadsWire
from microlock.etcd.wire.sockets import SocketWire

NEVER = 0  # a ttl that the member has no answer for
LONG = 600.0


@pytest.fixture
def member() -> Iterator[Member]:
    with serving(socket.create_server(("127.0.0.1", 0))) as made:
        yield made


def on_loop(member: Member) -> AioWire:
    host, port = member._listening.getsockname()
    return SocketWire(Address(f"{host}:{port}", host, port)).on_loop()


async def grant(wire: Any, ttl: int, timeout: float = LONG) -> int:
    request = pb.LeaseGrantRequest(TTL=ttl)
    answer: pb.LeaseGrantResponse = await wire.call(
        GRANT, request, pb.LeaseGrantResponse, timeout=timeout, metadata=()
    )
    return answer.ID


async def until(done: Callable[[], object]) -> None:
    async def poll() -> None:
        while not done():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(poll(), DEADLINE)


async def outcomes(*calls: Awaitable[int]) -> list[type]:
    met = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), DEADLINE)
    return [type(each) for each in met]


def test_close_ends_also_the_calls_on_a_connection_that_was_left(member: Member) -> None:
    async def main() -> None:
        wire = on_loop(member)
        first = asyncio.ensure_future(grant(wire, NEVER))
        await until(lambda: member.requests)
        member.go_away()
        link = wire._link
        assert link
        await until(lambda: not link.usable)
        second = asyncio.ensure_future(grant(wire, NEVER))
        await until(lambda: len(member.requests) == 2)
        assert member.accepted == 2
        wire.close()
        assert await outcomes(first, second) == [DestroyedError] * 2

    asyncio.run(main())


def test_a_connection_that_fails_as_a_call_begins_is_closed_and_ends_the_others(
    member: Member,
) -> None:
    async def main() -> None:
        wire = on_loop(member)
        others = [asyncio.ensure_future(grant(wire, NEVER)) for _ in range(2)]
        await until(lambda: len(member.requests) == 2)
        link = wire._link
        assert link
        assert link._transport
        link._connection._pinged = 0.0  # and it has not answered since
        assert await outcomes(grant(wire, 1), *others) == [StoreUnavailableError] * 3
        assert link._transport.is_closing()
        assert await grant(wire, 5) == 5
        assert member.accepted == 2
        wire.close()

    asyncio.run(main())


def test_calls_end_by_their_own_deadlines_in_whatever_order_they_were_made(
    member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aio, "_TICK", LONG)  # else each would end with the next look at the peer

    async def main() -> None:
        wire, ended = on_loop(member), []

        async def call(timeout: float) -> None:
            with pytest.raises(StoreTimeoutError):
                await grant(wire, NEVER, timeout)
            ended.append(timeout)

        assert await grant(wire, 1) == 1
        long = asyncio.ensure_future(grant(wire, NEVER))
        await asyncio.wait_for(asyncio.gather(*map(call, (0.6, 0.2, 0.4))), DEADLINE)
        assert ended == [0.2, 0.4, 0.6]
        assert wire._link
        assert len(wire._link.deadlines) == 1
        assert not long.done()
        wire.close()
        assert await outcomes(long) == [DestroyedError]

    asyncio.run(main())


# No thread


class NoThread:
    def __init__(self, *_: object) -> None: ...

    def start(self) -> None:
        raise RuntimeError("can't start new thread")


class Blocking:
    """A wire that no call comes to."""

    address = "nowhere"

    def call(self, *_: Any, **__: Any) -> Any:
        raise AssertionError


async def dial() -> None:
    address = Address("127.0.0.1:1", "127.0.0.1", 1)
    await grant(SocketWire(address).on_loop(), 1)


async def log_in() -> None:
    wires: Any = {"nowhere": Blocking()}
    store = EtcdLoopStore(wires, wires, Login("me", "secret"))
    await store.attempt("nowhere", Get(b"foo"), timeout=LONG, repeated=False)


async def call() -> None:
    wire: Any = Blocking()
    threads = ThreadsWire(wire)
    for _ in range(2):  # its turn goes to the next one
        with pytest.raises(StoreUnavailableError):
            await grant(threads, 1, DEADLINE)
    await grant(threads, 1)


@pytest.mark.parametrize("act", [dial, log_in, call])
def test_a_thread_that_can_not_be_started_is_told_as_what_is_passing(
    act: Callable[[], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(awaiting, "Daemon", NoThread)
    monkeypatch.setattr(aside, "_AT_ONCE", 1)
    with pytest.raises(StoreUnavailableError, match="no thread can") as error:
        asyncio.run(asyncio.wait_for(act(), DEADLINE))  # type: ignore[arg-type]
    assert not error.value.may_have_happened


def test_a_result_that_came_in_the_turn_of_the_cancellation_is_unwanted() -> None:
    unwanted: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(
            awaiting.aside(
                "test", lambda: "link", unwanted.append, ended=lambda: loop.call_soon(task.cancel)
            )
        )
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, DEADLINE)

    asyncio.run(main())
    assert unwanted == ["link"]
