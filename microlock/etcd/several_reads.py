"""Requests that take several reads, all as of one revision.

One read-only transaction could do it. But before etcd 3.4.23 and 3.5.7 such a transaction can crash
the member if its caller goes away in the middle.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from microlock.core.keys import lock_of
from microlock.core.port import Found, Get, KeyValue, ReadAll, Transaction
from microlock.errors import StoreError
from microlock.etcd import messages
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.translate import compacted

# The number of names in one read.
PAGE = 10_000
# The number of entries in one read: 2 MB, if all node ids have their maximum length.
ENTRIES = 500

# Takes a method, a message and the class of the reply.
Ask = Callable[..., Awaitable[Any]]


async def read(request: Any, ask: Ask) -> Any:
    """The reply to a `Get`, a `ReadAll`, or a `Transaction` that changes nothing.

    Awaits nothing but `ask`.
    """
    while True:
        try:
            match request:
                case Get(entry, others):
                    return await _each((entry, *others), ask)
                case ReadAll(prefix):
                    return await _all(prefix, ask)
                case Transaction(entry, revision, (), (), others):
                    found = await _each((entry, *others), ask)
                    standing = [kv for kv in found.keys if kv.create_revision == revision]
                    return found.revision if len(standing) == 1 + len(others) else None
            raise AssertionError(f"{request!r} is one call, or changes something")
        except StoreError as error:
            if not compacted(error):  # otherwise again: that revision was compacted meanwhile
                raise


async def _each(names: Iterable[bytes], ask: Ask) -> Found:
    revision, found = 0, list[KeyValue]()
    for name in names:
        reply = await _range(ask, key=name, revision=revision)
        revision = revision or reply.header.revision
        found += messages.keys(reply)
    return Found(revision, tuple(found))


async def _all(prefix: bytes, ask: Ask) -> Found:
    """The entries of all locks, without the values of other keys."""
    runs: list[list[bytes]] = []  # entries without another key between them
    apart = True
    page, more, revision = messages.all_of(prefix) | {"keys_only": True, "limit": PAGE}, True, 0
    while more:
        reply = await _range(ask, **page, revision=revision)
        for kv in reply.kvs:
            if not (kv.lease and lock_of(kv.key[len(prefix) :])):
                apart = True
                continue
            if apart or len(runs[-1]) == ENTRIES:
                runs.append([])
            runs[-1].append(kv.key)
            apart = False
        revision, more = revision or reply.header.revision, reply.more
        page["key"] = reply.kvs[-1].key + b"\0" if more else b""
    found: list[KeyValue] = []
    for run in runs:
        reply = await _range(ask, key=run[0], range_end=run[-1] + b"\0", revision=revision)
        found += messages.keys(reply)
    return Found(revision, tuple(found))


async def _range(ask: Ask, **asked: Any) -> pb.RangeResponse:
    reply: pb.RangeResponse = await ask(messages.RANGE, pb.RangeRequest(**asked), pb.RangeResponse)
    return reply
