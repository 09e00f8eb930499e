"""What a lock object has, and what befalls it between calls: renewal, loss, events of the key."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from weakref import ref

from microlock import events
from microlock.core.hold import Guard, Hold, State
from microlock.core.keys import Names
from microlock.core.lease import Lease
from microlock.core.place import Place
from microlock.core.port import Found, KeyValue, Lifetime
from microlock.core.queue import Change, Standing
from microlock.core.view import View
from microlock.emitter import Emitter
from microlock.engine import clock
from microlock.engine.reentrant_event import ReentrantEvent
from microlock.errors import (
    DestroyedError,
    LockLostError,
    LockNotOwnedError,
    LossReason,
    MicrolockError,
)
from microlock.etcd.client import EtcdClient
from microlock.holding import Holding
from microlock.loss import Loss
from microlock.renewal import Keeper, early
from microlock.watch import Watcher

# Seconds after which the entry of a hold is watched, so that a deletion is noticed at once. A watch
# for each of many short holds costs more than it is worth.
_UNWATCHED = 0.1
# Seconds until a watch that was refused is tried again.
_REFUSED = 5.0

log = logging.getLogger("microlock")


class _Sentry:
    """Hears when the entry of one hold is gone, and of nothing else. The lock alone keeps it.

    It listens from the put on. etcd is up to 100 ms late with a watch that starts in the past,
    which is no matter here, and nothing has to be read.
    """

    concern: bytes | None = None

    def __init__(self, possession: Possession, place: Place) -> None:
        self.entry = place.entry
        self.token = place.token
        self._possession = ref(possession)

    def on_watch(self, view: View, changes: Sequence[Change], *, synthesised: bool) -> None:
        possession = self._possession()
        if possession and view.standing(self.entry, self.token) is Standing.GONE:
            possession.on_gone(self.token)

    def on_watch_error(self, error: MicrolockError, *, final: bool) -> None:
        if possession := self._possession():
            possession.on_sentry_error(self, error, final=final)


class Possession(Emitter):
    """One object's hold, as it is known without asking etcd."""

    def __init__(
        self, client: EtcdClient, names: Names, *, auto_renew: bool, max_hold: float | None
    ) -> None:
        super().__init__(client, names.key)
        self.appointment: float | None = None
        self._listened_to = False  # somebody has listened to the events of the key
        self._entry = b""  # of the last hold
        self._names = names
        self._auto_renew = auto_renew
        self._max_hold = max_hold
        self._early = early()
        self._tried = 0.0  # when a renewal failed last
        self._holding: Holding | None = None  # the last one
        self._sentry: _Sentry | None = None
        self._watches = False
        self._watch_again = 0.0  # not before
        self._destroyed = ReentrantEvent()

    @property
    def key(self) -> str:
        return self._names.key

    @property
    def node_id(self) -> str:
        return self._names.node_id

    @property
    def held(self) -> bool:
        """Whether this object holds the lock. Never True past the deadline of the hold."""
        return self.remaining > 0

    @property
    def remaining(self) -> float:
        """Seconds until the deadline of the hold; 0.0 when nothing is held."""
        holding = self._present
        return holding.remaining(clock.now()) if holding else 0.0

    @property
    def _present(self) -> Holding | None:
        """The hold, if it is held."""
        holding = self._holding
        if holding is None or self._destroyed.is_set() or not holding.remaining(clock.now()):
            return None
        return holding

    @property
    def token(self) -> int | None:
        """The fencing token of the hold; None when nothing is held."""
        holding = self._present
        return holding.token if holding else None

    @property
    def hold(self) -> Hold | None:
        """What `lock()` returned; None when nothing is held, or it was taken over by `renew()`."""
        holding = self._present
        return holding.hold if holding else None

    @property
    def state(self) -> State:
        """What this object knows of its hold, without asking etcd."""
        return self._holding.state(clock.now()) if self._holding else State.RELEASED

    @property
    def lost_reason(self) -> LossReason | None:
        """Why the hold was lost; None when none was."""
        return self._holding.reason(clock.now()) if self._holding else None

    @property
    def lost(self) -> Loss:
        """The loss of the present hold, to wait for: `foo.lost.wait(timeout)`.

        Before the next `lock()` it is that of the last hold.
        """
        return Loss(self._holding)

    def check(self) -> None:
        """Makes sure that this object holds the lock, as far as it knows without asking etcd.

        Raises:
            LockLostError: the hold has ended.
            LockNotOwnedError: nothing is held.
            DestroyedError: the object was destroyed.
        """
        self._checked()

    def _checked(self) -> Holding:
        if self._destroyed.is_set():
            raise self._was_destroyed()
        if holding := self._present:  # first: the deadline may pass meanwhile
            return holding
        if reason := self._noticed():
            raise LockLostError(self.key, self.node_id, reason)
        raise LockNotOwnedError(self.key, self.node_id)

    def guard(self) -> Guard:
        """What a transaction of your own has to compare, for etcd to refuse it once the hold has
        ended: that the key `guard.key` was created at the revision `guard.revision`.

        Raises as `check()`.
        """
        holding = self._checked()
        return Guard(holding.place.entry, holding.token, self.key, self.node_id)

    def _check(self) -> None:
        if self._destroyed.is_set():
            raise self._was_destroyed()
        self._client.check()

    def _was_destroyed(self) -> DestroyedError:
        return DestroyedError(f"the lock {self.key!r} of {self.node_id!r} was destroyed")

    # What is told.

    def _tell_of(self, name: str, holding: Holding, **fields: Any) -> None:
        self._tell(name, node_id=self.node_id, token=holding.token, **fields)

    def _begin(self, holding: Holding) -> None:
        """From here on it is looked after."""
        self._dismiss()  # of the last one, if that ended in a doubt
        self._holding = holding
        self._client.one(Keeper).remember(holding)
        self._look_after(holding)

    def _look_after(self, holding: Holding) -> None:
        self._entry = holding.place.entry
        self._look(holding)
        self._client.one(Keeper).keep(self)

    def _look(self, holding: Holding) -> None:
        """What the watch has told before the hold was known here counts too."""
        watcher, place = self._client.one(Watcher), holding.place
        standing, _ = watcher.look(self._names.prefix, place.entry, place.token)
        if self._sentry and standing is not Standing.GONE:
            standing, _ = watcher.look(place.entry, place.entry, place.token)
        if standing is Standing.GONE:
            self._lose(holding, LossReason.DELETED)

    def _lose(self, holding: Holding, reason: LossReason) -> None:
        """Notes that it is lost, and tells so, once."""
        if holding.lose(reason):
            self._dismiss()
            self._tell_of(events.lost, holding, reason=reason)

    def _noticed(self) -> LossReason | None:
        """Why the hold is lost, if it is; it is told by now."""
        holding, reason = self._holding, self.lost_reason
        if holding and reason and reason is not LossReason.FORKED:
            self._lose(holding, reason)
        return reason

    def _unanswered(self, holding: Holding, error: MicrolockError) -> None:
        """etcd did not renew it."""
        if not self._noticed() and holding.suspend():
            self._tell_of(events.suspended, holding, error=error)

    # What the watch tells, on the thread that reads from etcd.

    def _watch(self, *, wait: bool = False) -> None:
        if wait or not self._watches:
            self._client.one(Watcher).watch(self._names.prefix, self, wait=wait)
            self._watches = True

    def _rest(self) -> bool:
        """Stops watching the lock, if nobody of this client needs that. Returns whether it did."""
        self._watches = False
        return self._client.one(Watcher).pause(self._names.prefix, self, unless=self._listens)

    def _listens(self) -> bool:
        """Whether somebody listens to the events of the key."""
        return any(self.listeners(name) for name in events.OF_THE_KEY)

    def _listened(self, event: str) -> None:
        self._check()
        if event in events.OF_THE_KEY:
            self._listened_to = True
            self._watch(wait=True)

    @property
    def concern(self) -> bytes | None:
        return None if self._listened_to else self._entry

    def on_watch(self, view: View, changes: Sequence[Change], *, synthesised: bool) -> None:
        if self._destroyed.is_set():
            return
        holding = self._holding
        if holding and holding.alive:
            standing = view.standing(holding.place.entry, holding.token)
            if standing is Standing.GONE:
                self._lose(holding, LossReason.DELETED)
        for change in changes:
            self._tell(
                events.locked if change.locked else events.unlocked,
                node_id=change.holder and change.holder.node_id,
                token=change.holder and change.holder.token,
                synthesised=synthesised,
            )

    def on_watch_error(self, error: MicrolockError, *, final: bool) -> None:
        if final:
            self._watches, self._watch_again = False, clock.now() + _REFUSED
        if not self._destroyed.is_set():
            self._tell(events.error, error=error)

    def on_gone(self, token: int) -> None:
        """The entry of this token is gone."""
        holding = self._holding
        if holding and holding.token == token and not self._destroyed.is_set():
            self._lose(holding, LossReason.DELETED)

    def on_sentry_error(self, sentry: object, error: MicrolockError, *, final: bool) -> None:
        if final and self._sentry is sentry:
            self._sentry, self._watch_again = None, clock.now() + _REFUSED
        if not self._watches:
            self.on_watch_error(error, final=False)

    def _post(self, holding: Holding) -> None:
        """Has the entry of the hold watched, until `_dismiss`, or until this object is gone."""
        watcher, place = self._client.one(Watcher), holding.place
        self._sentry = sentry = _Sentry(self, place)
        kv = KeyValue(place.entry, self._names.value, place.token, place.lease.id)
        watcher.watch(place.entry, sentry, wait=False, known=Found(place.token, (kv,)))
        if holding.alive and not self._destroyed.is_set():
            self._rest()  # the stream stays open for the holds to come
        else:  # it ended meanwhile
            self._dismiss()

    def _dismiss(self) -> None:
        sentry, self._sentry = self._sentry, None
        if sentry:
            with suppress(DestroyedError):  # the client is closed
                self._client.one(Watcher).unwatch(sentry.entry, sentry)

    # What time does, on the thread of the renewals.

    def _renewal(self, holding: Holding) -> float | None:
        """When it is to be renewed."""
        if not self._auto_renew:
            return None
        leases = holding.place.leases
        at = min(lease.due(early=self._early, tried=self._tried) for lease in leases)
        ends = holding.since + self._max_hold if self._max_hold is not None else None
        return at if ends is None or at < ends else None

    @property
    def _guarded(self) -> bool:
        """Whether a deletion of the hold's entry is told."""
        return self._watches or self._sentry is not None

    def _watch_at(self, holding: Holding) -> float:
        return max(holding.since + _UNWATCHED, self._watch_again)

    def tend_at(self) -> float | None:
        holding = self._holding
        if self._destroyed.is_set() or holding is None or not holding.alive:
            return None
        times = [holding.place.deadline]
        if not self._guarded:
            times.append(self._watch_at(holding))
        if (renewal := self._renewal(holding)) is not None:
            times.append(renewal)
        return min(times)

    def tend(self, now: float) -> Sequence[Lease]:
        holding = self._holding
        if self._destroyed.is_set() or holding is None or not holding.alive or self._noticed():
            return ()
        if not self._guarded and now >= self._watch_at(holding):
            try:
                self._post(holding)
                self._look(holding)
            except RuntimeError:  # no thread can be started; it is renewed all the same
                self._sentry, self._watch_again = None, now + _REFUSED
                log.exception("%r is not watched", self)
        renewal = self._renewal(holding)
        return holding.place.leases if renewal is not None and renewal <= now else ()

    def on_renewed(self, lease_id: int, lifetime: Lifetime) -> None:
        holding = self._of(lease_id, lifetime.sent)
        if holding is None:
            return
        if lifetime.ttl > 0:
            if holding.renewed(lease_id, lifetime) and not self._noticed():
                self._tell_of(events.renewed, holding)
        elif holding.in_call:
            self._tried = clock.now()  # maybe extended a moment ago: the next renewal will tell
        else:
            self._lose(holding, LossReason.LEASE_GONE)

    def on_silence(self, lease_id: int, error: MicrolockError, *, sent: float) -> None:
        if holding := self._of(lease_id, sent):
            self._tried = clock.now()
            self._unanswered(holding, error)

    def _of(self, lease_id: int, sent: float) -> Holding | None:
        """The hold that a renewal was for; None if it was given back or extended meanwhile."""
        holding = self._holding
        if holding is None or sent < holding.since:
            return None
        return holding if any(lease.id == lease_id for lease in holding.place.leases) else None
