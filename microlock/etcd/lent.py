"""The client for the `etcd` argument of a lock.

It is ours, or one that borrows the channels, metadata and timeout of another library's client.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, ref

from microlock.core.keys import check_duration
from microlock.engine.client import Client
from microlock.errors import ClientRequiredError
from microlock.etcd.client import EtcdClient
from microlock.etcd.connect import DEFAULT_TIMEOUT, shown
from microlock.etcd.login import Given
from microlock.etcd.wire import Metadata

if TYPE_CHECKING:
    from microlock.etcd.wire.grpcio import GrpcWire

_lent: WeakKeyDictionary[Any, EtcdClient] = WeakKeyDictionary()


def client_of(etcd: object) -> Client:
    """The client for the `etcd` argument of a lock: the same one for the same object.

    A client of python-etcd3 or etcd-sdk-python lends its channels, its metadata and its timeout.

    Raises:
        ClientRequiredError: it is no client.
    """
    if isinstance(etcd, Client):
        return etcd
    with suppress(TypeError):  # not hashable, so no client: an error follows below
        if known := _lent.get(etcd):
            return known
    # No mutex: a signal handler may come here on the same thread. Of two clients made at the same
    # time the first one wins; the other has started nothing.
    return _lent.setdefault(etcd, _borrow(etcd, _lent_wires(etcd)))


def _lent_wires(etcd: object) -> list[GrpcWire]:
    # Recognised by their attributes: neither library needs to be installed.
    channels: dict[object, Any]
    members = getattr(etcd, "endpoints", None)
    if isinstance(members, Mapping):  # etcd-sdk-python: one channel for each endpoint
        channels = {name: getattr(member, "channel", None) for name, member in members.items()}
    else:  # python-etcd3
        channels = {getattr(etcd, "_url", "etcd"): getattr(etcd, "channel", None)}
    grpc = sys.modules.get("grpc")  # imported already, if this is a channel
    if not (channels and grpc and all(isinstance(c, grpc.Channel) for c in channels.values())):
        raise ClientRequiredError(
            "etcd must be a client from microlock.connect(), or a gRPC client of python-etcd3 or "
            f"etcd-sdk-python, not {shown(etcd)}"
        )
    from microlock.etcd.wire.grpcio import GrpcWire

    return [GrpcWire(channel, str(name), lent=True) for name, channel in channels.items()]


def _borrow(etcd: Any, wires: Sequence[GrpcWire]) -> EtcdClient:
    owner = ref(etcd)  # a strong reference would keep both for ever

    def metadata() -> Metadata:
        return tuple(getattr(owner(), "metadata", None) or ())

    timeout = getattr(etcd, "timeout", None)
    seconds = DEFAULT_TIMEOUT if timeout is None else check_duration("timeout", timeout)
    return EtcdClient(wires, timeout=seconds, identity=Given(metadata))
