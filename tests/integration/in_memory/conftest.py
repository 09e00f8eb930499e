"""The suites of the lock once more, on a store in memory: without those that need a process."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from faces import TASKS

from microlock.core.port import Revoke
from microlock.memory.connect import connect

# These start other programs, or speak to etcd in another way than a client does.
NEEDS_ETCD = ("own_etcd", "etcdctl_lock", "cluster", "proxy", "second_etcd_server")


class InMemory:
    """In place of `EtcdServer`."""

    version = "3.5"

    def __init__(self) -> None:
        self.endpoint = f"memory://{uuid4()}"


class MemoryCtl:
    """In place of `Etcdctl`: what the tests of the lock ask it for."""

    def __init__(self, endpoint: str) -> None:
        self._store: Any = connect(endpoint, timeout=5).store

    def __call__(self, *words: str, timeout: float = 20) -> str:
        match words:
            case ("get", "--prefix", "--keys-only", name):
                return "".join(f"{each.decode()}\n\n" for each in self._names(name))
            case ("get", name):
                kv = self._store.state.keys.get(name.encode())
                return f"{name}\n{kv.value.decode()}\n" if kv else ""
            case ("put", name, value):
                self._store.change(lambda state: state.put(name.encode(), value.encode()))
            case ("del", "--prefix", name):
                gone = [(each, None, 0) for each in self._names(name)]
                self._store.change(lambda state: state.change(*gone))
                return f"{len(gone)}\n"
            case ("del", name):
                self._store.change(lambda state: state.delete(name.encode()))
            case ("lease", "revoke", lease):
                self._store.change(lambda state: state.apply(Revoke(int(lease, 16))))
            case _:
                pytest.skip(f"nothing for a store in memory: etcdctl {' '.join(words)}")
        return "OK\n"

    def _names(self, prefix: str) -> list[bytes]:
        return sorted(each for each in self._store.state.keys if each.startswith(prefix.encode()))


@pytest.fixture(scope="session")
def etcd_server() -> InMemory:
    return InMemory()


@pytest.fixture
def etcdctl(etcd_server: InMemory) -> MemoryCtl:
    return MemoryCtl(etcd_server.endpoint)


# What these names hold starts a process with a client of its own, or speaks to a port.
ELSEWHERE = (
    "every_client",
    "etcd3",
    "pyetcd",
    "grpc-proxy",
    "process",
    "etcdctl",
    "was_killed",
    "was_stopped",
    "slow_link",
)


# A task calls the store as a thread does, and what handlers and turns are for it has nothing to do
# with the store: two suites show that it can.
BOTH_FACES = ("test_contract_in_memory.py", "test_cancel_in_memory.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves out other clients, other programs and other processes."""
    here = Path(__file__).parent
    for item in [each for each in items if here in each.path.parents]:
        names = getattr(item, "fixturenames", ())
        other = any(each in item.name for each in ELSEWHERE)
        twice = f"[{TASKS}" in item.name and item.path.name not in BOTH_FACES
        if other or twice or any(name in names for name in NEEDS_ETCD):
            items.remove(item)
