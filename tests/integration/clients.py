"""The clients of etcd that a lock can be made with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import microlock


def own(endpoint: str) -> Any:
    """microlock's own."""
    return microlock.connect(endpoint)


def python_etcd3(endpoint: str) -> Any:
    """One of python-etcd3, loaded by microlock."""
    host, _, port = endpoint.rpartition(":")
    return microlock.etcd3.client(host=host, port=int(port))


def etcd_sdk_python(endpoint: str) -> Any:
    """One of etcd-sdk-python."""
    import pyetcd

    host, _, port = endpoint.rpartition(":")
    return pyetcd.client(host=host, port=int(port))


CLIENTS: dict[str, Callable[[str], Any]] = {
    "connect": own,
    "etcd3": python_etcd3,
    "pyetcd": etcd_sdk_python,
}
