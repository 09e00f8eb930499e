"""The core of one lock object: what its calls do.

Each call is a generator that yields requests and receives the answers; see `core.call`. The steps
between two requests run one at a time, also among threads, so each step leaves a valid state. An
interrupt is thrown into the call like an error of the store, and the call undoes what it began.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

from microlock import events
from microlock.core import flows
from microlock.core.call import NOW, Call, Kind, Steps
from microlock.core.flows import Flow
from microlock.core.hold import Hold, HoldState
from microlock.core.keys import Names
from microlock.core.lease import Lease
from microlock.core.place import Contended, Lost, Place
from microlock.core.port import Revoke
from microlock.core.status import Environment, Status
from microlock.core.tracker import Tracker
from microlock.core.turns import Turns
from microlock.core.wait import Wait
from microlock.errors import (
    AlreadyLockedError,
    DestroyedError,
    LockCancelledError,
    LockLostError,
    LockUncertainError,
    LossReason,
    MicrolockError,
    StoreError,
)

P = ParamSpec("P")
T = TypeVar("T")

# Seconds that destroy() and the end of `with` wait for the watch to report their own release: an
# object that is gone afterwards gets no more events.
_LAST_WORDS = 1.0


def _in_turn(
    act: Callable[Concatenate[LockCore, Call, P], Steps[T]],
) -> Callable[Concatenate[LockCore, Call, P], Steps[T]]:
    """A decorator: the call waits for its turn first, and ends the turn afterwards."""

    def whole(core: LockCore, call: Call, /, *args: P.args, **kwargs: P.kwargs) -> Steps[T]:
        yield from core.turns.take(call)
        try:
            if call.kind is not Kind.END:
                core.turns.check(call)
            return (yield from act(core, call, *args, **kwargs))
        except GeneratorExit:  # the call was dropped: no request can be made
            core.ends_late = False
            raise
        except StoreError as error:
            raise error.about(core.names.key) from error.__cause__
        except BaseException as error:
            if not isinstance(error, Exception):  # an interrupt: nothing else reports it
                core._left_by(call)
            raise
        finally:
            if core.ends_late:  # destroy() was called in the middle of this call
                core.ends_late = False
                yield from core._undo(call, core._end(call))
            core.turns.give(call)  # as `over` does: an interrupt may prevent one of them

    return whole


class LockCore:
    """The decisions of one `Microlock`, for both faces.

    Args:
        names: the names of the lock, and its node id.
        ttl: the ttl that `lock()` asks for, in whole seconds.
        auto_renew, max_hold, min_hold: as for `Microlock`.
        env: the environment that the core runs in.

    Attributes:
        status: what the object knows of itself.
        turns: the turns of its calls.
        tracker: follows the hold and the wait between the steps of its calls.
        ends_late: `destroy()` came in the middle of a call, which destroys the object at its end.
    """

    __slots__ = (
        "_acts_for_node",
        "_env",
        "_lease",
        "_left_token",
        "_min_hold",
        "ends_late",
        "names",
        "status",
        "tracker",
        "ttl",
        "turns",
    )

    def __init__(
        self,
        names: Names,
        ttl: int,
        *,
        env: Environment,
        auto_renew: bool = False,
        max_hold: float | None = None,
        min_hold: float = 0.0,
    ) -> None:
        self.names = names
        self.ttl = ttl
        self.status = Status(names, env, auto_renew=auto_renew)
        self.turns = Turns(self.status)
        self.tracker = Tracker(self.status, self.turns, max_hold=max_hold)
        self._min_hold = min_hold
        self._env = env
        # Only the call that has the turn changes these:
        self._lease: Lease | None = None  # kept for the next hold; no entry is under it
        self._acts_for_node = True  # until its first lock()
        self.ends_late = False  # destroyed in the middle of the call
        self._left_token: int | None = None  # the token of an entry that `min_hold` left in etcd

    def over(self, call: Call) -> None:
        """Ends the turn of a call, even if an interrupt kept the call from doing so."""
        call.stop = None  # it refers to the call: a cycle would keep both
        self.turns.give(call)

    def orphaned(self, call: Call) -> Steps[None]:
        """A call was dropped, and nothing waits for it. Undoes a `lock()`, and finishes a release.

        A second call does nothing.
        """
        hold, leases = self.status.hold, call.leases
        call.leases = frozenset()
        taking = call.kind in (Kind.TRY, Kind.WAIT)
        if taking and hold and hold.alive and hold.place.lease.id in leases:
            hold.end()  # the call was about to return
            self.status.changed = True
        if hold and hold.alive:  # the hold stays, perhaps under a lease that this call got
            leases -= {each.id for each in hold.leases}
        return self._undo(call, *map(_revoke, leases))

    def _owes(self, call: Call, hold: HoldState) -> None:
        """Notes which leases to revoke if this call, which gives the hold back, is dropped."""
        stays = self._rest(hold, call.now) > 0
        call.leases = frozenset(() if stays else [each.id for each in hold.leases])

    def _left_by(self, call: Call) -> None:
        """Warns, once, of what a call could not undo."""
        if why := call.unsettled:
            call.unsettled = None
            self._env.warn("%r may stay locked until its ttl ends: %s", self.names.key, why)

    def _undo(self, call: Call, *undoing: Steps[object]) -> Steps[None]:
        """Undoes what the call did. If that fails, the entry stays until its ttl ends."""
        call.undo()
        for each in undoing:
            try:
                yield from each
            except LockLostError:
                pass  # nothing is left
            except MicrolockError as error:
                call.unsettled = error.args[0]
                self._left_by(call)

    # Taking the lock.

    def lock(self, call: Call, *, tries: int = 1, pause: float = 0.0) -> Steps[HoldState]:
        """Waits for the lock, or tries to take it.

        Args:
            tries: the number of tries, if it does not wait.
            pause: seconds between two tries, on average.
        """
        if call.kind is Kind.WAIT or tries > 1:
            call.stop = partial(self.turns.check, call)  # cancel() and destroy() end it
        try:
            if call.kind is Kind.WAIT:
                return (yield from self._wait(call))
            number = 1
            while True:
                try:
                    return (yield from self._try(call, number))
                except AlreadyLockedError:
                    now = yield NOW
                    hold = self.status.present(now)
                    if number == tries or (hold and hold.owner == call.owner):
                        raise
                yield from self.turns.pause(call, now + pause * (0.5 + self._env.random()))
                number += 1
        except GeneratorExit:  # as in `_in_turn`
            raise
        except BaseException as error:
            yield from self._failed(call, error)
            raise

    def _failed(self, call: Call, error: BaseException) -> Steps[None]:
        """Emits `failed`, with the reason. For an interrupt the reason is a cancellation.

        The interrupt itself goes to the caller only: the event must not keep its traceback alive.
        """
        why, waited = error, (yield NOW) - call.started
        if not isinstance(error, Exception):
            hold = self.status.hold
            if hold and hold.alive and hold.owner == call.owner:
                return  # the lock was taken already: the face gives it back
            why = LockCancelledError(self.names.key, self.names.node_id)
        self._env.tell(events.failed, node_id=self.names.node_id, error=why, waited=waited)

    def hear(self, call: Call, until: float, heard: Callable[[], bool]) -> Steps[None]:
        """Waits until the watch for the listeners has begun, which comes first in a `lock()`."""
        call.stop = partial(self.turns.check, call)
        try:
            yield from self.turns.pause(call, until, heard)
            self.turns.check(call)
        except GeneratorExit:
            raise
        except BaseException as error:
            yield from self._failed(call, error)
            raise

    @_in_turn
    def _try(self, call: Call, number: int) -> Steps[HoldState]:
        return self._take(call, flows.try_lock, lambda _: number)

    @_in_turn
    def _wait(self, call: Call) -> Steps[HoldState]:
        wait = self.status.wait = Wait(self.names.locks, call.until, self.tracker.early)
        try:
            taking = partial(flows.wait, await_turn=partial(self.tracker.await_turn, call, wait))
            return (yield from self._take(call, taking, wait.attempts))
        finally:
            self.status.wait = None

    def _take(
        self,
        call: Call,
        taking: Callable[..., Flow[Place | Contended]],
        attempts: Callable[[Place], int],
    ) -> Steps[HoldState]:
        status, previous = self.status, self.status.hold
        if hold := status.present(call.now):
            raise status.locked_by_this(hold)
        if status.lost_of:
            status.lost_of.pop(call.owner, None)
        lost = previous if status.noticed(call.now) else None
        before = self._say(call.value)
        lease, self._lease = self._lease, None  # the flow keeps or ends it
        call.leases = frozenset((lease.id,) if lease else ())
        self._acts_for_node = False
        entered: Place | Contended | None = None
        try:
            entered = yield from taking(
                self.names,
                self.ttl,
                lease,
                lost=lost and lost.place,
                now=call.now,
                lease_ids=self._env.lease_ids,
            )
            # Not before: the entry of the lost hold may still be there.
            if lost and call.owner not in (None, lost.owner):
                status.remember(lost)
            status.hold, status.changed = None, True
            if isinstance(entered, Place):
                return (yield from self._taken(call, entered, attempts(entered)))
        except GeneratorExit:
            raise
        except BaseException as error:
            self._say(before.value)
            if isinstance(entered, Place):  # the caller gets an error, so it must not hold the lock
                yield from self._withdraw(call, entered)
            elif not isinstance(error, Exception) and not call.unsettled:
                # It may have come where no flow could undo.
                yield from self._undo(call, *map(_revoke, call.leases))
            if not isinstance(error, StoreError):  # which leaves no entry
                status.left += tuple([Lease(each, 0, 0, 0.0) for each in call.leases])
            raise
        self._say(before.value)
        self._lease = entered.lease
        mine = entered.holder.node_id == self.names.node_id
        whose = "another object of this node" if mine else ""
        if entered.holder.token == self._left_token:
            whose = "given back, but its min_hold is not over"
        raise AlreadyLockedError(self.names.key, entered.holder, whose=whose)

    def _say(self, value: bytes | None) -> Names:
        """From now on entries have this value, unless it is None. Returns the former names."""
        before = self.names
        if value is not None:
            self.names = self.status.names = replace(before, value=value)
        return before

    def _taken(self, call: Call, place: Place, attempts: int) -> Steps[HoldState]:
        status, now = self.status, (yield NOW)
        taken = Hold(
            key=self.names.key,
            node_id=self.names.node_id,
            token=place.token,
            lease_id=place.lease.id,
            ttl=place.lease.ttl,
            attempts=attempts,
            waited=now - call.started,
        )
        hold = HoldState(place, now=now, owner=call.owner, ended=self._env.event(), hold=taken)
        self.tracker.begin(hold)
        self.turns.check(call)  # destroy() may have come meanwhile
        if reason := status.noticed(now):
            raise status.lost(reason)
        status.tell_of(events.acquired, hold, waited=taken.waited, attempts=attempts)
        return hold

    def _withdraw(self, call: Call, place: Place) -> Steps[None]:
        """Gives back the lock that was just taken."""
        if self.status.hold:
            self.status.hold.end()
        self.status.changed = True
        return self._undo(call, flows.release(self.names, place, ttl=0))

    # Giving it back.

    @_in_turn
    def unlock(self, call: Call) -> Steps[None]:
        yield from self._give_back(call, (yield from self._own(call)))

    def abandon(self, call: Call, hold: HoldState) -> Steps[None]:
        """Gives back the hold of an interrupted call."""
        return self._undo(call, self.exit(call, hold))

    def exit(self, call: Call, hold: HoldState | None) -> Steps[None]:
        """The end of `with`: gives back this hold, and no later one."""
        if hold and not hold.returned:
            self._refuse_lost(hold, call.now)
            yield from self._exit(call, hold)

    @_in_turn
    def _exit(self, call: Call, hold: HoldState) -> Steps[None]:
        self._refuse_lost(hold, call.now)
        if not hold.returned:
            try:
                yield from self._give_back(call, hold)
            except StoreError:  # no call will try again
                hold.end()
                self.status.changed = True
                self._revoke_later(call, hold)
                raise
            yield from self._last_words(hold)

    def _refuse_lost(self, hold: HoldState, now: float) -> None:
        if reason := self.status.reason(hold, now):
            self.status.lose(hold, reason)
            raise self.status.lost(reason)

    def _give_back(self, call: Call, hold: HoldState) -> Steps[None]:
        status, requests = self.status, call.requests
        try:
            hold.give_back()
            status.changed = True
            left = yield from self._release(hold, self.ttl, call.now)
            hold.end(left.reason if isinstance(left, Lost) else None)
        except BaseException as error:
            if isinstance(error, StoreError) or call.requests == requests:  # nothing was sent
                hold.stand()
                status.changed = True  # meanwhile it was neither watched nor renewed
                if hold is status.hold:
                    self.tracker.look()
            else:  # an interrupt or a doubt: the hold is over
                hold.end()
                self._owes(call, hold)
                if isinstance(error, LockUncertainError):
                    self._revoke_later(call, hold)
            raise
        if isinstance(left, Lost):
            status.tell_of(events.lost, hold, reason=left.reason)
            raise status.lost(left.reason)
        self._lease = left
        status.tell_of(events.released, hold)

    def _revoke_later(self, call: Call, hold: HoldState) -> None:
        """Has another thread revoke, once, what a call could not: etcd may be back by then, long
        before the ttl is over."""
        if self._rest(hold, call.now) <= 0:
            self.status.left = hold.leases

    def _release(self, hold: HoldState, ttl: int, now: float) -> Flow[Lease | Lost | None]:
        """Deletes the entry. Before `min_hold` is over, leaves it, under a lease that ends then."""
        rest = self._rest(hold, now)
        if rest <= 0:
            return flows.release(self.names, hold.place, ttl)
        return self._keep_until(hold, math.ceil(rest))

    def _keep_until(self, hold: HoldState, seconds: int) -> Flow[Lost | None]:
        self._left_token = hold.token
        left, error = yield from flows.extend(
            self.names, hold.place, seconds, lease_ids=self._env.lease_ids, keep=hold.moved
        )
        if error:
            raise error
        return left if isinstance(left, Lost) else None

    def _rest(self, hold: HoldState, now: float) -> float:
        """Seconds that the entry must stay."""
        return hold.since + self._min_hold - now

    def _own(self, call: Call) -> Steps[HoldState]:
        """The hold that a call acts on."""
        now, hold = call.now, self.status.hold_of(call.owner)
        if reason := self.status.noticed(now) or (hold and hold.reason(now)):
            raise self.status.lost(reason)
        if hold and hold.alive:
            return hold
        if self._acts_for_node:
            found = yield from flows.adopt(self.names, now=now)
            if isinstance(found, Place):
                return HoldState(found, now=now, owner=call.owner, ended=self._env.event())
            raise self.status.not_owned(found, "")
        why = "this object does not hold it; holder() returns who does"
        raise self.status.not_owned(None, why)

    def detach(self) -> None:
        """This object forgets its hold, which stays until its lease ends, or until it is given back
        by its token."""
        if hold := self.status.hold:
            hold.end()
            self.status.changed = True

    # Keeping it.

    @_in_turn
    def renew(self, call: Call) -> Steps[float]:
        hold = yield from self._own(call)
        left, now = yield from self._changing(hold, flows.renew(self.names, hold.place))
        return self._kept(hold, left, now)

    @_in_turn
    def extend(self, call: Call, ttl: int) -> Steps[float]:
        hold = yield from self._own(call)
        return (yield from self._extend(hold, ttl))

    @_in_turn
    def proclaim(self, call: Call) -> Steps[float]:
        """Changes the value of the entry, as an extension: a late copy can't undo a later one."""
        hold = yield from self._own(call)
        before = self._say(call.value)
        try:
            return (yield from self._extend(hold, hold.place.lease.asked or self.ttl))
        except StoreError as error:
            if not error.may_have_happened:
                self._say(before.value)
            raise

    def _extend(self, hold: HoldState, ttl: int) -> Steps[float]:
        flow = flows.extend(
            self.names, hold.place, ttl, lease_ids=self._env.lease_ids, keep=hold.moved
        )
        (left, error), now = yield from self._changing(hold, flow)
        if error:
            self._settle(hold, left, now)
            raise error
        return self._kept(hold, left, now)

    def _changing(self, hold: HoldState, flow: Flow[T]) -> Steps[tuple[T, float]]:
        """Runs a flow that changes the hold. Returns its result and the time.

        The caller applies the result in the same step: before that, answers about the leases are
        out of date.
        """
        try:
            left = yield from flow
            return left, (yield NOW)
        except LockUncertainError:
            hold.end()
            raise
        except StoreError as error:
            if hold is self.status.hold:
                self.tracker.unanswered(hold, error, (yield NOW))
            raise
        finally:
            self.status.changed = True

    def _settle(self, hold: HoldState, left: Place | Lost, now: float) -> None:
        """Applies the result of a flow. A hold of the node now belongs to this object."""
        if isinstance(left, Place):
            hold.moved(left)
        self.tracker.begin(hold)  # not before: other threads read its deadline
        if isinstance(left, Lost):
            self.status.lose(hold, left.reason)
            raise self.status.lost(left.reason)

    def _kept(self, hold: HoldState, left: Place | Lost, now: float) -> float:
        """Applies the result of a renewal or an extension. Returns the seconds left."""
        self._settle(hold, left, now)
        self.status.check_alive()  # destroy() may have come meanwhile, and waits for this call
        remaining = hold.remaining(now)
        if not remaining:  # the reply came too late, or the loss was seen meanwhile
            raise self.status.lost(self.status.noticed(now) or LossReason.EXPIRED)
        self.status.tell_of(events.renewed, hold)
        return remaining

    # Ending it.

    def cancel(self) -> None:
        """Ends the waits of this object for the lock."""
        self.turns.cancel()
        self.tracker.wake()

    def begin_to_end(self, owner: object) -> bool:
        """Refuses new calls and ends a wait. Returns whether `destroy()` can go on.

        If not, it was called in the middle of a call on the same thread, and that call destroys the
        object at its end.
        """
        self.status.destroyed = True
        self.tracker.stir_all()
        current = self.turns.current
        self.ends_late = current is not None and current.owner == owner
        return not self.ends_late

    @_in_turn
    def destroy(self, call: Call) -> Steps[None]:
        return self._end(call)

    def _end(self, call: Call) -> Steps[None]:
        hold, lease = self.status.hold, self._lease
        self._lease = None
        try:
            now = yield NOW
            if hold and hold.remaining(now) and not self._env.forked:
                hold.give_back()
                self._owes(call, hold)
                yield from self._release(hold, 0, now)
                call.leases = frozenset()
                hold.end()
                self.status.tell_of(events.released, hold)
            else:
                lost = hold is not None and hold.reason(now) is not None
                leases = hold.leases if hold and lost else filter(None, [lease])
                yield from flows.discard(self.names, *leases)
            if hold and hold.returned:
                yield from self._last_words(hold)
        finally:
            self.close()

    def close(self) -> None:
        """Ends the events and the watches."""
        self.status.destroyed = self.status.closed = self.status.changed = True
        if self.status.hold:
            self.status.hold.end()

    def _last_words(self, hold: HoldState) -> Steps[None]:
        """Waits until the watch has reported the release, if `unlocked` has listeners."""
        now = yield NOW
        if self._rest(hold, now) <= 0 and self._env.listened(events.unlocked):
            yield from self.tracker.hear_the_end(hold, now + _LAST_WORDS)

    def release_at_exit(self, now: float) -> Sequence[Steps[object]]:
        """The process ends. Returns the calls that give back the hold and end the wait."""
        hold, wait = self.status.hold, self.status.wait
        ends: list[Steps[object]] = []
        if wait:
            # The waiter is not woken: it has nothing more to do, and must not join again.
            wait.error = DestroyedError("the interpreter exits")
            ends += map(_revoke, [each.id for each in wait.leases])
            wait.place = None
        if hold and hold.remaining(now) and not self._env.forked:
            hold.end()
            if self._rest(hold, now) > 0:
                ends.append(self._release(hold, 0, now))
            else:
                ends += map(_revoke, [each.id for each in hold.leases])
        return ends


def _revoke(lease_id: int) -> Steps[None]:
    yield Revoke(lease_id)
