"""Tasks, loops and threads that share a client or a lock; loops of other kinds; lent clients."""

from __future__ import annotations

import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from clients import CLIENTS
from conftest import Etcd
from witness import at_most

import microlock
from microlock import AlreadyLockedError, InvalidArgumentError, LockLostError, connect
from microlock.asyncio import LockManager, Microlock
from microlock.engine.reentrant_event import ReentrantEvent
from microlock.etcd.client import EtcdClient
from microlock.etcd.wire import Address
from microlock.etcd.wire.grpcio import dialled

TTL = 30


# Sharing


def test_one_client_serves_a_thread_and_two_loops_at_once(etcd_server: Etcd, key: str) -> None:
    inside, most = 0, 0
    only_one = threading.Lock()

    def enter() -> None:
        nonlocal inside, most
        with only_one:
            inside += 1
            most = max(most, inside)

    def leave() -> None:
        nonlocal inside
        with only_one:
            inside -= 1

    def by_thread() -> None:
        for number in range(10):
            with microlock.Microlock(etcd, key, f"thread {number}", TTL):
                enter()
                leave()

    async def by_tasks() -> None:
        async def cycle(number: int) -> None:
            async with Microlock(etcd, key, f"task {number}", TTL):
                enter()
                await asyncio.sleep(0)
                leave()

        await asyncio.gather(*map(cycle, range(10)))

    with connect(etcd_server.endpoint, timeout=20) as etcd, ThreadPoolExecutor() as pool:
        runs = [pool.submit(by_thread)] + [pool.submit(asyncio.run, by_tasks()) for _ in range(2)]
        for each in runs:
            each.result(60)
        assert (inside, most) == (0, 1)
        assert microlock.Microlock(etcd, key, "one").holder() is None


def test_an_object_is_shared_by_the_tasks_of_two_loops(etcd_server: Etcd, key: str) -> None:
    inside = most = count = 0

    with connect(etcd_server.endpoint, timeout=20) as etcd:
        foo = Microlock(etcd, key, "one", TTL)
        told: list[str] = []
        foo.on("acquired", lambda event: told.append(event.name))

        async def cycles() -> None:
            async def cycle() -> None:
                nonlocal inside, most, count
                async with foo:
                    inside += 1
                    most = max(most, inside)
                    await asyncio.sleep(0)
                    inside -= 1
                    count += 1

            await asyncio.gather(*(cycle() for _ in range(20)))

        with ThreadPoolExecutor() as pool:
            for each in [pool.submit(asyncio.run, cycles()) for _ in range(2)]:
                each.result(60)
        assert (inside, most, count) == (0, 1, 40)
        asyncio.run(foo.destroy())


def test_a_decorated_coroutine_function_holds_the_lock_for_each_call_and_calls_take_turns(
    etcd_server: Etcd, key: str
) -> None:
    async def main() -> None:
        async with connect(etcd_server.endpoint) as etcd:
            foo = Microlock(etcd, key, "one", TTL)
            tokens: list[int | None] = []
            inside = 0

            @foo
            async def work(number: int) -> int:
                """Works."""
                nonlocal inside
                inside += 1
                assert (inside, foo.held) == (1, True)
                tokens.append(foo.token)
                await asyncio.sleep(0.001)
                inside -= 1
                return number

            assert work.__doc__ == "Works."
            assert await asyncio.gather(*map(work, range(10))) == list(range(10))
            assert len(set(tokens)) == 10
            assert not foo.held

            @foo
            async def again() -> None:
                await work(0)

            with at_most(2), pytest.raises(AlreadyLockedError):
                await again()
            await foo.destroy()

    asyncio.run(main())


def test_only_coroutine_functions_are_decorated(etcd_server: Etcd, key: str) -> None:
    with connect(etcd_server.endpoint) as etcd:
        foo = Microlock(etcd, key, "one", TTL)

        async def numbers() -> Any:
            yield 1

        for func in (lambda: None, numbers):
            with pytest.raises(InvalidArgumentError, match="coroutine function"):
                foo(func)


def test_tasks_that_are_gone_give_their_turn_on(etcd_server: Etcd, key: str) -> None:
    """Their owner is a weak reference, whose hash is needed when they are gone."""

    async def main() -> None:
        async with connect(etcd_server.endpoint) as etcd:
            foo = Microlock(etcd, key, "one", TTL)
            await foo.lock()
            owners = []

            async def ask() -> None:
                owners.append(foo._owner())

            await asyncio.create_task(ask())
            await asyncio.sleep(0)
            (owner,) = owners
            assert callable(owner)
            assert owner() is None
            assert {owner: None}
            await foo.destroy()

    asyncio.run(main())


# What cancels


def test_wait_for_and_timeout_leave_no_place_and_the_object_can_be_used(
    etcd_server: Etcd, key: str
) -> None:
    async def main() -> None:
        async with connect(etcd_server.endpoint) as etcd, connect(etcd_server.endpoint) as others:
            foo, other = Microlock(etcd, key, "one", TTL), Microlock(others, key, "two", TTL)
            await other.lock()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(foo.lock(timeout=None), 0.1)
            assert await other.waiters() == []
            if sys.version_info >= (3, 11):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await foo.lock(timeout=None)
                assert await other.waiters() == []
            await other.unlock()
            await foo.lock()
            await foo.destroy()

    asyncio.run(main())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.TaskGroup")
def test_a_task_group_that_fails_leaves_no_holder_and_no_waiter(
    etcd_server: Etcd, key: str
) -> None:
    async def main() -> None:
        async with connect(etcd_server.endpoint) as etcd:
            locks = [Microlock(etcd, key, f"{number}", TTL) for number in range(5)]

            async def holds(lock: Microlock) -> None:
                async with lock:
                    await asyncio.sleep(60)

            async def fails() -> None:
                while len(await locks[0].waiters()) < len(locks) - 1:
                    await asyncio.sleep(0.01)
                raise ValueError("mine")

            async def together() -> None:
                async with asyncio.TaskGroup() as group:
                    for each in locks:
                        group.create_task(holds(each))
                    group.create_task(fails())

            with pytest.raises(Exception, match="unhandled errors"):
                await together()
            assert await locks[0].holder() is None
            assert await locks[0].waiters() == []

    asyncio.run(main())


# Other loops


async def cycles(endpoint: str, key: str) -> None:
    """A bit of all that touches the loop."""
    async with connect(endpoint) as etcd, connect(endpoint) as others:
        foo, other = Microlock(etcd, key, "one", TTL), Microlock(others, key, "two", TTL)
        told: list[str] = []

        async def note(event: microlock.LockEvent) -> None:
            await asyncio.sleep(0)
            told.append(event.name)

        for name in ("acquired", "released", "locked", "unlocked", "lost"):
            foo.on(name, note)
        async with foo.bound():
            waiting = asyncio.ensure_future(other.lock(timeout=None))
            while not await foo.waiters():
                await asyncio.sleep(0.01)
            waiting.cancel()
            await asyncio.wait({waiting})
            assert waiting.cancelled()
            assert await foo.waiters() == []
            await foo.renew()
            await foo.extend(TTL)

        async def loses() -> None:
            async with foo.bound():
                await LockManager(others, "two", prefix="").break_lock(key)
                await asyncio.sleep(60)

        with at_most(5), pytest.raises(LockLostError):
            await loses()
        await foo.destroy()
        assert await other.holder() is None
        assert [each for each in told if each not in ("locked", "unlocked")] == [
            "acquired",
            "released",
            "acquired",
            "lost",
        ]


@pytest.mark.skipif(
    sys.platform == "win32" or sys.implementation.name != "cpython", reason="no uvloop"
)
def test_uvloop_does_as_the_loop_of_asyncio(etcd_server: Etcd, key: str) -> None:
    uvloop = pytest.importorskip("uvloop")
    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(cycles(etcd_server.endpoint, key))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio.eager_task_factory")
def test_eager_tasks_do_as_others(etcd_server: Etcd, key: str) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        await cycles(etcd_server.endpoint, key)

    asyncio.run(main())


# Other clients


def through_grpcio(endpoint: str) -> EtcdClient:
    """As where there is no ngh2."""
    host, _, port = endpoint.rpartition(":")
    address = Address(endpoint, host, int(port))
    return EtcdClient([dialled(address, None, None, ReentrantEvent())], timeout=5)


@pytest.mark.parametrize("name", [*CLIENTS, "grpcio"])
def test_every_kind_of_client_serves_tasks(etcd_server: Etcd, key: str, name: str) -> None:
    client = {**CLIENTS, "grpcio": through_grpcio}[name](etcd_server.endpoint)

    async def main() -> None:
        foo, other = Microlock(client, key, "one", TTL), Microlock(client, key, "two", TTL)
        async with foo:
            waiting = asyncio.ensure_future(other.lock(timeout=None))
            while not await foo.waiters():
                await asyncio.sleep(0.01)
            waiting.cancel()
            await asyncio.wait({waiting})
            assert waiting.cancelled()
            assert await foo.waiters() == []
            assert await foo.renew() > 0
        many = [Microlock(client, f"{key}/{number}", "one", TTL) for number in range(100)]
        await asyncio.gather(*(each.lock() for each in many))
        await asyncio.gather(*(each.destroy() for each in many))
        assert await foo.holder() is None
        await asyncio.gather(foo.destroy(), other.destroy())

    try:
        asyncio.run(main())
        asyncio.run(Microlock(client, key, "one").holder())
    finally:
        client.close()
