"""Fixtures for pytest: `microlock_store`, in memory, and `microlock_etcd`, a real etcd.

pytest loads this module in every run, so it imports microlock only when a test uses a fixture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from microlock.server import EtcdServer
    from microlock.testing import MemoryStore


@pytest.fixture
def microlock_store() -> Iterator[MemoryStore]:
    """A store in memory, new for each test: `microlock.testing.MemoryStore`."""
    from microlock.testing import MemoryStore

    with MemoryStore() as store:
        yield store


@pytest.fixture(scope="session")
def microlock_etcd_server() -> Iterator[EtcdServer]:
    """The etcd behind `microlock_etcd`, with the keys that earlier tests left."""
    from microlock.server import EtcdServer

    with EtcdServer(fast=True) as etcd:
        yield etcd


@pytest.fixture
def microlock_etcd(microlock_etcd_server: EtcdServer) -> EtcdServer:
    """A real etcd without keys, the same for all tests: `connect(microlock_etcd.endpoint)`."""
    # An earlier test may have paused or stopped it.
    if microlock_etcd_server.pid is not None:
        microlock_etcd_server.resume()
    microlock_etcd_server.start()
    _delete_all_keys(microlock_etcd_server)
    return microlock_etcd_server


def _delete_all_keys(etcd: EtcdServer) -> None:
    from http.client import HTTPConnection

    connection = HTTPConnection(etcd.endpoint, timeout=10)
    try:
        # From NUL to NUL is everything, in base64 (etcd's JSON gateway).
        body = '{"key": "AA==", "range_end": "AA=="}'
        connection.request("POST", "/v3/kv/deleterange", body)
        answer = connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"the keys can't be deleted: {answer.read()!r}")
    finally:
        connection.close()
