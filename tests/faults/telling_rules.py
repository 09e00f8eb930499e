"""What listeners are told: every change of holder, once and in order; every loss, once."""

from __future__ import annotations

from collections.abc import Iterator

from history import Told
from journal import Ear, Journal
from replay import Transition
from verdict import Report, Rule, Run, Violation


def changes(run: Run, report: Report) -> Iterator[Violation]:
    for journal in run.journals.values():
        for ear in journal.ears:
            report.counts["listeners"] += 1
            report.counts["changes told"] += len(ear.told)
            several = ear.limit > 1 or any(e.role for e in run.replay.by_key.get(ear.key, ()))
            yield from (_Crowded if several else _Hearing)(run, ear).judge()


class _Hearing:
    """What one listener was told, against what happened."""

    def __init__(self, run: Run, ear: Ear) -> None:
        self._run = run
        self._ear = ear
        self._happened = run.replay.transitions(ear.key, ear.limit)
        self._places = {(each.event, each.token): i for i, each in enumerate(self._happened)}
        self._last: int | None = None  # the place of what was told last
        self._before: Told | None = None  # what was told last

    def judge(self) -> Iterator[Violation]:
        for told in self._ear.told:
            if told.token is None and told.synthesised and told.event == "unlocked":
                self._before = told  # found free: who had it is not known
                continue
            place = self._places.get((told.event, told.token or 0))
            if place is None:
                yield self._wrong(told, "which never happened")
            elif self._last is not None and place <= self._last:
                yield self._wrong(told, "again, or after what came later")
            else:
                yield from self._next(told, place)
                self._last, self._before = place, told
        yield from self._tail()

    def _next(self, told: Told, place: int) -> Iterator[Violation]:
        if self._before and self._before.event == told.event:
            yield self._wrong(told, f"right after another {told.event}")
        skipped = self._happened[0 if self._last is None else self._last + 1 : place]
        since = self._ear.since if self._before is None else self._before.at
        if skipped and self._unseen(told, skipped):
            return
        if self._before is None:
            skipped = [each for each in skipped if self._certain(each)]
        elif told.event == "locked" and self._run.compacted(since, told.at):
            return  # it was free, and was found free: there was nothing to tell
        for each in skipped:
            yield self._missed(each)

    def _unseen(self, told: Told, skipped: list[Transition]) -> bool:
        """Whether nobody could know what was skipped."""
        if told.synthesised and told.event == "locked":
            return True
        # A lock that was found free was free until then.
        found_free = bool(self._before and self._before.synthesised)
        return (
            found_free
            and self._before is not None
            and self._before.event == "unlocked"
            and told.event == "locked"
            and skipped[-1].cause.revision != self._cause(told)
        )

    def _cause(self, told: Told) -> int:
        return self._happened[self._places[told.event, told.token or 0]].cause.revision

    def _certain(self, each: Transition) -> bool:
        """Whether it has happened since somebody listened."""
        return self._run.earliest(each.cause) > self._ear.since

    def _tail(self) -> Iterator[Violation]:
        """What was not told at the end. A process that was killed may have been told."""
        if self._ear.until is None:
            return
        end = self._ear.until - self._run.limits.grace
        since = self._ear.since
        if self._before and self._before.synthesised:
            since = self._before.at
        missed = [
            each
            for each in self._happened[0 if self._last is None else self._last + 1 :]
            if since < self._run.earliest(each.cause) and each.cause.at < end
        ]
        before = self._before.event if self._before else "unlocked"
        free = before == "unlocked" and missed and missed[-1].event == "unlocked"
        if free and self._run.compacted(since, self._ear.until):
            return  # it was free, and was found free: there was nothing to tell
        for each in missed:
            yield self._missed(each)

    def _wrong(self, told: Told, why: str) -> Violation:
        return Violation(
            Rule.TOLD, str(self._ear), f"was told {told.event} {told.token} at {told.at:.3f}, {why}"
        )

    def _missed(self, each: Transition) -> Violation:
        return Violation(
            Rule.MISSED,
            str(self._ear),
            f"was not told {each.event} {each.token}, of revision {each.cause.revision}",
        )


class _Crowded(_Hearing):
    """The same where several may hold the lock at a time, and go in any order."""

    def judge(self) -> Iterator[Violation]:
        self._heard: set[int] = set()
        self._known: set[int] | None = None  # the tokens of who holds, by what was told
        self._looked = False  # the last that was told came of a look
        last, seen = -1, -1  # the places of what was told: by the watch, and by looks since
        for told in self._ear.told:
            place = self._places.get((told.event, told.token or 0))
            if told.synthesised and told.token is None and self._known is None:
                self._known, self._looked, self._before = set(), True, told  # found free
                continue
            if place is None:
                yield self._wrong(told, "which never happened")
                continue
            if place in self._heard or place <= last:
                yield self._wrong(told, "again, or after what came later")
            if not told.synthesised:
                yield from self._between(last, place, told.at)
                last, seen = max(last, seen, place), -1
            self._hear(told, place)
            seen = max(seen, place) if told.synthesised else seen
        if self._ear.until is not None:
            end = self._ear.until - self._run.limits.grace
            happened = sum(each.cause.at < end for each in self._happened)
            yield from self._between(last, happened, self._ear.until)

    def _hear(self, told: Told, place: int) -> None:
        token = told.token or 0
        self._heard.add(place)
        self._known = (self._known or set()) - {token}
        if told.event == "locked":
            self._known.add(token)
        self._looked, self._before = told.synthesised, told

    def _between(self, last: int, place: int, until: float) -> Iterator[Violation]:
        """What was not told before this place."""
        numbers = [each for each in range(last + 1, place) if each not in self._heard]
        skipped = [self._happened[each] for each in numbers if self._certain(self._happened[each])]
        known, self._known = self._known, self._holding(place)
        since = self._before.at if self._before else self._ear.since
        if known == self._known and (self._looked or self._run.compacted(since, until)):
            return  # nobody could know, and nothing came of it
        yield from map(self._missed, skipped)

    def _holding(self, place: int) -> set[int]:
        """The tokens of who held it before this place."""
        held = set[int]()
        for each in self._happened[: max(0, place)]:
            held ^= {each.token}
        return held


def losses(run: Run, report: Report) -> Iterator[Violation]:
    for journal in run.journals.values():
        for lock, events in journal.told.items():
            seen: set[int | None] = set()
            for told in events:
                if told.event != "lost":
                    continue
                report.counts["losses told"] += 1
                where = f"object {lock} of {journal.process}, token {told.token} of {told.key!r}"
                if told.token in seen:
                    yield Violation(Rule.LOST, where, "the loss was told twice")
                elif why := _groundless(run, journal, lock, told):
                    yield Violation(Rule.LOST, where, why)
                seen.add(told.token)
                if told.reason == "EXPIRED":
                    _measure(run, report, journal, lock, told)


def _measure(run: Run, report: Report, journal: Journal, lock: int, told: Told) -> None:
    """How late a loss by time was told. A renewal after the last claim makes it look later."""
    deadlines = [
        claim.at + claim.remaining
        for claim in journal.claims.get((lock, told.key, told.token or 0), ())
        if claim.at <= told.at
    ]
    if deadlines:
        late = told.at - max(deadlines)
        late -= run.stood_still(journal.process, max(deadlines), told.at)
        report.measure("notice of a loss after its deadline", late)


def _groundless(run: Run, journal: Journal, lock: int, told: Told) -> str | None:
    """Why a loss has no cause, if it has none."""
    hold = next((h for h in journal.holds if h.token == told.token and h.key == told.key), None)
    first = run.replay.entries.get((told.key, told.token or 0))
    entries = run.entries(hold) if hold else [first] if first else []
    if not entries:
        return "there never was such an entry"
    if hold is None or hold.taken.called.lock != lock:
        return None  # it spoke for its node, or lock() found that it was over already
    given_back = next((c for c in hold.later if c.called.op == "unlock" and c.worked), None)
    if given_back:
        return f"it was given back by {given_back}"
    moved = any(run.earliest(each) <= told.at for entry in entries for each in entry.moved)
    gone = any(entry.ended and run.earliest(entry.ended) <= told.at for entry in entries)
    if not moved and not gone and told.at < hold.lives_until(told.at) - hold.margin:
        return "the entry was there, and the deadline ahead"
    return None
