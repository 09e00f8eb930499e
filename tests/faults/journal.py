"""What each process did and was told: its records, put together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from history import Called, Claimed, Deaf, Ended, Listens, Record, Returned, Stalled, Told

KEY_EVENTS = ("locked", "unlocked")


@dataclass(eq=False)
class Call:
    process: str
    called: Called
    returned: Returned | None = None

    def __str__(self) -> str:
        called = self.called
        return f"{called.op}() number {called.call} of {self.process} on {called.key!r}"

    @property
    def worked(self) -> bool:
        return self.returned is not None and self.returned.error is None

    @property
    def error(self) -> str | None:
        return self.returned.error if self.returned else None

    @property
    def owner(self) -> tuple[str, int]:
        """The object."""
        return self.process, self.called.lock


@dataclass(eq=False)
class Hold:
    """What a lock() returned, and what was done with the object until its next one.

    Attributes:
        later: calls on the object that were under way, or began, after that, in this order; the
            last may be the next lock() that worked.
    """

    taken: Call
    token: int
    lease: int
    ttl: int
    later: list[Call] = field(default_factory=list)

    def __str__(self) -> str:
        return f"the hold {self.token} of {self.taken.process} on {self.key!r}"

    @property
    def key(self) -> str:
        return self.taken.called.key

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.key, *self.taken.called.others)

    @property
    def began(self) -> float:
        assert self.taken.returned
        return self.taken.returned.at

    @property
    def margin(self) -> float:
        """Seconds from its deadline to the end of its lease."""
        return max(0.05, self.ttl / 100)

    def own_end(self, by: float) -> Call | None:
        """The call of its owner that may have ended it by then."""
        for call in self.later:
            if call.called.at > by or call.error == "LockLostError":
                continue  # what raises that has changed nothing, or undone what was over
            ends = call.called.op in ("unlock", "destroy", "lock")
            if ends or not call.worked or (call.returned and call.returned.at >= by):
                return call
        return None

    def lives_until(self, by: float) -> float:
        """Until when its lease can't have ended for want of a renewal; by what its owner called,
        not by what it believes. Renewals in the background only add to that."""
        # A lease from an earlier cycle is not renewed in its first tenth.
        until, ttl = self.taken.called.at + 0.9 * self.ttl, self.ttl
        for call in self.later:
            if call.called.at > by:
                break
            if call.called.op == "renew" and call.worked:
                until = max(until, call.called.at + ttl)
            elif call.called.op == "extend" and call.worked:
                ttl = call.called.ttl
                until = call.called.at + ttl
            elif call.called.op == "extend":
                until = min(until, call.called.at + call.called.ttl)
        return until


@dataclass
class Ear:
    """A listener to the changes of a lock, from `since` to `until`.

    Attributes:
        until: when nothing more counted; None for a process that was killed.
        told: in order.
    """

    process: str
    lock: int
    key: str
    since: float
    limit: int = 1
    until: float | None = None
    told: list[Told] = field(default_factory=list)

    def __str__(self) -> str:
        return f"object {self.lock} of {self.process}, a listener to {self.key!r}"


class Journal:
    """The records of one process.

    Attributes:
        ended: when it ended in good order; None if it was killed.
        moments: of all its records, ascending.
    """

    def __init__(self, process: str, records: Iterable[Record]) -> None:
        self.process = process
        self.calls: dict[int, Call] = {}
        self.claims: dict[tuple[int, str, int], list[Claimed]] = defaultdict(list)
        self.ears: list[Ear] = []
        self.told: dict[int, list[Told]] = defaultdict(list)  # but changes of the key; by object
        self.ended: float | None = None
        self.stalls: list[Stalled] = []
        self.moments: list[float] = []
        for record in records:
            self.moments.append(record.at)
            self._take(record)
        self.moments.sort()
        for ear in self.ears:
            if ear.until is None:
                ear.until = self.ended
        self.holds = self._holds()

    def _take(self, record: Record) -> None:
        match record:
            case Called():
                self.calls[record.call] = Call(self.process, record)
            case Returned():
                self.calls[record.call].returned = record
            case Claimed():
                self.claims[record.lock, record.key, record.token].append(record)
            case Listens():
                self.ears.append(
                    Ear(self.process, record.lock, record.key, record.at, record.limit)
                )
            case Deaf():
                for ear in self._ears_of(record.lock):
                    ear.until = record.at
            case Told() if record.event in KEY_EVENTS:
                for ear in self._ears_of(record.lock):
                    # Earlier, not all of its handlers were there.
                    if ear.since <= record.at and ear.key == record.key:
                        ear.told.append(record)
            case Told():
                self.told[record.lock].append(record)
            case Ended():
                self.ended = record.at
            case Stalled():
                self.stalls.append(record)

    def _ears_of(self, lock: int) -> list[Ear]:
        return [ear for ear in self.ears if ear.lock == lock and ear.until is None]

    def _holds(self) -> list[Hold]:
        by_owner: dict[int, list[Call]] = defaultdict(list)
        for call in self.calls.values():
            by_owner[call.called.lock].append(call)
        holds = []
        for calls in by_owner.values():
            calls.sort(key=lambda call: call.called.at)
            for taken in calls:
                answer = taken.returned
                if taken.called.op == "lock" and answer and answer.token is not None:
                    hold = Hold(taken, answer.token, answer.lease or 0, answer.ttl or 0)
                    hold.later = _after(taken, calls)
                    holds.append(hold)
        return holds

    def awake_after(self, moment: float) -> float | None:
        """When it first wrote something after that."""
        return next((at for at in self.moments if at >= moment), None)

    @property
    def last(self) -> float:
        return self.moments[-1] if self.moments else 0.0


def _after(taken: Call, calls: list[Call]) -> list[Call]:
    assert taken.returned
    later: list[Call] = []
    for call in calls:
        if call is taken or (call.returned and call.returned.at < taken.returned.at):
            continue
        later.append(call)
        if call.called.op == "lock" and call.worked:
            break
    return later
