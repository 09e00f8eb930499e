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
        for key in hold.keys:
            by_key[key].append(hold)
            if before := taken.get((key, hold.token)):
                yield Violation(Rule.TOKEN, str(hold), f"so has {before.taken}")
            taken[key, hold.token] = hold
            entry = run.replay.entries.get((key, hold.token))
            if entry is None:
                what = f"no entry of {key!r} was created at that revision"
                yield Violation(Rule.TOKEN, str(hold), what)
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
        entries, limit = run.entries(hold), hold.taken.called.limit
        report.counts["holds"] += bool(entries)
        report.counts["holds of several keys"] += len(entries) > 1
        report.counts["holds beside an older one"] += any(
            each.token < entry.token and run.stood_until(each) > hold.began
            for entry in entries
            for each in run.replay.by_key[entry.key]
        )
        for entry in entries:
            older = [
                each
                for each in run.replay.older_rivals(entry)
                if run.stood_until(each) > hold.began
            ]
            for each in older if len(older) >= limit else ():
                yield Violation(
                    Rule.ORDER,
                    str(hold),
                    f"the entry {each.token} of {each.node!r} on {entry.key!r} was still there",
                )
            since = run.replay.admitted(entry, limit)
            if since is None or (len(older) < limit and run.earliest(since) > hold.began):
                what = f"its entry on {entry.key!r} was not admitted by then"
                yield Violation(Rule.REIGN, str(hold), what)


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

    @property
    def limit(self) -> int:
        return self.hold.taken.called.limit if self.hold else 1


def _spans(run: Run) -> list[_Span]:
    holds = {(hold.taken.owner, hold.key, hold.token): hold for hold in run.holds}
    return [
        _Span(
            f"object {lock} of {name}, which claims {token} on {each!r}",
            *((name, lock), each, token),
            sorted(claims, key=lambda claim: claim.before),
            hold,
        )
        for name, journal in run.journals.items()
        for (lock, key, token), claims in journal.claims.items()
        for hold in [holds.get(((name, lock), key, token))]
        for each in (hold.keys if hold else [key])
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
        for span in spans:
            yield from _beside(run, report, span, spans)


def _beside(run: Run, report: Report, span: _Span, spans: list[_Span]) -> Iterator[Violation]:
    """Too many older rivals that hold while this one does."""
    mine = run.replay.entries.get((span.key, span.token))
    rivals: dict[int, list[tuple[float, float, _Span]]] = defaultdict(list)
    for each in spans:
        theirs = run.replay.entries.get((each.key, each.token))
        # The same token: one speaks for the node of the other.
        if each.token >= span.token or (mine and theirs and not theirs.is_rival_of(mine)):
            continue
        since, until = max(each.since, span.since), min(each.until, span.until)
        together = until - since
        if together > 0:
            allowed = _allowance(run, each, theirs) if theirs and theirs.ended else 0.0
            if together <= allowed:
                report.measure("overlap after an end from outside", together)
            else:
                rivals[each.token].append((since, until, each))
    found = [each for same in rivals.values() for each in same]
    for since, _, each in found:
        at_once = {other.token for begun, until, other in found if begun <= since < until}
        if len(at_once) >= span.limit:
            yield Violation(Rule.OVERLAP, each.who, f"at {since:.3f}, at the same time: {span.who}")


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
        ended = [entry for entry in run.entries(hold) if entry.ended]
        entry = min(ended, key=lambda each: each.gone, default=None)
        if entry is None or entry.ended is None or hold.own_end(entry.ended.at):
            continue
        journal = run.journals[hold.taken.process]
        if journal.last <= entry.ended.at:
            continue  # the process was over
        # Of several keys the others are given up when one is gone.
        excuse = run.excuse(entry)
        lives_until = hold.lives_until(entry.ended.at)
        if len(hold.keys) > 1:  # its owner ends what is left of it, from its deadline on
            lives_until -= hold.margin
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
