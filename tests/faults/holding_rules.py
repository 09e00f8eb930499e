"""Who holds the lock: tokens, the order of the queue, what holders claim and lose."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from history import Claimed
from journal import Hold
from replay import Entry
from verdict import Report, Rule, Run, Violation


def tokens(run: Run, report: Report) -> Iterator[Violation]:
    taken: dict[tuple[str, int], Hold] = {}
    by_key: dict[str, list[Hold]] = defaultdict(list)
    for hold in run.holds:
        by_key[hold.key].append(hold)
        if before := taken.get((hold.key, hold.token)):
            yield Violation(Rule.TOKEN, str(hold), f"so has {before.taken}")
        taken[hold.key, hold.token] = hold
        entry = run.entry(hold)
        if entry is None:
            yield Violation(Rule.TOKEN, str(hold), "no entry was created at that revision")
        elif (entry.birth_lease, entry.node) != (f"{hold.lease:x}", hold.taken.called.node):
            yield Violation(
                Rule.TOKEN, str(hold), f"the entry is {entry.made.name} of {entry.node!r}"
            )
    for holds in by_key.values():
        yield from _rising(holds)


def _rising(holds: list[Hold]) -> Iterator[Violation]:
    returned = sorted(holds, key=lambda hold: hold.began)
    highest: Hold | None = None
    for hold in sorted(holds, key=lambda hold: hold.taken.called.at):
        while returned and returned[0].began < hold.taken.called.at:
            before = returned.pop(0)
            if highest is None or before.token > highest.token:
                highest = before
        if highest and highest.token >= hold.token:
            yield Violation(
                Rule.TOKEN, str(hold), f"was taken after {highest} of a token not lower"
            )


def recorder(run: Run, report: Report) -> Iterator[Violation]:
    for fault in run.replay.faults:
        yield Violation(Rule.RECORDER, "etcd", fault)
    if run.replay.count and not run.looks:
        yield Violation(Rule.RECORDER, "etcd", "nobody looked when its changes happened")
    for hold in run.holds:
        if entry := run.entry(hold):
            doubt = entry.made.at - run.earliest(entry.made)
            report.measure("doubt about when an entry was made", doubt)


def reigns(run: Run, report: Report) -> Iterator[Violation]:
    for hold in run.holds:
        entry = run.entry(hold)
        if entry is None:
            continue
        report.counts["holds"] += 1
        older = [each for each in run.replay.older(entry) if run.stood_until(each) > hold.began]
        for each in older:
            yield Violation(
                Rule.ORDER, str(hold), f"the entry {each.token} of {each.node!r} was still there"
            )
        if entry.reigns is None or (not older and run.earliest(entry.reigns) > hold.began):
            yield Violation(Rule.REIGN, str(hold), "its entry was not the oldest by then")


@dataclass(frozen=True)
class _Span:
    """What one object said of one token: held from `since` to `until` at least."""

    who: str
    lock: tuple[str, int]
    key: str
    token: int
    claims: list[Claimed]
    hold: Hold | None  # None <=> it spoke for its node

    @property
    def since(self) -> float:
        return self.claims[0].at

    @property
    def until(self) -> float:
        return self.claims[-1].before


def _spans(run: Run) -> list[_Span]:
    holds = {(hold.taken.owner, hold.key, hold.token): hold for hold in run.holds}
    return [
        _Span(
            f"object {lock} of {name}, which claims {token} on {key!r}",
            *((name, lock), key, token),
            sorted(claims, key=lambda claim: claim.before),
            holds.get(((name, lock), key, token)),
        )
        for name, journal in run.journals.items()
        for (lock, key, token), claims in journal.claims.items()
    ]


def claims(run: Run, report: Report) -> Iterator[Violation]:
    for span in _spans(run):
        report.counts["claims"] += len(span.claims)
        entry = run.replay.entries.get((span.key, span.token))
        if entry is None:
            yield Violation(Rule.CLAIM, span.who, "there never was such an entry")
        elif entry.ended and span.until > entry.ended.at:
            late = span.until - entry.ended.at
            allowed = _allowance(run, span, entry)
            if late > allowed:
                yield Violation(
                    Rule.CLAIM,
                    span.who,
                    f"the entry was gone for {late:.3f} s ({allowed:g} s are allowed)",
                )
            else:
                report.counts["holds claimed after they were ended from outside"] += 1
                report.measure("claim after an end from outside", late)
    yield from _overlaps(run, report)


def _allowance(run: Run, span: _Span, entry: Entry) -> float:
    """Seconds that a hold may be claimed after its entry has ended."""
    assert entry.ended
    hold, ended = span.hold, entry.ended.at
    own = hold and hold.own_end(ended)
    if own and own.worked:
        return 0.0
    early = hold and ended < hold.lives_until(ended)
    if not early and not run.excuse(entry):
        return 0.0
    process, _ = span.lock
    return run.limits.notice + run.stood_still(process, ended, span.until)


def _overlaps(run: Run, report: Report) -> Iterator[Violation]:
    by_key: dict[str, list[_Span]] = defaultdict(list)
    for span in _spans(run):
        by_key[span.key].append(span)
    for spans in by_key.values():
        open_spans: list[_Span] = []
        for span in sorted(spans, key=lambda span: span.since):
            open_spans = [each for each in open_spans if each.until > span.since]
            for each in open_spans:
                if each.token != span.token:  # the same: one speaks for the node of the other
                    yield from _overlap(run, report, each, span)
            open_spans.append(span)


def _overlap(run: Run, report: Report, one: _Span, other: _Span) -> Iterator[Violation]:
    together = min(one.until, other.until) - max(one.since, other.since)
    if together <= 0:
        return
    older = min(one, other, key=lambda span: span.token)
    entry = run.replay.entries.get((older.key, older.token))
    allowed = _allowance(run, older, entry) if entry and entry.ended else 0.0
    if together > allowed:
        yield Violation(
            Rule.OVERLAP, one.who, f"at the same time, for {together:.3f} s: {other.who}"
        )
    else:
        report.measure("overlap after an end from outside", together)


def writes(run: Run, report: Report) -> Iterator[Violation]:
    fences: dict[str, int] = defaultdict(int)
    for write in run.writes:
        report.counts["writes"] += 1
        where = f"the write of {write.process} to {write.key!r}"
        stale = write.token < fences[write.key]
        report.counts["stale writes refused"] += stale and not write.accepted
        if write.accepted and stale:
            yield Violation(
                Rule.STORE, where, f"token {write.token} was accepted after {fences[write.key]}"
            )
        elif not write.accepted and not stale:
            yield Violation(Rule.STORE, where, f"token {write.token} was refused, and is not stale")
        if write.accepted:
            fences[write.key] = max(fences[write.key], write.token)


def ends(run: Run, report: Report) -> Iterator[Violation]:
    """How holds ended, and whether their owners noticed."""
    for hold in run.holds:
        entry = run.entry(hold)
        if entry is None or entry.ended is None or hold.own_end(entry.ended.at):
            continue
        journal = run.journals[hold.taken.process]
        if journal.last <= entry.ended.at:
            continue  # the process was over
        excuse = run.excuse(entry)
        lives_until = hold.lives_until(entry.ended.at)
        if entry.ended.at < lives_until and not excuse:
            yield Violation(
                Rule.ENDED,
                str(hold),
                f"its entry went {lives_until - entry.ended.at:.3f} s before its lease could end",
            )
        yield from _noticed(run, report, hold, entry)


def _noticed(run: Run, report: Report, hold: Hold, entry: Entry) -> Iterator[Violation]:
    assert entry.ended
    journal = run.journals[hold.taken.process]
    told = [
        each.at
        for each in journal.told[hold.taken.called.lock]
        if each.event == "lost" and each.token == hold.token
    ]
    raised = [
        call.returned.at for call in hold.later if call.returned and call.error == "LockLostError"
    ]
    noticed = min(told + raised, default=math.inf)
    if noticed < math.inf:
        report.counts["losses noticed"] += 1
        report.measure("notice of a loss after the entry's end", noticed - entry.ended.at)
    # By its deadline at the latest, or when a paused process goes on.
    ttl = max([hold.ttl, *(c.called.ttl for c in hold.later if c.called.op == "extend")])
    awake = journal.awake_after(entry.ended.at + ttl)
    given_up = min((c.called.at for c in hold.later if c.called.op == "destroy"), default=math.inf)
    if awake is None:
        return
    due = awake + run.limits.slack + run.stood_still(journal.process, awake, math.inf)
    if due < min(noticed, given_up, journal.last):
        yield Violation(
            Rule.UNNOTICED,
            str(hold),
            f"its entry was gone at {entry.ended.at:.3f}, and nobody was told by {due:.3f}",
        )
