"""Who is compared. Each contender is a module here, with `connect(endpoint)` and its `driver`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from driving import Driver

TTL = 60  # seconds, of all leases that are not to be renewed: no run lasts so long


class Lock(Protocol):
    """One lock object of one owner."""

    async def acquire(self) -> None: ...

    async def release(self) -> None: ...

    async def discard(self) -> None:
        """Ends what is left of it, as its library asks for."""


class Client(Protocol):
    def lock(self, key: str, owner: str, *, waits: bool = False) -> Lock: ...

    def reader(self, key: str, owner: str) -> Lock:
        """Which waits."""

    def writer(self, key: str, owner: str) -> Lock: ...

    def several(self, keys: Sequence[str], owner: str) -> Lock:
        """Which waits, too. Who has none takes one key after the other."""

    async def close(self) -> None: ...

    async def watch(self, key: str, told: Callable[[], object]) -> None:
        """Returns when it watches. `told` is called for each change of this lock."""

    async def keep(self, key: str, ttl: int) -> None:
        """Takes a lock and keeps it, renewed in the background."""

    def kept(self) -> int:
        """How many of those it believes to hold."""


@dataclass(frozen=True)
class Contender:
    """Attributes:
    name: as in the tables.
    module: in this package; "" for the program in Go.
    package: what it needs from PyPI, by its name for `import`.
    server: what it speaks to.
    scenarios: those that it can do.
    note: what to know of it.
    """

    name: str
    module: str
    package: str
    scenarios: tuple[str, ...]
    server: str = "etcd"
    note: str = ""


class Contending:
    """A contender in the process that measures it."""

    def __init__(self, contender: Contender) -> None:
        module = import_module(f"contenders.{contender.module}")
        self.driver: Driver = module.driver
        self.connect: Callable[[str], Any] = module.connect
        self.on_etcd = contender.server == "etcd"


_CYCLES = ("single", "workers", "handover")
_ALL = (*_CYCLES, "idle", "renewal", "shared", "several")

CONTENDERS = (
    Contender("microlock", "ours", "microlock", _ALL),
    Contender("microlock, main thread", "ours", "microlock", ("single",)),
    Contender(
        "raw",
        "raw",
        "grpc",
        ("single", "workers", "idle", "renewal"),
        note="the two transactions over bare grpcio and nothing around them: the limit, no lock",
    ),
    Contender("microlock asyncio", "ours_asyncio", "microlock", (*_CYCLES, "shared", "several")),
    Contender(
        "raw asyncio",
        "raw_asyncio",
        "grpc",
        ("single", "workers"),
        note="as raw, over the asyncio stubs of grpcio",
    ),
    Contender("Go", "", "", _ALL, note="concurrency.Mutex of etcd's own client; its RWMutex"),
    Contender(
        "lock service",
        "lock_service",
        "grpc",
        (*_CYCLES, "several"),
        note="etcd's v3lock, over grpcio",
    ),
    Contender(
        "python-etcd3",
        "python_etcd3",
        "etcd3",
        (*_CYCLES, "idle", "several"),
        note="by `from microlock import etcd3`: protobuf in C; its wait is patched to run on "
        "tenacity 9",
    ),
    Contender("etcd3gw", "gateway", "etcd3gw", _CYCLES, note="can't wait: tried again every 10 ms"),
    Contender("aetcd", "aetcd_lock", "aetcd", (*_CYCLES, "idle", "several"), note="asyncio"),
    Contender(
        "redis-py",
        "redis_lock",
        "redis",
        (*_CYCLES, "several"),
        "redis-server",
        note="another guarantee: one server, no consensus; appendfsync always",
    ),
    Contender(
        "kazoo",
        "zookeeper",
        "kazoo",
        (*_CYCLES, "idle", "shared", "several"),
        "zookeeper",
        note="another guarantee: one session for all locks of a process, on ZooKeeper",
    ),
)
# What `make bench` compares with.
FROM_PYPI = ("raw", "raw asyncio", "lock service", "python-etcd3", "etcd3gw", "aetcd")


def named(name: str) -> Contender:
    return next(each for each in CONTENDERS if each.name == name)
