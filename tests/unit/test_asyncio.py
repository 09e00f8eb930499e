"""The asyncio face on a store in memory: what a task waits for, what ends that, what it leaves."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from microlock import (
    InvalidArgumentError,
    LockCancelledError,
    LockEvent,
    LockLostError,
    StoreUnavailableError,
    connect,
)
from microlock.asyncio import Microlock
from microlock.core.port import Enter, Revoke
from microlock.engine.host import Host
from microlock.engine.loop_client import LoopClient
from microlock.engine.reentrant_event import ReentrantEvent
from microlock.testing import MemoryStore

DEADLINE = 10.0


@contextmanager
def never_heard(host: Host, lock: bytes) -> Iterator[ReentrantEvent]:
    yield ReentrantEvent()


@pytest.fixture
def stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    """No watch comes to run, for locks that are listened to."""
    monkeypatch.setattr(Host, "listening", never_heard)


# The watch of a listener


@pytest.mark.usefixtures("stalled")
@pytest.mark.parametrize("timeout", [0, 6, None])
def test_a_wait_for_the_watch_takes_no_time_of_a_call(timeout: float | None) -> None:
    async def main(store: MemoryStore) -> None:
        foo = Microlock(store.connect(timeout=5), "foo", "one", 60)
        for call in (lambda: foo.lock(timeout=timeout), foo.renew, foo.unlock):
            began = store.clock.now()
            foo.on("locked", lambda: None)
            await store.until(call())
            assert store.clock.now() > began  # it has waited

    with MemoryStore() as store:
        asyncio.run(main(store))


async def waiting_for_its_watch(foo: Microlock) -> asyncio.Task[Any]:
    foo.on("locked", lambda: None)
    task = asyncio.ensure_future(foo.lock())
    while not foo._core.turns.calls:
        await asyncio.sleep(0)
    return task


@pytest.mark.usefixtures("stalled")
def test_cancel_ends_a_lock_that_waits_for_the_watch_of_its_listener() -> None:
    async def main() -> None:
        foo = Microlock(connect("memory://", timeout=600), "foo", "one")
        failed = []
        foo.on("failed", failed.append)
        task = await waiting_for_its_watch(foo)
        foo.cancel()
        with pytest.raises(LockCancelledError):
            await asyncio.wait_for(task, DEADLINE)
        await asyncio.sleep(0)
        assert [type(each.error) for each in failed] == [LockCancelledError]

    asyncio.run(main())


@pytest.mark.usefixtures("stalled")
def test_a_task_that_is_cancelled_while_it_waits_for_the_watch_leaves_no_call() -> None:
    async def main() -> None:
        foo = Microlock(connect("memory://", timeout=600), "foo", "one")
        task = await waiting_for_its_watch(foo)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert foo._core.turns.calls == ()

    asyncio.run(main())


@pytest.mark.usefixtures("stalled")
def test_the_cancellation_of_a_lock_that_waits_for_the_watch_is_told() -> None:
    async def main() -> None:
        foo, told = Microlock(connect("memory://", timeout=600), "foo", "one"), list[LockEvent]()
        foo.on("failed", told.append)
        task = await waiting_for_its_watch(foo)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        assert [type(each.error) for each in told] == [LockCancelledError]

    asyncio.run(main())


def test_a_lock_goes_on_when_the_watch_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    settled = ReentrantEvent()

    @contextmanager
    def listening(host: Host, lock: bytes) -> Iterator[ReentrantEvent]:
        yield settled

    monkeypatch.setattr(Host, "listening", listening)

    async def main() -> None:
        foo = Microlock(connect("memory://", timeout=600), "foo", "one")
        task = await waiting_for_its_watch(foo)
        threading.Thread(target=settled.set).start()
        await asyncio.wait_for(task, DEADLINE)
        assert foo.held

    asyncio.run(main())


@pytest.mark.usefixtures("stalled")
@pytest.mark.parametrize("wrong", [{"retries": -1}, {"interval": -1}, {"timeout": "soon"}])
def test_a_wrong_argument_is_told_before_the_watch_runs(wrong: dict[str, Any]) -> None:
    async def main() -> None:
        foo = Microlock(connect("memory://", timeout=600), "foo", "one")
        foo.on("locked", lambda: None)
        with pytest.raises(InvalidArgumentError, match=next(iter(wrong))):
            await asyncio.wait_for(foo.lock(**wrong), DEADLINE)

    asyncio.run(main())


# What a loop is left


def test_a_task_that_takes_and_gives_back_a_lock_in_memory_lets_others_go_on() -> None:
    async def main() -> None:
        foo = Microlock(connect("memory://"), "foo", "one")
        went_on = asyncio.create_task(asyncio.sleep(0))
        for _ in range(100):
            await foo.lock()
            await foo.unlock()
            if went_on.done():
                return
        raise AssertionError("no other task had a turn")

    asyncio.run(main())


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs signals of Unix")
def test_cancel_in_the_handler_of_a_signal_wakes_the_loop() -> None:
    async def main() -> None:
        etcd = connect("memory://")
        foo, other = Microlock(etcd, "foo", "one", 60), Microlock(etcd, "foo", "other", 60)
        await other.lock()
        before = signal.signal(signal.SIGALRM, lambda *_: foo.cancel())
        try:
            waiting, woken_late = asyncio.ensure_future(foo.lock(timeout=None)), asyncio.Event()
            while not await other.waiters():
                await asyncio.sleep(0)
            asyncio.get_running_loop().call_later(DEADLINE, woken_late.set)
            signal.setitimer(signal.ITIMER_REAL, 0.05)  # while the loop sleeps
            with pytest.raises(LockCancelledError):
                await waiting
            assert not woken_late.is_set()
        finally:
            signal.signal(signal.SIGALRM, before)
            await other.destroy()

    asyncio.run(main())


# What ends early


def test_a_cancellation_whose_undoing_fails_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    perform, entering = LoopClient.perform, asyncio.Event()

    async def stands_still(client: LoopClient, request: Any, budget: Any) -> Any:
        if isinstance(request, Enter):
            entering.set()
            await asyncio.get_running_loop().create_future()
        if isinstance(request, Revoke):
            raise StoreUnavailableError("etcd is away")
        return await perform(client, request, budget)

    monkeypatch.setattr(LoopClient, "perform", stands_still)

    async def main() -> None:
        foo = Microlock(connect("memory://"), "foo", "one")
        task = asyncio.ensure_future(foo.lock())
        await entering.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert [each.message for each in caplog.records] == [
        "'foo' may stay locked until its ttl ends: etcd is away"
    ]


async def gathered() -> None:
    await asyncio.gather(asyncio.sleep(DEADLINE))


async def in_a_task() -> None:
    await asyncio.ensure_future(asyncio.sleep(DEADLINE))


@pytest.mark.parametrize("work", [gathered, in_a_task])
def test_a_bound_block_that_waits_for_others_is_cut_by_the_loss(
    work: Callable[[], Awaitable[None]],
) -> None:
    async def main(store: MemoryStore) -> None:
        foo = Microlock(store.connect(), "foo", "one", 60)

        async def block() -> None:
            async with foo.bound():
                await work()

        blocked = asyncio.ensure_future(block())
        while not foo.held:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.get_running_loop().run_in_executor(None, store.revoke, foo)
        await store.advance_async(61)
        with pytest.raises(LockLostError):
            await asyncio.wait_for(blocked, DEADLINE)

    with MemoryStore() as store:
        asyncio.run(main(store))


# Beside the steps of a lock


def test_handlers_are_added_and_removed_while_another_thread_takes_a_step() -> None:
    """In a child of a fork that thread is not there to end it."""
    foo = Microlock(connect("memory://"), "foo", "one")
    taken, goes_on = threading.Event(), threading.Event()

    def step() -> None:
        with foo._host.mutex:
            taken.set()
            goes_on.wait(6 * DEADLINE)

    def use() -> None:
        foo.remove_listener("lost", foo.on("lost", print))
        foo.remove_all_listeners()

    stepping, using = threading.Thread(target=step), threading.Thread(target=use)
    stepping.start()
    assert taken.wait(DEADLINE)
    using.start()
    using.join(DEADLINE)
    ended = not using.is_alive()
    goes_on.set()
    stepping.join()
    using.join()
    assert ended
