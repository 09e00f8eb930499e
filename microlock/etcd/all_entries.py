"""All entries of many locks, without the values of all keys."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from typing import Any

from microlock.core.keys import lock_of
from microlock.core.port import Found, KeyValue
from microlock.errors import StoreError
from microlock.etcd import messages
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.translate import compacted

# etcd's --max-txn-ops, where nobody has changed it.
MAX_OPERATIONS = 128
# So many names are read at a time.
PAGE = 10_000

# Takes a method, a message and the class of the reply.
Ask = Callable[..., Awaitable[Any]]


async def read_all(prefix: bytes, ask: Ask) -> Found:
    """The entries of all locks whose key begins with this, and goes on, as of one revision.

    Awaits nothing but `ask`.
    """
    while True:
        try:
            return await _read_all(prefix, ask)
        except StoreError as error:
            if not compacted(error):  # else that revision is forgotten by now
                raise


async def _read_all(prefix: bytes, ask: Ask) -> Found:
    names: list[bytes] = []
    page, more, revision = messages.all_of(prefix) | {"keys_only": True, "limit": PAGE}, True, 0
    while more:
        asked = pb.RangeRequest(**page, revision=revision)
        reply = await ask(messages.RANGE, asked, pb.RangeResponse)
        names += [kv.key for kv in reply.kvs if kv.lease and lock_of(kv.key[len(prefix) :])]
        revision, more = revision or reply.header.revision, reply.more
        page["key"] = reply.kvs[-1].key + b"\0" if more else b""
    left, found = iter(names), list[KeyValue]()
    while batch := [messages.get(name) for name in islice(left, MAX_OPERATIONS)]:
        for each in batch:
            each["request_range"]["revision"] = revision
        reply = await ask(*messages.txn((), batch))
        found += _found(reply)
    return Found(revision, tuple(found))


def _found(reply: pb.TxnResponse) -> Iterator[KeyValue]:
    for each in reply.responses:
        yield from messages.keys(each.response_range)
