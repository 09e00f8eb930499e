"""What `run.py` runs in each of its environments, with a real etcd: python-etcd3 at work, and a
lock cycle over every kind of client.

    python tests/compat/cycle.py [etcd3 | pyetcd | aetcd ...]

The clients named are imported first, in that order. The last line of the output is the protobuf
that this ran on.
"""

from __future__ import annotations

import importlib
import queue
import sys
from itertools import islice
from typing import Any

EVENT_TIMEOUT = 10.0


def main(clients: list[str]) -> None:
    for name in clients:
        import_client(name)

    from microlock import connect, etcd3
    from microlock.server import EtcdServer

    with EtcdServer(fast=True) as server:
        host, _, port = server.endpoint.rpartition(":")
        etcd3_at_work(etcd3.client(host=host, port=int(port)))
        lock_cycle(connect(server.endpoint), "connect")
        lock_cycle(etcd3.client(host=host, port=int(port)), "etcd3")
        if "pyetcd" in clients:
            import pyetcd

            lock_cycle(pyetcd.client(host=host, port=int(port)), "pyetcd")

    print(protobuf_in_use())


def import_client(name: str) -> None:
    if name == "etcd3":
        from microlock import etcd3  # noqa: F401
    elif {name, *sys.modules} >= {"pyetcd", "aetcd"}:
        # These two exclude each other with or without microlock: each registers an auth.proto and
        # a kv.proto of its own in protobuf's default pool. So the second gets another pool.
        from google.protobuf import descriptor_pool

        default, pool = descriptor_pool.Default, descriptor_pool.DescriptorPool()
        descriptor_pool.Default = lambda: pool
        try:
            importlib.import_module(name)
        finally:
            descriptor_pool.Default = default
    else:
        importlib.import_module(name)


def etcd3_at_work(etcd: Any) -> None:
    """Every kind of call of python-etcd3, so every kind of message there and back."""
    events, cancel = etcd.watch_prefix("work/")
    lease = etcd.lease(60)
    etcd.put("work/a", "1", lease=lease)
    value, metadata = etcd.get("work/a")
    assert (value, metadata.lease_id) == (b"1", lease.id)

    compare, put, get = (getattr(etcd.transactions, name) for name in ("version", "put", "get"))
    a_exists = compare("work/a") > 0
    assert etcd.transaction([a_exists], [put("work/b", "2"), get("work/a")], [])[0]
    assert not etcd.transaction([compare("work/b") == 0], [put("work/b", "3")], [])[0]
    assert [value for value, _ in etcd.get_prefix("work/", sort_order="descend")] == [b"2", b"1"]

    assert etcd.delete("work/b")
    lease.refresh()
    lease.revoke()
    assert etcd.get("work/a") == (None, None)
    seen = [(type(event).__name__, event.key) for event in islice(events, 4)]
    assert seen == [
        ("PutEvent", b"work/a"),
        ("PutEvent", b"work/b"),
        ("DeleteEvent", b"work/b"),
        ("DeleteEvent", b"work/a"),
    ]
    cancel()
    status = etcd.status()
    assert status.version.startswith("3.")
    assert status.leader.name == "default"
    assert not list(etcd.list_alarms())


def lock_cycle(etcd: Any, key: str) -> None:
    from microlock import AlreadyLockedError, Microlock

    seen: queue.SimpleQueue[str] = queue.SimpleQueue()
    ours, theirs = Microlock(etcd, key, "one", ttl=5), Microlock(etcd, key, "two", ttl=5)
    theirs.on("locked", lambda: seen.put("locked"))
    theirs.on("unlocked", lambda: seen.put("unlocked"))

    hold = ours.lock()
    assert (hold.key, hold.node_id) == (key, "one")
    assert ours.held
    assert seen.get(timeout=EVENT_TIMEOUT) == "locked"
    try:
        theirs.lock()
    except AlreadyLockedError as error:
        holder = error.holder
    else:
        raise AssertionError("two objects hold one lock")
    assert holder
    assert holder.node_id == "one"
    assert 0 < ours.renew() <= hold.ttl
    ours.unlock()
    assert not ours.held
    assert seen.get(timeout=EVENT_TIMEOUT) == "unlocked"

    assert theirs.lock().token > hold.token
    assert seen.get(timeout=EVENT_TIMEOUT) == "locked"
    theirs.destroy()
    ours.destroy()


def protobuf_in_use() -> str:
    import google.protobuf
    from google.protobuf.internal import api_implementation

    return f"{google.protobuf.__version__} {api_implementation.Type()}"


if __name__ == "__main__":
    main(sys.argv[1:])
