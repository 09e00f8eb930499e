"""What happened in a run under faults, as data: a file for each process, a line for each record.

    <process>.jsonl   what a client did and was told, in the order of its own clock
    etcd.jsonl        every change in etcd under the prefix of the run, in the order of revisions,
                      and how far etcd was in between
    store.jsonl       every write that came to the fenced store, in the order it decided on them
    faults.jsonl      what was broken on purpose

A line is a JSON object: `kind`, the name of the record's class, and its fields. Times are seconds
by CLOCK_BOOTTIME, which all processes of a machine share; never the clock of the library, which a
run may bend.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True)
class Called:
    """A call begins.

    Attributes:
        call: its number, unique in the process.
        lock: which object, unique in the process. Objects of one process may share a key and even a
            node.
        op: the method: lock, unlock, renew, extend, destroy.
        within: seconds in which it has to return, by what it was given and the client's timeout;
            None is no limit.
        ttl: what the object, or extend(), asks for.
        waits: whether it is a lock() that waits its turn.
        limit: so many older rivals keep the object out.
        others: further keys that it takes in one with the first.
    """

    at: float
    call: int
    lock: int
    op: str
    key: str
    node: str
    within: float | None
    ttl: int
    waits: bool = False
    limit: int = 1
    others: Sequence[str] = ()


@dataclass(frozen=True)
class Returned:
    """A call has ended.

    Attributes:
        error: the name of the exception's class; None if it returned.
        token, lease: of the hold that lock() returned.
        ttl: as granted.
    """

    at: float
    call: int
    error: str | None = None
    token: int | None = None
    lease: int | None = None
    ttl: int | None = None


@dataclass(frozen=True)
class Listens:
    """`on()` for locked and unlocked has returned: nothing after this may be missed.

    Attributes:
        key: one for each record, if the object has several.
        limit: as for Called.
    """

    at: float
    lock: int
    key: str
    limit: int = 1


@dataclass(frozen=True)
class Deaf:
    """The object's listeners are removed: what it was told after this does not count."""

    at: float
    lock: int


@dataclass(frozen=True)
class Told:
    """A handler was called.

    Attributes:
        event: its name, as in microlock.events.
        key: of several keys the first, if it is about the object's own hold or place.
        token: of the holder for locked and unlocked; else of the object's own hold or place.
        reason: of lost.
    """

    at: float
    lock: int
    event: str
    key: str
    token: int | None = None
    synthesised: bool = False
    reason: str | None = None


@dataclass(frozen=True)
class Claimed:
    """The object said `held`, with `remaining` seconds left, between `before` and `at`."""

    before: float
    at: float
    lock: int
    key: str
    token: int
    remaining: float


@dataclass(frozen=True)
class Stalled:
    """No thread of the process has run from `since` on, or hardly: the machine is too busy."""

    at: float
    since: float


@dataclass(frozen=True)
class Ended:
    """The process ended in good order; a file without this is of one that was killed."""

    at: float


@dataclass(frozen=True)
class Changed:
    """One change of one key in etcd. `created` is None for a deletion."""

    at: float
    revision: int
    name: str
    created: int | None
    lease: int
    value: str


@dataclass(frozen=True)
class Looked:
    """etcd was asked for its revision at `since`, and said at `at` that it is `revision`: what has
    a higher one happened after `since`, and all the others before `at`."""

    at: float
    since: float
    revision: int


@dataclass(frozen=True)
class Written:
    """A write that came to the fenced store, with the token it carried."""

    at: float
    process: str
    key: str
    token: int
    accepted: bool


@dataclass(frozen=True)
class Fault:
    """Something was broken on purpose, from `at` to `until`."""

    at: float
    until: float
    name: str


Record = (
    Called
    | Returned
    | Listens
    | Deaf
    | Told
    | Claimed
    | Stalled
    | Ended
    | Changed
    | Looked
    | Written
    | Fault
)
_KINDS = {each.__name__: each for each in get_args(Record)}


class History:
    """A file that records are appended to, by any thread, and that a SIGKILL leaves whole."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._file = path.open("a", buffering=1)

    def note(self, record: Record) -> None:
        line = json.dumps({"kind": type(record).__name__, **asdict(record)})
        with self._lock:
            self._file.write(line + "\n")

    def close(self) -> None:
        self._file.close()


def read(path: Path) -> Iterator[Record]:
    """The records of a file. A last line that was cut off by a SIGKILL is left out."""
    with path.open() as lines:
        for line in lines:
            if line.endswith("\n"):
                fields = json.loads(line)
                yield _KINDS[fields.pop("kind")](**fields)
