"""The kinds of locks, for tests of what they have in common: on a store in memory."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Thread
from time import monotonic
from typing import Any, TypeVar

import microlock
import microlock.asyncio
from microlock.lock import Lock
from microlock.testing import MemoryStore

T = TypeVar("T")

LIMIT = 3
TTL = 6
LONG = 600
PATIENCE = 20.0


@dataclass(frozen=True)
class Kind:
    """A kind of lock.

    Attributes:
        name: of its class, in each face.
        rival: the kind of those who keep it out;
        rivals: how many of them do.
        arguments: of its class, beside what all have;
        more: how the names of its keys go on, if it has several.
    """

    name: str
    rival: str
    rivals: int = 1
    arguments: tuple[int, ...] = ()
    more: tuple[str, ...] = ()

    def make(
        self, etcd: Any, node_id: str, *, key: str = "foo", ttl: float = TTL, **options: Any
    ) -> Any:
        """One of threads."""
        kind = getattr(microlock, self.name)
        return kind(etcd, self._keys(key), node_id, *self.arguments, ttl=ttl, **options)

    def make_async(
        self, etcd: Any, node_id: str, *, key: str = "foo", ttl: float = TTL, **options: Any
    ) -> Any:
        """One of tasks."""
        kind = getattr(microlock.asyncio, self.name)
        return kind(etcd, self._keys(key), node_id, *self.arguments, ttl=ttl, **options)

    def _keys(self, key: str) -> str | list[str]:
        return [key, *(key + each for each in self.more)] if self.more else key

    @property
    def entries(self) -> int:
        """How many a hold has."""
        return 1 + len(self.more)

    def __str__(self) -> str:
        return self.name


MUTEX = Kind("Microlock", "Microlock")
SEMAPHORE = Kind("Semaphore", "Semaphore", LIMIT, (LIMIT,))
READER = Kind("ReadLock", "WriteLock")
WRITER = Kind("WriteLock", "ReadLock")
SEVERAL = Kind("MultiLock", "MultiLock", more=("-2", "/3"))
ELECTION = Kind("Election", "Election")
KINDS = {kind.name: kind for kind in (MUTEX, SEMAPHORE, READER, WRITER, SEVERAL, ELECTION)}


class Nodes:
    """Locks of nodes, each with a client of its own."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.locks: list[Any] = []  # what is dropped is given back

    def __call__(self, kind: Kind | str, node_id: str | None = None, **options: Any) -> Any:
        made = KINDS[kind] if isinstance(kind, str) else kind
        node_id = node_id or f"node-{len(self.locks)}"
        self.locks.append(made.make(self.store.connect(), node_id, **options))
        return self.locks[-1]

    def rivals(self, kind: Kind, **options: Any) -> list[Any]:
        """Who keep this kind out: they hold it."""
        locks = [self(kind.rival, **options) for _ in range(kind.rivals)]
        for lock in locks:
            lock.lock()
        return locks

    def waits(self, lock: Lock) -> Future[Any]:
        """Has it wait, and returns when it does."""
        before = len(lock.waiters())
        begun = begin(lambda: lock.lock(timeout=LONG))
        wait_for(lambda: len(lock.waiters()) > before)
        self.store.advance(0)
        return begun


def begin(call: Callable[[], T]) -> Future[T]:
    """Calls it on a thread that no failing test has to wait for."""
    called: Future[T] = Future()

    def run() -> None:
        try:
            called.set_result(call())
        except BaseException as error:  # noqa: BLE001  for whoever asks for the result
            called.set_exception(error)

    Thread(target=run, name="begun by a test", daemon=True).start()
    return called


def wait_for(condition: Callable[[], object]) -> None:
    end = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < end
