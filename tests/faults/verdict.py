"""What the rules judge, and how they say it."""

from __future__ import annotations

import enum
import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate

from history import Changed, Fault, Looked, Record, Written
from journal import Call, Hold, Journal
from replay import Entry, Replay


class Rule(enum.Enum):
    NOTHING = "there is something to judge"
    RECORDER = "the recorder saw all, and when"
    CLIENT = "a client ends when its time is over, in good order"
    TOKEN = "tokens are unique, rise in real time, and are the create_revision of an entry"
    REIGN = "a hold's entry was admitted when lock() returned: so few rivals were older"
    ORDER = "nobody gets the lock while too many older rivals are there"
    CLAIM = "held is True while the entry is there, or `notice` seconds after it was taken away"
    OVERLAP = "no object holds a lock at a time with too many older rivals"
    STORE = "the tokens of accepted writes never fall"
    ENDED = "a hold is ended by its owner, by time, or from outside"
    UNNOTICED = "who lost a hold is told so, or gets LockLostError"
    LOST = "a loss is told once, and has a cause"
    TOLD = "each change of holder is told once, in order, and has happened"
    MISSED = "each change of holder is told"
    LEFT = "a failed lock() and an unlock() leave no entry behind"
    TIME = "a call returns in time"


@dataclass(frozen=True)
class Violation:
    """`where` is the process, the call, the token or the key; `evidence` a sentence."""

    rule: Rule
    where: str
    evidence: str

    def __str__(self) -> str:
        return f"{self.rule.name} ({self.rule.value}): {self.where}: {self.evidence}"


@dataclass(frozen=True)
class Limits:
    """What is allowed, in seconds.

    Attributes:
        notice: how long a hold may be claimed that was ended from outside, or by a known fault of
            etcd.
        slack: of calls and of notices, for a busy machine.
        grace: the last changes before a listener's end, which it may not have been told of.
        prolonged: how much later than its ttl a lease may end: etcd looks twice a second, and an
            election starts it again.
        etcd_faults: kinds of faults in which etcd is known to lose leases that were renewed, or
            keep-alives of them. A Fault is named "<kind>" or "<kind> <whom>".
        elections: those, and kinds that may hit the leader: etcd starts all leases again then.
        outsiders: kinds of faults that delete an entry or revoke a lease: "delete <entry>" or
            "<kind> <lock>", "<kind> <lease in hex>"; without a name, any.
        compactions: kinds after which changes can't be had any more.
        pauses: kinds that stop a process, whose time stands still then: "pause <process>";
            without a name, any.
    """

    notice: float = 1.0
    slack: float = 2.0
    grace: float = 2.0
    prolonged: float = 2.0
    etcd_faults: frozenset[str] = frozenset(
        {"kill_leader", "pause_leader", "partition_leader", "restart_all", "slow_disk"}
    )
    elections: frozenset[str] = etcd_faults | {"kill_near"}
    outsiders: frozenset[str] = frozenset({"delete", "revoke"})
    compactions: frozenset[str] = frozenset({"compaction"})
    pauses: frozenset[str] = frozenset({"pause"})


@dataclass
class Report:
    """Attributes:
    operations: how often each (operation, outcome) was; the outcome is an error's name, or "ok".
    counts: of what else there was.
    longest: seconds, of what is worth to be known.
    """

    violations: list[Violation] = field(default_factory=list)
    operations: Counter[tuple[str, str]] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    longest: dict[str, float] = field(default_factory=dict)

    @property
    def rules(self) -> set[Rule]:
        """Those that were broken."""
        return {violation.rule for violation in self.violations}

    def measure(self, what: str, seconds: float) -> None:
        self.longest[what] = max(seconds, self.longest.get(what, -math.inf))

    def __str__(self) -> str:
        return "\n".join(
            [
                *(f"{op} {outcome}: {n}" for (op, outcome), n in sorted(self.operations.items())),
                *(f"{what}: {n}" for what, n in sorted(self.counts.items())),
                *(f"longest {what}: {s:.3f} s" for what, s in sorted(self.longest.items())),
                f"violations: {len(self.violations)}",
                *map(str, self.violations),
            ]
        )


class Run:
    """All that is known of a run.

    Args:
        records: of each file, by its name without `.jsonl`.
    """

    def __init__(self, records: Mapping[str, Iterable[Record]], limits: Limits) -> None:
        files = {name: list(each) for name, each in records.items()}
        self.limits = limits
        self.end = max((record.at for each in files.values() for record in each), default=0.0)
        etcd = files.pop("etcd", [])
        self.looks = sorted(
            (each for each in etcd if isinstance(each, Looked)), key=lambda look: look.revision
        )
        self.replay = Replay(self._dated(each) for each in etcd if isinstance(each, Changed))
        self.writes = [each for each in files.pop("store", []) if isinstance(each, Written)]
        self.faults = [each for each in files.pop("faults", []) if isinstance(each, Fault)]
        self.journals = {name: Journal(name, each) for name, each in files.items()}

    @cached_property
    def calls(self) -> list[Call]:
        return [call for each in self.journals.values() for call in each.calls.values()]

    @cached_property
    def holds(self) -> list[Hold]:
        """In the order of their tokens."""
        holds = [hold for each in self.journals.values() for hold in each.holds]
        return sorted(holds, key=lambda hold: hold.token)

    def entry(self, hold: Hold) -> Entry | None:
        """Of several keys that of the first."""
        return self.replay.entries.get((hold.key, hold.token))

    def entries(self, hold: Hold) -> list[Entry]:
        """Those of all its keys, as far as there are."""
        found = (self.replay.entries.get((key, hold.token)) for key in hold.keys)
        return [entry for entry in found if entry]

    # When something happened in etcd. A change's `at` is the latest moment at which it can have.

    @cached_property
    def _ceilings(self) -> tuple[list[int], list[float]]:
        latest = list(accumulate((look.at for look in reversed(self.looks)), min))
        return [look.revision for look in self.looks], latest[::-1]

    def _dated(self, change: Changed) -> Changed:
        """It happened before it was noted, and before any look that saw its revision, or more."""
        revisions, latest = self._ceilings
        seen = bisect_left(revisions, change.revision)
        if seen == len(revisions):
            return change
        return replace(change, at=min(change.at, latest[seen]))

    @cached_property
    def _floors(self) -> tuple[list[int], list[float]]:
        # A revision came after the lock() that put an entry at it, or at an earlier one, began;
        # and after the looks that did not see it.
        begins = [(hold.token, hold.taken.called.at) for hold in self.holds]
        begins += [(look.revision + 1, look.since) for look in self.looks]
        begins.sort()
        earliest = accumulate((since for _, since in begins), max)
        return [revision for revision, _ in begins], list(earliest)

    def earliest(self, change: Changed) -> float:
        """The earliest moment at which it can have happened."""
        revisions, begins = self._floors
        known = bisect_right(revisions, change.revision)
        return begins[known - 1] if known else -math.inf

    def stood_until(self, entry: Entry) -> float:
        """Until when it was there for certain."""
        return self.earliest(entry.ended) if entry.ended else self._last_look

    @cached_property
    def _last_look(self) -> float:
        """When the last one was that saw nothing but what is noted."""
        return max(
            (look.since for look in self.looks if look.revision <= self.replay.last),
            default=-math.inf,
        )

    # What was done from outside.

    def excuse(self, entry: Entry) -> str | None:
        """What else than its owner and time may have ended the entry."""
        if entry.ended is None:
            return None
        lease = entry.moved[-1].lease if entry.moved else entry.made.lease
        names = ("", entry.made.name, entry.key, entry.birth_lease, format(lease, "x"))
        for fault in self.faults:
            kind, _, whom = fault.name.partition(" ")
            late = self.earliest(entry.ended) - fault.until
            if fault.at > entry.ended.at:
                continue
            if kind in self.limits.outsiders and whom in names and late <= 0:
                return fault.name
            if kind in self.limits.etcd_faults and late <= self.limits.prolonged:
                return fault.name
        return self._heir(entry, entry.ended)

    def _heir(self, entry: Entry, ended: Changed) -> str | None:
        """The call of another object, which never locked and so speaks for the node."""
        for call in self.calls:
            called = call.called
            if (
                called.op in ("unlock", "renew", "extend")
                and (called.key, called.node) == (entry.key, entry.node)
                and called.at <= ended.at
                and (call.returned is None or self.earliest(ended) <= call.returned.at)
                and call.error not in ("LockLostError", "LockNotOwnedError")
                and call.owner not in self._takers
            ):
                return str(call)
        return None

    @cached_property
    def _takers(self) -> set[tuple[str, int]]:
        return {call.owner for call in self.calls if call.called.op == "lock"}

    def compacted(self, since: float, until: float) -> bool:
        return any(
            fault.name.partition(" ")[0] in self.limits.compactions
            and fault.at <= until
            and since <= fault.until + self.limits.slack
            for fault in self.faults
        )

    def stood_still(self, process: str, since: float, until: float) -> float:
        """Seconds of that time in which the process was paused, or starved."""
        still = [
            (fault.at, fault.until)
            for fault in self.faults
            for kind, _, whom in [fault.name.partition(" ")]
            if kind in self.limits.pauses and whom in ("", process)
        ]
        still += [(stall.since, stall.at) for stall in self.journals[process].stalls]
        seconds = 0.0
        for begin, end in sorted(still):
            seconds += max(0.0, min(until, end) - max(since, begin))
            since = max(since, end)
        return seconds
