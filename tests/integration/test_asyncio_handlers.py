"""Handlers of the asyncio face: on the loop, in order, and what becomes of those that misbehave."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from conftest import Etcd
from witness import at_most

import microlock
from microlock import LockEvent, connect
from microlock.asyncio import Microlock

TTL = 30


@asynccontextmanager
async def lock(etcd_server: Etcd, key: str, **how: Any) -> AsyncIterator[Microlock]:
    async with connect(etcd_server.endpoint) as etcd:
        foo = Microlock(etcd, key, "one", TTL, **how)
        yield foo
        await foo.destroy()


async def eventually(condition: Callable[[], object], within: float = 10) -> bool:
    end = asyncio.get_running_loop().time() + within
    while not condition() and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(0.005)
    return bool(condition())


def test_handlers_run_on_the_loop_in_order_also_coroutine_functions(
    etcd_server: Etcd, key: str
) -> None:
    told: list[str] = []

    async def slowly(event: LockEvent) -> None:
        await asyncio.sleep(0.05)
        assert threading.current_thread() is threading.main_thread()
        told.append(f"slowly {event.name}")

    def plain(event: LockEvent) -> None:
        asyncio.get_running_loop()
        told.append(event.name)

    async def main() -> None:
        async with lock(etcd_server, key) as foo:
            for name in ("acquired", "released"):
                foo.on(name, slowly)
                foo.on(name, plain)
            for _ in range(2):
                await foo.lock()
                await foo.unlock()
            assert await eventually(lambda: len(told) == 8)

    asyncio.run(main())
    # All of an event are called, and then those awaited that are coroutine functions.
    once = ["acquired", "slowly acquired", "released", "slowly released"]
    assert told == once * 2


def test_handlers_added_before_any_loop_runs_miss_nothing_after_the_next_call(
    etcd_server: Etcd, key: str
) -> None:
    told: list[tuple[str, int | None]] = []
    with connect(etcd_server.endpoint) as etcd, connect(etcd_server.endpoint) as others:
        foo, other = Microlock(etcd, key, "one", TTL), microlock.Microlock(others, key, "two", TTL)
        for name in ("locked", "unlocked"):
            foo.on(name, lambda event: told.append((event.name, event.token)))

        async def main() -> None:
            assert await foo.holder() is None
            token = await asyncio.to_thread(lambda: other.lock().token)
            await asyncio.to_thread(other.unlock)
            assert await eventually(lambda: len(told) == 2)
            assert told == [("locked", token), ("unlocked", token)]
            await foo.destroy()

        asyncio.run(main())


@pytest.mark.parametrize("kind", ["plain", "a coroutine function"])
def test_a_handler_that_raises_becomes_an_error_and_stops_nothing(
    etcd_server: Etcd, key: str, kind: str
) -> None:
    errors: list[BaseException | None] = []
    told: list[str] = []

    def plain(event: LockEvent) -> None:
        raise ValueError(event.name)

    async def coroutine(event: LockEvent) -> None:
        await asyncio.sleep(0)
        raise ValueError(event.name)

    async def main() -> None:
        async with lock(etcd_server, key) as foo:
            foo.on("acquired", plain if kind == "plain" else coroutine)
            foo.on("acquired", lambda event: told.append(event.name))
            foo.on("released", lambda event: told.append(event.name))
            foo.on("error", lambda event: errors.append(event.error))
            async with foo:
                pass
            assert await eventually(lambda: errors and len(told) == 2)

    asyncio.run(main())
    assert told == ["acquired", "released"]
    assert [str(each) for each in errors] == ["acquired"]


def test_a_handler_that_is_cancelled_ends_only_itself(etcd_server: Etcd, key: str) -> None:
    told: list[str] = []

    async def cancelled() -> None:
        waits = asyncio.ensure_future(asyncio.sleep(10))
        waits.cancel()
        await waits

    async def main() -> None:
        async with lock(etcd_server, key) as foo:
            foo.on("acquired", cancelled)
            foo.on("released", lambda event: told.append(event.name))
            async with foo:
                pass
            assert await eventually(lambda: told)

    asyncio.run(main())


def test_a_slow_handler_delays_no_other_lock_and_no_call(etcd_server: Etcd, key: str) -> None:
    told: list[str] = []

    async def main() -> None:
        goes_on = asyncio.Event()
        async with lock(etcd_server, key) as foo, lock(etcd_server, f"{key}/2") as bar:
            foo.on("acquired", goes_on.wait)
            foo.on("released", lambda: told.append("foo"))
            bar.on("released", lambda: told.append("bar"))
            with at_most(2):
                for each in (foo, bar):
                    await each.lock()
                    await each.unlock()
                assert await eventually(lambda: told)
            assert told == ["bar"]
            goes_on.set()
            assert await eventually(lambda: told == ["bar", "foo"])

    asyncio.run(main())


CALLS: dict[str, Callable[[Microlock], Coroutine[Any, Any, object]]] = {
    "unlock": lambda foo: foo.unlock(),
    "renew": lambda foo: foo.renew(),
    "destroy": lambda foo: foo.destroy(),
    "holder": lambda foo: foo.holder(),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_handler_may_call_any_method(etcd_server: Etcd, key: str, call: str) -> None:
    async def main() -> None:
        async with lock(etcd_server, key) as foo:
            done = asyncio.Event()

            async def calls() -> None:
                await CALLS[call](foo)
                done.set()

            foo.on("acquired", calls)
            await foo.lock()
            with at_most(2):
                await asyncio.wait_for(done.wait(), 5)
            assert foo.held == (call in ("renew", "holder"))

    asyncio.run(main())


def test_handlers_go_on_with_the_next_loop_though_one_was_closed_in_a_handler(
    etcd_server: Etcd, key: str
) -> None:
    """By whoever shuts down no more than the generators."""
    told: list[str] = []

    async def note(event: LockEvent) -> None:
        told.append(event.name)
        if event.name == "acquired":
            await asyncio.Event().wait()

    with connect(etcd_server.endpoint) as etcd:
        foo = Microlock(etcd, key, "one", TTL)
        foo.on("acquired", note)
        foo.on("released", note)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(foo.lock())
        loop.run_until_complete(eventually(lambda: told))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

        async def main() -> None:
            await foo.unlock()
            assert await eventually(lambda: told == ["acquired", "released"])
            await foo.destroy()

        asyncio.run(main())


def test_destroy_tells_what_came_before_and_ends_at_once_when_the_client_is_closed(
    etcd_server: Etcd, key: str
) -> None:
    told: list[str] = []

    async def main() -> None:
        etcd = connect(etcd_server.endpoint)
        foo = Microlock(etcd, key, "one", TTL)
        foo.on("acquired", lambda: told.append("acquired"))
        async with foo:
            pass
        await etcd.aclose()
        with at_most(0.5):
            await foo.destroy()
        assert told == ["acquired"]
        assert foo.event_names() == set()

    asyncio.run(main())
