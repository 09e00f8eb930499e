"""What a semaphore promises beside what all locks do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest
from kinds import LIMIT, LONG, PATIENCE, SEMAPHORE, TTL, Nodes

from microlock import AlreadyLockedError, InvalidArgumentError, Microlock, Semaphore, connect
from microlock.core import flows
from microlock.core.admission import semaphore
from microlock.core.keys import Names
from microlock.core.place import Contended, Place
from microlock.core.port import Enter, Grant, Join
from microlock.memory.state import State
from microlock.testing import MemoryStore


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    with MemoryStore() as store:
        yield store


@pytest.fixture
def nodes(store: MemoryStore) -> Nodes:
    return Nodes(store)


def test_as_many_as_the_limit_hold_it_and_no_more(nodes: Nodes) -> None:
    for _ in range(LIMIT):
        nodes(SEMAPHORE).lock()
    with pytest.raises(AlreadyLockedError):
        nodes(SEMAPHORE).lock()


def test_each_holder_that_goes_lets_one_in(nodes: Nodes) -> None:
    holders, locks = nodes.rivals(SEMAPHORE), [nodes(SEMAPHORE) for _ in range(LIMIT)]
    waiting = [nodes.waits(lock) for lock in locks]
    for number, lock in enumerate(reversed(holders)):  # they need not go in order
        lock.unlock()
        waiting[number].result(PATIENCE)
        assert [each.held for each in locks].count(True) == number + 1


def test_a_waiter_that_gives_up_holds_up_nobody(nodes: Nodes) -> None:
    holders, gives_up, next_one = nodes.rivals(SEMAPHORE), nodes(SEMAPHORE), nodes(SEMAPHORE)
    nodes.waits(gives_up)
    waiting = nodes.waits(next_one)
    gives_up.cancel()
    holders[1].unlock()
    assert waiting.result(PATIENCE)


def test_a_semaphore_of_one_and_a_mutex_exclude_each_other(store: MemoryStore) -> None:
    one, mutex = Semaphore(store.connect(), "foo", "a", 1), Microlock(store.connect(), "foo", "b")
    one.lock()
    with pytest.raises(AlreadyLockedError):
        mutex.lock()


def test_a_lower_limit_waits_for_fewer_holders(nodes: Nodes, store: MemoryStore) -> None:
    nodes(SEMAPHORE).lock()
    lower = Semaphore(store.connect(), "foo", "lower", 1, ttl=TTL)
    with pytest.raises(AlreadyLockedError):
        lower.lock()
    assert nodes(SEMAPHORE).lock()


def test_an_object_has_one_of_the_places(nodes: Nodes) -> None:
    foo = nodes(SEMAPHORE)
    foo.lock()
    with pytest.raises(AlreadyLockedError):
        foo.lock()
    assert len(foo.holders()) == 1


def test_it_says_its_limit(nodes: Nodes) -> None:
    assert nodes(SEMAPHORE).limit == LIMIT


@pytest.mark.parametrize("limit", [0, -1, True, 1.0, "2", None])
def test_a_limit_is_an_int_of_one_or_more(store: MemoryStore, limit: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"limit must be an int of 1 or more"):
        Semaphore(store.connect(), "foo", "me", limit)


def test_many_threads_never_exceed_the_limit() -> None:
    with connect("memory://") as etcd:
        holding, most = set[int](), list[int]()

        def work(number: int) -> None:
            lock = Semaphore(etcd, "foo", f"node-{number}", LIMIT, ttl=LONG)
            for _ in range(20):
                with lock:
                    holding.add(number)
                    most.append(len(holding))
                    holding.discard(number)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
    assert max(most) <= LIMIT


# One try, request by request.


class Tries:
    """A try for a semaphore of 2, on a store that somebody else uses between the requests."""

    def __init__(self, meanwhile: Callable[[State, int], object]) -> None:
        self.store = State()
        self.requests: list[Any] = []
        self._meanwhile = meanwhile

    def run(self) -> Place | Contended:
        names = Names.of("foo", "me", semaphore(2))
        taking = flows.try_lock(names, TTL, None, now=self.store.now, lease_ids=count(100))
        reply: Any = None
        try:
            while True:
                request = taking.send(reply)
                if isinstance(request, Enter):
                    self._meanwhile(self.store, self.kinds.count(Enter))
                self.requests.append(request)
                reply = self.store.apply(request)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    @property
    def kinds(self) -> list[type]:
        return [type(each) for each in self.requests]


def another_comes(store: State, number: int) -> None:
    lease_id = number + 1
    store.apply(Grant(lease_id, TTL))
    store.put(b"foo/%x" % lease_id, b"other", lease_id)


def test_a_try_for_a_free_semaphore_is_one_put() -> None:
    tries = Tries(lambda store, number: None)
    assert isinstance(tries.run(), Place)
    assert tries.kinds.count(Enter) == 1


def test_a_try_asks_again_where_others_hold_it_too() -> None:
    tries = Tries(lambda store, number: another_comes(store, number) if number == 0 else None)
    assert isinstance(tries.run(), Place)
    first, second = (each for each in tries.requests if isinstance(each, Enter))
    assert (first.since, second.since > 0) == (0, True)


def test_a_try_is_refused_if_the_last_place_is_taken_between_two_requests() -> None:
    tries = Tries(another_comes)
    assert isinstance(tries.run(), Contended)
    assert len(tries.store.keys) == 2


def comes_and_goes(store: State, number: int) -> None:
    store.delete(b"foo/%x" % number)
    another_comes(store, number)


def test_a_try_that_others_come_before_again_and_again_puts_its_entry_and_looks() -> None:
    tries = Tries(comes_and_goes)
    assert isinstance(tries.run(), Place)
    assert tries.kinds.count(Join) == 1
