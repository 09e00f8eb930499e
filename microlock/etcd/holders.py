"""Who holds each lock of many, without the values of all keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from google.protobuf.message import Message

from microlock.core.port import Found, KeyValue
from microlock.core.queue import entries, oldest
from microlock.etcd import messages
from microlock.etcd import rpc_pb2 as pb

# etcd's --max-txn-ops, where nobody has changed it.
MAX_OPERATIONS = 128

Ask = Callable[[str, Message, type[Any]], Any]


def holders(prefix: bytes, ask: Ask) -> Found:
    """The oldest entry of each lock whose key begins with this.

    Args:
        ask: sends a message by a method, and returns the reply of a class.
    """
    names = pb.RangeRequest(**messages.all_of(prefix), keys_only=True)
    reply = ask(messages.RANGE, names, pb.RangeResponse)
    first = {
        lock: kv
        for lock, kv in oldest(messages.keys(reply)).items()
        if lock[:-1].startswith(prefix)  # else that of a shorter name, whose entries begin so
    }
    held: list[KeyValue] = []
    gone: list[bytes] = []
    for lock, found in _read({lock: messages.get(kv.name) for lock, kv in first.items()}, ask):
        stands = [kv for kv in found if _stands(kv, first[lock])]
        held += stands
        gone += [] if stands else [lock]
    # Of these all is read, values and nested names too: at once, for the next may go as well.
    for lock, found in _read({lock: messages.read(lock) for lock in gone}, ask):
        held += entries(lock, found)[:1]
    return Found(reply.header.revision, tuple(held))


def _stands(kv: KeyValue, known: KeyValue) -> bool:
    """Whether it is the same entry still: then it was the oldest all the time."""
    return kv.create_revision == known.create_revision and kv.lease_id != 0


def _read(
    parts: dict[bytes, messages.Part], ask: Ask
) -> Iterator[tuple[bytes, tuple[KeyValue, ...]]]:
    """What the reads of the locks find, as many in a transaction as etcd takes."""
    left = iter(parts.items())
    while batch := dict(islice(left, MAX_OPERATIONS)):
        reply = ask(*messages.txn((), batch.values()))
        found = (messages.keys(each.response_range) for each in reply.responses)
        yield from zip(batch, found, strict=True)
