"""Waiting in the queue of a lock, on the thread of the caller."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from microlock.core.keys import Names
from microlock.core.lease import Lease
from microlock.core.place import AwaitTurn, Place, TurnResult
from microlock.core.port import Lifetime
from microlock.core.queue import Change, Holder, Standing
from microlock.core.view import View
from microlock.engine import clock
from microlock.engine.reentrant_event import ReentrantEvent
from microlock.errors import DestroyedError, MicrolockError
from microlock.etcd.client import EtcdClient
from microlock.renewal import Keeper, early
from microlock.watch import Watcher

# Seconds before the time is over: from then on who waits hears who holds the lock, to tell it.
_LAST = 1.0
_NEWS = {Standing.FIRST, Standing.GONE}


class Waiting:
    """One wait: woken by the watch, its lease renewed meanwhile.

    Far from its turn it watches one entry before its own, and nothing else. When that is gone it
    watches the lock, as all do whose turn is near.

    Args:
        until: when to give up, by the monotonic clock; None is never.

    Attributes:
        tokens: of the places it result at.
        holder: who holds the lock meanwhile, as far as known; None before it stands.
    """

    def __init__(self, client: EtcdClient, names: Names, until: float | None) -> None:
        self.appointment: float | None = None
        self.concern: bytes | None = b""
        self.tokens: set[int] = set()
        self.holder: Holder | None = None
        self._client = client
        self._names = names
        self._until = until
        self._early = early()
        self._tried = 0.0  # when a renewal failed last
        self._woken = ReentrantEvent()
        self._error: MicrolockError | None = None  # what ends it
        self._ended = False  # its lease has ended, in etcd's word
        self._lock = threading.RLock()
        # Written under the lock, by the thread that waits and by the one that renews:
        self._place: Place | None = None  # None <=> nobody waits
        self._after: tuple[bytes, int] | None = None  # what is watched, far from the turn

    def stand(self, request: AwaitTurn) -> TurnResult:
        """Waits at this place. Raises what `end` was given."""
        watcher = self._client.one(Watcher)
        self.tokens.add(request.place.token)
        self._place, self._ended = request.place, False
        self._after = None if self._late(clock.now()) else request.after
        self.concern = self._after[0] if self._after else request.place.entry
        try:
            watcher.watch(self._after[0] if self._after else self._names.prefix, self, wait=False)
            keeper = self._client.one(Keeper)
            keeper.remember(self)
            keeper.keep(self)
            while True:
                self._woken.clear()
                if result := self._look(watcher, request):
                    return result
                self._woken.wait(self._patience())
        finally:
            with self._lock:
                self._place = None
            watcher.unwatch(self._names.prefix, self)
            if self._after:
                watcher.unwatch(self._after[0], self)

    def _come_near(self, watcher: Watcher, place: Place, now: float) -> bool:
        """Whether the turn is near; from then on the lock is watched."""
        if self._after is None:
            return True
        standing, _ = watcher.look(self._after[0], *self._after)
        if standing is not Standing.GONE and not self._late(now):
            return False
        watcher.watch(self._names.prefix, self, wait=False)
        watcher.unwatch(self._after[0], self)
        self._after, self.concern = None, place.entry
        return True

    def _late(self, now: float) -> bool:
        return self._until is not None and self._until - _LAST <= now

    def _look(self, watcher: Watcher, request: AwaitTurn) -> TurnResult | None:
        """How the waiting has ended, if it has."""
        if self._error:
            raise self._error
        self._client.check()
        place, now = self._place, clock.now()
        assert place
        standing, holder = Standing.UNKNOWN, None
        if self._come_near(watcher, place, now):
            standing, holder = watcher.look(self._names.prefix, place.entry, place.token)
        self.holder = holder = holder or self.holder or request.holder
        if self._ended:
            standing = Standing.GONE
        elif standing not in _NEWS:
            if self._until is not None and self._until <= now:
                standing = Standing.WAITS
            elif place.lease.deadline <= now:
                standing = Standing.UNKNOWN
            else:
                return None
        return TurnResult(standing, place.lease, now, holder)

    def _patience(self) -> float:
        """Seconds to wait at most, before looking again."""
        place = self._place
        assert place
        until = place.lease.deadline
        if self._until is not None:
            until = min(until, self._until - _LAST if self._after else self._until)
        return max(0.0, until - clock.now())

    def end(self, error: MicrolockError) -> None:
        """Whoever waits gives up, with this error."""
        self._error = error
        self._woken.set()

    # What the watch tells.

    def on_watch(self, view: View, changes: Sequence[Change], *, synthesised: bool) -> None:
        place, after = self._place, self._after
        if after:
            news = view.standing(*after) is Standing.GONE
        else:
            news = place is not None and view.standing(place.entry, place.token) in _NEWS
        if news:
            self._woken.set()

    def on_watch_error(self, error: MicrolockError, *, final: bool) -> None:
        if final:
            self.end(error)

    # Keeping the lease.

    def tend_at(self) -> float | None:
        place = self._place
        return place.lease.due(early=self._early, tried=self._tried) if place else None

    def tend(self, now: float) -> Sequence[Lease]:
        place, at = self._place, self.tend_at()
        return (place.lease,) if place and at is not None and at <= now else ()

    def on_renewed(self, lease_id: int, lifetime: Lifetime) -> None:
        with self._lock:
            place = self._place
            if place is None or lease_id != place.lease.id:
                return
            if lifetime.ttl > 0:
                self._place = place.renewed(lease_id, lifetime)
            else:
                self._ended = True
        self._woken.set()

    def on_silence(self, lease_id: int, error: MicrolockError, *, sent: float) -> None:
        self._tried = clock.now()

    # At exit.

    def remaining(self, now: float) -> float:
        return float(self._place is not None)

    def surrender(self, now: float) -> Sequence[Lease]:
        # Nobody is woken: who waits has nothing more to do, and is not to join again.
        self._error = DestroyedError("the interpreter exits")
        with self._lock:
            place, self._place = self._place, None
        return (place.lease,) if place else ()
