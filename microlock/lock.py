"""Microlock: the blocking face of the lock. What it does is decided in `microlock.core.flows`."""

from __future__ import annotations

import inspect
import logging
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ContextDecorator, contextmanager
from dataclasses import replace
from itertools import count
from types import TracebackType
from typing import Any, TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random

from microlock import events
from microlock.calling import Calling
from microlock.core import flows
from microlock.core.flows import Flow
from microlock.core.hold import Hold
from microlock.core.keys import (
    Names,
    check_bool,
    check_interval,
    check_max_hold,
    check_retries,
    check_ttl,
    check_wait,
)
from microlock.core.place import AwaitTurn, Contended, Lost, Place, TurnResult
from microlock.core.port import KeepAlive, Read, Revoke
from microlock.core.queue import Holder, places
from microlock.engine import clock
from microlock.engine.drive import run
from microlock.errors import (
    AlreadyLockedError,
    InvalidArgumentError,
    LockLostError,
    LockUncertainError,
    LossReason,
    MicrolockError,
    StoreError,
)
from microlock.etcd.client import Budget
from microlock.holding import Holding
from microlock.renewal import Keeper
from microlock.waiting import Waiting

S = TypeVar("S", bound="Microlock")
F = TypeVar("F", bound=Callable[..., Any])

log = logging.getLogger("microlock")


def lease_ids(given: set[int] | None = None) -> Iterator[int]:
    """New ones, which are also added to those `given`. Random, since a process that forks must not
    share them with its children."""
    while True:
        lease_id = secrets.randbits(63) or 1
        if given is not None:
            given.add(lease_id)
        yield lease_id


class Microlock(ContextDecorator, Calling):
    """A distributed lock: at most one object, on any machine, holds `key` at a time.

    An object answers for its own hold. One that has never called `lock()` speaks for its node:
    `unlock()`, `renew()` and `extend()` act on the hold that its `node_id` has, so that a process
    that restarts within the ttl can carry on or clean up. It can't tell a dead predecessor from a
    live one: workers that may run at the same time need different node ids.

    Each call but a `lock()` that waits takes at most the client's timeout. Any thread may call;
    calls on one object take turns. Nothing is sent before the first call or the first listener for
    the key's events.

    `with foo:` waits its turn, holds the lock in the block, and gives it back after it. If it was
    lost meanwhile, leaving the block raises LockLostError, unless the block raises something. As a
    decorator, `@foo`, it does so for each call of a function.

    Args:
        etcd: what `microlock.connect()` returns, or a client of python-etcd3 or etcd-sdk-python.
        key: the name of the lock: str, not empty, no NUL, at most 4 KiB of UTF-8.
        node_id: who takes the lock, shown to the others; as `key`.
        ttl: seconds after which a hold that is not renewed ends; 0 < ttl <= 9,000,000,000,
            rounded up to whole seconds. etcd grants no less than 1.5 of its election timeouts,
            2 s by default.
        auto_renew: renew the hold in the background, at a third of the ttl, until it is given
            back or lost, or this object or its process is gone.
        max_hold: seconds after which a hold is not renewed in the background any more, so that it
            ends within another ttl: for work that may hang. None: no such end.
        timeout: seconds that `with` waits for its turn. None: as long as it takes.

    Raises:
        KeyRequiredError, NodeIdRequiredError, InvalidTtlError, ClientRequiredError,
            InvalidArgumentError: an argument is wrong.
    """

    events = events

    def __init__(
        self,
        etcd: object,
        key: str,
        node_id: str,
        ttl: float = 1,
        *,
        auto_renew: bool = False,
        max_hold: float | None = None,
        timeout: float | None = None,
    ) -> None:
        self._timeout = check_wait(timeout)
        if max_hold is not None and auto_renew is False:
            raise InvalidArgumentError(f"max_hold={max_hold!r} needs auto_renew=True")
        super().__init__(
            etcd,
            Names.of(key, node_id),
            check_ttl(ttl),
            auto_renew=check_bool("auto_renew", auto_renew),
            max_hold=check_max_hold(max_hold),
        )
        self._entered: list[tuple[int, Holding]] = []  # the threads that are in a `with`

    def __repr__(self) -> str:
        return f"<Microlock {self.key!r} of {self.node_id!r}: {self.state.name}>"

    @property
    def ttl(self) -> int:
        """Seconds that `lock()` asks for."""
        return self._ttl

    def lock(self, *, timeout: float | None = 0, retries: int = 0, interval: float = 1) -> Hold:
        """Takes the lock.

        Args:
            timeout: 0 for a try that never waits. Otherwise it waits its turn, in the order of
                arrival, for that many seconds at most; None: as long as it takes. This includes
                connecting, and cleaning up when the time is over.
            retries: for those who don't want to queue: how often to try again while somebody else
                holds it. Not together with `timeout`.
            interval: seconds between two tries, on average; it varies by half.

        Returns:
            The hold, with its fencing token and its whole ttl ahead.

        Raises:
            AlreadyLockedError: somebody holds it, maybe this object; or did when the time was
                over; or this object waits for it already. Nothing was changed, or what was is
                undone.
            LockLostError: the hold was over before this could return.
            LockUncertainError: etcd did not answer, so the lock may be held for up to a ttl.
            StoreError: etcd refused or can't be reached. Nothing is held, nothing was left behind.
                With `timeout=None`, also when etcd is gone for longer than the ttl and the
                client's timeout.
            DestroyedError, ForkedError: the object can't be used any more, or not here.
            InvalidArgumentError: an argument is wrong.
        """
        hold = self._acquire(timeout, retries, interval).hold
        assert hold
        return hold

    def _acquire(self, timeout: float | None, retries: int = 0, interval: float = 1) -> Holding:
        seconds, tries = check_wait(timeout), check_retries(retries) + 1
        pause = check_interval(interval)
        if tries > 1 and seconds != 0:
            raise InvalidArgumentError(
                f"retries is for tries that don't wait: timeout={timeout!r} and "
                f"retries={retries!r} exclude each other"
            )
        started, before = clock.now(), self._holding
        self._check()
        try:
            if seconds == 0:
                return self._try(started, tries, pause)
            return self._wait(started, seconds)
        except Exception as error:
            self._tell(events.failed, node_id=self.node_id, error=error)
            raise
        except BaseException:  # an interrupt; if it came on the way out, nobody will know
            taken = self._holding
            if taken and taken is not before and taken.thread == threading.get_ident():
                self._abandon(taken)
            raise

    def _try(self, started: float, tries: int, pause: float) -> Holding:
        if tries == 1:
            return self._once(started)
        numbers = count(1)
        return Retrying(
            retry=retry_if_exception(
                lambda error: isinstance(error, AlreadyLockedError) and not self.held
            ),
            stop=stop_after_attempt(tries),
            wait=wait_random(pause * 0.5, pause * 1.5),
            sleep=self._destroyed.sleep,
            reraise=True,
        )(lambda: self._once(started, next(numbers)))

    def _once(self, started: float, number: int = 1) -> Holding:
        with self._call(self._queues) as budget:
            perform = self._performing(budget)
            return self._take(flows.try_lock, perform, started, lambda _: number)

    def _wait(self, started: float, seconds: float | None) -> Holding:
        client = self._client
        until = None
        if seconds is not None:
            end = started + seconds
            # The rest is for cleaning up.
            until = end - min(0.25, max(seconds / 10, min(0.05, seconds / 2)))

        budget: Budget | None = None

        def perform(request: Any) -> Any:
            nonlocal budget
            if isinstance(request, AwaitTurn):
                budget = None  # what follows has a time of its own
                return self._stand(waiting, request)
            if until is not None:
                # What is kept back for cleaning up is also for the one whose turn comes then.
                work = end if isinstance(request, KeepAlive) else until
                undone = min(end, clock.now() + client.timeout)
                budget = Budget(work, undone, self._destroyed)
            elif budget is None:
                budget = Budget.of(client.timeout, self._destroyed)
            return client.perform(request, budget)

        turn = started + (client.timeout if seconds is None else min(seconds, client.timeout))
        with self._turn(Budget(turn, turn), self._queues):
            waiting = self._waiting = Waiting(client, self._names, until)
            try:
                return self._take(
                    flows.wait,
                    perform,
                    started,
                    lambda entered: len(waiting.tokens | {entered.token}),
                )
            finally:
                self._waiting = None

    def _stand(self, waiting: Waiting, request: AwaitTurn) -> TurnResult:
        self._check()
        # Among threads that wait for the same lock one watch of all of it is the cheapest.
        if request.after is None or not self._rest():
            request = replace(request, after=None)
            self._watch()  # it goes on for the waits to come
        if request.place.token not in waiting.tokens:
            self._tell(events.waiting, node_id=self.node_id, token=request.place.token)
        waiting.holder = request.holder
        with self._turns.stand():
            return waiting.stand(request)

    def _take(
        self,
        taking: Callable[..., Flow[Place | Contended]],
        perform: Callable[[Any], Any],
        started: float,
        attempts: Callable[[Place], int],
    ) -> Holding:
        lost = self._holding
        if lost and self.held:
            place = lost.place
            holder = Holder(self.node_id, place.token, place.lease.id)
            raise AlreadyLockedError(self.key, holder, whose="this object")
        lease, self._lease = self._lease, None  # it is the flow's to keep or to end
        self._speaks_for_node = False
        leftover = lost.place if lost and self._noticed() else None
        unsettled = {lease.id} if lease else set()
        ids = lease_ids(unsettled)
        flow = taking(self._names, self._ttl, lease, lost=leftover, now=clock.now(), lease_ids=ids)
        entered: Place | Contended | None = None

        def noting(request: Any) -> Any:
            if isinstance(request, Revoke):
                unsettled.discard(request.lease_id)
            return perform(request)

        try:
            entered = run(flow, noting)
            self._holding = None  # not before: the entry of the lost one may still be there
            if isinstance(entered, Place):
                return self._taken(entered, started, attempts(entered))
        except BaseException as error:
            if isinstance(entered, Place):  # an interrupt, a loss, or destroy(): nobody will know
                self._withdraw(entered)
            elif not isinstance(error, Exception):  # it may have come where no flow could clean up
                self._revoke(unsettled)
            raise
        self._lease = entered.lease
        mine = entered.holder.node_id == self.node_id
        whose = "another object of this node" if mine else ""
        raise AlreadyLockedError(self.key, entered.holder, whose=whose)

    def _taken(self, place: Place, started: float, attempts: int) -> Holding:
        now = clock.now()
        hold = Hold(
            key=self.key,
            node_id=self.node_id,
            token=place.token,
            lease_id=place.lease.id,
            ttl=place.lease.ttl,
            attempts=attempts,
            waited=now - started,
        )
        holding = Holding(place, now=now, hold=hold)
        self._begin(holding)
        self._check()  # destroy() may have come meanwhile
        if reason := self._noticed():
            raise LockLostError(self.key, self.node_id, reason)
        self._tell_of(events.acquired, holding)
        return holding

    def _revoke(self, leases: Iterable[int]) -> None:
        """Ends these, and with them what is under them."""
        budget = Budget.of(self._client.timeout)
        try:
            for lease_id in leases:
                self._client.perform(Revoke(lease_id), budget)
        except MicrolockError as error:
            log.warning("%r is left to its ttl: %s", self.key, error)

    def _withdraw(self, place: Place) -> None:
        """Gives back what was taken a moment ago."""
        if self._holding:
            self._holding.end()
        budget = Budget.of(self._client.timeout)
        try:
            run(flows.release(self._names, place, ttl=0), self._performing(budget))
        except MicrolockError as error:
            log.warning("%r is left to its ttl: %s", self.key, error)

    def unlock(self) -> None:
        """Gives the lock back.

        Raises:
            LockNotOwnedError: nothing is held. Nothing was changed.
            LockLostError: the hold had ended before. Nothing was changed.
            LockUncertainError: etcd did not answer, so the lock may be held for up to a ttl. This
                object holds nothing any more.
            StoreError: etcd refused or can't be reached; the hold stands, and can be tried again.
            DestroyedError, ForkedError: the object can't be used any more, or not here.
        """
        with self._call() as budget:
            self._give_back(self._own(budget), budget)

    def _give_back(self, holding: Holding, budget: Budget) -> None:
        given = asked = False

        def perform(request: Any) -> Any:
            nonlocal asked
            asked = True
            return self._client.perform(request, budget)

        try:
            given = holding.give_back()
            release = flows.release(self._names, holding.place, self._ttl)
            left = run(release, perform) if given else self._ended(holding)
        except BaseException as error:
            if isinstance(error, StoreError) or not asked:
                self._goes_on(holding)
            else:  # an interrupt or a doubt: not to be counted on
                holding.end()
                self._dismiss()
            raise
        if isinstance(left, Lost):
            if given:
                holding.end(left.reason)
                self._tell_of(events.lost, holding, reason=left.reason)
            raise LockLostError(self.key, self.node_id, left.reason)
        holding.end()
        self._dismiss()
        self._lease = left
        self._tell_of(events.released, holding)

    def _ended(self, holding: Holding) -> Lost:
        return Lost(holding.reason(clock.now()) or LossReason.EXPIRED)

    def _goes_on(self, holding: Holding) -> None:
        """It was not given back; what the watch told meanwhile counts again."""
        holding.stand()
        if holding is self._holding:
            self._look_after(holding)

    def renew(self) -> float:
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
        with self._call() as budget:
            holding = self._own(budget)
            with self._renewing(holding):
                left = run(flows.renew(self._names, holding.place), self._performing(budget))
                self._settle(holding, left)
            return self._hold_on(holding)

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
            StoreError: etcd refused or can't be reached; the hold stands. If `may_have_happened`,
                it stands until the earlier of both deadlines, and the next `renew()` or
                `extend()` finishes this extension first.
            DestroyedError, ForkedError: the object can't be used any more, or not here.
        """
        seconds = check_ttl(ttl)
        with self._call() as budget:
            holding = self._own(budget)
            flow = flows.extend(
                self._names, holding.place, seconds, lease_ids=lease_ids(), keep=holding.moved
            )
            with self._renewing(holding):
                left, error = run(flow, self._performing(budget))
                self._settle(holding, left)
            if error:
                raise error
            return self._hold_on(holding)

    def holder(self) -> Holder | None:
        """Who holds the lock, read from etcd; None if it is free.

        Raises:
            StoreError: etcd refused or can't be reached.
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

    # `with`, and as a decorator.

    def __enter__(self: S) -> S:
        self._entered.append((threading.get_ident(), self._acquire(self._timeout)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        holding: Holding | None = None
        try:
            holding = self._left()
            self._leave(holding)
        except MicrolockError as failure:
            if error is None:
                raise
            log.warning("leaving `with` of %r: %s", self.key, failure)
        except BaseException:  # an interrupt: the block is left, and so must be the lock
            self._abandon(holding or self._left())
            raise

    def _left(self) -> Holding | None:
        """The hold of the block that is left: of this thread's the last one. A block may be left
        on another thread than it was entered on, too."""
        here = [each for each in self._entered if each[0] == threading.get_ident()]
        for entered in (here or self._entered)[-1:]:
            self._entered.remove(entered)
            return entered[1]
        return None

    def _abandon(self, holding: Holding | None) -> None:
        """Gives back this hold, of a call of this thread that was interrupted between its steps."""
        try:
            self._turns.give()
            self._leave(holding)
        except MicrolockError as error:
            log.warning("%r is left to its ttl: %s", self.key, error)

    def _leave(self, holding: Holding | None) -> None:
        """Gives back this hold, and no later one."""
        if holding is None or holding.returned:
            return
        with self._call() as budget:
            if reason := holding.reason(clock.now()):
                self._lose(holding, reason)
                raise LockLostError(self.key, self.node_id, reason)
            if not holding.returned:
                self._give_back(holding, budget)

    def __call__(self, func: F) -> F:
        for lazy in (
            inspect.iscoroutinefunction,
            inspect.isgeneratorfunction,
            inspect.isasyncgenfunction,
        ):
            if lazy(func):
                raise InvalidArgumentError(
                    f"what the lock decorates must do its work when called, unlike {func!r}"
                )
        return super().__call__(func)

    # What renewing and extending have in common.

    @contextmanager
    def _renewing(self, holding: Holding) -> Iterator[None]:
        holding.in_call = True
        try:
            yield
        except LockUncertainError:
            holding.end()
            raise
        except StoreError as error:
            if holding is self._holding:
                self._unanswered(holding, error)
            raise
        finally:
            holding.in_call = False

    def _hold_on(self, holding: Holding) -> float:
        """Goes on with the hold, and returns the seconds left."""
        self._check()  # destroy() may have come meanwhile, and waits to end it
        remaining = holding.remaining(clock.now())
        if not remaining:  # the reply came too late, or the loss was seen meanwhile
            raise LockLostError(self.key, self.node_id, self._noticed() or LossReason.EXPIRED)
        self._tell_of(events.renewed, holding)
        return remaining

    def _settle(self, holding: Holding, left: Place | Lost) -> None:
        """What a flow left of the hold; one of our node is this object's from now on."""
        if isinstance(left, Place):
            holding.moved(left)
        self._holding = holding  # not before: other threads look at its deadline
        if isinstance(left, Lost):
            self._lose(holding, left.reason)
            raise LockLostError(self.key, self.node_id, left.reason)
        self._client.one(Keeper).remember(holding)
        self._look_after(holding)
