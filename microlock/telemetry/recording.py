"""Records the events of locks: as measurements of instruments, and as spans."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, TypeAlias
from weakref import ref

from opentelemetry import trace

from microlock import events
from microlock.engine.client import Client
from microlock.engine.observers import Observers
from microlock.errors import AlreadyLockedError, LockCancelledError, LossReason
from microlock.events import LockEvent
from microlock.face import Face
from microlock.manager_face import ManagerFace
from microlock.telemetry.instruments import Instruments, Said, changing
from microlock.telemetry.present import Held, Present

# By class name, which is the same in both faces.
_KINDS = {
    "Microlock": "mutex",
    "Semaphore": "semaphore",
    "ReadLock": "read",
    "WriteLock": "write",
    "MultiLock": "multi",
    "Election": "election",
}

# FORKED is left out: a forked child gets no events.
_REASONS = [each.name.lower() for each in LossReason if each is not LossReason.FORKED]

Manager: TypeAlias = ManagerFace[Any, Any, Any, Any, Any, Any]
Attributes = dict[str, str]

log = logging.getLogger("microlock")


def client_behind(part: Face | Manager | Client) -> Client:
    """The client of a lock or a manager."""
    if isinstance(part, Face):
        return part._host.client
    return part._client if isinstance(part, ManagerFace) else part


class Instrumentation:
    """What `instrument()` returns. It records until `end()`, or until the client is closed.

    Attributes:
        what: the client, the lock or the manager; None if that was garbage collected.
    """

    def __init__(
        self,
        what: Face | Manager | Client,
        observers: Observers,
        instruments: Instruments,
        tracer: trace.Tracer,
        group: Callable[[str], str] | None,
    ) -> None:
        self._what = ref(what)
        self._clock = client_behind(what).clock
        self._observers = observers
        self._instruments = instruments
        self._tracer = tracer
        self._group = group
        self._failed = False
        self._present = Present()
        self._zero: set[Said] = set()  # the attributes whose counters have begun at zero
        self._holds, self._waits = _Counted(), _Counted()

    def __repr__(self) -> str:
        return f"<Instrumentation of {self.what!r}>"

    def __enter__(self) -> Instrumentation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()

    @property
    def what(self) -> Face | Manager | Client | None:
        return self._what()

    def end(self) -> None:
        """Records what has happened so far, and stops. A second call does nothing.

        Spans of present holds end now.
        """
        self._observers.flush()
        with changing:
            self._observers.remove(self)
            self._instruments.all.discard(self)
        self._present.end()

    # Called by the observers, on one thread.

    def observe(self, lock: Face, event: LockEvent, at: float) -> bool:
        if not self._covers(lock):
            return False
        try:
            self._present.end_dropped()
            if note := _NOTES.get(event.name):
                note(self, lock, event, at)
        except (Exception, SystemExit):  # raised by a meter, a tracer, or `group`
            if not self._failed:  # log it once: each event may fail
                self._failed = True
                log.exception(
                    "%r can't record the event %r of the lock %r", self, event.name, event.key
                )
        return True

    def _covers(self, lock: Face) -> bool:
        what = self.what
        if isinstance(what, ManagerFace):
            keys: tuple[str, ...] = getattr(lock, "keys", (lock.key,))
            mine = lock.node_id == what._node_id
            return mine and all(key.startswith(what._prefix) for key in keys)
        return what is lock or isinstance(what, Client)

    # One method for each event.

    def _waiting(self, lock: Face, event: LockEvent, at: float) -> None:
        self._present.joined(lock)

    def _acquired(self, lock: Face, event: LockEvent, at: float) -> None:
        now_ns = self._wall_ns(at)
        hold = Held(event.token, at, now_ns)
        self._present.began(lock, hold)
        self._begin_at_zero(self._of(lock))
        self._waited(lock, event, at, "acquired")
        hold.span = self._span("microlock.hold", lock, event, now_ns)

    def _begin_at_zero(self, said: Attributes) -> None:
        """Reports 0 first, so that a query for an increase sees the first event."""
        if (items := tuple(said.items())) in self._zero:
            return
        self._zero.add(items)
        instruments = self._instruments
        for counter in (instruments.renewals, instruments.suspensions):
            counter.add(0, said)
        for reason in _REASONS:
            instruments.losses.add(0, said | {"microlock.loss.reason": reason})

    def _gave_up(self, lock: Face, event: LockEvent, at: float) -> None:
        queued = self._present.gave_up(lock)
        if isinstance(event.error, LockCancelledError):
            outcome = "given_up"
        elif isinstance(event.error, AlreadyLockedError):
            outcome = "given_up" if queued else "refused"
        else:
            outcome = "failed"
        self._waited(lock, event, at, outcome)

    def _waited(self, lock: Face, event: LockEvent, at: float, outcome: str) -> None:
        seconds = event.waited or 0.0
        more = {"microlock.wait.outcome": outcome}
        if outcome == "failed":
            more["error.type"] = type(event.error).__name__
        now_ns = self._wall_ns(at)
        span = self._span("microlock.wait", lock, event, now_ns - _ns(seconds), more)
        if outcome == "failed":
            span.set_status(trace.StatusCode.ERROR, str(event.error))
        span.end(now_ns)
        self._instruments.waited.record(seconds, self._of(lock) | more)

    def _renewed(self, lock: Face, event: LockEvent, at: float) -> None:
        self._present.hold(lock, event.token)
        self._instruments.renewals.add(1, self._of(lock))

    def _suspended(self, lock: Face, event: LockEvent, at: float) -> None:
        self._instruments.suspensions.add(1, self._of(lock))
        if span := self._present.hold(lock, event.token).span:
            why = {"error.type": type(event.error).__name__}
            span.add_event("microlock.suspended", why, self._wall_ns(at))

    def _lost(self, lock: Face, event: LockEvent, at: float) -> None:
        reason = event.reason.name.lower() if event.reason else "unknown"
        more = {"microlock.loss.reason": reason}
        self._instruments.losses.add(1, self._of(lock) | more)
        self._over(lock, event, at, more)

    def _over(
        self, lock: Face, event: LockEvent, at: float, lost: Mapping[str, str] | None = None
    ) -> None:
        hold = self._present.ended(lock, event.token)
        if hold is None or hold.since is None:
            return
        held = at - hold.since
        if hold.span:
            if lost:
                hold.span.set_attributes(lost)
                why = event.reason.value if event.reason else ""
                hold.span.set_status(trace.StatusCode.ERROR, why)
            hold.span.end(hold.began_ns + _ns(held))
        self._instruments.held.record(held, self._of(lock))

    def _span(
        self,
        name: str,
        lock: Face,
        event: LockEvent,
        start_ns: int,
        more: Mapping[str, str] | None = None,
    ) -> trace.Span:
        said: dict[str, str | int] = {
            "microlock.key": event.key,
            "microlock.node_id": lock.node_id,
            "microlock.kind": _kind(lock),
            **(more or {}),
        }
        if event.token is not None:
            said["microlock.token"] = event.token
        if event.attempts is not None:
            said["microlock.attempts"] = event.attempts
        return self._tracer.start_span(name, attributes=said, start_time=start_ns)

    def _of(self, lock: Face) -> Attributes:
        """The attributes of a lock's metrics. The key is not one: there may be too many keys."""
        said = {"microlock.kind": _kind(lock)}
        if self._group:
            said["microlock.group"] = self._group(lock.key)
        return said

    def _wall_ns(self, at: float) -> int:
        return time.time_ns() - _ns(self._clock.now() - at)

    # Called by the meter, on any thread.

    def holds(self) -> Mapping[Said, int]:
        return self._holds.now(
            self._of(lock) | {"microlock.hold.state": state.name.lower()}
            for lock, state in self._present.holds()
        )

    def waits(self) -> Mapping[Said, int]:
        return self._waits.now(map(self._of, self._present.waits()))


_NOTES: Mapping[str, Callable[[Instrumentation, Face, LockEvent, float], None]] = {
    events.waiting: Instrumentation._waiting,
    events.acquired: Instrumentation._acquired,
    events.failed: Instrumentation._gave_up,
    events.renewed: Instrumentation._renewed,
    events.suspended: Instrumentation._suspended,
    events.released: Instrumentation._over,
    events.lost: Instrumentation._lost,
}


class _Counted:
    """Counts by attributes. Attributes that were seen once stay, with the count 0."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._seen: set[Said] = set()

    def now(self, found: Iterable[Attributes]) -> Mapping[Said, int]:
        counts = Counter(tuple(each.items()) for each in found)
        with self._mutex:
            self._seen |= counts.keys()
            return {said: counts[said] for said in self._seen}


def _kind(lock: Face) -> str:
    known = (_KINDS.get(each.__name__) for each in type(lock).__mro__)
    return next(filter(None, known), "mutex")


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
