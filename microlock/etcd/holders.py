"""Who holds each lock of many, without the values of all keys."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import islice
from typing import Any

from microlock.core.port import Found, KeyValue
from microlock.core.queue import entries, oldest
from microlock.etcd import messages
from microlock.etcd import rpc_pb2 as pb

# etcd's --max-txn-ops, where nobody has changed it.
MAX_OPERATIONS = 128

# Takes a method, a message and the class of the reply.
Ask = Callable[..., Awaitable[Any]]


async def holders(prefix: bytes, ask: Ask) -> Found:
    """The oldest entry of each lock whose key begins with this. Awaits nothing but `ask`."""
    names = pb.RangeRequest(**messages.all_of(prefix), keys_only=True)
    reply = await ask(messages.RANGE, names, pb.RangeResponse)
    first = {
        lock: kv
        for lock, kv in oldest(messages.keys(reply)).items()
        if lock[:-1].startswith(prefix)  # else that of a shorter name, whose entries begin so
    }
    held: list[KeyValue] = []
    gone: list[bytes] = []
    read = await _read(ask, {lock: messages.get(kv.name) for lock, kv in first.items()})
    for lock, found in read.items():
        stands = [kv for kv in found if _stands(kv, first[lock])]
        held += stands
        gone += [] if stands else [lock]
    # Of these all is read, values and nested names too: at once, for the next may go as well.
    read = await _read(ask, {lock: messages.read(lock) for lock in gone})
    for lock, found in read.items():
        held += entries(lock, found)[:1]
    return Found(reply.header.revision, tuple(held))


def _stands(kv: KeyValue, known: KeyValue) -> bool:
    """Whether it is the same entry still: then it was the oldest all the time."""
    return kv.create_revision == known.create_revision and kv.lease_id != 0


async def _read(ask: Ask, parts: dict[bytes, messages.Part]) -> dict[bytes, tuple[KeyValue, ...]]:
    """What the reads of the locks find, as many in a transaction as etcd takes."""
    left = iter(parts.items())
    all_found: dict[bytes, tuple[KeyValue, ...]] = {}
    while batch := dict(islice(left, MAX_OPERATIONS)):
        reply = await ask(*messages.txn((), batch.values()))
        found = (messages.keys(each.response_range) for each in reply.responses)
        all_found.update(zip(batch, found, strict=True))
    return all_found
