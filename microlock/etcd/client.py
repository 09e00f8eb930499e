"""etcd's client, for any number of locks and threads of one process."""

from __future__ import annotations

from collections.abc import Sequence

from microlock.engine.client import Client
from microlock.etcd.login import Given, Identity
from microlock.etcd.store import EtcdStore
from microlock.etcd.wire import Wire


class EtcdClient(Client):
    """What `connect()` returns for an etcd: for any number of locks and threads of one process.

    Use it as a context manager, `with` or `async with`, or call `close()` or `aclose()`. After
    `os.fork()` the child needs its own.

    Attributes:
        timeout: seconds that each call of a lock may take.
        clock: what its locks go by.
    """

    def __init__(
        self, wires: Sequence[Wire], *, timeout: float, identity: Identity | None = None
    ) -> None:
        super().__init__(EtcdStore(wires, identity or Given()), timeout=timeout)
