"""What an error of a lock says to who looks for the line, and why a hold was lost."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import traceback
from typing import Any

import pytest

import microlock.asyncio
from microlock import (
    LockLostError,
    LossReason,
    Microlock,
    State,
    StoreTimeoutError,
    StoreUnavailableError,
)
from microlock.testing import MemoryStore

TTL = 5


def lines(error: BaseException) -> list[str]:
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


def test_the_error_of_a_block_keeps_the_way_to_its_line() -> None:
    def work(foo: Microlock) -> None:
        foo.check()

    with MemoryStore() as store:
        foo = Microlock(store.connect(), "foo", "one", TTL)
        with pytest.raises(LockLostError) as error, foo:  # noqa: PT012
            store.advance(1)  # by now it is watched
            store.revoke(foo)
            work(foo)
        assert "work" in lines(error.value)


def test_the_error_of_a_block_of_a_task_keeps_the_way_to_its_line() -> None:
    async def work(foo: microlock.asyncio.Microlock) -> None:
        foo.check()

    async def main(store: MemoryStore) -> None:
        foo = microlock.asyncio.Microlock(store.connect(), "foo", "one", TTL)
        async with foo:
            await store.advance_async(1)  # by now it is watched
            store.revoke(foo)
            await work(foo)

    with MemoryStore() as store:
        with pytest.raises(LockLostError) as error:
            asyncio.run(main(store))
        assert "work" in lines(error.value)


def test_a_loss_that_was_seen_keeps_its_reason() -> None:
    with MemoryStore() as store:
        foo = Microlock(store.connect(), "foo", "one", TTL)
        told: list[LossReason | None] = []
        foo.on("lost", lambda event: told.append(event.reason))
        foo.lock()
        store.clock._now += TTL  # seen before anything is told
        assert (foo.state, foo.lost_reason) == (State.LOST, LossReason.EXPIRED)
        store.revoke(foo._status.hold.place.lease.id)  # type: ignore[union-attr]
        store.advance(TTL)
        assert (told, foo.lost_reason) == ([LossReason.EXPIRED], LossReason.EXPIRED)


def test_an_error_of_the_store_names_the_lock_once_and_not_for_others() -> None:
    shared = StoreTimeoutError("no answer", may_have_happened=True)
    mine, theirs = shared.about("foo"), shared.about("bar")
    assert (str(mine), str(theirs), str(shared)) == (
        "'foo': no answer",
        "'bar': no answer",
        "no answer",
    )
    assert mine.about("bar") is mine
    again = pickle.loads(pickle.dumps(mine))
    assert (str(again), again.key, again.args) == ("'foo': no answer", "foo", ("no answer",))
    assert again.may_have_happened


@pytest.mark.parametrize("call", ["lock", "holder", "waiters"])
@pytest.mark.parametrize("face", [microlock, microlock.asyncio])
def test_a_call_without_an_answer_names_its_lock(face: Any, call: str) -> None:
    with microlock.connect("localhost:1") as etcd:
        foo, failures = face.Microlock(etcd, "foo", "one", TTL), []
        foo.on("failed", lambda event: failures.append(str(event.error)))

        async def main() -> None:
            calling = getattr(foo, call)()
            if inspect.isawaitable(calling):
                await calling

        with pytest.raises(StoreUnavailableError, match=r"^'foo': no connection") as error:
            asyncio.run(main())
        asyncio.run(_destroyed(foo))
    assert failures == ([str(error.value)] if call == "lock" else [])


async def _destroyed(foo: Any) -> None:
    ending = foo.destroy()
    if inspect.isawaitable(ending):
        await ending
