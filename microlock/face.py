"""What both faces of the lock have in common: all that asks nothing of etcd."""

from __future__ import annotations

from typing import Any

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
        self._clock = client.clock
        self._core = self._host.core
        self._status = self._core.status
        self._entered: list[tuple[object, HoldState]] = []  # owner and hold of each `with`

    def _owner(self) -> object:
        """Who calls; None: a handler of this lock."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.key!r} of {self.node_id!r}: {self.state.name}>"

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
        now = self._clock.now()
        hold = self._status.present(now, self._owner())
        return hold.remaining(now) if hold else 0.0

    @property
    def token(self) -> int | None:
        """The fencing token of the hold; None when nothing is held."""
        hold = self._status.present(self._clock.now(), self._owner())
        return hold.token if hold else None

    @property
    def hold(self) -> Hold | None:
        """What `lock()` returned; None when nothing is held, or it was taken over by `renew()`."""
        hold = self._status.present(self._clock.now(), self._owner())
        return hold.hold if hold else None

    @property
    def state(self) -> State:
        """What this object knows of its hold, without asking etcd."""
        return self._status.state(self._clock.now(), self._owner())

    @property
    def lost_reason(self) -> LossReason | None:
        """Why the hold was lost; None when none was."""
        return self._status.reason(self._status.hold_of(self._owner()), self._clock.now())

    def check(self) -> None:
        """Makes sure that this object holds the lock, as far as it knows without asking etcd.

        Raises:
            LockLostError: the hold has ended.
            LockNotOwnedError: nothing is held.
            DestroyedError: the object was destroyed.
        """
        try:
            self._status.check(self._clock.now(), self._owner())
        except MicrolockError:
            self._notice()
            raise

    def guard(self) -> Guard:
        """What a transaction of your own has to compare, for etcd to refuse it once the hold has
        ended: that the key `guard.key` was created at the revision `guard.revision`.

        Raises as `check()`.
        """
        self.check()
        return self._status.guard(self._clock.now(), self._owner())

    # What it does at once.

    def cancel(self) -> None:
        """Ends the waits of this object for the lock: its `lock()` raises LockCancelledError.

        Nothing stays behind, and the object can be used again. Without a wait it does nothing. Any
        thread may call it, a handler of an event or of a signal too.
        """
        if not self._host.client.forked:
            self._host.step(self._core.cancel)

    # What each face has in its own way: here is what it does.

    def lock(self, *, timeout: float | None = 0, retries: int = 0, interval: float = 1) -> Any:
        """Takes the lock.

        Args:
            timeout: 0 for a try that never waits. Otherwise it waits its turn, in the order of
                arrival, for that many seconds at most; None: as long as it takes. This includes
                the turns of other threads or tasks on this object, connecting, and cleaning up
                when the time is over.
            retries: for those who don't want to queue: how often to try again while somebody else
                holds it. Not together with `timeout`.
            interval: seconds between two tries, on average; it varies by half.

        Returns:
            The hold, with its fencing token and its whole ttl ahead.

        Raises:
            AlreadyLockedError: somebody holds it, maybe this object; or did when the time was
                over; or this thread or task holds it by this object. Nothing was changed, or what
                was is undone.
            LockCancelledError: `cancel()` ended the wait. What was changed is undone.
            LockLostError: the hold was over before this could return.
            LockUncertainError: etcd did not answer, so the lock may be held for up to a ttl.
            StoreError: etcd refused or can't be reached. Nothing is held, nothing was left behind.
                With `timeout=None`, also when etcd is gone for longer than the ttl and the
                client's timeout.
            DestroyedError, ForkedError: the object can't be used any more, or not here.
            InvalidArgumentError: an argument is wrong.

        Keep the object: when it is garbage its lock is given back.
        """
        raise NotImplementedError

    def unlock(self) -> Any:
        """Gives the lock back.

        Raises:
            LockNotOwnedError: nothing is held. Nothing was changed.
            LockLostError: the hold had ended before. Nothing was changed.
            LockUncertainError: etcd did not answer, so the lock may be held for up to a ttl. This
                object holds nothing any more.
            StoreError: etcd refused or can't be reached; the hold stands, and can be tried again.
            DestroyedError, ForkedError: the object can't be used any more, or not here.
        """
        raise NotImplementedError

    def renew(self) -> Any:
        """Puts the whole ttl back.

        Returns:
            Seconds left.

        Raises:
            LockNotOwnedError: nothing is held. Nothing was changed.
            LockLostError: the hold has ended.
            LockUncertainError: it has ended, and what is left of it can't be ended: the lock may
                be held for up to a ttl.
            StoreError: etcd refused or can't be reached; the hold stands until its deadline.
            DestroyedError, ForkedError: the object can't be used any more, or not here.
        """
        raise NotImplementedError

    def extend(self, ttl: float) -> Any:
        """Gives the hold another ttl, longer or shorter, without losing its place or its token.

        The next `lock()` asks for the ttl of the object again.

        Args:
            ttl: seconds from now, as for the object.

        Returns:
            Seconds left.

        Raises:
            InvalidTtlError: `ttl` is wrong.
            LockNotOwnedError: nothing is held. Nothing was changed.
            LockLostError: the hold has ended.
            LockUncertainError: as for `renew()`.
            StoreError: etcd refused or can't be reached; the hold stands. If `may_have_happened`,
                it stands until the earlier of both deadlines, and the next `renew()` or
                `extend()` finishes this extension first.
            DestroyedError, ForkedError: the object can't be used any more, or not here.
        """
        raise NotImplementedError

    def destroy(self) -> Any:
        """Ends all that this object does: the watch, the waiting, the renewal, the hold, the lease,
        the listeners.

        Events until here are still told. Twice is fine. Later calls raise DestroyedError, and so
        does a `lock()` that waits.

        Raises:
            StoreError, LockUncertainError, DestroyedError: the lock was held, and etcd did not
                confirm that it is free, or the client was closed. It is free by the end of its
                ttl. The object is destroyed all the same.
        """
        raise NotImplementedError

    def holder(self) -> Any:
        """Who holds the lock, read from etcd, of several the first; None if it is free.

        Raises:
            StoreError: etcd refused or can't be reached.
            DestroyedError, ForkedError: the object can't be used any more, or not here.
        """
        raise NotImplementedError

    def holders(self) -> Any:
        """All who hold the lock, in order, read from etcd. Raises as `holder()`."""
        raise NotImplementedError

    def waiters(self) -> Any:
        """Who waits for the lock, in order, read from etcd. Raises as `holder()`."""
        raise NotImplementedError

    # What the calls of the faces have in common.

    def _check(self) -> None:
        self._status.check_alive()
        self._host.client.check()

    def _call(self) -> Call:
        self._check()
        return self._host.call(self._owner())

    def _taking(
        self, timeout: float | None, retries: int, interval: float, value: bytes | None
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
        call.value = value
        return call, self._core.lock(call, tries=tries, pause=pause)

    def _detach(self) -> None:
        """Leaves the hold in the store, and forgets it."""
        self._host.step(self._core.detach)

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
            self._host.step(self._status.noticed, self._clock.now())
