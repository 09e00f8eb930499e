"""Fixtures for pytest: `microlock_store`, in memory, and `microlock_etcd`, a real etcd.

A module of its own, which imports nothing of microlock before a test asks for one of them: pytest
loads it in every run.
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
    """The etcd of `microlock_etcd`, with all that earlier tests have left in it."""
    from microlock.server import EtcdServer

    with EtcdServer(fast=True) as etcd:
        yield etcd


@pytest.fixture
def microlock_etcd(microlock_etcd_server: EtcdServer) -> EtcdServer:
    """A real etcd, one for all tests, without a key: `connect(microlock_etcd.endpoint)`."""
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
