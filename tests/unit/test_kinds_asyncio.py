"""What every kind of lock promises, for tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from kinds import KINDS, LONG, TTL, Kind

import microlock
import microlock.asyncio
from microlock import AlreadyLockedError, LockCancelledError, LockEvent
from microlock.testing import MemoryStore

Story = Callable[["Tasks"], Awaitable[None]]


@pytest.fixture(params=KINDS.values(), ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    return request.param


class Tasks:
    """Locks of a loop, each with a client of its own."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.locks: list[Any] = []

    def make(self, kind: Kind | str, **options: Any) -> Any:
        made = KINDS[kind] if isinstance(kind, str) else kind
        node_id = f"node-{len(self.locks)}"
        self.locks.append(made.make_async(self.store.connect(), node_id, **options))
        return self.locks[-1]

    async def rivals(self, kind: Kind, **options: Any) -> list[Any]:
        locks = [self.make(kind.rival, **options) for _ in range(kind.rivals)]
        for lock in locks:
            await lock.lock()
        return locks

    async def waits(self, lock: Any) -> asyncio.Task[Any]:
        before = len(await lock.waiters())
        task = asyncio.create_task(lock.lock(timeout=LONG))
        while len(await lock.waiters()) == before:
            await asyncio.sleep(0)
        await self.store.advance_async(0)
        return task


def run(story: Story) -> None:
    async def main() -> None:
        with MemoryStore() as store:
            tasks = Tasks(store)
            await story(tasks)
            for lock in tasks.locks:
                await lock.destroy()

    asyncio.run(main())


def test_a_free_lock_is_taken_and_given_back(kind: Kind) -> None:
    async def story(tasks: Tasks) -> None:
        foo = tasks.make(kind)
        hold = await foo.lock()
        assert [each.token for each in await foo.holders()] == [hold.token]
        await foo.unlock()
        assert await foo.holders() == []

    run(story)


def test_a_try_is_refused_while_rivals_hold_it(kind: Kind) -> None:
    async def story(tasks: Tasks) -> None:
        rivals = await tasks.rivals(kind)
        with pytest.raises(AlreadyLockedError) as refused:
            await tasks.make(kind).lock()
        assert refused.value.holder.token == rivals[0].token

    run(story)


def test_the_last_rival_to_go_lets_it_in(kind: Kind) -> None:
    async def story(tasks: Tasks) -> None:
        rivals, foo = await tasks.rivals(kind), tasks.make(kind)
        waiting = await tasks.waits(foo)
        assert not waiting.done()
        await rivals[-1].unlock()
        await tasks.store.until(waiting)
        assert foo.held

    run(story)


def test_a_cancelled_wait_leaves_nothing(kind: Kind) -> None:
    async def story(tasks: Tasks) -> None:
        rivals, foo = await tasks.rivals(kind), tasks.make(kind)
        waiting = await tasks.waits(foo)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await foo.waiters() == []
        assert len(await foo.holders()) == len(rivals)

    run(story)


def test_a_cancelled_wait_is_told_to_have_failed(kind: Kind) -> None:
    async def story(tasks: Tasks) -> None:
        await tasks.rivals(kind)
        foo, told = tasks.make(kind), list[LockEvent]()
        foo.on("failed", told.append)
        waiting = await tasks.waits(foo)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await tasks.store.advance_async(0)
        assert [type(each.error) for each in told] == [LockCancelledError]

    run(story)


def test_a_rival_that_crashes_lets_it_in(kind: Kind) -> None:
    async def story(tasks: Tasks) -> None:
        await tasks.rivals(kind)
        foo = tasks.make(kind, auto_renew=True)
        waiting = await tasks.waits(foo)
        await tasks.store.advance_async(TTL)
        await tasks.store.until(waiting)
        await tasks.store.advance_async(10 * TTL)
        assert foo.held

    run(story)


def test_a_block_holds_it_and_is_cancelled_at_its_loss(kind: Kind) -> None:
    async def story(tasks: Tasks) -> None:
        foo = tasks.make(kind)

        async def block() -> None:
            async with foo.bound():
                assert foo.held
                await tasks.store.advance_async(TTL)
                await asyncio.sleep(LONG)

        with pytest.raises(microlock.LockLostError):
            await block()

    run(story)


def test_every_holder_that_comes_and_goes_is_told(kind: Kind) -> None:
    async def story(tasks: Tasks) -> None:
        told: list[tuple[str, int | None]] = []

        def note(event: LockEvent) -> None:
            if event.key == "foo":
                told.append((event.name, event.token))

        listens = tasks.make(kind)
        for name in ("locked", "unlocked"):
            listens.on(name, note)
        await listens.listening()
        rivals = await tasks.rivals(kind)
        tokens = [each.token for each in rivals]
        for lock in rivals:
            await lock.unlock()
        await tasks.store.advance_async(0)
        assert told == [("locked", each) for each in tokens] + [
            ("unlocked", each) for each in tokens
        ]

    run(story)


# The manager.


def of_manager(manager: Any) -> dict[str, Any]:
    return {
        "Microlock": manager.create("foo"),
        "Semaphore": manager.semaphore("foo", 3),
        "ReadLock": manager.read("foo"),
        "WriteLock": manager.write("foo"),
        "MultiLock": manager.many(["foo", "bar"]),
        "Election": manager.election("foo"),
    }


@pytest.mark.parametrize("face", [microlock, microlock.asyncio])
def test_a_manager_makes_every_kind(face: Any) -> None:
    with MemoryStore() as store:
        manager = face.LockManager(store.connect(), "me", prefix="jobs/", ttl=9)
        made = of_manager(manager)
        assert made.keys() == KINDS.keys()
        for name, lock in made.items():
            assert type(lock) is getattr(face, name)
            assert (lock.node_id, lock.ttl) == ("me", 9)
            assert lock.key == "jobs/foo" + ", jobs/bar" * (name == "MultiLock")
        assert made["Semaphore"].limit == 3
        assert manager.semaphore("foo", 3, ttl=4).ttl == 4
