"""Tasks that are cancelled in a call of a lock: at each await, and once more in the undoing."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from contextlib import closing
from typing import Any

import pytest
from cancelling import cancelled_at
from conftest import Etcd
from proxy import Proxy
from witness import at_most

from microlock import DestroyedError, connect
from microlock.asyncio import Microlock

TTL = 20
SHORT = 2
TIMEOUT = 1.0
SLACK = 1.5

Act = Callable[[Microlock], Coroutine[Any, Any, object]]


async def block(foo: Microlock) -> None:
    async with foo:
        await asyncio.sleep(0)


async def extend_twice(foo: Microlock) -> None:
    await foo.extend(foo.ttl)
    await foo.extend(foo.ttl)


TAKING: dict[str, Act] = {
    "a try": lambda foo: foo.lock(),
    "a wait": lambda foo: foo.lock(timeout=None),
    "a block": block,
}
KEEPING: dict[str, Act] = {
    "renew": lambda foo: foo.renew(),
    "extend": extend_twice,
}
ENDING: dict[str, Act] = {
    "unlock": lambda foo: foo.unlock(),
    "destroy": lambda foo: foo.destroy(),
}
ACTS = TAKING | KEEPING | ENDING


class Scene:
    """A lock on a client of its own, about to make a call, and another that looks at the key."""

    def __init__(self, endpoint: str, key: str, name: str, *, warm: bool) -> None:
        self._endpoint = endpoint
        self._key = key
        self._name = name
        self._warm = warm

    async def cancelled(self, *ats: int, late: bool) -> bool:
        """Has it cancelled, and looks at what that left. Returns whether it came so far."""
        key = f"{self._key}/{ats}/{late}/{self._warm}"
        async with connect(self._endpoint) as etcd, connect(self._endpoint) as others:
            foo, other = Microlock(etcd, key, "one", TTL), Microlock(others, key, "other", TTL)
            if self._warm:
                await block(foo)
            if self._name not in TAKING:
                await foo.lock()
            token = foo.token
            came = await cancelled_at(ACTS[self._name](foo), *ats, late=late)
            if not came and foo.held:
                await foo.unlock()
            elif came and self._name in KEEPING:
                holder = await other.holder()
                assert holder
                assert foo.token == token == holder.token
                assert await foo.renew() > TTL - 5
                await foo.unlock()
            assert not foo.held
            assert await other.holder() is None, f"left behind at {ats}"
            if self._name == "destroy":
                with pytest.raises(DestroyedError):
                    await foo.lock()
            else:
                await foo.lock(timeout=5)
                await foo.unlock()
                await foo.destroy()
            return came

    async def sweep(self, late: bool) -> int:
        """At each of its awaits, and at each of those together with each that follows."""
        for first in itertools.count(1):
            if not await self.cancelled(first, late=late):
                return first - 1
            second = first + 1
            while await self.cancelled(first, second, late=late):
                second += 1
        raise AssertionError


@pytest.mark.parametrize("name", ACTS)
def test_a_task_that_is_cancelled_at_any_await_undoes_its_call_and_the_object_can_be_used(
    etcd_server: Etcd, key: str, name: str
) -> None:
    async def main() -> None:
        scenes = [Scene(etcd_server.endpoint, key, name, warm=warm) for warm in (False, True)]
        counts = await asyncio.gather(*(it.sweep(late) for it in scenes for late in (False, True)))
        assert min(counts) >= 1

    asyncio.run(main())


@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
def test_a_waiter_that_is_cancelled_at_any_await_leaves_no_place_in_the_queue(
    etcd_server: Etcd, key: str, late: bool
) -> None:
    async def main() -> None:
        async with connect(etcd_server.endpoint) as etcd, connect(etcd_server.endpoint) as others:
            await Microlock(etcd, key, "one").holder()  # the connection

            async def cancelled(*ats: int) -> None:
                mine = f"{key}/{ats}"
                foo, other = Microlock(etcd, mine, "one", TTL), Microlock(others, mine, "two", TTL)
                await other.lock()
                assert await cancelled_at(foo.lock(timeout=None), *ats, late=late)
                assert await other.waiters() == []
                await other.unlock()
                await foo.lock()
                await foo.unlock()

            # The grant, the entry, the wait, which ends by nothing else; and what undoes them.
            for first in (1, 2) if late else (1, 2, 3):
                await cancelled(first)
                await cancelled(first, first + 1)

    asyncio.run(main())


@pytest.mark.parametrize("name", ACTS)
def test_a_task_that_is_cancelled_while_etcd_stands_still_ends_in_time_and_leaves_only_a_doubt(
    etcd_server: Etcd, key: str, name: str
) -> None:
    async def cancelled(number: int) -> bool:
        mine = f"{key}/{number}"
        with closing(Proxy(etcd_server.endpoint)) as proxy:
            async with (
                connect(proxy.endpoint, timeout=TIMEOUT) as etcd,
                connect(etcd_server.endpoint) as others,
            ):
                foo, other = Microlock(etcd, mine, "one", SHORT), Microlock(others, mine, "two", 20)
                await foo.holder()  # the connection
                if name not in TAKING:
                    await foo.lock()
                stands_still = proxy.replies.clear
                with at_most(TIMEOUT + SLACK):
                    came = await cancelled_at(ACTS[name](foo), number, meanwhile=stands_still)
                if name not in KEEPING:
                    assert not came or not foo.held
                proxy.let_through()
                if not came:
                    await foo.destroy()
                    return False
                # The entry ends with its lease at the latest; so does the hold.
                await other.lock(timeout=2 * SHORT + SLACK)
                assert not foo.held
                await other.unlock()
                if name != "destroy":
                    await foo.lock(timeout=2)
                    await foo.destroy()
                return True

    async def main() -> None:
        came = await asyncio.gather(*map(cancelled, range(1, 7)))
        assert came[0]
        assert came == sorted(came, reverse=True)  # at each await until the last

    asyncio.run(main())
