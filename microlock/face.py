"""What both faces of the lock have in common: all that asks nothing of etcd."""

from __future__ import annotations

from microlock import events
from microlock.core.call import Call, Kind, Steps
from microlock.core.hold import Guard, Hold, HoldState, State
from microlock.core.keys import (
    Names,
    check_bool,
    check_duration,
    check_int,
    check_seconds,
    check_ttl,
    check_wait,
)
from microlock.engine import clock
from microlock.engine.client import Client
from microlock.engine.emitter import LockEmitter, Runner
from microlock.engine.host import Host
from microlock.errors import InvalidArgumentError, LossReason, MicrolockError


class Face(LockEmitter):
    """A lock, as its user has it."""

    events = events

    def __init__(
        self,
        client: Client,
        runner: Runner,
        names: Names,
        ttl: float,
        *,
        auto_renew: bool,
        max_hold: float | None,
        min_hold: float,
        timeout: float | None,
    ) -> None:
        self._timeout = check_wait(timeout)
        longest = None if max_hold is None else check_duration("max_hold", max_hold)
        if longest is not None and auto_renew is False:
            raise InvalidArgumentError(f"max_hold={max_hold!r} needs auto_renew=True")
        super().__init__(names.key, runner)
        self._host = Host(
            client,
            self,
            names,
            check_ttl(ttl),
            auto_renew=check_bool("auto_renew", auto_renew),
            max_hold=longest,
            min_hold=check_seconds("min_hold", min_hold),
        )
        self._core = self._host.core
        self._status = self._core.status
        self._entered: list[tuple[object, HoldState]] = []  # owner and hold of each `with`

    def _owner(self) -> object:
        """Who calls; None: a handler of this lock."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<Microlock {self.key!r} of {self.node_id!r}: {self.state.name}>"

    @property
    def key(self) -> str:
        """The name of the lock."""
        return self._core.names.key

    @property
    def node_id(self) -> str:
        """Who takes the lock."""
        return self._core.names.node_id

    @property
    def ttl(self) -> int:
        """Seconds that `lock()` asks for."""
        return self._core.ttl

    # What it knows, without asking etcd.

    @property
    def held(self) -> bool:
        """Whether this object holds the lock. Never True past the deadline of the hold."""
        return self.remaining > 0

    @property
    def remaining(self) -> float:
        """Seconds until the deadline of the hold; 0.0 when nothing is held."""
        now = clock.now()
        hold = self._status.present(now, self._owner())
        return hold.remaining(now) if hold else 0.0

    @property
    def token(self) -> int | None:
        """The fencing token of the hold; None when nothing is held."""
        hold = self._status.present(clock.now(), self._owner())
        return hold.token if hold else None

    @property
    def hold(self) -> Hold | None:
        """What `lock()` returned; None when nothing is held, or it was taken over by `renew()`."""
        hold = self._status.present(clock.now(), self._owner())
        return hold.hold if hold else None

    @property
    def state(self) -> State:
        """What this object knows of its hold, without asking etcd."""
        return self._status.state(clock.now(), self._owner())

    @property
    def lost_reason(self) -> LossReason | None:
        """Why the hold was lost; None when none was."""
        return self._status.reason(self._status.hold_of(self._owner()), clock.now())

    def check(self) -> None:
        """Makes sure that this object holds the lock, as far as it knows without asking etcd.

        Raises:
            LockLostError: the hold has ended.
            LockNotOwnedError: nothing is held.
            DestroyedError: the object was destroyed.
        """
        try:
            self._status.check(clock.now(), self._owner())
        except MicrolockError:
            self._notice()
            raise

    def guard(self) -> Guard:
        """What a transaction of your own has to compare, for etcd to refuse it once the hold has
        ended: that the key `guard.key` was created at the revision `guard.revision`.

        Raises as `check()`.
        """
        self.check()
        return self._status.guard(clock.now(), self._owner())

    # What it does at once.

    def cancel(self) -> None:
        """Ends the waits of this object for the lock: its `lock()` raises LockCancelledError.

        Nothing stays behind, and the object can be used again. Without a wait it does nothing. Any
        thread may call it, a handler of an event or of a signal too.
        """
        if not self._host.client.forked:
            self._host.step(self._core.cancel)

    # What the calls of the faces have in common.

    def _check(self) -> None:
        self._status.check_alive()
        self._host.client.check()

    def _call(self) -> Call:
        self._check()
        return self._host.call(self._owner())

    def _taking(
        self, timeout: float | None, retries: int, interval: float
    ) -> tuple[Call, Steps[HoldState]]:
        seconds, tries = check_wait(timeout), check_int("retries", retries, 0) + 1
        pause = check_seconds("interval", interval)
        if tries > 1 and seconds != 0:
            raise InvalidArgumentError(
                f"retries is for tries that don't wait: timeout={timeout!r} and "
                f"retries={retries!r} exclude each other"
            )
        self._check()
        call = self._host.call(self._owner(), Kind.TRY if seconds == 0 else Kind.WAIT, wait=seconds)
        return call, self._core.lock(call, tries=tries, pause=pause)

    def _taken_by(self, call: Call, before: HoldState | None) -> HoldState | None:
        """The hold that a call has taken that was interrupted on its way out."""
        taken = self._status.hold
        mine = taken is not before and taken is not None and taken.owner == call.owner
        return taken if mine else None

    def _innermost(self) -> tuple[object, HoldState] | None:
        """The block that is left: of this owner's the last one. A block may be left by another
        owner than entered it, too."""
        owner = self._owner()
        here = [each for each in self._entered if each[0] == owner]
        return next(reversed(here or self._entered), None)

    def _notice(self) -> None:
        """Tells of a loss, if there is one that nobody was told of."""
        if not self._host.client.forked:
            self._host.step(self._status.noticed, clock.now())
