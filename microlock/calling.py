"""What each call of a lock begins and ends with: its turn, its time, the hold that it is about."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import ref

from microlock import events
from microlock.core import flows
from microlock.core.keys import Names
from microlock.core.lease import Lease
from microlock.core.place import Place
from microlock.engine import clock
from microlock.engine.drive import run
from microlock.engine.turns import Turn, Turns
from microlock.errors import (
    AlreadyLockedError,
    DestroyedError,
    LockLostError,
    LockNotOwnedError,
    MicrolockError,
    StoreTimeoutError,
)
from microlock.etcd.client import Budget
from microlock.etcd.connect import client_of
from microlock.holding import Holding
from microlock.possession import Possession
from microlock.waiting import Waiting
from microlock.watch import Watcher

log = logging.getLogger("microlock")


class _OneTurn:
    """`with` it, a call has its turn. Not a generator: an interrupt in the middle of contextlib
    would leave that suspended, and the turn taken, for as long as somebody has the traceback."""

    def __init__(
        self, calling: Calling, budget: Budget, standing: Callable[[], MicrolockError] | None
    ) -> None:
        self._calling = calling
        self._budget = budget
        self._standing = standing

    def __enter__(self) -> Budget:
        calling = self._calling
        if calling._turns.mine:  # in a signal's handler, in the middle of a call
            raise calling._busy()
        try:
            calling._take_turn(self._budget, self._standing)
            # If an interrupt comes as the turn is about to be given, it is when this is collected.
            turns, owner = calling._turns, calling._turns.owner
            calling._unfinished = ref(self, lambda _: turns.give(owner))
        except BaseException:
            calling._give_turn()
            raise
        return self._budget

    def __exit__(self, *_: object) -> None:
        self._calling._give_turn()
        self._calling._unfinished = None


class Calling(Possession):
    """A lock whose calls take turns, until it is destroyed."""

    def __init__(
        self,
        etcd: object,
        names: Names,
        ttl: int,
        *,
        auto_renew: bool,
        max_hold: float | None,
    ) -> None:
        super().__init__(client_of(etcd), names, auto_renew=auto_renew, max_hold=max_hold)
        self._etcd = etcd  # a lent client is ours only as long as somebody keeps it
        self._ttl = ttl
        self._turns = Turns()
        self._unfinished: ref[_OneTurn] | None = None
        # Changed by the call whose turn it is:
        self._lease: Lease | None = None  # left by the last cycle for the next; nothing is under it
        self._waiting: Waiting | None = None
        self._speaks_for_node = True  # until its first lock()
        self._gives_up_late = False  # destroyed, by a handler in the middle of the call

    def destroy(self) -> None:
        """Ends all that this object does: the watch, the waiting, the renewal, the hold, the lease,
        the listeners.

        Events until here are still told. Twice is fine. Later calls raise DestroyedError, and so
        does a `lock()` that waits.

        Raises:
            StoreError, LockUncertainError, DestroyedError: the lock was held, and etcd did not
                confirm that it is free, or the client was closed. It is free by the end of its
                ttl. The object is destroyed all the same.
        """
        if self._destroyed.is_set() or self._client.forked:
            self._destroyed.set()
            return
        budget = Budget.of(self._client.timeout)
        held = self.held
        self._destroyed.set()
        if waiting := self._waiting:
            waiting.end(self._was_destroyed())
        try:
            self._unwatch()
            # In a signal's handler: the call that it has interrupted gives up at its end.
            self._gives_up_late = self._turns.mine
            if not self._gives_up_late:
                with self._turn(budget, None):
                    self._give_up(budget)
        except DestroyedError as error:
            if held:
                raise DestroyedError(f"{self.key!r} is left to its ttl: {error}") from error
        finally:
            if self._holding and not self._gives_up_late:
                self._holding.end()
            self._tell_no_more(budget.end - clock.now())

    def _give_up(self, budget: Budget) -> None:
        self._unwatch()  # a wait may have begun to watch again meanwhile
        holding, lease = self._holding, self._lease
        self._lease = None
        perform = self._performing(budget)
        if holding and holding.remaining(clock.now()):
            holding.give_back()
            run(flows.release(self._names, holding.place, ttl=0), perform)
            holding.end()
            self._tell_of(events.released, holding)
        else:
            lost = holding and holding.reason(clock.now())
            leases = holding.place.leases if holding and lost else filter(None, [lease])
            run(flows.discard(self._names, *leases), perform)

    def _unwatch(self) -> None:
        self._dismiss()
        self._client.one(Watcher).unwatch(self._names.prefix, self)

    def _queues(self) -> MicrolockError:
        """Why this object can't be locked while it waits for its turn."""
        if (waiting := self._waiting) and waiting.holder:
            return AlreadyLockedError(self.key, waiting.holder, whose="this object waits for it")
        return self._busy()

    def _waits(self) -> MicrolockError:
        return LockNotOwnedError(self.key, self.node_id, why="it waits for its turn")

    def _busy(self) -> MicrolockError:
        return StoreTimeoutError(f"another call on the lock {self.key!r} is not done yet")

    def _turn(self, budget: Budget, standing: Callable[[], MicrolockError] | None) -> _OneTurn:
        """The turn of one call among those of other threads.

        `standing` gives the error to raise if one of those waits for the lock; without it the turn
        comes when that is over, and also when this object was destroyed meanwhile.
        """
        return _OneTurn(self, budget, standing)

    def _take_turn(self, budget: Budget, standing: Callable[[], MicrolockError] | None) -> None:
        turn = self._turns.take(budget.work - clock.now(), patient=standing is None)
        if turn is Turn.STANDING and standing:
            raise standing()
        if turn is not Turn.TAKEN:
            raise self._busy()
        if standing:
            self._check()

    def _give_turn(self) -> None:
        try:
            if self._gives_up_late:
                self._give_up_late()
        finally:
            try:
                self._turns.give()
            except BaseException:  # an interrupt may have come before it was done
                self._turns.give()
                raise

    def _give_up_late(self) -> None:
        """A signal's handler called destroy() in the middle of this call."""
        self._gives_up_late = False
        try:
            self._give_up(Budget.of(self._client.timeout))
        except MicrolockError as error:
            log.warning("%r is left to its ttl: %s", self.key, error)

    def _call(self, standing: Callable[[], MicrolockError] | None = None) -> _OneTurn:
        self._check()  # before the turn too: in a child of the process nobody may give it
        return self._turn(Budget.of(self._client.timeout), standing or self._waits)

    def _performing(self, budget: Budget) -> Callable[[Any], Any]:
        return partial(self._client.perform, budget=budget)

    def _own(self, budget: Budget) -> Holding:
        """The hold that a call is about."""
        if reason := self._noticed():
            raise LockLostError(self.key, self.node_id, reason)
        if self._holding and self._holding.alive:
            return self._holding
        holder = None
        if self._speaks_for_node:
            now = clock.now()
            found = run(flows.adopt(self._names, now=now), self._performing(budget))
            if isinstance(found, Place):
                return Holding(found, now=now)
            holder = found
        why = "" if self._speaks_for_node else "this object holds nothing"
        raise LockNotOwnedError(self.key, self.node_id, holder, why=why)
