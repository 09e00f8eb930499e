"""Who is admitted to a lock: what makes the kinds of locks different, as a value.

An entry is admitted, and holds the lock, when fewer than `limit` of its rivals are older. Nothing
ever comes before an entry that is there, so one that is admitted stays so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")

# A waiter that has at most so many older rivals before the last that keeps it out watches the whole
# lock, not to be late. One farther back watches only the entry so many before its own: in a long
# queue it would hear of two changes for each holder.
NEAR = 2


@dataclass(frozen=True, slots=True)
class Admission:
    """How an entry is admitted.

    Attributes:
        limit: so many older rivals keep it out.
        part: its name goes on so, after the key and "/".
        rivals: so do the names of its rivals; all that do are.
        rule: how entries of the whole lock are admitted, as its name says.
        speaks: its value is what its holder says, and may be another later.
        role: what those are called whose names go on so, where there are several parts.
    """

    limit: int = 1
    part: bytes = b""
    rivals: bytes = b""
    rule: bytes = b""
    speaks: bool = False
    role: str | None = None

    def admits(self, before: Sequence[object]) -> bool:
        """Whether an entry with these older rivals is admitted."""
        return len(before) < self.limit

    @property
    def near(self) -> int:
        """So many of the last rivals before an entry say whether it is admitted, and what to watch
        until it is."""
        return self.limit - 1 + NEAR

    def behind(self, before: Sequence[T]) -> T | None:
        """The rival that has to end before the entry can be admitted. None: that is near, or it
        may be any of them."""
        # Where several are admitted, they end in any order.
        return before[-NEAR] if self.limit == 1 and len(before) > NEAR else None


_READERS_WRITERS, _LEADER = b"rw", b"leader"

MUTEX = Admission()
READER = Admission(part=b"read/", rivals=b"write/", rule=_READERS_WRITERS, role="reader")
WRITER = Admission(part=b"write/", rule=_READERS_WRITERS, role="writer")
LEADER = Admission(rule=_LEADER, speaks=True)


def semaphore(limit: int) -> Admission:
    return Admission(limit, rule=b"%d" % limit) if limit > 1 else MUTEX


# The name of a lock: the prefix of the names of its entries and, if it is not a mutex, NUL and the
# rule, so that a mutex and a semaphore on one prefix are not taken for one another. No key has NUL.


def lock_name(prefix: bytes, admission: Admission) -> bytes:
    return b"%s\0%s" % (prefix, admission.rule) if admission.rule else prefix


def rivals_name(prefix: bytes, admission: Admission) -> bytes:
    """The lock that an entry's rivals are all entries of."""
    return prefix + admission.rivals if admission.rivals else lock_name(prefix, admission)


def split(lock: bytes) -> tuple[bytes, tuple[Admission, ...]]:
    """The prefix, and how entries are admitted: those of each part."""
    prefix, _, rule = lock.partition(b"\0")
    return prefix, _admissions(rule)


@lru_cache
def _admissions(rule: bytes) -> tuple[Admission, ...]:
    return _OF_RULES.get(rule) or (semaphore(int(rule)),)


_OF_RULES = {b"": (MUTEX,), _READERS_WRITERS: (READER, WRITER), _LEADER: (LEADER,)}


def lock_with(prefix: bytes) -> bytes:
    """The lock that entries are of whose names begin so and go on with the id of a lease: that of
    readers and writers, where the names say so."""
    for each in _OF_RULES[_READERS_WRITERS]:
        if prefix.endswith(b"/" + each.part) and len(prefix) > len(each.part) + 1:
            return lock_name(prefix.removesuffix(each.part), each)
    return prefix


def role_in(lock: bytes, entry: bytes) -> str | None:
    """What the holder of an entry is called in this lock."""
    prefix, admissions = split(lock)
    start = len(prefix)
    return next((each.role for each in admissions if entry.startswith(each.part, start)), None)


def admitted(lock: bytes, entries: Iterable[bytes]) -> Iterator[bytes]:
    """Those of all entries of a lock, given oldest first, that hold it."""
    prefix, admissions = split(lock)
    start, older = len(prefix), [0] * len(admissions)  # the rivals of each, so far
    for entry in entries:
        for number, admission in enumerate(admissions):
            if older[number] < admission.limit and entry.startswith(admission.part, start):
                yield entry
        for number, admission in enumerate(admissions):
            older[number] += entry.startswith(admission.rivals, start)
        if all(map(_full, older, admissions)):
            break


def _full(older: int, admission: Admission) -> bool:
    return older >= admission.limit
