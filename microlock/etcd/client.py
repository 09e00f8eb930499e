"""The client of etcd."""

from __future__ import annotations

from collections.abc import Sequence

from microlock.engine.client import Client
from microlock.etcd.login import Given, Identity
from microlock.etcd.store import EtcdStore
from microlock.etcd.wire import Wire


class EtcdClient(Client):
    """A client of etcd, for any number of locks, threads and event loops of one process.

    `connect()` makes it. Use it as a context manager, `with` or `async with`, or call `close()` or
    `aclose()`. After `os.fork()` the child process needs its own client.

    Attributes:
        timeout: seconds that each call of a lock may take.
        clock: the clock of its locks.
    """

    def __init__(
        self, wires: Sequence[Wire], *, timeout: float, identity: Identity | None = None
    ) -> None:
        super().__init__(EtcdStore(wires, identity or Given()), timeout=timeout)
