"""What happened in etcd, from its changes: which entries there were, and which were admitted.

A rival of an entry is another one of its lock; of a reader's it is a writer's. An entry is admitted
as soon as fewer older rivals than a limit are there.

The `at` of a change is the latest moment at which it can have happened. The revisions, on the other
hand, are exact.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby

from history import Changed

_ENTRY = re.compile(r"(.+?)(?:/(read|write))?/([0-9a-fA-F]{1,16})", re.DOTALL)


@dataclass(eq=False)
class Entry:
    """A place in the queue of a lock, from its first put to its end.

    Attributes:
        made: its first put; the token is that revision.
        moved: puts of the entry under another lease.
        ended: its deletion; None while it is there.
        role: "read" or "write", of those who say so.
    """

    key: str
    made: Changed
    role: str | None = None
    moved: list[Changed] = field(default_factory=list)
    ended: Changed | None = None

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

    @property
    def gone(self) -> float:
        """The revision of its end."""
        return self.ended.revision if self.ended else math.inf

    def is_rival_of(self, other: Entry) -> bool:
        if self is other or (self.role is None) != (other.role is None):
            return False
        return other.role != "read" or self.role == "write"


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
        self.faults: list[str] = []
        self.count = 0
        self._queues: dict[str, dict[str, Entry]] = {}  # by lock, by name
        # By lock: who was there after each change, and that change.
        self._story: dict[str, list[tuple[Changed, list[Entry]]]] = {}
        self.last = 0
        self.transitions = cache(self._transitions)
        for revision, together in groupby(changes, key=lambda change: change.revision):
            if revision <= self.last:
                self.faults.append(f"revision {revision} was noted after {self.last}")
            self.last = revision
            self._apply(list(together))

    def older_rivals(self, entry: Entry) -> list[Entry]:
        """Those that were there when it was put."""
        made = entry.made.revision
        return [
            each
            for each in self.by_key[entry.key]
            if each.token < entry.token and each.is_rival_of(entry) and each.gone > made
        ]

    def admitted(self, entry: Entry, limit: int) -> Changed | None:
        """The change with which it was; None if it never was."""
        ends = sorted([(each.gone, each.ended) for each in self.older_rivals(entry)], key=_first)
        if len(ends) < limit:
            return entry.made
        revision, ended = ends[len(ends) - limit]
        return ended if revision <= entry.gone else None

    def _transitions(self, key: str, limit: int) -> list[Transition]:
        """What those are to be told who listen with this limit."""
        before: list[Entry] = []
        told: list[Transition] = []
        for cause, there in self._story.get(key, []):
            after = [each for each in there if _is_admitted(each, there, limit)]
            told += [Transition("unlocked", e.token, cause) for e in before if e not in after]
            told += [Transition("locked", e.token, cause) for e in after if e not in before]
            before = after
        return told

    def _apply(self, changes: list[Changed]) -> None:
        touched: dict[str, Changed] = {}
        for change in changes:
            self.count += 1
            if named := _ENTRY.fullmatch(change.name):
                key, role, _ = named.groups()
                touched[key] = change
                self._change(key, role, change)
        for key, change in touched.items():
            there = sorted(self._queues[key].values(), key=lambda e: (e.token, e.made.name))
            self._story.setdefault(key, []).append((change, there))

    def _change(self, key: str, role: str | None, change: Changed) -> None:
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
            queue[change.name] = entry = Entry(key, change, role)
            self.entries[key, entry.token] = entry
            self.by_key.setdefault(key, []).append(entry)


def _is_admitted(entry: Entry, there: list[Entry], limit: int) -> bool:
    older = [each for each in there if each.token < entry.token and each.is_rival_of(entry)]
    return len(older) < (limit if entry.role is None else 1)


def _first(end: tuple[float, Changed | None]) -> float:
    return end[0]
