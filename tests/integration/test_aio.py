"""The wire on a loop of asyncio: what each task gets, when all goes well and when it does not."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, suppress
from typing import Any

import pytest
from certificates import Pki, tls
from conftest import Etcd
from proxy import Proxy

from microlock import (
    DestroyedError,
    StoreError,
    StoreTimeoutError,
    StoreTlsError,
    StoreUnavailableError,
)
from microlock.etcd import messages
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.wire import Address
from microlock.etcd.wire.aio import AioWire
from microlock.etcd.wire.connection import Connection
from microlock.etcd.wire.sockets import SocketWire
from microlock.etcd.wire.tls import Security

TIMEOUT = 5.0
SLACK = 1.0
OwnEtcd = Callable[..., Etcd]


@pytest.fixture
def proxy(etcd_server: Etcd) -> Iterator[Proxy]:
    with closing(Proxy(etcd_server.endpoint)) as proxy:
        yield proxy


def address(endpoint: str) -> Address:
    host, _, port = endpoint.rpartition(":")
    return Address(endpoint, host, int(port))


async def read(wire: AioWire, key: bytes = b"aio", timeout: float = TIMEOUT) -> Any:
    request = pb.RangeRequest(key=key)
    return await wire.call(messages.RANGE, request, pb.RangeResponse, timeout=timeout, metadata=())


def with_wire(
    endpoint: str, use: Callable[[AioWire], Awaitable[object]], security: Security | None = None
) -> None:
    async def main() -> None:
        wire = SocketWire(address(endpoint), security=security).on_loop()
        try:
            await use(wire)
        finally:
            wire.close()
            await asyncio.sleep(0)  # the transport is closed by the loop

    asyncio.run(main())


def test_each_task_gets_its_own_answer_over_one_connection(proxy: Proxy) -> None:
    async def use(wire: AioWire) -> None:
        async def put_and_get(number: int) -> None:
            key = b"aio/%d" % number
            put = messages.txn((), [{"request_put": {"key": key, "value": key}}])
            for _ in range(5):
                await wire.call(*put, timeout=TIMEOUT, metadata=())
                assert [kv.value for kv in (await read(wire, key)).kvs] == [key]

        await asyncio.gather(*map(put_and_get, range(200)))

    with_wire(proxy.endpoint, use)
    assert proxy.accepted == 1


def test_a_call_works_over_tls(own_etcd: OwnEtcd, tmp_path_factory: pytest.TempPathFactory) -> None:
    pki = Pki.made_in(tmp_path_factory.mktemp("pki"))
    server = own_etcd(flags=tls(pki.server))
    with_wire(server.endpoint, read, Security(str(pki.ca)))

    async def untrusting(wire: AioWire) -> None:
        with pytest.raises(StoreTlsError):
            await read(wire)

    with_wire(server.endpoint, untrusting, Security(str(pki.other_ca)))


def test_nothing_listens_is_told_to_every_task_at_once() -> None:
    async def use(wire: AioWire) -> None:
        errors = await asyncio.gather(*(read(wire) for _ in range(10)), return_exceptions=True)
        assert {type(each) for each in errors} == {StoreUnavailableError}
        assert not any(each.may_have_happened for each in errors if isinstance(each, StoreError))

    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with_wire(f"127.0.0.1:{nobody.getsockname()[1]}", use)


def test_a_call_ends_by_its_deadline_and_the_loop_goes_on_meanwhile(proxy: Proxy) -> None:
    async def use(wire: AioWire) -> None:
        await read(wire)
        proxy.replies.clear()
        began, ticks = time.monotonic(), 0
        late = asyncio.ensure_future(read(wire, timeout=0.5))
        while not late.done():
            await asyncio.sleep(0.01)
            ticks += 1
        with pytest.raises(StoreTimeoutError) as error:
            await late
        assert error.value.may_have_happened
        assert time.monotonic() - began < 0.5 + SLACK
        assert ticks > 10
        proxy.let_through()
        await read(wire)

    with_wire(proxy.endpoint, use)


def test_a_call_takes_any_timeout_and_without_one_is_not_sent(proxy: Proxy) -> None:
    async def use(wire: AioWire) -> None:
        await read(wire, timeout=1e12)
        for none in (0.0, -1.5):
            with pytest.raises(StoreTimeoutError) as error:
                await read(wire, timeout=none)
            assert not error.value.may_have_happened

    with_wire(proxy.endpoint, use)


def test_a_dial_ends_by_the_deadline_of_each_call(proxy: Proxy) -> None:
    async def use(wire: AioWire) -> None:
        proxy.swallow()
        began = time.monotonic()
        with pytest.raises(StoreTimeoutError) as error:
            await read(wire, timeout=0.3)
        assert not error.value.may_have_happened
        assert time.monotonic() - began < 0.3 + SLACK
        proxy.let_through()
        await read(wire)

    with_wire(proxy.endpoint, use)


def test_a_dial_that_fails_when_nobody_waits_for_it_any_more_is_not_complained_of(
    proxy: Proxy,
) -> None:
    async def use(wire: AioWire) -> None:
        complaints: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
        proxy.replies.clear()
        with pytest.raises(StoreTimeoutError):
            await read(wire, timeout=0.1)
        assert wire._dialling.task
        proxy.reset()
        await asyncio.wait({wire._dialling.task})
        wire._dialling.task = None
        gc.collect()
        assert complaints == []

    with_wire(proxy.endpoint, use)


def test_a_cancelled_call_leaves_the_others_and_the_connection_alone(proxy: Proxy) -> None:
    async def use(wire: AioWire) -> None:
        await read(wire)
        proxy.replies.clear()
        calls = [asyncio.ensure_future(read(wire)) for _ in range(20)]
        await asyncio.sleep(0.05)
        for each in calls[::2]:
            each.cancel()
        await asyncio.sleep(0)
        proxy.let_through()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(each, asyncio.CancelledError) for each in outcomes] == [True, False] * 10
        await read(wire)

    with_wire(proxy.endpoint, use)
    assert proxy.accepted == 1


def test_a_task_that_is_cancelled_in_a_dial_leaves_it_to_the_others(proxy: Proxy) -> None:
    async def use(wire: AioWire) -> None:
        proxy.replies.clear()
        one, other = (asyncio.ensure_future(read(wire)) for _ in range(2))
        await asyncio.sleep(0.05)
        one.cancel()
        await asyncio.sleep(0)
        proxy.let_through()
        await other
        assert one.cancelled()

    with_wire(proxy.endpoint, use)
    assert proxy.accepted == 1


def test_a_dial_that_fails_when_nobody_waits_for_it_any_more_is_not_logged() -> None:
    complaints: list[object] = []

    async def use(wire: AioWire) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
        waiting = asyncio.ensure_future(read(wire))
        while wire._dialling.task is None:
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting, wire._dialling.task})
        with pytest.raises(StoreUnavailableError):
            await read(wire)
        gc.collect()
        assert complaints == []

    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with_wire(f"127.0.0.1:{nobody.getsockname()[1]}", use)


def test_a_dial_that_the_end_of_the_loop_cancels_leaves_no_connection(proxy: Proxy) -> None:
    async def use(wire: AioWire) -> None:
        proxy.replies.clear()
        waiting = asyncio.ensure_future(read(wire))
        while not proxy.accepted:  # it connects, and nobody greets
            await asyncio.sleep(0.01)
        assert wire._dialling.task
        wire._dialling.task.cancel()  # as `asyncio.run()` does to all tasks
        await asyncio.sleep(0.05)
        proxy.let_through()
        await waiting
        assert proxy.accepted == 2

    with_wire(proxy.endpoint, use)
    gc.collect()  # or a transport that is not closed would be found elsewhere


@pytest.mark.parametrize("where", ["receive", "take"])
def test_an_interrupt_in_the_middle_of_what_comes_and_goes_ends_the_connection(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def interrupted(*_: object) -> bytes:
        monkeypatch.undo()
        raise KeyboardInterrupt

    wire = SocketWire(address(proxy.endpoint)).on_loop()
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(read(wire))
        reading = loop.create_task(read(wire))
        monkeypatch.setattr(Connection, where, interrupted)
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(reading)
        loop.run_until_complete(read(wire))
        assert proxy.accepted == 2
        with suppress(StoreUnavailableError, KeyboardInterrupt):
            reading.result()
    finally:
        wire.close()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def test_a_broken_connection_is_made_anew(proxy: Proxy) -> None:
    async def use(wire: AioWire) -> None:
        await read(wire)
        proxy.replies.clear()
        doubtful = asyncio.ensure_future(read(wire))
        await asyncio.sleep(0.05)
        proxy.reset()
        with pytest.raises(StoreUnavailableError) as error:
            await doubtful
        assert error.value.may_have_happened
        await read(wire)

    with_wire(proxy.endpoint, use)
    assert proxy.accepted == 2


def test_close_ends_the_calls_and_the_dial(proxy: Proxy) -> None:
    async def use(wire: AioWire) -> None:
        await read(wire)
        proxy.replies.clear()
        waiting = asyncio.ensure_future(read(wire))
        await asyncio.sleep(0.05)
        wire.close()
        with pytest.raises(DestroyedError):
            await waiting
        proxy.let_through()
        with pytest.raises(DestroyedError):
            await read(wire)

    with_wire(proxy.endpoint, use)

    async def dialling(wire: AioWire) -> None:
        waiting = asyncio.ensure_future(read(wire))
        await asyncio.sleep(0.05)
        wire.close()
        with pytest.raises(DestroyedError):
            await waiting

    proxy.replies.clear()
    with_wire(proxy.endpoint, dialling)


def test_an_idle_connection_has_no_timer_and_answers_pings(own_etcd: OwnEtcd) -> None:
    server = own_etcd(flags=["--grpc-keepalive-interval=1s", "--grpc-keepalive-timeout=1s"])
    with closing(Proxy(server.endpoint)) as proxy:

        async def use(wire: AioWire) -> None:
            await read(wire)
            await asyncio.sleep(3)
            await read(wire)
            await asyncio.sleep(0.5)
            link = wire._link
            assert link is not None
            assert link._ticking is None

        with_wire(proxy.endpoint, use)
        assert proxy.accepted == 1


def test_calls_leave_no_memory_behind(etcd_server: Etcd) -> None:
    async def use(wire: AioWire) -> None:
        async def many() -> None:
            for _ in range(300):
                await read(wire)

        await many()
        gc.collect()
        tracemalloc.start()
        await many()
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        await many()
        await many()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert after - before < 20_000

    with_wire(etcd_server.endpoint, use)
