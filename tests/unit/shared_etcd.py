"""An etcd that others use, too, and whose requests take their time: the product's store in memory,
for flows that are walked by hand."""

from __future__ import annotations

from typing import Any

from microlock.core.keys import Names, entries_prefix, entry_name
from microlock.core.port import (
    Enter,
    Entered,
    Grant,
    Join,
    Joined,
    KeyValue,
    Leave,
    Left,
    Move,
    Moved,
    Request,
)
from microlock.memory.state import State
from microlock.memory.store import timed

# Requests that change entries, those of them that may put one, and what is answered.
CHANGES = Enter | Join | Leave | Move
PUTS = Enter | Join | Move
CHANGED = Entered | Joined | Left | Moved

FOO = Names.of("foo", "alpha")
# Ids of leases that no flow under test makes.
FOREIGN = range(0xF00, 0x1000)


class Store(State):
    """An etcd that others use, too.

    Attributes:
        names: of the lock that the flows under test are about.
        latency: what each way takes, in seconds.
        others: the entries that other clients have put, and have not given up themselves.
        lease_ids: for the flows under test; none is given twice.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names = FOO
        self.latency = 0.01
        self.others: dict[bytes, KeyValue] = {}
        self.lease_ids = iter(range(1, FOREIGN.start))
        self._foreign = iter(FOREIGN)

    def go_to(self, now: float) -> None:
        before = self.keys.keys() & self.others.keys()
        super().go_to(now)
        for name in before - self.keys.keys():
            del self.others[name]

    def ask(self, request: Request) -> Any:
        """One request with one answer, which both take their time."""
        sent = self.now
        self.pass_time(self.latency)
        reply = self.apply(request)
        self.pass_time(self.latency)
        return timed(reply, sent, self.now)

    def enter(self, node_id: str, key: str = "foo", ttl: int = 60) -> bytes:
        """Another client puts an entry; an empty node id is what Go and etcdctl store."""
        lease_id = next(self._foreign)
        name = entry_name(entries_prefix(key.encode()), lease_id)
        self.apply(Grant(lease_id, ttl))
        self.put(name, node_id.encode(), lease_id)
        self.others[name] = self.keys[name]
        return name

    def remove(self, name: bytes) -> None:
        self.delete(name)
        self.others.pop(name, None)

    def entries(self, value: bytes = FOO.value) -> list[KeyValue]:
        """The keys with this value, oldest first."""
        found = [kv for kv in self.keys.values() if kv.value == value]
        return sorted(found, key=lambda kv: kv.create_revision)

    def ours(self) -> list[int]:
        """The leases that flows have made."""
        return [each for each in self.leases if each not in FOREIGN]
