"""The entries of one lock: who holds it, who waits, what changed.

The oldest entry, the one with the lowest create_revision, holds the lock; the rest wait, in
order. That is all the protocol there is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from microlock.keys import is_entry
from microlock.requests import KeyValue


@dataclass(frozen=True, slots=True)
class Holder:
    """A node's place in the queue of a lock. The first place holds the lock, the rest wait.

    Attributes:
        node_id: who it is; None for a client that stores no name, as Go's and etcdctl do.
        token: the fencing token: etcd's revision at which the place was taken. It rises from
            each holder to the next.
        lease_id: the etcd lease the place is bound to.
    """

    node_id: str | None
    token: int
    lease_id: int

    def __str__(self) -> str:
        return self.node_id or f"an unnamed client (lease {self.lease_id:x})"


def places(prefix: bytes, keys: Iterable[KeyValue]) -> list[tuple[bytes, Holder]]:
    """The entries of the lock among these keys, oldest first, with their names."""
    found = [
        (
            kv.name,
            Holder(
                kv.value.decode(errors="backslashreplace") or None, kv.create_revision, kv.lease_id
            ),
        )
        for kv in keys
        if is_entry(prefix, kv.name)
    ]
    return sorted(found, key=lambda place: (place[1].token, place[0]))


def holder_of(prefix: bytes, keys: Iterable[KeyValue]) -> Holder | None:
    """Who holds the lock, given its keys."""
    entries = places(prefix, keys)
    return entries[0][1] if entries else None


class Queue:
    """The entries of one lock, kept up to date from a read and the changes after it."""

    def __init__(self, prefix: bytes, keys: Iterable[KeyValue] = ()) -> None:
        self._prefix = prefix
        self._entries = dict(places(prefix, keys))

    @property
    def holder(self) -> Holder | None:
        return (
            min(self._entries.items(), key=lambda item: (item[1].token, item[0]))[1]
            if self._entries
            else None
        )

    def put(self, kv: KeyValue) -> None:
        self._entries.update(places(self._prefix, [kv]))

    def delete(self, name: bytes) -> None:
        self._entries.pop(name, None)


@dataclass(frozen=True, slots=True)
class Change:
    """The lock was taken (`locked`) or became free, by or from `holder`.

    `holder` is None for a lock that was found free, where nobody knows who had it.
    """

    locked: bool
    holder: Holder | None


def changes(before: Holder | None, after: Holder | None) -> list[Change]:
    """What a watcher is told: a hand-over is two changes, a renewal or an extension none."""
    if before and after and before.token == after.token:
        return []
    freed = [Change(False, before)] if before else []
    taken = [Change(True, after)] if after else []
    return freed + taken
