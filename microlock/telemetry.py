"""OpenTelemetry metrics and traces of locks, made from their events alone.

    from microlock.telemetry import instrument

    instrument(etcd)

It needs `pip install 'microlock[telemetry]'`. It costs nothing unless it is called.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from types import TracebackType
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary, WeakSet, ref

from microlock import events
from microlock.core.hold import State
from microlock.engine.client import Client
from microlock.engine.observers import Observers
from microlock.errors import (
    AlreadyLockedError,
    InvalidArgumentError,
    LockCancelledError,
    LossReason,
)
from microlock.etcd.lent import client_of
from microlock.events import LockEvent
from microlock.face import Face
from microlock.manager_face import ManagerFace

try:
    from opentelemetry import metrics, trace
except ImportError as error:
    raise ImportError(
        "microlock.telemetry needs OpenTelemetry: pip install 'microlock[telemetry]'"
    ) from error

__all__ = ["Instrumentation", "instrument"]

# Seconds. Waits and holds take from a millisecond to hours.
_BOUNDARIES = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400),
)

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
_Said = tuple[tuple[str, str], ...]  # attributes, as a key

log = logging.getLogger("microlock")


def instrument(
    what: object,
    *,
    meter_provider: metrics.MeterProvider | None = None,
    tracer_provider: trace.TracerProvider | None = None,
    group: Callable[[str], str] | None = None,
) -> Instrumentation:
    """Measures and traces locks of either face from now on.

    docs/telemetry.md lists what it records. If several instrumentations cover a lock, only the
    first records it. If a meter or a tracer fails or hangs, locks still work.

    Args:
        what: a client, for all its locks, also those made later; a lock; or a manager, for the
            locks of its node under its prefix.
        meter_provider, tracer_provider: None: the global ones.
        group: a function that returns the metric attribute `microlock.group` for a key. It should
            return few different values: `lambda key: key.split("/")[0]`. None: no such attribute.

    Returns:
        The instrumentation, for `end()` or a `with` block.

    Raises:
        InvalidArgumentError: an argument is wrong, or `what` is instrumented already.
        ClientRequiredError: `what` is not a client, a lock or a manager.
        DestroyedError, ForkedError: the client can't be used any more, or not in this process.
    """
    if group is not None and not callable(group):
        raise InvalidArgumentError(f"group must be a function of a key, not {group!r}")
    part = what if isinstance(what, Face | ManagerFace) else client_of(what)
    client = _client(part)
    client.check()
    observers = client.one(Observers)
    instruments = _instruments(meter_provider)
    tracer = trace.get_tracer("microlock", version("microlock"), tracer_provider)
    with _changing:
        if any(each.what is part for each in observers.all if isinstance(each, Instrumentation)):
            raise InvalidArgumentError(
                f"{part!r} is instrumented already: call end() of that first"
            )
        made = Instrumentation(part, observers, instruments, tracer, group)
        observers.add(made)
        instruments.all.add(made)
    return made


def _client(part: Face | Manager | Client) -> Client:
    if isinstance(part, Face):
        return part._host.client
    return part._client if isinstance(part, ManagerFace) else part


@dataclass
class _Hold:
    """A hold, as known from its events. `since` is None if its begin was not seen."""

    token: int | None
    since: float | None = None
    began_ns: int = 0
    span: trace.Span | None = None


class Instrumentation:
    """What `instrument()` returns. It records until `end()`, or until the client is closed.

    Attributes:
        what: the client, the lock or the manager; None if that was garbage collected.
    """

    def __init__(
        self,
        what: Face | Manager | Client,
        observers: Observers,
        instruments: _Instruments,
        tracer: trace.Tracer,
        group: Callable[[str], str] | None,
    ) -> None:
        self._what = ref(what)
        self._clock = _client(what).clock
        self._observers = observers
        self._instruments = instruments
        self._tracer = tracer
        self._group = group
        self._failed = False
        # Filled during garbage collection, where no mutex may be taken.
        self._dropped: list[ref[Face]] = []
        self._mutex = threading.RLock()
        # Under the mutex:
        self._holds: dict[ref[Face], _Hold] = {}
        self._waits: WeakSet[Face] = WeakSet()
        # Attributes that were seen: from then on each is reported, also with the value 0.
        self._zero: set[_Said] = set()
        self._holding: Counter[_Said] = Counter()
        self._waiting_now: Counter[_Said] = Counter()

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

        Spans of holds that still stand end here.
        """
        self._observers.flush()
        with _changing:
            self._observers.remove(self)
            self._instruments.all.discard(self)
        with self._mutex:
            holds, self._holds = list(self._holds.values()), {}
        for hold in holds:
            if hold.span:
                hold.span.end()

    # Called by the observers, on one thread.

    def observe(self, lock: Face, event: LockEvent, at: float) -> bool:
        if not self._covers(lock):
            return False
        try:
            self._end_dropped()
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

    def _end_dropped(self) -> None:
        """Ends the spans of holds whose locks were collected: a dropped lock is given back."""
        while self._dropped:
            with self._mutex:
                hold = self._holds.pop(self._dropped.pop(), None)
            if hold and hold.span:
                hold.span.end()

    # One method for each event.

    def _waiting(self, lock: Face, event: LockEvent, at: float) -> None:
        with self._mutex:
            self._waits.add(lock)

    def _acquired(self, lock: Face, event: LockEvent, at: float) -> None:
        with self._mutex:
            self._waits.discard(lock)
        self._leave(lock)
        self._begin_at_zero(self._of(lock))
        self._waited(lock, event, at, "acquired")
        now_ns = self._wall_ns(at)
        hold = _Hold(event.token, at, now_ns)
        with self._mutex:
            self._holds[ref(lock, self._dropped.append)] = hold
        hold.span = self._span("microlock.hold", lock, event, now_ns)

    def _begin_at_zero(self, said: Attributes) -> None:
        """Reports 0 first, so that a query for an increase sees the first one."""
        if (items := tuple(said.items())) in self._zero:
            return
        self._zero.add(items)
        instruments = self._instruments
        for counter in (instruments.renewals, instruments.suspensions):
            counter.add(0, said)
        for reason in _REASONS:
            instruments.losses.add(0, said | {"microlock.loss.reason": reason})

    def _gave_up(self, lock: Face, event: LockEvent, at: float) -> None:
        with self._mutex:
            queued = lock in self._waits
            if not _queued(lock):  # otherwise it was another thread that gave up
                self._waits.discard(lock)
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
        self._known(lock, event)
        self._instruments.renewals.add(1, self._of(lock))

    def _suspended(self, lock: Face, event: LockEvent, at: float) -> None:
        self._instruments.suspensions.add(1, self._of(lock))
        if span := self._known(lock, event).span:
            why = {"error.type": type(event.error).__name__}
            span.add_event("microlock.suspended", why, self._wall_ns(at))

    def _known(self, lock: Face, event: LockEvent) -> _Hold:
        """The hold of this lock. It is new here if the object took it over from its node, or if it
        is older than the instrumentation."""
        with self._mutex:
            mine = ref(lock, self._dropped.append)
            return self._holds.setdefault(mine, _Hold(event.token))

    def _released(self, lock: Face, event: LockEvent, at: float) -> None:
        self._over(lock, event, at)

    def _lost(self, lock: Face, event: LockEvent, at: float) -> None:
        reason = event.reason.name.lower() if event.reason else "unknown"
        more = {"microlock.loss.reason": reason}
        self._instruments.losses.add(1, self._of(lock) | more)
        self._over(lock, event, at, more)

    def _over(
        self, lock: Face, event: LockEvent, at: float, lost: Mapping[str, str] | None = None
    ) -> None:
        hold = self._leave(lock, event.token)
        if hold is None or hold.since is None:
            return
        held = at - hold.since
        if hold.span:
            if lost:
                hold.span.set_attributes(lost)
                why = event.reason.value if event.reason else ""
                hold.span.set_status(trace.StatusCode.ERROR, why)
            hold.span.end(hold.began_ns + _ns(held))
            hold.span = None
        self._instruments.held.record(held, self._of(lock))

    def _leave(self, lock: Face, token: int | None = None) -> _Hold | None:
        """Removes and returns the hold of a lock. A hold whose outcome was unknown got no event of
        its end: it ends with the next hold."""
        with self._mutex:
            hold = self._holds.get(ref(lock))
            if hold is None or token not in (None, hold.token):
                return None
            del self._holds[ref(lock)]
        if token is None and hold.span:
            hold.span.end()
        return hold

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

    def holds(self) -> Counter[_Said]:
        """The number of holds, by their attributes."""
        with self._mutex:
            locks = [each() for each in self._holds]
        found = []
        for lock in filter(None, locks):
            # A hold may end without an event: the client was closed, or the outcome is unknown.
            if (state := lock.state) in (State.HELD, State.SUSPENDED):
                found.append(self._of(lock) | {"microlock.hold.state": state.name.lower()})
        return self._count(self._holding, found)

    def waits(self) -> Counter[_Said]:
        """The number of locks that wait in a queue."""
        with self._mutex:
            locks = list(self._waits)
        return self._count(self._waiting_now, [self._of(lock) for lock in locks if _queued(lock)])

    def _count(self, counts: Counter[_Said], found: list[Attributes]) -> Counter[_Said]:
        with self._mutex:
            for each in counts:
                counts[each] = 0
            counts.update(tuple(each.items()) for each in found)
            return Counter(counts)


_NOTES: Mapping[str, Callable[[Instrumentation, Face, LockEvent, float], None]] = {
    events.waiting: Instrumentation._waiting,
    events.acquired: Instrumentation._acquired,
    events.failed: Instrumentation._gave_up,
    events.renewed: Instrumentation._renewed,
    events.suspended: Instrumentation._suspended,
    events.released: Instrumentation._released,
    events.lost: Instrumentation._lost,
}


def _kind(lock: Face) -> str:
    known = (_KINDS.get(each.__name__) for each in type(lock).__mro__)
    return next(filter(None, known), "mutex")


def _queued(lock: Face) -> bool:
    """Whether it waits. A cancelled task leaves the queue without an event."""
    return lock._status.wait is not None


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)


class _Instruments:
    """The instruments of one meter: a meter has each of them once, for all instrumentations."""

    def __init__(self, provider: metrics.MeterProvider | None) -> None:
        self.all: WeakSet[Instrumentation] = WeakSet()
        meter = metrics.get_meter("microlock", version("microlock"), provider)
        self.waited = meter.create_histogram(
            "microlock.wait.duration",
            unit="s",
            description="Time from lock() until it was obtained or given up",
            explicit_bucket_boundaries_advisory=_BOUNDARIES,
        )
        self.held = meter.create_histogram(
            "microlock.hold.duration",
            unit="s",
            description="Time that a lock was held",
            explicit_bucket_boundaries_advisory=_BOUNDARIES,
        )
        self.losses = meter.create_counter(
            "microlock.hold.losses",
            unit="{loss}",
            description="Holds that ended without unlock()",
        )
        self.renewals = meter.create_counter(
            "microlock.hold.renewals", unit="{renewal}", description="Renewals of holds"
        )
        self.suspensions = meter.create_counter(
            "microlock.hold.suspensions",
            unit="{suspension}",
            description="Times that the renewal of a hold was not answered",
        )
        meter.create_observable_up_down_counter(
            "microlock.hold.count",
            [lambda _: _counted(self.all, Instrumentation.holds)],
            unit="{hold}",
            description="Locks that are held now",
        )
        meter.create_observable_up_down_counter(
            "microlock.wait.count",
            [lambda _: _counted(self.all, Instrumentation.waits)],
            unit="{wait}",
            description="Locks that wait in a queue now",
        )


def _counted(
    among: WeakSet[Instrumentation], what: Callable[[Instrumentation], Counter[_Said]]
) -> list[metrics.Observation]:
    with _changing:
        present = list(among)
    found: Counter[_Said] = Counter()
    for each in present:
        found.update(what(each))
    return [metrics.Observation(number, dict(said)) for said, number in found.items()]


# Guards the lists of instrumentations and instruments.
_changing = threading.RLock()
_made: WeakKeyDictionary[object, ref[_Instruments]] = WeakKeyDictionary()


def _instruments(provider: metrics.MeterProvider | None) -> _Instruments:
    """The instruments of a provider. Its meter keeps them alive, since it calls them."""
    # The global provider may be a proxy for one that is set later.
    given = provider is not None and provider is not metrics.get_meter_provider()
    key = provider if given else metrics.get_meter_provider
    with _changing:
        made = _made.get(key)
        instruments = made() if made else None
        if instruments is None:
            instruments = _Instruments(provider if given else None)
            _made[key] = ref(instruments)
        return instruments
