"""What calls leave behind, and how long they take."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator

from journal import Call
from replay import Entry
from verdict import Report, Rule, Run, Violation

# After these an entry may stand for as long as its lease: nobody could ask etcd to end it, or the
# object or its client was ended in the middle.
_IN_DOUBT = {"LockUncertainError", "LockLostError", "DestroyedError", "ForkedError"}


def leftovers(run: Run, report: Report) -> Iterator[Violation]:
    """Entries that belong to no hold, after the calls that can have made them; and those of holds
    that were given back."""
    held = {(key, hold.token) for hold in run.holds for key in hold.keys}
    makers: dict[tuple[str, str], list[Call]] = defaultdict(list)
    nodes = set()
    for call in run.calls:
        nodes.add(call.called.node)
        if call.called.op == "lock":
            for key in (call.called.key, *call.called.others):
                makers[key, call.called.node].append(call)
    # An object keeps its lease from one hold to the next, and another's is never the same.
    owners = {f"{hold.lease:x}": hold.taken.owner for hold in run.holds}
    for (key, token), entry in run.replay.entries.items():
        if (key, token) in held:
            continue
        if entry.node not in nodes:
            report.counts["entries of others"] += 1
            continue
        report.counts["entries that no hold came of"] += 1
        owner = owners.get(entry.birth_lease)
        calls = [
            call
            for call in makers[key, entry.node]
            if call.called.at <= entry.made.at and owner in (None, call.owner)
        ]
        until = max((_excused(run, call) for call in calls), default=-math.inf)
        if run.stood_until(entry) > until:
            yield Violation(Rule.LEFT, _named(entry), _why(run, entry, calls))
    yield from _given_back(run)


def _excused(run: Run, call: Call) -> float:
    """Until when an entry of this lock() may be there, unless it is that of a hold."""
    if call.returned is None:
        return math.inf  # it goes on, or ended with its process
    if call.error not in _IN_DOUBT:
        return call.returned.at
    lifetime = call.called.ttl + run.limits.prolonged
    until = call.returned.at + lifetime
    for fault in run.faults:  # one after the other: each election starts the lease again
        kind = fault.name.partition(" ")[0]
        if kind in run.limits.elections and call.called.at <= fault.until and fault.at <= until:
            until = max(until, fault.until + lifetime)
    return until


def _why(run: Run, entry: Entry, calls: list[Call]) -> str:
    if not calls:
        return "no call can have made it"
    last = max(calls, key=lambda call: _excused(run, call))
    assert last.returned
    return (
        f"it was still there {run.stood_until(entry) - last.returned.at:.3f} s after {last}, the "
        f"last that can have made it, ended with {last.error or 'another entry'}"
    )


def _given_back(run: Run) -> Iterator[Violation]:
    for hold in run.holds:
        for call in hold.later:
            if not (call.called.op == "unlock" and call.worked and call.returned):
                continue
            for entry in run.entries(hold):
                left = run.stood_until(entry) - call.returned.at
                if left > 0:
                    yield Violation(
                        Rule.LEFT, str(hold), f"its entry was there {left:.3f} s after {call}"
                    )


def _named(entry: Entry) -> str:
    return f"the entry {entry.token} of {entry.node!r} on {entry.key!r}"


def times(run: Run, report: Report) -> Iterator[Violation]:
    for call in run.calls:
        called, returned = call.called, call.returned
        outcome = "no return" if returned is None else returned.error or "ok"
        report.operations[called.op, outcome] += 1
        journal = run.journals[call.process]
        if returned is None and journal.ended is not None:
            yield Violation(Rule.TIME, str(call), "never returned")
            continue
        if called.within is None:
            continue
        until = returned.at if returned else journal.last
        late = until - called.at - called.within
        late -= run.stood_still(call.process, called.at, until)
        if returned:
            report.measure("return of a call after its time", max(0.0, late))
        if late > run.limits.slack:
            yield Violation(
                Rule.TIME, str(call), f"took {late:.3f} s more than its {called.within:g} s"
            )


def crashes(run: Run, report: Report) -> Iterable[Violation]:
    """How long a lock had no holder after the process of one was killed."""
    for hold in run.holds:
        journal = run.journals[hold.taken.process]
        entry = run.entry(hold)
        if journal.ended is not None or entry is None:
            continue
        if hold.own_end(math.inf) or (entry.ended and entry.ended.at <= journal.last):
            continue
        report.counts["holders killed"] += 1
        if entry.ended:
            report.measure("hold after its process was killed", entry.ended.at - journal.last)
        heirs = [each for each in run.holds if each.key == hold.key and each.token > hold.token]
        waited = [each.began - max(journal.last, each.taken.called.at) for each in heirs[:1]]
        for seconds in waited:
            report.measure("wait for a lock whose holder was killed", seconds)
    return ()
