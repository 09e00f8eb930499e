"""Microlock: the blocking face of the lock. What it does is decided in `microlock.flows`."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from microlock import clock, events, flows
from microlock.driver import run
from microlock.emitter import Emitter
from microlock.errors import (
    AlreadyLockedError,
    DestroyedError,
    EtcdError,
    EtcdTimeoutError,
    LockLostError,
    LockNotOwnedError,
    LockUncertainError,
    LossReason,
    MicrolockError,
)
from microlock.etcd.client import Budget
from microlock.etcd.connect import client_of
from microlock.hold import Hold, State
from microlock.keys import check_timeout, check_ttl
from microlock.queue import Change, Holder, places
from microlock.requests import Read
from microlock.tenure import Lease, Lost, Names, Refused, Tenure
from microlock.watch import Watcher

T = TypeVar("T")

# Random, since a process that forks must not share them with its children.
_lease_ids = iter(lambda: secrets.randbits(63), 0)


class Microlock(Emitter):
    """A distributed lock: at most one object, on any machine, holds `key` at a time.

    An object answers for its own hold. One that has never called `lock()` speaks for its node:
    `unlock()`, `renew()` and `extend()` act on the hold that its `node_id` has, so that a process
    that restarts within the ttl can carry on or clean up. It can't tell a dead predecessor from a
    live one: workers that may run at the same time need different node ids.

    Each call takes at most the client's timeout. Any thread may call; calls on one object take
    turns. Nothing is sent before the first call or the first listener for the key's events.

    Args:
        etcd: what `microlock.connect()` returns, or a client of python-etcd3 or etcd-sdk-python.
        key: the name of the lock: str, not empty, no NUL, at most 4 KiB of UTF-8.
        node_id: who takes the lock, shown to the others; as `key`.
        ttl: seconds after which a hold that is not renewed ends; 0 < ttl <= 9,000,000,000,
            rounded up to whole seconds. etcd grants no less than 1.5 of its election timeouts,
            2 s by default.

    Raises:
        KeyRequiredError, NodeIdRequiredError, InvalidTtlError, EtcdClientRequiredError: an
            argument is wrong.
    """

    events = events

    def __init__(self, etcd: object, key: str, node_id: str, ttl: float = 1) -> None:
        names = Names.of(key, node_id)
        self._ttl = check_ttl(ttl)
        super().__init__(client_of(etcd), names.key)
        self._etcd = etcd  # a lent client is ours only as long as somebody keeps it
        self._names = names
        self._mutex = threading.Lock()  # one call at a time
        # Under the mutex, and read without it:
        self._tenure: Tenure | None = None  # what was taken and not given back, lost by now or not
        self._lost: LossReason | None = None  # not None  =>  _tenure is None
        self._lease: Lease | None = None  # left by the last cycle for the next; nothing is under it
        self._speaks_for_node = True  # until its first lock()
        self._giving_back = False  # from before the request until its outcome is known
        self._destroyed = False

    def __repr__(self) -> str:
        return f"<Microlock {self.key!r} of {self.node_id!r}: {self.state.name}>"

    @property
    def key(self) -> str:
        return self._names.key

    @property
    def node_id(self) -> str:
        return self._names.node_id

    @property
    def ttl(self) -> int:
        """Seconds that `lock()` asks for."""
        return self._ttl

    @property
    def _current(self) -> Tenure | None:
        """What may still be counted on, if its deadline is ahead."""
        return None if self._giving_back or self._destroyed else self._tenure

    @property
    def held(self) -> bool:
        """Whether this object holds the lock. Never True past the deadline of the hold."""
        return self.remaining > 0

    @property
    def remaining(self) -> float:
        """Seconds until the deadline of the hold; 0.0 when nothing is held."""
        tenure = self._current
        if tenure is None or self._client.forked:
            return 0.0
        return max(0.0, tenure.deadline - clock.now())

    @property
    def token(self) -> int | None:
        """The fencing token of the hold; None when nothing is held."""
        tenure = self._current
        return tenure.token if tenure and self.held else None

    @property
    def state(self) -> State:
        """What this object knows of its hold, without asking etcd."""
        if self.lost_reason:
            return State.LOST
        return State.HELD if self._current else State.RELEASED

    @property
    def lost_reason(self) -> LossReason | None:
        """Why the hold was lost; None when none was."""
        tenure = self._current
        if tenure is None:
            return self._lost
        if self._client.forked:
            return LossReason.FORKED
        return None if clock.now() < tenure.deadline else LossReason.EXPIRED

    def lock(self, *, timeout: float | None = 0) -> Hold:
        """Takes the lock, if nobody holds it.

        Args:
            timeout: 0 for one try that never waits. Waiting is not there yet.

        Returns:
            The hold, with its fencing token.

        Raises:
            AlreadyLockedError: somebody holds it, maybe this object. Nothing was changed.
            LockUncertainError: etcd did not answer, so the lock may be held for up to a ttl.
            EtcdError: etcd refused or can't be reached. Nothing is held, nothing was left behind.
            DestroyedError, ForkedError: the object can't be used any more, or not here.
            InvalidArgumentError: `timeout` is no number of seconds.
            NotImplementedError: `timeout` is not 0.
        """
        if timeout != 0 or isinstance(timeout, bool):
            if timeout is not None:
                check_timeout(timeout)
            raise NotImplementedError("waiting for a lock is not there yet: use timeout=0")
        started = clock.now()
        with self._call() as budget:
            try:
                tenure = self._take(budget)
            except Exception as error:
                self._tell(events.failed, node_id=self.node_id, error=error)
                raise
            self._tell(events.acquired, node_id=self.node_id, token=tenure.token)
        return Hold(
            key=self.key,
            node_id=self.node_id,
            token=tenure.token,
            lease_id=tenure.lease.id,
            ttl=tenure.lease.ttl,
            attempts=1,
            waited=clock.now() - started,
        )

    def _take(self, budget: Budget) -> Tenure:
        lost = self._tenure
        if lost and self.held:
            raise AlreadyLockedError(self.key, Holder(self.node_id, lost.token, lost.lease.id))
        lease, self._lease = self._lease, None  # it is the flow's to keep or to end
        self._speaks_for_node = False
        flow = flows.try_lock(
            self._names, self._ttl, lease, lost=lost, now=clock.now(), lease_ids=_lease_ids
        )
        entered = run(self._client, flow, budget)
        self._tenure = self._lost = None  # not before: its entry may still be there
        if isinstance(entered, Refused):
            self._lease = entered.lease
            raise AlreadyLockedError(self.key, entered.holder)
        self._tenure = entered
        return entered

    def unlock(self) -> None:
        """Gives the lock back.

        Raises:
            LockNotOwnedError: nothing is held. Nothing was changed.
            LockLostError: the hold had ended before. Nothing was changed.
            LockUncertainError: etcd did not answer, so the lock may be held for up to a ttl. This
                object holds nothing any more.
            EtcdError: etcd refused or can't be reached; the hold stands, and can be tried again.
            DestroyedError, ForkedError: the object can't be used any more, or not here.
        """
        with self._call() as budget:
            tenure = self._own(budget)
            self._giving_back = True
            try:
                left = run(self._client, flows.release(self._names, tenure, self._ttl), budget)
                self._tenure = None
            except EtcdError:
                raise  # it stands
            except BaseException:  # an interrupt or a doubt: not to be counted on
                self._tenure = None
                raise
            finally:
                self._giving_back = False
            self._lease = self._settle(left)
            self._tell(events.released, node_id=self.node_id, token=tenure.token)

    def renew(self) -> float:
        """Puts the whole ttl back.

        Returns:
            Seconds left.

        Raises:
            LockNotOwnedError: nothing is held. Nothing was changed.
            LockLostError: the hold has ended.
            LockUncertainError: it has ended, and what is left of it can't be ended: the lock may
                be held for up to a ttl.
            EtcdError: etcd refused or can't be reached; the hold stands until its deadline.
            DestroyedError, ForkedError: the object can't be used any more, or not here.
        """
        with self._call() as budget:
            tenure = self._own(budget)
            with self._uncertain():
                left = run(self._client, flows.renew(self._names, tenure), budget)
            return self._hold_on(left)

    def extend(self, ttl: float) -> float:
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
            EtcdError: etcd refused or can't be reached; the hold stands. If `may_have_happened`,
                it stands until the earlier of both deadlines, and the next `renew()` or
                `extend()` finishes this extension first.
            DestroyedError, ForkedError: the object can't be used any more, or not here.
        """
        seconds = check_ttl(ttl)
        with self._call() as budget:
            tenure = self._own(budget)
            flow = flows.extend(self._names, tenure, seconds, lease_ids=_lease_ids)
            with self._uncertain():
                left, error = run(self._client, flow, budget)
            if error:
                self._tenure = self._settle(left)
                raise error
            return self._hold_on(left)

    def holder(self) -> Holder | None:
        """Who holds the lock, read from etcd; None if it is free.

        Raises:
            EtcdError: etcd refused or can't be reached.
            DestroyedError, ForkedError: the object can't be used any more, or not here.
        """
        return next(iter(self._places()), None)

    def waiters(self) -> list[Holder]:
        """Who waits for the lock, in order, read from etcd. Raises as `holder()`."""
        return self._places()[1:]

    def _places(self) -> list[Holder]:
        self._check()
        found = self._client.perform(Read(self._names.prefix), Budget.of(self._client.timeout))
        return [holder for _, holder in places(self._names.prefix, found.keys)]

    def destroy(self) -> None:
        """Ends all that this object does: the watch, the hold, the lease, the listeners.

        Events until here are still told. Twice is fine. Later calls raise DestroyedError.

        Raises:
            EtcdError, LockUncertainError, DestroyedError: the lock was held, and etcd did not
                confirm that it is free, or the client was closed. It is free by the end of its
                ttl. The object is destroyed all the same.
        """
        if self._destroyed or self._client.forked:
            self._destroyed = True
            return
        budget = Budget.of(self._client.timeout)
        held, self._destroyed = self.held, True
        try:
            self._client.one(Watcher).unwatch(self._names.prefix, self)
            with self._turn(budget):
                self._give_up(budget)
        except DestroyedError as error:
            if held:
                raise DestroyedError(f"{self.key!r} is left to its ttl: {error}") from error
        finally:
            self._tell_no_more(budget.end - clock.now())

    def _give_up(self, budget: Budget) -> None:
        tenure, lease = self._tenure, self._lease
        self._tenure = self._lease = None
        if tenure and clock.now() < tenure.deadline:
            run(self._client, flows.release(self._names, tenure, ttl=0), budget)
            self._tell(events.released, node_id=self.node_id, token=tenure.token)
        else:
            leases = tenure.leases if tenure else filter(None, [lease])
            run(self._client, flows.discard(self._names, *leases), budget)

    # What the watch tells, on the thread that reads from etcd.

    def _listened(self, event: str) -> None:
        self._check()
        if event in events.OF_THE_KEY:
            self._client.one(Watcher).watch(self._names.prefix, self)

    def on_changes(self, changes: Sequence[Change], *, synthesised: bool) -> None:
        if not self._destroyed:
            for change in changes:
                self._tell(
                    events.locked if change.locked else events.unlocked,
                    node_id=change.holder and change.holder.node_id,
                    token=change.holder and change.holder.token,
                    synthesised=synthesised,
                )

    def on_watch_error(self, error: MicrolockError) -> None:
        if not self._destroyed:
            self._tell(events.error, error=error)

    # What each call begins and ends with.

    def _check(self) -> None:
        if self._destroyed:
            raise DestroyedError(f"the lock {self.key!r} of {self.node_id!r} was destroyed")
        self._client.check()

    @contextmanager
    def _turn(self, budget: Budget) -> Iterator[None]:
        """The turn of one call among those of other threads."""
        if not self._mutex.acquire(timeout=max(0.0, budget.work - clock.now())):
            raise EtcdTimeoutError(f"another call on the lock {self.key!r} is not done yet")
        try:
            yield
        finally:
            self._mutex.release()

    @contextmanager
    def _call(self) -> Iterator[Budget]:
        self._check()  # before the mutex too: in a child of the process nobody may release it
        budget = Budget.of(self._client.timeout)
        with self._turn(budget):
            self._check()
            yield budget

    def _own(self, budget: Budget) -> Tenure:
        """The hold that a call is about."""
        if reason := self.lost_reason:
            raise LockLostError(self.key, self.node_id, reason)
        if self._tenure:
            return self._tenure
        holder = None
        if self._speaks_for_node:
            found = run(self._client, flows.adopt(self._names, now=clock.now()), budget)
            if isinstance(found, Tenure):
                return found
            holder = found
        why = "" if self._speaks_for_node else "not by this object"
        raise LockNotOwnedError(self.key, self.node_id, holder, why=why)

    def _hold_on(self, left: Tenure | Lost) -> float:
        """Goes on with the hold, and returns the seconds left."""
        self._tenure = self._settle(left)
        self._check()  # destroy() may have come meanwhile, and waits to end it
        remaining = self.remaining
        if not remaining:  # the reply came too late
            raise LockLostError(self.key, self.node_id, LossReason.EXPIRED)
        return remaining

    @contextmanager
    def _uncertain(self) -> Iterator[None]:
        try:
            yield
        except LockUncertainError:
            self._tenure = None
            raise

    def _settle(self, left: T | Lost) -> T:
        """What a flow left of the hold, unless it found it lost."""
        if isinstance(left, Lost):
            self._tenure, self._lost = None, left.reason
            raise LockLostError(self.key, self.node_id, left.reason)
        return left
