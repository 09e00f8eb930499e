"""What happened in etcd, from its changes: which entries there were, and which of them reigned.

The `at` of a change is the latest moment at which it can have happened. The revisions, on the other
hand, are exact.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby, takewhile

from history import Changed

_ENTRY = re.compile(r"(.+)/([0-9a-fA-F]{1,16})", re.DOTALL)


@dataclass(eq=False)
class Entry:
    """A place in the queue of a lock, from its first put to its end.

    Attributes:
        made: its first put; the token is that revision.
        moved: puts of the entry under another lease.
        ended: its deletion; None while it is there.
        reigns: the change with which it became the oldest of its lock; None if it never did.
    """

    key: str
    made: Changed
    moved: list[Changed] = field(default_factory=list)
    ended: Changed | None = None
    reigns: Changed | None = None

    @property
    def token(self) -> int:
        return self.made.revision

    @property
    def node(self) -> str:
        return self.made.value

    @property
    def birth_lease(self) -> str:
        """In hex: what the entry is named after."""
        return self.made.name.rpartition("/")[2]


@dataclass(frozen=True)
class Transition:
    """A change of holder, as a listener is to be told of it."""

    event: str
    token: int
    cause: Changed


class Replay:
    """Every entry and every change of holder, by their locks.

    Attributes:
        faults: what can't be, if the recorder has seen all.
        last: the revision of the last change.
    """

    def __init__(self, changes: Iterable[Changed]) -> None:
        self.entries: dict[tuple[str, int], Entry] = {}
        self.by_key: dict[str, list[Entry]] = {}  # in the order of their tokens
        self.transitions: dict[str, list[Transition]] = {}
        self.faults: list[str] = []
        self.count = 0
        self._queues: dict[str, dict[str, Entry]] = {}  # by lock, by name
        self.last = 0
        for revision, together in groupby(changes, key=lambda change: change.revision):
            if revision <= self.last:
                self.faults.append(f"revision {revision} was noted after {self.last}")
            self.last = revision
            self._apply(list(together))

    def older(self, entry: Entry) -> Iterator[Entry]:
        """Entries of the same lock that were put before it."""
        return takewhile(lambda each: each is not entry, self.by_key[entry.key])

    def _apply(self, changes: list[Changed]) -> None:
        touched: dict[str, Changed] = {}
        before: dict[str, Entry | None] = {}
        for change in changes:
            self.count += 1
            if named := _ENTRY.fullmatch(change.name):
                key = named[1]
                before.setdefault(key, self._holder(key))
                touched[key] = change
                self._change(key, change)
        for key, change in touched.items():
            self._pass_on(key, before[key], self._holder(key), change)

    def _change(self, key: str, change: Changed) -> None:
        queue = self._queues.setdefault(key, {})
        entry = queue.get(change.name)
        if change.created is None or not change.lease:  # without a lease it is a user's own key
            if entry:
                entry.ended = change
                del queue[change.name]
        elif entry and entry.token == change.created:
            entry.moved.append(change)
        else:
            if entry or change.created != change.revision:
                self.faults.append(f"what became of {change.name} before {change.revision}?")
            queue[change.name] = entry = Entry(key, change)
            self.entries[key, entry.token] = entry
            self.by_key.setdefault(key, []).append(entry)

    def _holder(self, key: str) -> Entry | None:
        queue = self._queues.get(key, {}).values()
        return min(queue, key=lambda entry: (entry.token, entry.made.name), default=None)

    def _pass_on(self, key: str, old: Entry | None, new: Entry | None, cause: Changed) -> None:
        if old is new:
            return
        told = self.transitions.setdefault(key, [])
        if old:
            told.append(Transition("unlocked", old.token, cause))
        if new:
            new.reigns = cause
            told.append(Transition("locked", new.token, cause))
