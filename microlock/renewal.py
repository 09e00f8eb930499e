"""Renewing leases, and noticing deadlines: one thread for all the places of a client.

What is due at the same time is renewed on one stream of keep-alives.
"""

from __future__ import annotations

import atexit
import logging
import math
import random
import threading
from collections.abc import Callable, Sequence
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Protocol, TypeVar
from weakref import WeakSet, ref

from microlock.core.lease import Lease
from microlock.core.port import KeepAlives, Lifetime, Revoke
from microlock.engine import clock
from microlock.errors import DestroyedError, MicrolockError, StoreTimeoutError
from microlock.etcd.client import Budget, EtcdClient

# Seconds. What falls due within one tick is done together.
_TICK = 0.05
# The most that one request may take: others fall due meanwhile.
_PATIENCE = 2.0
# What one renewal among many takes on a machine that is busy.
_EACH = 0.002
# So many are looked after at a time, as long as etcd answers: what it can't do in time would be
# asked for once more, and cost it twice.
_BATCH = 500
# The longest sleep: the thread does not outlive by much what it looks after, and notices deadlines
# that a suspended machine has slept through, while the clock it waits by result still.
_NAP = 1.0
# For all that is given back when the interpreter exits.
_FAREWELL = 1.0

T = TypeVar("T")

log = logging.getLogger("microlock")


class Kept(Protocol):
    """A place that is looked after; called on the thread of the renewals.

    Attributes:
        appointment: when it is to be tended next; the keeper's own note.
    """

    appointment: float | None

    def tend_at(self) -> float | None:
        """When there is something to do, by the monotonic clock. None: nothing any more."""

    def tend(self, now: float) -> Sequence[Lease]:
        """Notices what time has done. Returns the leases to renew now."""

    def on_renewed(self, lease_id: int, lifetime: Lifetime) -> None: ...

    def on_silence(self, lease_id: int, error: MicrolockError, *, sent: float) -> None:
        """etcd did not renew a lease, though it was asked to, not before `sent`."""


class Remembered(Protocol):
    """What is to be given back when the interpreter exits."""

    def surrender(self, now: float) -> Sequence[Lease]:
        """Ends it, if it has not ended. Returns the leases to revoke."""

    def remaining(self, now: float) -> float:
        """Seconds that it lasts; 0.0 when it is over."""


class Keeper:
    """Looks after the places of one client."""

    def __init__(self, client: EtcdClient) -> None:
        self._client = client
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        # Under the lock:
        self._agenda: list[tuple[float, int, ref[Kept]]] = []  # a heap
        self._thread: threading.Thread | None = None
        self._sleeps_until = 0.0
        self._closed = False
        self._places: list[
            Remembered
        ] = []  # those that may have to be given back, and some that ended
        self._prune_at = 64
        self._numbers = count()
        self._at_once: float = _BATCH  # how many are looked after; of the thread alone
        _keepers.add(self)

    def keep(self, kept: Kept, *, earliest: float = 0.0) -> None:
        """Looks after it, which is held weakly, for as long as there is something to do."""
        at = kept.tend_at()
        if at is None:
            return
        at = math.ceil(max(at, earliest) / _TICK) * _TICK
        with self._lock:
            if self._closed:
                return
            if kept.appointment is None or at < kept.appointment:
                heappush(self._agenda, (at, next(self._numbers), ref(kept)))
                kept.appointment = at
            if self._thread is None or self._thread.ident is None:  # it could not be started
                self._start()
            elif at < self._sleeps_until:
                self._changed.notify()

    def remember(self, place: Remembered) -> None:
        """Gives it back at exit, also if nobody else has it any more."""
        with self._lock:
            self._places.append(place)
            if len(self._places) >= self._prune_at:
                now = clock.now()
                self._places = [each for each in self._places if each.remaining(now)]
                self._prune_at = 2 * len(self._places) + 64

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="microlock-renewal", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # too many threads, or the interpreter exits
            self._thread = None
            log.exception("nothing is renewed, and no loss is told of: no thread can be started")

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._agenda.clear()
            self._changed.notify()
            thread = self._thread
        if thread and thread.ident and thread is not threading.current_thread():
            thread.join(timeout=1)

    def let_go(self, budget: Budget) -> None:
        """Gives back what is held and who waits, as far as the time allows."""
        if self._client.forked or self._closed:
            return  # it is the parent's; or left to its ttl, and said so
        now = clock.now()
        leases = [lease for place in self._places for lease in place.surrender(now)]
        for number, lease in enumerate(leases):
            try:
                self._client.perform(Revoke(lease.id), budget)
            except DestroyedError:
                break  # the client was closed, by whoever lent it: left to their ttl
            except MicrolockError as error:
                log.warning("left to their ttl at exit: %d places, %s", len(leases) - number, error)
                break

    def _run(self) -> None:
        while self._wait():
            self._tend()

    def _wait(self) -> bool:
        """Waits for the next appointment. False if there is none: the thread is to end."""
        with self._lock:
            while self._agenda:
                at, now = self._agenda[0][0], clock.now()
                if at <= now:
                    return True
                self._sleeps_until = at
                notified = self._changed.wait(min(at - now, _NAP))
                self._sleeps_until = 0.0
                if not notified:
                    self._agenda = [each for each in self._agenda if each[2]()]
                    heapify(self._agenda)
            self._thread = None
            return False

    def _due(self, now: float) -> list[ref[Kept]]:
        due: list[ref[Kept]] = []
        with self._lock:
            while self._agenda and self._agenda[0][0] <= now and len(due) < self._at_once:
                at, _, reference = heappop(self._agenda)
                kept = reference()
                if kept and kept.appointment == at:  # otherwise it has an earlier one
                    kept.appointment = None
                    due.append(reference)
        return due

    # What is tended is held by nobody here while etcd is asked, nor by the traceback of an error.

    def _tend(self) -> None:
        now = clock.now()
        due = self._due(now)
        leases = [
            (each, lease) for each in due for lease in _do(each, lambda kept: kept.tend(now)) or ()
        ]
        unanswered = self._renew(leases, now) if leases else set()
        for each in due:
            # Those that etcd had no time for are the next; their appointment is the oldest.
            earliest = 0.0 if id(each) in unanswered else now + _TICK
            _do(each, partial(self.keep, earliest=earliest))

    def _renew(self, leases: list[tuple[ref[Kept], Lease]], now: float) -> set[int]:
        """Returns the id() of those that etcd did not answer, though it did others."""
        leases.sort(key=lambda each: each[1].deadline)  # the most urgent first
        lifetimes, error = self._ask([lease for _, lease in leases])
        # One silence for all: nobody's loss is to be told late because others were asked first.
        self._at_once = _BATCH if lifetimes else math.inf
        unanswered: set[int] = set()
        for each, lease in leases:
            if lifetime := lifetimes.get(lease.id):
                _do(each, partial(_renewed, lease_id=lease.id, lifetime=lifetime))
            elif lifetimes:
                unanswered.add(id(each))
            else:
                _do(each, partial(_silent, lease_id=lease.id, error=error, sent=now))
        return unanswered

    def _ask(self, leases: list[Lease]) -> tuple[dict[int, Lifetime], MicrolockError]:
        """What etcd answers; and the error that is to be told of where it does not."""
        now = clock.now()
        # Half of what is left to the most urgent: there is to be time for another try. But one that
        # is late must not have the others cut short, and asked for twice.
        left = min(lease.deadline for lease in leases) - now
        least = 0.1 + len(leases) * _EACH
        end = now + min(_PATIENCE, self._client.timeout, max(least, left / 2))
        try:
            request = KeepAlives(tuple(lease.id for lease in leases))
            return self._client.perform(request, Budget(end, end)), StoreTimeoutError("no answer")
        except MicrolockError as failure:
            return {}, failure
        except Exception as failure:
            log.exception("a renewal with %r failed", self._client)
            return {}, MicrolockError(f"the renewal failed: {failure!r}")


def _renewed(kept: Kept, lease_id: int, lifetime: Lifetime) -> None:
    kept.on_renewed(lease_id, lifetime)


def _silent(kept: Kept, lease_id: int, error: MicrolockError, sent: float) -> None:
    kept.on_silence(lease_id, error, sent=sent)


def _do(reference: ref[Kept], act: Callable[[Kept], T]) -> T | None:
    """What goes wrong with one does not stop the others from being looked after."""
    kept = reference()
    if kept is None:
        return None
    try:
        return act(kept)
    except DestroyedError:
        return None  # the client is closed
    except Exception:
        log.exception("%r is not looked after as it should be", kept)
        return None


def early() -> float:
    """How much of the time between two renewals one place takes, so that not all come at once."""
    return random.uniform(0.8, 1.0)


_keepers: WeakSet[Keeper] = WeakSet()


@atexit.register
def _let_all_go() -> None:
    budget = Budget.of(_FAREWELL)
    for keeper in list(_keepers):
        keeper.let_go(budget)
