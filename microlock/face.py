"""The part of a lock that both faces share: everything that needs no request to etcd."""

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
    """What both faces of a lock share."""

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
        """The thread or task that calls; None for a handler of this lock."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.key!r} of {self.node_id!r}: {self.state.name}>"

    @property
    def key(self) -> str:
        """The name of the lock."""
        return self._core.names.key

    @property
    def node_id(self) -> str:
        """The node that takes the lock."""
        return self._core.names.node_id

    @property
    def ttl(self) -> int:
        """The ttl that `lock()` asks for, in seconds."""
        return self._core.ttl

    # What this object knows without asking etcd.

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
        """The hold that `lock()` returned; None when nothing is held, or `renew()` took it over."""
        hold = self._status.present(self._clock.now(), self._owner())
        return hold.hold if hold else None

    @property
    def state(self) -> State:
        """The state of this object's hold, as far as it knows without asking etcd."""
        return self._status.state(self._clock.now(), self._owner())

    @property
    def lost_reason(self) -> LossReason | None:
        """The reason why the hold was lost; None when it was not."""
        return self._status.reason(self._status.hold_of(self._owner()), self._clock.now())

    def check(self) -> None:
        """Raises unless this object holds the lock, as far as it knows without asking etcd.

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
        """The comparison for your own etcd transaction: etcd refuses it once the hold has ended.

        The transaction has to compare that the create_revision of `guard.key` is `guard.revision`.
        Raises as `check()`.
        """
        self.check()
        return self._status.guard(self._clock.now(), self._owner())

    # What it does without asking etcd.

    def cancel(self) -> None:
        """Ends the waits of this object for the lock: its `lock()` raises LockCancelledError.

        The wait leaves no entry in etcd, and the object can be used again. Without a wait this does
        nothing. Any thread may call it, also a handler of an event or of a signal.
        """
        if not self._host.client.forked:
            self._host.step(self._core.cancel)

    # What each face implements in its own way; the docstrings are here.

    def lock(self, *, timeout: float | None = 0, retries: int = 0, interval: float = 1) -> Any:
        """Takes the lock.

        Args:
            timeout: seconds to wait in the queue, in the order of arrival. 0: one try, which never
                waits. None: no limit. The time includes the turns of other threads or tasks on this
                object, connecting, and cleaning up at the end.
            retries: instead of a wait in the queue: how often to try again while the lock is held.
                Not together with `timeout`.
            interval: seconds between two tries, on average; each pause varies by half.

        Returns:
            The hold, with its fencing token and its whole ttl ahead.

        Raises:
            AlreadyLockedError: the lock is held, or was still held when the time was over: by
                another object, or by this one. This call changed nothing, or undid its changes.
            LockCancelledError: `cancel()` ended the wait. This call undid its changes.
            LockLostError: the hold ended before this call could return.
            LockUncertainError: etcd did not answer, so the lock may be held for up to a ttl.
            StoreError: etcd refused or can't be reached. Nothing is held, and no entry is left in
                etcd. A wait with `timeout=None` ends so too, if etcd is away for longer than the
                ttl and the client's timeout.
            DestroyedError, ForkedError: the object can't be used any more, or not in this process.
            InvalidArgumentError: an argument is wrong.

        Keep a reference to the object: when Python collects it, its lock is given back.
        """
        raise NotImplementedError

    def unlock(self) -> Any:
        """Gives the lock back.

        Raises:
            LockNotOwnedError: this object does not hold the lock. Nothing was changed.
            LockLostError: the hold had already ended. Nothing was changed.
            LockUncertainError: etcd did not answer, so the lock may be held for up to a ttl. This
                object holds nothing any more.
            StoreError: etcd refused or can't be reached. The hold stands; try again.
            DestroyedError, ForkedError: the object can't be used any more, or not in this process.
        """
        raise NotImplementedError

    def renew(self) -> Any:
        """Renews the hold: the whole ttl is ahead again.

        Returns:
            Seconds left.

        Raises:
            LockNotOwnedError: this object does not hold the lock. Nothing was changed.
            LockLostError: the hold has ended.
            LockUncertainError: the hold has ended, and its lease could not be revoked: the lock may
                be held for up to a ttl.
            StoreError: etcd refused or can't be reached. The hold stands until its deadline.
            DestroyedError, ForkedError: the object can't be used any more, or not in this process.
        """
        raise NotImplementedError

    def extend(self, ttl: float) -> Any:
        """Gives the hold a new ttl, longer or shorter. The hold keeps its place and its token.

        The next `lock()` asks for the ttl of the object again.

        Args:
            ttl: seconds from now, as for the object.

        Returns:
            Seconds left.

        Raises:
            InvalidTtlError: `ttl` is wrong.
            LockNotOwnedError: this object does not hold the lock. Nothing was changed.
            LockLostError: the hold has ended.
            LockUncertainError: as for `renew()`.
            StoreError: etcd refused or can't be reached. The hold stands. If `may_have_happened`,
                it stands until the earlier of the two deadlines, and the next `renew()` or
                `extend()` completes this extension first.
            DestroyedError, ForkedError: the object can't be used any more, or not in this process.
        """
        raise NotImplementedError

    def destroy(self) -> Any:
        """Ends everything that this object does: watch, wait, renewal, hold, lease and listeners.

        Handlers still get the events until now. A second call does nothing. Other calls raise
        DestroyedError from now on, and so does a `lock()` that waits.

        Raises:
            StoreError, LockUncertainError, DestroyedError: the lock was held, and etcd did not
                confirm that it is free, or the client was closed. The lock is free when its ttl
                ends. The object is destroyed all the same.
        """
        raise NotImplementedError

    def holder(self) -> Any:
        """The holder of the lock, read from etcd; the first of several, None if the lock is free.

        Raises:
            StoreError: etcd refused or can't be reached.
            DestroyedError, ForkedError: the object can't be used any more, or not in this process.
        """
        raise NotImplementedError

    def holders(self) -> Any:
        """All holders of the lock, in order, read from etcd. Raises as `holder()`."""
        raise NotImplementedError

    def waiters(self) -> Any:
        """All waiters for the lock, in order, read from etcd. Raises as `holder()`."""
        raise NotImplementedError

    # What the calls of both faces share.

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
        """Forgets the hold, and leaves it in etcd."""
        self._host.step(self._core.detach)

    def _taken_by(self, call: Call, before: HoldState | None) -> HoldState | None:
        """The hold of a call that took the lock and was interrupted before it returned."""
        taken = self._status.hold
        mine = taken is not before and taken is not None and taken.owner == call.owner
        return taken if mine else None

    def _innermost(self) -> tuple[object, HoldState] | None:
        """The block that is left: the last one that this owner entered, or else anybody's: another
        owner may leave the block."""
        owner = self._owner()
        here = [each for each in self._entered if each[0] == owner]
        return next(reversed(here or self._entered), None)

    def _notice(self) -> None:
        """Emits `lost`, if the hold is lost and that was not emitted yet."""
        if not self._host.client.forked:
            self._host.step(self._status.noticed, self._clock.now())
