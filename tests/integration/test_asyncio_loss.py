"""The loss of a lock on a loop: `bound()`, `lost.wait()`, and a loop that stands still."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from time import sleep

import pytest
from conftest import Etcd
from ctl import Etcdctl
from witness import at_most

from microlock import Hold, LockLostError, LossReason, connect
from microlock.asyncio import Microlock

TTL = 30
COUNTS = sys.version_info >= (3, 11)  # tasks count who has cancelled them


class Scene:
    """A lock, and a way to lose it."""

    def __init__(self, foo: Microlock, etcdctl: Etcdctl) -> None:
        self.foo = foo
        self._etcdctl = etcdctl

    async def lose(self) -> None:
        """Somebody deletes the entry."""
        await asyncio.to_thread(self._etcdctl, "del", "--prefix", f"{self.foo.key}/")

    async def lose_and_wait(self) -> None:
        await self.lose()
        await asyncio.sleep(60)


Play = Callable[[Scene], Awaitable[object]]


@pytest.fixture
def play(etcd_server: Etcd, etcdctl: Etcdctl, key: str) -> Callable[[Play], None]:
    @asynccontextmanager
    async def scene() -> AsyncIterator[Scene]:
        async with connect(etcd_server.endpoint) as etcd:
            foo = Microlock(etcd, key, "one", TTL)
            yield Scene(foo, etcdctl)
            # Whatever was done in it: nothing is left, and nothing cancels the task later on.
            await asyncio.sleep(0.01)
            assert await foo.holder() is None
            await foo.lock()
            await foo.destroy()

    def play(act: Play) -> None:
        async def main() -> None:
            async with scene() as given:
                await act(given)
                task = asyncio.current_task()
                assert task
                assert not COUNTS or not task.cancelling()

        asyncio.run(main())

    return play


Player = Callable[[Play], None]


# bound()


def test_a_bound_block_is_cancelled_at_the_loss_and_raises_it(play: Player) -> None:
    async def act(scene: Scene) -> None:
        cancelled = False

        async def block() -> None:
            nonlocal cancelled
            async with scene.foo.bound() as foo:
                assert foo is scene.foo
                try:
                    await scene.lose_and_wait()
                except asyncio.CancelledError:
                    cancelled = True
                    assert not foo.held
                    raise

        with at_most(5), pytest.raises(LockLostError) as error:
            await block()
        assert error.value.reason is LossReason.DELETED
        assert cancelled

    play(act)


def test_a_bound_block_that_loses_nothing_gives_back(play: Player) -> None:
    async def act(scene: Scene) -> None:
        async with scene.foo.bound() as foo:
            await asyncio.sleep(0)
            assert foo.held
        assert not scene.foo.held
        with pytest.raises(ValueError, match="mine"):
            async with scene.foo.bound():
                raise ValueError("mine")
        async with scene.foo.bound() as foo:
            await foo.unlock()

    play(act)


def test_a_bound_block_that_swallows_its_cancellation_raises_the_loss_at_its_end(
    play: Player,
) -> None:
    async def act(scene: Scene) -> None:
        went_on = False

        async def block() -> None:
            nonlocal went_on
            async with scene.foo.bound():
                with suppress(asyncio.CancelledError):
                    await scene.lose_and_wait()
                await asyncio.sleep(0.01)
                went_on = True

        with pytest.raises(LockLostError):
            await block()
        assert went_on

    play(act)


def test_a_bound_block_that_raises_something_else_keeps_its_own_error(play: Player) -> None:
    async def act(scene: Scene) -> None:
        async def block() -> None:
            async with scene.foo.bound():
                try:
                    await scene.lose_and_wait()
                except asyncio.CancelledError as error:
                    raise ValueError("mine") from error

        with pytest.raises(ValueError, match="mine"):
            await block()

    play(act)


def test_a_users_own_cancel_of_a_bound_block_stays_one(play: Player) -> None:
    async def act(scene: Scene) -> None:
        async def block() -> None:
            async with scene.foo.bound():
                await asyncio.sleep(60)

        task = asyncio.ensure_future(block())
        await asyncio.sleep(0.1)
        assert scene.foo.held
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()

    play(act)


def test_a_users_own_cancel_that_comes_after_the_loss_stays_one(play: Player) -> None:
    async def act(scene: Scene) -> None:
        cleaning = asyncio.Event()

        async def block() -> None:
            async with scene.foo.bound():
                try:
                    await asyncio.sleep(60)
                finally:
                    cleaning.set()
                    await asyncio.sleep(60)

        task = asyncio.ensure_future(block())
        await asyncio.sleep(0.1)
        await scene.lose()
        await cleaning.wait()
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()

    play(act)


@pytest.mark.skipif(not COUNTS, reason="before Python 3.11 two cancellations are one")
def test_a_users_own_cancel_together_with_the_loss_stays_one(play: Player) -> None:
    async def act(scene: Scene) -> None:
        async def block() -> None:
            async with scene.foo.bound():
                try:
                    await scene.lose_and_wait()
                finally:
                    task.cancel()

        task = asyncio.ensure_future(block())
        await asyncio.wait({task})
        assert task.cancelled()

    play(act)


@pytest.mark.skipif(not COUNTS, reason="asyncio.timeout")
def test_a_timeout_around_a_bound_block_is_a_timeout_and_the_loss_a_loss(play: Player) -> None:
    async def act(scene: Scene) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1), scene.foo.bound():
                await asyncio.sleep(60)
        with pytest.raises(LockLostError):
            async with asyncio.timeout(60), scene.foo.bound():
                await scene.lose_and_wait()
        with pytest.raises(TimeoutError):
            async with scene.foo.bound(), asyncio.timeout(0.1):
                await asyncio.sleep(60)

    play(act)


@pytest.mark.skipif(not COUNTS, reason="asyncio.TaskGroup")
def test_a_task_group_in_a_bound_block_ends_with_the_lock(play: Player) -> None:
    async def act(scene: Scene) -> None:
        ended: list[int] = []

        async def work(number: int) -> None:
            try:
                await asyncio.sleep(60)
            finally:
                ended.append(number)

        async def block() -> None:
            async with scene.foo.bound(), asyncio.TaskGroup() as group:
                for number in range(3):
                    group.create_task(work(number))
                group.create_task(scene.lose_and_wait())

        with pytest.raises(LockLostError):
            await block()
        assert sorted(ended) == [0, 1, 2]

    play(act)


# lost.wait()


def test_lost_wait_returns_at_the_loss_and_when_it_was_given_back(play: Player) -> None:
    async def act(scene: Scene) -> None:
        foo = scene.foo
        await foo.lock()
        assert not await foo.lost.wait(0.01)
        waiting = asyncio.ensure_future(foo.lost.wait())
        await scene.lose()
        with at_most(2):
            assert await waiting
        assert foo.lost.is_set()
        assert await foo.lost.wait()
        await foo.lock()
        waiting = asyncio.ensure_future(foo.lost.wait())
        await asyncio.sleep(0)
        await foo.unlock()
        with at_most(2):
            assert not await waiting

    play(act)


def test_lost_wait_returns_at_the_deadline(etcd_server: Etcd, key: str) -> None:
    async def main() -> None:
        async with connect(etcd_server.endpoint) as etcd:
            foo = Microlock(etcd, key, "one", 1)
            hold: Hold = await foo.lock()
            with at_most(hold.ttl + 1):
                assert await foo.lost.wait()
            assert foo.lost_reason is LossReason.EXPIRED

    asyncio.run(main())


# A loop that stands still


def test_a_loop_that_stands_still_for_three_ttls_loses_nothing_and_misses_no_loss(
    etcd_server: Etcd, etcdctl: Etcdctl, key: str
) -> None:
    async def main() -> None:
        async with connect(etcd_server.endpoint) as etcd:
            kept = Microlock(etcd, f"{key}/kept", "one", 1, auto_renew=True)
            lost = Microlock(etcd, f"{key}/lost", "one", 1, auto_renew=True)
            told: list[str] = []
            lost.on("lost", lambda: told.append("lost"))
            token = (await kept.lock()).token
            ttl = (await lost.lock()).ttl
            etcdctl("del", "--prefix", f"{key}/lost/")  # it blocks the loop too
            sleep(3 * ttl)
            assert (kept.held, lost.held) == (True, False)
            assert lost.lost_reason is LossReason.DELETED
            assert kept.token == token
            assert await lost.lost.wait(0)
            await asyncio.sleep(0.05)
            assert told == ["lost"]
            await kept.unlock()
            await lost.lock()
            await lost.unlock()

    asyncio.run(main())


def test_a_call_under_way_while_the_loop_stands_still_takes_the_reply_that_came_meanwhile(
    etcd_server: Etcd, key: str
) -> None:
    async def main() -> None:
        async with connect(etcd_server.endpoint, timeout=1) as etcd:
            foo = Microlock(etcd, key, "one", TTL)
            await foo.lock()
            unlocking = asyncio.ensure_future(foo.unlock())
            await asyncio.sleep(0)
            sleep(2)
            await unlocking
            assert await foo.holder() is None

    asyncio.run(main())
