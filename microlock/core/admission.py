"""Which entries of a queue hold the lock. This value is all that makes the kinds of locks differ.

An entry is admitted, and holds the lock, when fewer than `limit` of its rivals are older. New
entries are always younger, so an admitted entry stays admitted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")

# A waiter is near its turn if at most so many rivals have to leave before it. It then watches the
# whole lock, so that it is not late. A waiter farther back watches only the entry so many before
# its own: in a long queue it would otherwise get two changes for each holder.
NEAR = 2


@dataclass(frozen=True, slots=True)
class Admission:
    """How an entry is admitted.

    Attributes:
        limit: the number of older rivals that keep it out.
        part: what follows the key and "/" in its name, such as "read/".
        rivals: the same for its rivals: all entries with this part.
        rule: the rule of the whole lock, as it stands in the name of the lock.
        speaks: the holder proclaims the value of its entry, and may change it.
        role: the name of this part, such as "reader", if the lock has several.
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
        """How many rivals before an entry, counted from the last, decide whether it is admitted and
        what it watches until then."""
        return self.limit - 1 + NEAR

    def behind(self, before: Sequence[T]) -> T | None:
        """The rival to watch: it has to leave before the entry is admitted. None: the entry is
        near, or any rival may leave first."""
        # Where several are admitted, they end in any order.
        return before[-NEAR] if self.limit == 1 and len(before) > NEAR else None


_READERS_WRITERS, _LEADER = b"rw", b"leader"

MUTEX = Admission()
READER = Admission(part=b"read/", rivals=b"write/", rule=_READERS_WRITERS, role="reader")
WRITER = Admission(part=b"write/", rule=_READERS_WRITERS, role="writer")
LEADER = Admission(rule=_LEADER, speaks=True)


def semaphore(limit: int) -> Admission:
    return Admission(limit, rule=b"%d" % limit) if limit > 1 else MUTEX


# The name of a lock is the prefix of its entries' names. If it is not a mutex, NUL and the rule
# follow, so that a mutex and a semaphore on one prefix have different names. No key contains NUL.


def lock_name(prefix: bytes, admission: Admission) -> bytes:
    return b"%s\0%s" % (prefix, admission.rule) if admission.rule else prefix


def rivals_name(prefix: bytes, admission: Admission) -> bytes:
    """The lock whose entries are the rivals."""
    return prefix + admission.rivals if admission.rivals else lock_name(prefix, admission)


def split(lock: bytes) -> tuple[bytes, tuple[Admission, ...]]:
    """The prefix, and the admission of each part."""
    prefix, _, rule = lock.partition(b"\0")
    return prefix, _admissions(rule)


@lru_cache
def _admissions(rule: bytes) -> tuple[Admission, ...]:
    return _OF_RULES.get(rule) or (semaphore(int(rule)),)


_OF_RULES = {b"": (MUTEX,), _READERS_WRITERS: (READER, WRITER), _LEADER: (LEADER,)}


def lock_with(prefix: bytes) -> bytes:
    """The lock of the entries with this prefix, before the lease id: that of readers and writers if
    the prefix ends like theirs, else the prefix itself."""
    for each in _OF_RULES[_READERS_WRITERS]:
        if prefix.endswith(b"/" + each.part) and len(prefix) > len(each.part) + 1:
            return lock_name(prefix.removesuffix(each.part), each)
    return prefix


def role_in(lock: bytes, entry: bytes) -> str | None:
    """The role of an entry in this lock."""
    prefix, admissions = split(lock)
    start = len(prefix)
    return next((each.role for each in admissions if entry.startswith(each.part, start)), None)


def admitted(lock: bytes, entries: Iterable[bytes]) -> Iterator[bytes]:
    """The entries that hold the lock, of all its entries, given oldest first."""
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
