"""What happens to a lock between the steps of its calls: deadlines, renewals, news of the watches.

The threads of the client call it. It declares what should be watched, and when something is due.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from microlock import events
from microlock.core.call import NOW, Call, Park, Steps
from microlock.core.flows import Flow
from microlock.core.hold import Event, HoldState
from microlock.core.lease import Lease
from microlock.core.place import AwaitTurn, Place, TurnResult
from microlock.core.port import Found, KeyValue, Lifetime
from microlock.core.queue import Change, Standing
from microlock.core.status import Status
from microlock.core.turns import Turns
from microlock.core.wait import Wait, Watched
from microlock.errors import LossReason, MicrolockError

# After so many seconds the entry of a hold is watched, so that a deletion is noticed at once. For
# short holds a watch would cost too much.
UNWATCHED = 0.1
# Seconds until a watch that was refused is tried again.
_REFUSED = 5.0


class Tracker:
    """Follows the last hold of an object, and its wait.

    Args:
        status: the status of the object.
        turns: the turns of its calls, which go on when the hold is lost.
        max_hold: seconds after which holds are no longer renewed; None: no limit.

    Attributes:
        views: the views of the watches, by watched name; the host keeps them up to date.
        woken: set when a call that waits for news should check again. None: no call ever waited.
        early: see `Lease.due`.
        key_watched: whether the whole lock should be watched.
    """

    __slots__ = (
        "_guarded",
        "_max_hold",
        "_status",
        "_tried",
        "_turns",
        "_watch_again",
        "early",
        "key_watched",
        "views",
        "woken",
    )

    def __init__(self, status: Status, turns: Turns, *, max_hold: float | None) -> None:
        self.views: dict[bytes, Watched] = {}
        self.woken: Event | None = None
        self.early = 0.8 + 0.2 * status.env.random()  # so that not all renewals come at once
        self.key_watched = False
        self._status = status
        self._turns = turns
        self._max_hold = math.inf if max_hold is None else max_hold
        self._tried = 0.0  # when a renewal failed last
        self._guarded: HoldState | None = None  # the hold whose entry is watched
        self._watch_again = 0.0  # no watch before this time

    def begin(self, hold: HoldState) -> None:
        """Follows this hold from now on."""
        self._status.hold = hold
        self.look()
        self._status.changed = True

    # Watching.

    def listen(self) -> None:
        """There is a listener for events of the key."""
        self._status.check_alive()
        self.key_watched = self._status.changed = True

    @property
    def listened(self) -> bool:
        """Whether the key's events have listeners."""
        return any(self._status.env.listened(name) for name in events.OF_THE_KEY)

    @property
    def watches(self) -> dict[bytes, Found | None]:
        """The names that should be watched, each with what is known already."""
        status = self._status
        if status.closed:
            return {}
        if self.key_watched:
            return dict.fromkeys(status.names.locks)
        watches: dict[bytes, Found | None] = {}
        hold, wait = self._guarded, status.wait
        if hold and hold is status.hold and hold.alive:
            # The watch starts at the put: nothing has to be read.
            place = hold.place
            for entry in place.entries:
                kv = KeyValue(entry, status.names.value, place.token, place.lease.id)
                watches[entry] = Found(place.token, (kv,))
        if wait and wait.place:
            watches |= dict.fromkeys(wait.watches)
        return watches

    @property
    def interest(self) -> Sequence[bytes] | None:
        """The entries whose changes matter; None: all entries."""
        wait, hold = self._status.wait, self._status.hold
        if self.listened:
            return None
        if wait and wait.place:
            return wait.interest
        return hold.place.entries if hold else ()

    def seen(self) -> None:
        """There is a new view, which may already know something."""
        self.look()
        self._stir()

    def look(self) -> None:
        """Checks in the views whether the entry of the hold is gone."""
        hold = self._status.hold
        if not self.views or hold is None or not hold.alive:
            return
        place = hold.place
        for lock, entry in zip(self._status.names.locks, place.entries, strict=True):
            for name in (lock, entry):
                view = self.views.get(name)
                if view and view.look(entry, place.token)[0] is Standing.GONE:
                    self._status.lose(hold, LossReason.DELETED)

    def watched(self, name: bytes, changes: Sequence[Change], *, synthesised: bool) -> None:
        """A watch reports changes."""
        if self._status.closed:
            return
        self.look()
        names = self._status.names
        for change in changes if name in names.locks else ():
            if names.admission.speaks:
                self._tell_of_leader(change, synthesised=synthesised)
            if change.locked is None:
                continue
            self._status.env.tell(
                events.locked if change.locked else events.unlocked,
                key=names.of_lock(name),
                node_id=change.holder and change.holder.node_id,
                token=change.holder and change.holder.token,
                synthesised=synthesised,
            )
        if synthesised and any(map(self._unseen, self.places)):
            self._status.doubted = True
        self._stir()

    @property
    def places(self) -> list[Place]:
        """The places of the hold and of the wait."""
        hold, wait = self._status.hold, self._status.wait
        places = [hold.place] if hold and hold.alive else []
        return [*places, wait.place] if wait and wait.place else places

    def _unseen(self, place: Place) -> bool:
        """Whether a view that was read anew has not come to the token of this place. It will, if
        the entry was put after the read. It never may if etcd has lost its last revisions."""
        wait = self._status.wait
        seen = list(zip(self._status.names.locks, place.entries, strict=True))
        names = [(name, entry, place.token) for lock, entry in seen for name in (lock, entry)]
        if wait and wait.place is place and wait.after:
            names.append((wait.after[0], *wait.after))
        return any(
            name in self.views and self.views[name].look(entry, token)[0] is Standing.UNKNOWN
            for name, entry, token in names
        )

    def verified(self, place: Place, found: Found) -> None:
        """A read has told what is in etcd of this place."""
        if any((kv.name, kv.create_revision) == (place.entry, place.token) for kv in found.keys):
            return
        hold, wait = self._status.hold, self._status.wait
        if hold and hold.alive and hold.place.entry == place.entry and hold.token == place.token:
            self._status.lose(hold, LossReason.DELETED)
        if wait and wait.place and wait.place.entry == place.entry:
            wait.end(place.token)
        self._stir()

    def _tell_of_leader(self, change: Change, *, synthesised: bool) -> None:
        leads = None if change.locked is False else change.holder
        self._status.env.tell(
            events.leader,
            node_id=leads and leads.node_id,
            token=leads and leads.token,
            value=leads and leads.value,
            synthesised=synthesised,
        )

    def watch_failed(self, name: bytes, error: MicrolockError, *, final: bool, now: float) -> None:
        """A watch is interrupted; if `final` it has ended."""
        status = self._status
        if status.closed:
            return
        if final:
            self._watch_again = now + _REFUSED
            status.changed = True
            if name in status.names.locks:
                self.key_watched = False
            else:
                self._guarded = None
            if status.wait:
                status.wait.error = error
        status.env.tell(events.error, error=error)
        self._stir()

    def _stir(self) -> None:
        """Wakes the call that waits for news, and passes the turn on."""
        self.wake()
        self._turns.pass_on()

    def stir_all(self) -> None:
        """Wakes every call."""
        self.wake()
        self._turns.wake()

    def wake(self) -> None:
        """Wakes the call that waits for news."""
        if self.woken:
            self.woken.set()

    # Waits.

    def await_turn(self, call: Call, wait: Wait, request: AwaitTurn) -> Flow[TurnResult]:
        """Waits until the place of this call is the first in the queue, or the wait has ended."""
        status, now = self._status, (yield NOW)
        # Before the check: a signal handler may wake this call after it.
        self.woken = self.woken or status.env.event()
        self._turns.check(call)
        if wait.begin(request, now):
            token = request.place.token
            status.env.tell(events.waiting, node_id=status.names.node_id, token=token)
        # For several waiters of one client, one watch of the whole lock is cheapest.
        far = not wait.near
        self.key_watched = not far or self.listened
        status.changed = True
        self._turns.wake()  # calls that must not wait behind this one
        try:
            if far:
                yield Park(now, self.woken)  # ends the watch of the lock, if it is not needed
            while (result := wait.result(self.views, now)) is None:
                status.changed = True
                yield Park(wait.wakes(), self.woken)
                self.woken.clear()
                now = yield NOW
                if wait.error:
                    raise wait.error
                self._turns.check(call)
            return result
        finally:
            wait.place = None
            if far:  # it needed the watch of the lock only at the end; near waiters keep it
                self.key_watched &= self.listened
            status.changed = True
            call.parked(now)

    def hear_the_end(self, hold: HoldState, until: float) -> Steps[None]:
        """Waits until the watch of the lock, if there is one, has seen the end of the hold."""
        self.woken = self.woken or self._status.env.event()
        for lock, entry in zip(self._status.names.locks, hold.place.entries, strict=True):
            view = self.views.get(lock)
            while (
                view
                and view.look(entry, hold.token)[0] is not Standing.GONE
                and (yield NOW) < until
            ):
                yield Park(until, self.woken)
                self.woken.clear()

    # Deadlines and renewals.

    @property
    def next_due(self) -> float:
        """When the next thing is due."""
        at, hold, wait = math.inf, self._status.hold, self._status.wait
        if self._status.closed:
            return at
        if hold and hold.alive:
            at = min(hold.place.deadline, self._guard_at(hold), self._renewal(hold))
        return min(at, wait.due()) if wait else at

    def due(self, now: float) -> Sequence[Lease]:
        """Does what is due. Returns the leases to renew now."""
        status = self._status
        leases: tuple[Lease, ...] = ()
        if status.closed:
            return leases
        hold, wait = status.hold, status.wait
        if hold and hold.alive and not status.noticed(now):
            if self._guard_at(hold) <= now:
                self._guarded = hold
                status.changed = True
            if self._renewal(hold) <= now:
                leases = hold.leases
        self._turns.pass_on()  # the hold may be lost
        if wait and wait.due() <= now:
            leases = (*leases, *wait.leases)
        return leases

    def _guard_at(self, hold: HoldState) -> float:
        """When to watch the entry of the hold."""
        if self.key_watched or self._guarded is hold:
            return math.inf  # watched already
        return max(hold.since + UNWATCHED, self._watch_again)

    def _renewal(self, hold: HoldState) -> float:
        """When to renew the hold."""
        if not self._status.auto_renew or hold.unwanted:
            return math.inf
        place, early, tried = hold.place, self.early, self._tried
        at = place.lease.due(early=early, tried=tried)
        if place.next_lease:
            at = min(at, place.next_lease.due(early=early, tried=tried))
        return at if at < hold.since + self._max_hold else math.inf

    def renewed(self, lease_id: int, lifetime: Lifetime, now: float) -> None:
        """etcd has answered a renewal."""
        status = self._status
        if status.wait and status.wait.renewed(lease_id, lifetime):
            self.wake()
            return
        hold = self._of(lease_id, lifetime.sent)
        if hold is None:
            return
        if lifetime.ttl > 0:
            if hold.renewed(lease_id, lifetime) and not status.noticed(now):
                status.tell_of(events.renewed, hold)
        elif self._turns.current:
            self._tried = now  # a call may be extending the hold: the next renewal decides
        else:
            status.lose(hold, LossReason.LEASE_GONE)
        self._turns.pass_on()

    def silent(self, lease_id: int, error: MicrolockError, *, sent: float, now: float) -> None:
        """etcd did not renew a lease, in a request that was sent at `sent` or later."""
        if self._status.wait:
            self._status.wait.silent(now)
        if hold := self._of(lease_id, sent):
            self._tried = now
            self.unanswered(hold, error, now)
            self._turns.pass_on()

    def _of(self, lease_id: int, sent: float) -> HoldState | None:
        """The hold that a renewal was for; None if it was given back or extended meanwhile."""
        hold = self._status.hold
        if hold is None or sent < hold.since or not hold.place.has(lease_id):
            return None
        return hold

    def unanswered(self, hold: HoldState, error: MicrolockError, now: float) -> None:
        """A renewal of the hold failed."""
        if not self._status.noticed(now) and hold.suspend(error):
            self._status.tell_of(events.suspended, hold, error=error)
