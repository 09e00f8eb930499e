"""No call blocks the loop, and none needs a thread of its own."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from time import monotonic, sleep
from typing import Any

import pytest
from certificates import Pki, tls
from conftest import Etcd
from proxy import Proxy
from test_auth import ROOT, Guarded

from microlock import LockUncertainError, MicrolockError, StoreError, connect
from microlock.asyncio import Microlock

OwnEtcd = Callable[..., Etcd]
TTL = 30
# Seconds that a loop may stand still, on a machine that is busy: what blocks takes TIMEOUT.
GAP = 1.0
TIMEOUT = 1.5


@asynccontextmanager
async def ticking() -> AsyncIterator[None]:
    """The loop goes on in the block: a task of it runs every few milliseconds."""
    gaps = [0.0]

    async def tick() -> None:
        while True:
            before = monotonic()
            await asyncio.sleep(0.005)
            gaps.append(monotonic() - before)

    ticks = asyncio.ensure_future(tick())
    await asyncio.sleep(0.01)
    try:
        yield
        await asyncio.sleep(0.01)
    finally:
        ticks.cancel()
    assert max(gaps) < GAP, f"the loop stood still for {max(gaps):.2f} s"


def threads() -> list[str]:
    return sorted(each.name for each in threading.enumerate() if each.name.startswith("microlock"))


@pytest.fixture
def proxy(etcd_server: Etcd) -> Iterator[Proxy]:
    with closing(Proxy(etcd_server.endpoint)) as proxy:
        yield proxy


def test_a_dial_that_nobody_answers_blocks_no_loop(proxy: Proxy, key: str) -> None:
    async def main() -> None:
        proxy.swallow()
        async with connect(proxy.endpoint, timeout=TIMEOUT) as etcd, ticking():
            with pytest.raises(MicrolockError):
                await Microlock(etcd, key, "one", TTL).lock()

    asyncio.run(main())


def test_a_resolver_that_is_dead_blocks_no_loop(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    look_up = socket.getaddrinfo

    def dead(*args: Any, flags: int = 0, **named: Any) -> Any:
        if not flags & socket.AI_NUMERICHOST:
            sleep(2 * TIMEOUT)
        return look_up(*args, flags=flags, **named)

    monkeypatch.setattr(socket, "getaddrinfo", dead)

    async def main() -> None:
        async with connect("no-such-host.invalid", timeout=TIMEOUT) as etcd, ticking():
            with pytest.raises(MicrolockError):
                await Microlock(etcd, key, "one", TTL).lock()

    asyncio.run(main())


def test_tls_blocks_no_loop(
    own_etcd: OwnEtcd, key: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pki = Pki.made_in(tmp_path_factory.mktemp("pki"))
    server = own_etcd(flags=tls(pki.server))

    async def main() -> None:
        async with connect(server.endpoint, ca_cert=pki.ca) as etcd, ticking():
            await Microlock(etcd, key, "one", TTL).holder()

    asyncio.run(main())


def test_a_login_blocks_no_loop_and_one_is_enough_for_a_hundred_tasks(own_etcd: OwnEtcd) -> None:
    guarded = Guarded(own_etcd(flags=["--bcrypt-cost=12"]))  # a login takes 0.3 s

    async def main() -> None:
        user, password = ROOT
        async with connect(guarded.endpoint, user=user, password=password, timeout=20) as etcd:
            locks = [Microlock(etcd, f"mine/{number}", "one", TTL) for number in range(100)]
            most = 0

            async def watch() -> None:
                nonlocal most
                while True:
                    most = max(most, len(threads()))
                    await asyncio.sleep(0.005)

            watching = asyncio.ensure_future(watch())
            async with ticking():
                await asyncio.gather(*(each.lock() for each in locks))
            watching.cancel()
            assert most < 10
            await asyncio.gather(*(each.destroy() for each in locks))

    asyncio.run(main())


def test_an_etcd_that_stands_still_blocks_no_loop(own_etcd: OwnEtcd, key: str) -> None:
    etcd_server = own_etcd()

    async def main() -> None:
        async with connect(etcd_server.endpoint, timeout=TIMEOUT) as etcd:
            locks = [
                Microlock(etcd, f"{key}/{number}", "one", 2, auto_renew=True) for number in range(6)
            ]
            for each in locks:
                each.on("locked", lambda: None)
                await each.lock()
            etcd_server.pause()
            try:
                async with ticking():
                    calls = [locks[0].unlock(), locks[1].renew(), locks[2].extend(5)]
                    calls += [locks[3].holder(), locks[4].destroy()]  # type: ignore[list-item]
                    met = await asyncio.gather(*calls, return_exceptions=True)
                    assert all(isinstance(each, StoreError | LockUncertainError) for each in met)
                    del locks[5]
                    gc.collect()
            finally:
                etcd_server.resume()
            for each in locks:
                with suppress(MicrolockError):
                    await each.destroy()

    asyncio.run(main())


def test_a_lock_that_is_garbage_is_given_back_and_blocks_no_loop(proxy: Proxy, key: str) -> None:
    async def main() -> None:
        async with connect(proxy.endpoint, timeout=TIMEOUT) as etcd:
            foo = Microlock(etcd, key, "one", TTL)
            await foo.lock()
            other = Microlock(etcd, key, "two", TTL)
            proxy.replies.clear()
            async with ticking():
                del foo
                gc.collect()
                await asyncio.sleep(0.2)
                proxy.let_through()
                await other.lock(timeout=5)
            await other.destroy()

    asyncio.run(main())


@pytest.mark.parametrize("shared", [True, False], ids=["one object", "an object each"])
def test_a_thousand_tasks_on_one_key_all_get_their_turn_in_order_and_need_no_thread_each(
    etcd_server: Etcd, key: str, shared: bool
) -> None:
    count = 1000
    order: list[int] = []

    async def main() -> None:
        async with connect(etcd_server.endpoint, timeout=60) as etcd:
            first = Microlock(etcd, key, "one", TTL)
            await first.lock()
            locks = [
                first if shared else Microlock(etcd, key, f"{number}", TTL)
                for number in range(count)
            ]
            one_task = len(threads())

            async def task(number: int) -> None:
                async with locks[number]:
                    order.append(number)

            async def queued(number: int) -> int:
                if shared:
                    return len(first._core.turns.calls)
                return len(await first.waiters())

            tasks = [asyncio.ensure_future(task(number)) for number in range(count)]
            while await queued(count) < count:
                await asyncio.sleep(0.05)
            expected = range(count) if shared else [int(e.node_id) for e in await first.waiters()]
            # Those of the watches, and those that verify an entry which a read did not see yet.
            assert len(threads()) <= one_task + 2 + 8
            async with ticking():
                await first.unlock()
                await asyncio.gather(*tasks)
            assert order == list(expected)

    asyncio.run(main())


def test_a_thousand_tasks_on_a_thousand_keys_need_no_thread_each(
    etcd_server: Etcd, key: str
) -> None:
    async def main() -> None:
        async with connect(etcd_server.endpoint, timeout=60) as etcd:
            locks = [Microlock(etcd, f"{key}/{n}", "one", TTL) for n in range(1000)]
            await asyncio.gather(*(each.lock() for each in locks))
            assert all(each.held for each in locks)
            assert len(threads()) < 6
            await asyncio.gather(*(each.unlock() for each in locks))

    asyncio.run(main())
