"""Nodes that lock at the same time: each has a client of its own, and calls can run aside."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TypeVar

from faces import Microlock
from watching import eventually

from microlock import EtcdClient, MicrolockError, connect

T = TypeVar("T")

LONG = 60  # seconds; no test takes so long
Make = Callable[..., Microlock]


@contextmanager
def nodes(endpoint: str, key: str, *, timeout: float = 5) -> Iterator[Make]:
    """Makes locks: `make("two", ttl=5, auto_renew=True)`. All are destroyed at the end."""
    clients: dict[str, EtcdClient] = {}
    with ExitStack() as stack:

        def make(
            node_id: str = "one", *, key: str = key, ttl: float = LONG, **options: Any
        ) -> Microlock:
            if node_id not in clients:
                clients[node_id] = stack.enter_context(connect(endpoint, timeout=timeout))
            lock = Microlock(clients[node_id], key, node_id, ttl, **options)
            stack.callback(_end, lock)
            return lock

        yield make


def _end(lock: Microlock) -> None:
    with suppress(MicrolockError):  # the etcd of some tests is gone
        lock.destroy()


def begin(call: Callable[[], T]) -> Future[T]:
    """Calls it on a thread that no failing test has to wait for."""
    called: Future[T] = Future()

    def run() -> None:
        try:
            called.set_result(call())
        except BaseException as error:  # noqa: BLE001  for whoever asks for the result
            called.set_exception(error)

    threading.Thread(target=run, name="begun by a test", daemon=True).start()
    return called


def queued(lock: Microlock, count: int = 1) -> bool:
    """Whether so many come to wait for the lock."""
    return eventually(lambda: len(lock.waiters()) >= count)
