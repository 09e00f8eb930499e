"""What befalls a lock between its calls: renewals, deadlines, what the watches tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from microlock import events
from microlock.core.hold import Event, HoldState
from microlock.core.keys import Names
from microlock.core.lease import Lease
from microlock.core.port import Found, KeyValue, Lifetime
from microlock.core.queue import Change, Standing
from microlock.core.wait import Watched
from microlock.errors import LossReason, MicrolockError

# Seconds after which the entry of a hold is watched, so that a deletion is noticed at once. A watch
# for each of many short holds costs more than it is worth.
UNWATCHED = 0.1
# Seconds until a watch that was refused is tried again.
_REFUSED = 5.0


class Environment(Protocol):
    """What a core runs in.

    Attributes:
        forked: whether this is a child of the process that made it.
        lease_ids: new ids for leases.
    """

    @property
    def forked(self) -> bool: ...

    @property
    def lease_ids(self) -> Iterator[int]: ...

    def tell(self, name: str, **fields: Any) -> None:
        """Emits an event."""

    def listened(self, name: str) -> bool:
        """Whether somebody listens to an event."""

    def event(self) -> Event:
        """An event to wait for."""

    def random(self) -> float:
        """A number in 0 to 1."""


class Tracker:
    """The last hold of an object, and what it watches.

    Args:
        names: the lock, and whose it is.
        env: what it runs in.
        auto_renew: whether holds are renewed in the background.
        max_hold: seconds after which they are not any more; None: no such end.

    Attributes:
        hold: the last one.
        views: what the watches have told, by what they watch; kept up by whoever drives it.
        early: see `Lease.due`.
        key_watched: the whole lock is to be watched.
        changed: what is due or watched may be another than before.
    """

    __slots__ = (
        "_env",
        "_guarded",
        "_max_hold",
        "_names",
        "_tried",
        "_watch_again",
        "auto_renew",
        "changed",
        "early",
        "hold",
        "key_watched",
        "views",
    )

    def __init__(
        self, names: Names, env: Environment, *, auto_renew: bool, max_hold: float | None
    ) -> None:
        self.hold: HoldState | None = None
        self.views: dict[bytes, Watched] = {}
        self.auto_renew = auto_renew
        self.early = 0.8 + 0.2 * env.random()  # so that not all renewals come at once
        self.key_watched = False
        self.changed = False
        self._names = names
        self._env = env
        self._max_hold = max_hold
        self._tried = 0.0  # when a renewal failed last
        self._guarded: HoldState | None = None  # whose entry is watched
        self._watch_again = 0.0  # not before

    def tell_of(self, name: str, hold: HoldState, **fields: Any) -> None:
        self._env.tell(name, node_id=self._names.node_id, token=hold.token, **fields)

    # How a hold begins and ends.

    def begin(self, hold: HoldState, now: float) -> None:
        """From here on it is looked after."""
        self.hold = hold
        self.look(now)
        self.changed = True

    def lose(self, hold: HoldState, reason: LossReason) -> None:
        """Notes that it is lost, and tells so, once."""
        if hold.lose(reason):
            self.changed = True
            self.tell_of(events.lost, hold, reason=reason)

    def noticed(self, now: float) -> LossReason | None:
        """Why the hold is lost, if it is; the loss is told by now."""
        hold = self.hold
        reason = hold.reason(now) if hold else None
        if hold and reason:
            self.lose(hold, reason)
        return reason

    def unanswered(self, hold: HoldState, error: MicrolockError, now: float) -> None:
        """etcd did not renew it."""
        if not self.noticed(now) and hold.suspend():
            self.tell_of(events.suspended, hold, error=error)

    # Watching.

    @property
    def watches(self) -> dict[bytes, Found | None]:
        """What is to be watched, and what is known of it."""
        if self.key_watched:
            return {self._names.prefix: None}
        hold = self._guarded
        if hold is None or hold is not self.hold or not hold.alive:
            return {}
        # From its put on: nothing has to be read.
        place = hold.place
        kv = KeyValue(place.entry, self._names.value, place.token, place.lease.id)
        return {place.entry: Found(place.token, (kv,))}

    def look(self, now: float) -> None:
        """What the watches have told of the entry of the hold."""
        hold = self.hold
        if hold is None or not hold.alive:
            return
        place = hold.place
        for name in (self._names.prefix, place.entry):
            view = self.views.get(name)
            if view and view.look(place.entry, place.token)[0] is Standing.GONE:
                self.lose(hold, LossReason.DELETED)

    def watched(
        self, name: bytes, changes: Sequence[Change], *, synthesised: bool, now: float
    ) -> None:
        """A watch has told of something."""
        self.look(now)
        if name != self._names.prefix:
            return
        for change in changes:
            self._env.tell(
                events.locked if change.locked else events.unlocked,
                node_id=change.holder and change.holder.node_id,
                token=change.holder and change.holder.token,
                synthesised=synthesised,
            )

    def watch_failed(self, name: bytes, error: MicrolockError, *, final: bool, now: float) -> None:
        """A watch is interrupted; if `final` it has ended."""
        if final:
            self._watch_again = now + _REFUSED
            self.changed = True
            if name == self._names.prefix:
                self.key_watched = False
            else:
                self._guarded = None
        self._env.tell(events.error, error=error)

    # What time does.

    @property
    def next_due(self) -> float | None:
        """When there is something to do; None: nothing."""
        hold = self.hold
        if hold is None or not hold.alive:
            return None
        at = hold.place.deadline
        if not self._is_guarded(hold):
            at = min(at, self._guard_at(hold))
        renewal = self._renewal(hold)
        return at if renewal is None else min(at, renewal)

    def due(self, now: float) -> Sequence[Lease]:
        """Does what is due. Returns the leases to renew now."""
        hold = self.hold
        if hold is None or not hold.alive or self.noticed(now):
            return ()
        if not self._is_guarded(hold) and now >= self._guard_at(hold):
            self._guarded = hold
            self.changed = True
        renewal = self._renewal(hold)
        return hold.leases if renewal is not None and renewal <= now else ()

    def _is_guarded(self, hold: HoldState) -> bool:
        """Whether a deletion of its entry is noticed."""
        return self.key_watched or self._guarded is hold

    def _guard_at(self, hold: HoldState) -> float:
        return max(hold.since + UNWATCHED, self._watch_again)

    def _renewal(self, hold: HoldState) -> float | None:
        """When it is to be renewed."""
        if not self.auto_renew:
            return None
        at = min(lease.due(early=self.early, tried=self._tried) for lease in hold.leases)
        ends = hold.since + self._max_hold if self._max_hold is not None else None
        return at if ends is None or at < ends else None

    def renewed(self, lease_id: int, lifetime: Lifetime, now: float) -> None:
        """etcd has answered a renewal."""
        hold = self._of(lease_id, lifetime.sent)
        if hold is None:
            return
        if lifetime.ttl > 0:
            if hold.renewed(lease_id, lifetime) and not self.noticed(now):
                self.tell_of(events.renewed, hold)
        elif hold.in_call:
            self._tried = now  # maybe extended a moment ago: the next renewal will tell
        else:
            self.lose(hold, LossReason.LEASE_GONE)

    def silent(self, lease_id: int, error: MicrolockError, *, sent: float, now: float) -> None:
        """etcd did not renew a lease, though it was asked to, not before `sent`."""
        if hold := self._of(lease_id, sent):
            self._tried = now
            self.unanswered(hold, error, now)

    def _of(self, lease_id: int, sent: float) -> HoldState | None:
        """The hold that a renewal was for; None if it was given back or extended meanwhile."""
        hold = self.hold
        if hold is None or sent < hold.since:
            return None
        return hold if any(lease.id == lease_id for lease in hold.leases) else None
