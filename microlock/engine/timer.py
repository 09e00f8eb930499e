"""The timer of a client: one thread for all its locks.

It renews leases, notices deadlines, and gives back the holds of dropped locks.

Renewals that are due at the same time go in one request.
"""

from __future__ import annotations

import atexit
import logging
import math
import sys
import threading
from collections.abc import Callable
from functools import partial
from itertools import cycle
from queue import Empty
from typing import TYPE_CHECKING, Any
from weakref import WeakSet, ref

from microlock.core import agenda
from microlock.core.agenda import Agenda
from microlock.core.lease import Lease
from microlock.core.port import KeepAlives
from microlock.core.renewals import Answer, Ask, Renewals, is_refusal
from microlock.core.retry import Budget
from microlock.engine import clock
from microlock.engine.client import Client
from microlock.engine.drive import drive
from microlock.engine.handlers import Handlers, Mailbox
from microlock.engine.threads import Daemon
from microlock.errors import DestroyedError, MicrolockError, StoreTimeoutError

if TYPE_CHECKING:
    from microlock.engine.host import Host

# The longest sleep while something is due. A sleep stands still while the machine is suspended, and
# deadlines don't; so they are noticed soon after.
_NAP = 1.0
# Seconds for giving everything back when the interpreter exits.
_FAREWELL = 1.0

# The most locks that a message names.
_NAMED = 3

# The most dropped locks that are given back at the same time.
_AT_ONCE = 8

log = logging.getLogger("microlock")


class _Face(ref[object]):
    """A lock, held weakly; and its host."""

    __slots__ = ("host",)

    host: Host


class Timer:
    """The timer for the locks of one client."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._clock = client.clock
        # Any code may fill it, also a garbage collection: it takes no mutex of ours.
        self._inbox = self._clock.inbox()  # dropped locks, jobs, and None
        # The callback of all locks. It is C: an interrupt of our code in a garbage collection would
        # be lost.
        self._dropped = self._inbox.put
        self._cleaning = cycle([Mailbox() for _ in range(_AT_ONCE)])
        self._asides = cycle([Mailbox() for _ in range(_AT_ONCE)])
        self._lock = threading.RLock()
        # Under the lock:
        self._agenda: Agenda[Host] = Agenda()
        self._faces: dict[Host, _Face] = {}
        self._thread: threading.Thread | None = None
        self._sleeps_until = 0.0
        self._closed = False
        # Of the thread alone:
        self._at_once = agenda.BATCH  # the most renewals at a time
        self._renewals = Renewals()
        _timers.add(self)

    def adopt(self, face: object, host: Host) -> None:
        """From now on, gives back the hold of this lock when the lock is dropped, or at exit."""
        with self._lock:
            if not self._closed:
                self._faces[host] = dropped = _Face(face, self._dropped)
                dropped.host = host
        self._start()

    def post(self, job: Callable[[], object]) -> None:
        """Does this on a thread of the handlers. Takes no mutex: see `adopt`."""
        self._inbox.put(job)

    def schedule(self, host: Host) -> None:
        """Calls the host when something is due."""
        closed, at = host.core.status.closed, host.core.tracker.next_due
        # If an earlier call is scheduled, that will schedule the next.
        asked = at == math.inf or (self._thread and self._agenda.has(host, at))
        if asked and not closed:
            return
        with self._lock:
            if self._closed:
                return
            if closed:
                self._forget(host)
            elif self._agenda.add(host, at) < self._sleeps_until:
                self._sleeps_until = 0.0
                self._inbox.put(None)
        self._start()

    def _start(self) -> None:
        """Starts the thread, if it has something to do."""
        with self._lock:
            if self._thread and self._thread.is_alive():
                return
            if not self._faces and self._agenda.next == math.inf:
                return
            thread = self._thread = Daemon("microlock-renewal", self._run)
        # Without the lock: a new thread may collect garbage before it says that it runs.
        try:
            self._clock.start(thread)
        except RuntimeError:  # too many threads, or the interpreter exits
            with self._lock:
                if self._thread is thread:
                    self._thread = None
            log.exception(
                "no thread can be started: holds are not renewed, and losses are not noticed"
            )

    def finish(self, timeout: float) -> None:
        """The client is about to close: waits until the holds of dropped locks are given back, and
        posted jobs are done, at most `timeout` seconds."""
        end = self._clock.now() + timeout
        done = [threading.Event() for _ in range(_AT_ONCE)]  # one for each mailbox
        with self._lock:
            if self._thread is None or self._thread is threading.current_thread():
                return
            for each in done:
                self._inbox.put(each.set)
        for each in done:
            each.wait(max(0.0, end - self._clock.now()))

    def aside(self, job: Callable[[], object]) -> None:
        """Does this on a thread of the handlers. `finish` does not wait for it."""
        try:
            self._client.one(Handlers).submit(next(self._asides), job)
        except RuntimeError:  # no thread can be started
            self.post(job)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._agenda = Agenda()
            hosts = list(self._faces)
            self._faces.clear()
            self._inbox.put(None)
            thread = self._thread
        now = self._clock.now()
        held = [host.core.names.key for host in hosts if host.core.status.present(now)]
        if held:
            more = f" and {len(held) - _NAMED} more" if len(held) > _NAMED else ""
            names = ", ".join(map(repr, held[:_NAMED]))
            log.warning(
                "%r is closed; these locks stay until their ttl ends: %s%s",
                self._client,
                names,
                more,
            )
        for host in hosts:
            host.stir()
        if thread and thread.ident and thread is not threading.current_thread():
            thread.join(timeout=1)

    def release_at_exit(self, seconds: float) -> None:
        """Gives back holds and ends waits, as far as this time allows."""
        if self._client.forked or self._closed:
            return  # they belong to the parent; or a warning was logged already
        now, client = self._clock.now(), self._client
        budget = Budget.of(now, seconds)
        ends = [each for host in list(self._faces) for each in host.release_at_exit(now)]
        for number, end in enumerate(ends):
            try:
                drive(end, lambda it: client.perform(it, budget), self._lock, self._clock)
            except DestroyedError:
                break  # the owner of a lent client has closed it: they end with their ttl
            except MicrolockError as error:
                log.warning(
                    "at exit %d hold(s) are left, and end with their ttl: %s",
                    len(ends) - number,
                    error,
                )
                break

    # The thread.

    def _run(self) -> None:
        while (patience := self._patience()) is not None:
            try:
                item = self._inbox.get(timeout=None if patience == math.inf else patience)
                while True:
                    self._take(item)
                    item = self._inbox.get_nowait()
            except Empty:
                pass
            self._look_after()

    def _patience(self) -> float | None:
        """Seconds to sleep; None: there is nothing to do any more."""
        with self._lock:
            if self._thread is not threading.current_thread():  # a second thread was started
                return None
            at = self._sleeps_until = self._agenda.next
            if at == math.inf and not self._faces and self._inbox.empty():
                self._thread = None
                return None
            if at == math.inf:
                return at
            nap = math.inf if self._clock.turned else _NAP
            return max(0.0, min(at - self._clock.now(), nap))

    def _take(self, item: _Face | Callable[[], object] | None) -> None:
        if item is None:
            return
        job = partial(self._give_back, item.host) if isinstance(item, _Face) else item
        try:  # on another thread: renewals must not wait for it
            self._client.one(Handlers).submit(next(self._cleaning), job)
        except DestroyedError:
            pass  # the client is closed
        except RuntimeError:
            _do(job)

    def _give_back(self, host: Host) -> None:
        try:
            host.dropped()
        finally:
            self._forget(host)

    def _forget(self, host: Host) -> None:
        with self._lock:
            self._agenda.drop(host)
            if self._faces.pop(host, None) and not self._faces:
                self._inbox.put(None)  # the thread may end

    def _look_after(self) -> None:
        now = self._clock.now()
        with self._lock:
            self._sleeps_until = 0.0
            due = self._agenda.due(now, self._at_once)
        leases = [(host, lease) for host in due for lease in _do(host.due, now) or ()]
        unanswered = self._renew(leases, now) if leases else set()
        for host in due:
            # Those that etcd had no time for come next: they get the earliest time.
            _do(self._schedule_again, host, 0.0 if host in unanswered else now + agenda.TICK)

    def _schedule_again(self, host: Host, earliest: float) -> None:
        at = host.due_next()
        with self._lock:
            if at < math.inf and not self._closed and not host.core.status.closed:
                self._agenda.add(host, max(at, earliest))

    def _renew(self, leases: list[tuple[Host, Lease]], now: float) -> set[Host]:
        """Renews leases. Returns the hosts that etcd had no time for, though it answered others."""
        leases.sort(key=lambda each: each[1].deadline)  # the most urgent first
        left, answered = {lease.id: host for host, lease in leases}, False
        renewing = self._renewals.renew([lease for _, lease in leases], now)
        answer: Any = None
        try:
            while True:
                lifetimes, _ = answer = self._ask(renewing.send(answer))
                answered |= bool(lifetimes)
                for lease_id, lifetime in lifetimes.items():
                    if host := left.pop(lease_id, None):
                        _do(host.renewed, lease_id, lifetime)
        except StopIteration as done:
            failed: dict[int, MicrolockError] = done.value
        for lease_id, error in failed.items():
            if host := left.pop(lease_id, None):
                _do(partial(host.silent, sent=now), lease_id, error)
        # If etcd is silent, handle all at once: no loss may be noticed late because of the others.
        heard = answered or left or all(map(is_refusal, failed.values()))
        self._at_once = agenda.BATCH if heard else sys.maxsize
        return set(left.values())

    def _ask(self, ask: Ask) -> Answer:
        """The answers of etcd, and the error for leases without an answer."""
        now = self._clock.now()
        most = self._client.timeout if ask.most is None else min(ask.most, self._client.timeout)
        end = now + agenda.patience(ask.leases, now, most)
        try:
            request = KeepAlives(tuple(lease.id for lease in ask.leases))
            return self._client.perform(request, Budget(end, end)), StoreTimeoutError(
                "no answer to the renewal"
            )
        except MicrolockError as failure:
            return {}, failure
        except Exception as failure:  # a fault of ours: it must not stop the renewals of others
            log.exception("a renewal by %r failed", self._client)
            return {}, MicrolockError(f"the renewal failed: {failure!r}")


def _do(act: Callable[..., Any], *args: Any) -> Any:
    """Calls it, and logs an error, which must not stop the work for other locks."""
    try:
        return act(*args)
    except DestroyedError:
        return None  # the client is closed
    except Exception:
        log.exception("the renewal thread failed for a lock")
        return None


_timers: WeakSet[Timer] = WeakSet()


@atexit.register
def _release_all() -> None:
    end = clock.now() + _FAREWELL
    for timer in list(_timers):
        timer.release_at_exit(max(0.0, end - clock.now()))
