"""One lock object: what its calls may do, what they leave, what is told.

Each call is a generator that yields what it asks for and is sent the answer; see `core.call`. The
steps between two requests run one at a time, also among threads, so what a step leaves is whole.
An interrupt is thrown into the call like an error of the store: it is undone where it came.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from microlock import events
from microlock.core import flows
from microlock.core.call import NOW, Call, Park, Steps
from microlock.core.flows import Flow
from microlock.core.hold import Guard, Hold, HoldState, State
from microlock.core.keys import Names
from microlock.core.lease import Lease
from microlock.core.place import AwaitTurn, Contended, Lost, Place, TurnResult
from microlock.core.port import Found, Lifetime, Read, Revoke
from microlock.core.queue import Change, Holder, Standing
from microlock.core.tracker import Environment, Tracker
from microlock.core.turns import Kind, Ticket, Turns
from microlock.core.wait import Wait
from microlock.errors import (
    AlreadyLockedError,
    DestroyedError,
    LockCancelledError,
    LockLostError,
    LockNotOwnedError,
    LockUncertainError,
    LossReason,
    MicrolockError,
    StoreError,
    StoreTimeoutError,
)

T = TypeVar("T")

# Seconds that destroy() waits for the watch to tell of its own release.
_LAST_WORDS = 1.0

log = logging.getLogger("microlock")


class LockCore:
    """What `Microlock` decides, in any of its faces.

    Args:
        names: the lock, and whose it is.
        ttl: whole seconds that `lock()` asks for.
        auto_renew, max_hold, min_hold: as for `Microlock`.
        env: what it runs in.

    Attributes:
        turns: of the calls.
        woken: set when a call that waits is to look again.
        destroyed: no call begins any more.
        closed: nothing is told or watched any more.
    """

    __slots__ = (
        "_acts_for_node",
        "_ends_late",
        "_env",
        "_lease",
        "_left_token",
        "_lost_of",
        "_min_hold",
        "_wait",
        "_wait_error",
        "closed",
        "destroyed",
        "names",
        "tracker",
        "ttl",
        "turns",
        "woken",
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
        self.woken = env.event()
        self.destroyed = False
        self.closed = False
        self.tracker = Tracker(names, env, auto_renew=auto_renew, max_hold=max_hold)
        self.turns = Turns(self)
        self._min_hold = min_hold
        self._env = env
        # Changed by the call whose turn it is:
        self._lease: Lease | None = None  # left by the last cycle for the next; nothing is under it
        self._wait: Wait | None = None
        self._wait_error: MicrolockError | None = None  # what ends the wait
        self._acts_for_node = True  # until its first lock()
        self._ends_late = False  # destroyed in the middle of the call
        self._left_token: int | None = None  # the token of what `min_hold` has left in etcd
        # Holds that were lost by one owner, and followed by another's: until the first locks again.
        # What a handler of this lock takes, for which the owner is None, everybody sees.
        self._lost_of: dict[object, HoldState] = {}

    # What it knows, without asking etcd. Any thread may ask.

    @property
    def hold(self) -> HoldState | None:
        """The last hold."""
        return self.tracker.hold

    def hold_of(self, owner: object) -> HoldState | None:
        """The last hold, as this thread or task is to see it: if it has lost its own, that one,
        and not what others got afterwards."""
        return self._lost_of.get(owner, self.hold) if self._lost_of else self.hold

    def present(self, now: float, owner: object = None) -> HoldState | None:
        """The hold, if it is held."""
        hold = self.hold_of(owner)
        if hold is None or self.destroyed or self._env.forked or not hold.remaining(now):
            return None
        return hold

    def reason(self, hold: HoldState | None, now: float) -> LossReason | None:
        """Why this hold was lost; None if it was not."""
        if hold is None:
            return None
        return LossReason.FORKED if hold.alive and self._env.forked else hold.reason(now)

    def state(self, now: float, owner: object) -> State:
        hold = self.hold_of(owner)
        if hold is None:
            return State.RELEASED
        return State.LOST if self.reason(hold, now) else hold.state(now)

    def check(self, now: float, owner: object) -> HoldState:
        """The hold. Raises LockLostError, LockNotOwnedError or DestroyedError if there is none."""
        self._check()
        if hold := self.present(now, owner):  # first: the deadline may pass meanwhile
            return hold
        if reason := self.reason(self.hold_of(owner), now):
            raise self._lost(reason)
        raise LockNotOwnedError(self.names.key, self.names.node_id)

    def guard(self, now: float, owner: object) -> Guard:
        hold = self.check(now, owner)
        return Guard(hold.place.entry, hold.token, self.names.key, self.names.node_id)

    def _check(self) -> None:
        if self.destroyed:
            raise self.was_destroyed()

    def was_destroyed(self) -> DestroyedError:
        return DestroyedError(
            f"the lock {self.names.key!r} of {self.names.node_id!r} was destroyed"
        )

    def _lost(self, reason: LossReason) -> LockLostError:
        ttl = self.hold.place.lease.ttl if self.hold else None
        return LockLostError(
            self.names.key, self.names.node_id, reason, ttl=ttl, auto_renew=self.tracker.auto_renew
        )

    # The turns of calls.

    @property
    def free(self) -> bool:
        """Whether it holds nothing."""
        return self.hold is None or not self.hold.alive or self.destroyed

    def _turn(self, call: Call, body: Steps[T]) -> Steps[T]:
        """The call, when it is its turn. `leave()` ends the turn, however the call ends."""
        ticket, turns = call.ticket, self.turns
        for each in turns.tickets:
            # In a signal's handler, in the middle of a call: that one goes on only after this.
            waits = ticket.kind is Kind.HOLD and not each.paused
            if each.owner == ticket.owner and (each is turns.current or waits):
                raise self._busy()
        turns.ask(ticket)
        while turns.current is not ticket:
            now = yield NOW
            if error := self._refusal(call, now):
                raise error
            if call.turn_until <= now:
                raise self._too_late(call, now)
            hold = self.hold
            expires = hold.place.deadline if hold and hold.alive else math.inf
            yield Park(min(call.turn_until, max(expires, now)), ticket.woken)
            ticket.woken.clear()
            self.tracker.noticed((yield NOW))
            turns.pass_on()
        try:
            if ticket.kind is not Kind.END:
                self.stopped(ticket)
            result = yield from body
        except BaseException as error:
            if self._ends_late and not isinstance(error, GeneratorExit):
                yield from self._end_late(call)
            raise
        else:
            if self._ends_late:
                yield from self._end_late(call)
            return result
        finally:
            turns.give(ticket)

    def leave(self, call: Call) -> None:
        """The call is over; also if it was interrupted where it could not say so."""
        self.turns.give(call.ticket)

    def _refusal(self, call: Call, now: float) -> MicrolockError | None:
        """Why a call is not to wait for its turn any more."""
        ticket, hold = call.ticket, self.present(now)
        if ticket.kind is Kind.END:
            return None
        if self.destroyed:
            return self.was_destroyed()
        if ticket.cancelled:
            return self._cancelled()
        if ticket.kind is Kind.HOLD:
            mine = hold is not None and hold.owner == ticket.owner
            return self._locked_by_this(hold) if hold and mine else None
        return call.queued() if self._wait and self._wait.place else None

    def _too_late(self, call: Call, now: float) -> MicrolockError:
        if call.ticket.kind is Kind.HOLD and (hold := self.present(now)):
            return self._locked_by_this(hold)
        if call.ticket.kind is not Kind.END and self._wait and self._wait.place:
            return call.queued()
        return self._busy()

    def _locked_by_this(self, hold: HoldState) -> AlreadyLockedError:
        holder = Holder(self.names.node_id, hold.token, hold.place.lease.id)
        return AlreadyLockedError(self.names.key, holder, whose="this object")

    def is_queued(self) -> MicrolockError:
        """Why this object can't be locked while it waits in the queue."""
        assert self._wait
        assert self._wait.holder  # known with its first place
        whose = "this object waits for it"
        return AlreadyLockedError(self.names.key, self._wait.holder, whose=whose)

    def holds_nothing_yet(self) -> MicrolockError:
        """Why nothing can be done with the hold while this object waits in the queue."""
        return self._not_owned(None, "it waits for its turn")

    def _busy(self) -> MicrolockError:
        return StoreTimeoutError(f"another call on the lock {self.names.key!r} is not done yet")

    def _cancelled(self) -> LockCancelledError:
        return LockCancelledError(self.names.key, self.names.node_id)

    def _not_owned(self, holder: Holder | None, why: str) -> LockNotOwnedError:
        return LockNotOwnedError(self.names.key, self.names.node_id, holder, why=why)

    def _tell(self, name: str, **fields: Any) -> None:
        self._env.tell(name, node_id=self.names.node_id, **fields)

    # Taking the lock.

    def lock(self, call: Call, *, tries: int = 1, pause: float = 0.0) -> Steps[HoldState]:
        """Takes the lock: waits for it as long as the call says, or tries it.

        Args:
            tries: how often, if it does not wait.
            pause: seconds between two of them, on average.
        """
        try:
            if call.wait != 0:
                return (yield from self._turn(call, self._queue_up(call)))
            number = 1
            while True:
                try:
                    return (yield from self._turn(call, self._try(call, number)))
                except AlreadyLockedError:
                    now = yield NOW
                    if number == tries or self.present(now):
                        raise
                yield from self._sleep(call, now + pause * (0.5 + self._env.random()))
                number += 1
        except Exception as error:
            self._tell(events.failed, error=error)
            raise

    def _sleep(self, call: Call, until: float) -> Steps[None]:
        ticket = call.ticket
        self.turns.pause(ticket)
        try:
            while (now := (yield NOW)) < until:
                if call.stop:
                    call.stop()
                yield Park(until, ticket.woken)
                ticket.woken.clear()
            call.parked(now)
        finally:
            self.turns.give(ticket)

    def _try(self, call: Call, number: int) -> Steps[HoldState]:
        return self._take(flows.try_lock, call, lambda _: number)

    def _queue_up(self, call: Call) -> Steps[HoldState]:
        self._wait_error = None
        wait = self._wait = Wait(self.names.prefix, call.until, self.tracker.early)
        try:
            taking = partial(flows.wait, await_turn=partial(self._await_turn, call, wait))
            attempts = lambda place: len(wait.tokens | {place.token})  # noqa: E731
            return (yield from self._take(taking, call, attempts))
        finally:
            self._wait = None

    def _await_turn(self, call: Call, wait: Wait, request: AwaitTurn) -> Flow[TurnResult]:
        tracker, now = self.tracker, (yield NOW)
        if call.stop:
            call.stop()
        if wait.begin(request, now):
            self._tell(events.waiting, token=request.place.token)
        # Among the waiters of one client one watch of the whole lock is the cheapest.
        far = not wait.near
        tracker.key_watched = not far or self._listens()
        tracker.changed = True
        self.turns.wake()  # those that do not wait while this one does
        try:
            if far:
                yield Park(now, self.woken)  # has the watch of the lock ended, if nobody needs it
            while (result := wait.result(tracker.views, now)) is None:
                tracker.changed = True
                yield Park(wait.wakes(), self.woken)
                self.woken.clear()
                now = yield NOW
                if self._wait_error:
                    raise self._wait_error
                if call.stop:
                    call.stop()
            return result
        finally:
            wait.place = None
            if far:  # of the lock it needed a moment; who began near its turn will again
                tracker.key_watched &= self._listens()
            tracker.changed = True
            call.parked(now)

    def _take(
        self,
        taking: Callable[..., Flow[Place | Contended]],
        call: Call,
        attempts: Callable[[Place], int],
    ) -> Steps[HoldState]:
        now = yield NOW
        if hold := self.present(now):
            raise self._locked_by_this(hold)
        lost = self.hold
        self._lost_of.pop(call.owner, None)
        lease, self._lease = self._lease, None  # it is the flow's to keep or to end
        self._acts_for_node = False
        leftover = lost.place if lost and self.tracker.noticed(now) else None
        given = {lease.id} if lease else set()
        ids = self._ids(given)
        entered: Place | Contended | None = None
        try:
            entered = yield from taking(
                self.names, self.ttl, lease, lost=leftover, now=now, lease_ids=ids
            )
            # Not before: the entry of the lost one may still be there.
            if leftover and lost and lost.owner != call.owner is not None:
                self._lost_of[lost.owner] = lost
            self.tracker.hold, self.tracker.changed = None, True
            if isinstance(entered, Place):
                return (yield from self._taken(entered, call, attempts(entered)))
        except GeneratorExit:
            raise
        except BaseException as error:
            if isinstance(entered, Place):  # an interrupt, a loss, or destroy(): nobody will know
                yield from self._withdraw(entered, call)
            elif not isinstance(error, Exception):  # it may have come where no flow could undo it
                yield from self._revoke(given - call.revoked, call)
            raise
        self._lease = entered.lease
        mine = entered.holder.node_id == self.names.node_id
        whose = "another object of this node" if mine else ""
        if entered.holder.token == self._left_token:
            whose = "given back, and kept by its min_hold"
        raise AlreadyLockedError(self.names.key, entered.holder, whose=whose)

    def _ids(self, given: set[int]) -> Iterator[int]:
        """New ids for leases, which are also added to those `given`."""
        while True:
            lease_id = next(self._env.lease_ids)
            given.add(lease_id)
            yield lease_id

    def _taken(self, place: Place, call: Call, attempts: int) -> Steps[HoldState]:
        now = yield NOW
        hold = HoldState(
            place,
            now=now,
            owner=call.owner,
            ended=self._env.event(),
            hold=Hold(
                key=self.names.key,
                node_id=self.names.node_id,
                token=place.token,
                lease_id=place.lease.id,
                ttl=place.lease.ttl,
                attempts=attempts,
                waited=now - call.started,
            ),
        )
        self.tracker.begin(hold, now)
        if call.stop:
            call.stop()  # destroy() may have come meanwhile
        self._check()
        if reason := self.tracker.noticed(now):
            raise self._lost(reason)
        self.tracker.tell_of(events.acquired, hold, waited=now - call.started, attempts=attempts)
        return hold

    def _revoke(self, leases: Iterable[int], call: Call) -> Steps[None]:
        """Ends these, and with them what is under them."""
        call.undo()
        try:
            for lease_id in leases:
                yield Revoke(lease_id)
        except MicrolockError as error:
            log.warning("%r is left to its ttl: %s", self.names.key, error)

    def _withdraw(self, place: Place, call: Call) -> Steps[None]:
        """Gives back what was taken a moment ago."""
        if self.hold:
            self.hold.end()
        call.undo()
        try:
            yield from flows.release(self.names, place, ttl=0)
        except MicrolockError as error:
            log.warning("%r is left to its ttl: %s", self.names.key, error)
        finally:
            self.tracker.changed = True

    # Giving it back.

    def unlock(self, call: Call) -> Steps[None]:
        return self._turn(call, self._unlock(call))

    def _unlock(self, call: Call) -> Steps[None]:
        yield from self._give_back((yield from self._own(call)), call)

    def abandon(self, call: Call, hold: HoldState) -> Steps[None]:
        """Gives back a hold of a call that was interrupted."""
        self.leave(call)
        call.undo()
        try:
            yield from self.exit(call, hold)
        except MicrolockError as error:
            log.warning("%r is left to its ttl: %s", self.names.key, error)

    def exit(self, call: Call, hold: HoldState | None) -> Steps[None]:
        """The end of `with`: gives back this hold, and no later one."""
        if hold and not hold.returned:
            self._refuse_lost(hold, (yield NOW))
            yield from self._turn(call, self._exit(call, hold))

    def _exit(self, call: Call, hold: HoldState) -> Steps[None]:
        self._refuse_lost(hold, (yield NOW))
        if not hold.returned:
            try:
                yield from self._give_back(hold, call)
            except StoreError:  # nobody will try again: it ends with its ttl
                hold.end()
                self.tracker.changed = True
                raise
            yield from self._last_words(hold)

    def _refuse_lost(self, hold: HoldState, now: float) -> None:
        if reason := self.reason(hold, now):
            self.tracker.lose(hold, reason)
            raise self._lost(reason)

    def _give_back(self, hold: HoldState, call: Call) -> Steps[None]:
        before, given = call.asked, False
        now = yield NOW
        left: Lease | Lost | None
        try:
            given = hold.give_back()
            self.tracker.changed = True
            if not given:
                left = Lost(hold.reason(now) or LossReason.EXPIRED)
            else:
                left = yield from self._release(hold, self.ttl, now)
        except BaseException as error:
            if isinstance(error, StoreError) or call.asked == before:
                self._goes_on(hold, now)
            else:  # an interrupt or a doubt: it does not count any more
                hold.end()
            raise
        if isinstance(left, Lost):
            if given:
                hold.end(left.reason)
                self.tracker.tell_of(events.lost, hold, reason=left.reason)
            raise self._lost(left.reason)
        hold.end()
        self._lease = left
        self.tracker.tell_of(events.released, hold)

    def _release(self, hold: HoldState, ttl: int, now: float) -> Steps[Lease | Lost | None]:
        """Deletes the entry. If that is too early, it is left, under a lease that ends in time."""
        rest = self._rest(hold, now)
        if rest <= 0:
            return (yield from flows.release(self.names, hold.place, ttl))
        self._left_token = hold.token
        left, error = yield from flows.extend(
            self.names, hold.place, math.ceil(rest), lease_ids=self._env.lease_ids, keep=hold.moved
        )
        if error:
            raise error
        return left if isinstance(left, Lost) else None

    def _rest(self, hold: HoldState, now: float) -> float:
        """Seconds that the entry is to stay."""
        return hold.since + self._min_hold - now

    def _goes_on(self, hold: HoldState, now: float) -> None:
        """It was not given back; what the watch told meanwhile counts again."""
        hold.stand()
        self.tracker.changed = True  # since it gave back, it was neither watched nor renewed
        if hold is self.hold:
            self.tracker.look(now)

    def _own(self, call: Call) -> Steps[HoldState]:
        """The hold that a call is about."""
        now, hold = (yield NOW), self.hold_of(call.owner)
        if reason := self.tracker.noticed(now) or (hold and hold.reason(now)):
            raise self._lost(reason)
        if hold and hold.alive:
            return hold
        holder = None
        if self._acts_for_node:
            found = yield from flows.adopt(self.names, now=now)
            if isinstance(found, Place):
                return HoldState(found, now=now, owner=call.owner, ended=self._env.event())
            holder = found
        why = "this object holds nothing; holder() says whether another of its node does"
        raise self._not_owned(holder, "" if self._acts_for_node else why)

    # Keeping it.

    def renew(self, call: Call) -> Steps[float]:
        return self._turn(call, self._renew(call))

    def _renew(self, call: Call) -> Steps[float]:
        hold = yield from self._own(call)
        left, now = yield from self._changing(hold, flows.renew(self.names, hold.place))
        return self._kept(hold, left, now)

    def extend(self, call: Call, ttl: int) -> Steps[float]:
        return self._turn(call, self._extend(call, ttl))

    def _extend(self, call: Call, ttl: int) -> Steps[float]:
        hold = yield from self._own(call)
        flow = flows.extend(
            self.names, hold.place, ttl, lease_ids=self._env.lease_ids, keep=hold.moved
        )
        (left, error), now = yield from self._changing(hold, flow)
        if error:
            self._settle(hold, left, now)
            raise error
        return self._kept(hold, left, now)

    def _changing(self, hold: HoldState, flow: Flow[T]) -> Steps[tuple[T, float]]:
        """What the flow returns, and when. The caller settles it in the same step: until then what
        etcd says of the leases is old."""
        hold.in_call = True
        try:
            left = yield from flow
            return left, (yield NOW)
        except LockUncertainError:
            hold.end()
            raise
        except StoreError as error:
            if hold is self.hold:
                self.tracker.unanswered(hold, error, (yield NOW))
            raise
        finally:
            hold.in_call = False
            self.tracker.changed = True

    def _settle(self, hold: HoldState, left: Place | Lost, now: float) -> None:
        """What a flow left of the hold; one of our node is this object's from now on."""
        if isinstance(left, Place):
            hold.moved(left)
        self.tracker.begin(hold, now)  # not before: other threads look at its deadline
        if isinstance(left, Lost):
            self.tracker.lose(hold, left.reason)
            raise self._lost(left.reason)

    def _kept(self, hold: HoldState, left: Place | Lost, now: float) -> float:
        """Goes on with the hold, and returns the seconds left."""
        self._settle(hold, left, now)
        self._check()  # destroy() may have come meanwhile, and waits to end it
        remaining = hold.remaining(now)
        if not remaining:  # the reply came too late, or the loss was seen meanwhile
            raise self._lost(self.tracker.noticed(now) or LossReason.EXPIRED)
        self.tracker.tell_of(events.renewed, hold)
        return remaining

    # Looking.

    def places(self) -> Steps[list[Holder]]:
        """Who holds the lock and who waits for it, in order."""
        self._check()
        found: Found = yield Read(self.names.prefix)
        return [Holder.of(kv) for kv in found.keys]

    # Ending it.

    def cancel(self) -> None:
        """Ends the waits of this object for the lock."""
        self.turns.cancel()
        self.woken.set()

    def stopped(self, ticket: Ticket) -> None:
        """Raises what ends a call early, if anything has."""
        self._check()
        if ticket.cancelled:
            raise self._cancelled()

    def begin_to_end(self, owner: object) -> bool:
        """No call begins from here on, and a wait ends. Returns whether `destroy()` can go on; if
        not, it was called in the middle of a call on the same thread, which ends it all."""
        self.destroyed = True
        self.turns.wake()
        self.woken.set()
        current = self.turns.current
        self._ends_late = current is not None and current.owner == owner
        return not self._ends_late

    def destroy(self, call: Call) -> Steps[None]:
        return self._turn(call, self._end())

    def _end(self) -> Steps[None]:
        hold, lease = self.hold, self._lease
        self._lease = None
        try:
            now = yield NOW
            if hold and hold.remaining(now) and not self._env.forked:
                hold.give_back()
                yield from self._release(hold, 0, now)
                hold.end()
                self.tracker.tell_of(events.released, hold)
                yield from self._last_words(hold)
            else:
                lost = hold is not None and hold.reason(now) is not None
                leases = hold.leases if hold and lost else filter(None, [lease])
                yield from flows.discard(self.names, *leases)
                if hold and hold.returned:
                    yield from self._last_words(hold)
        finally:
            self.close()

    def close(self) -> None:
        """Nothing is told or watched any more."""
        self.destroyed = self.closed = self.tracker.changed = True
        if self.hold:
            self.hold.end()

    def _end_late(self, call: Call) -> Steps[None]:
        """destroy() was called in the middle of this call."""
        self._ends_late = False
        call.undo()
        try:
            yield from self._end()
        except MicrolockError as error:
            log.warning("%r is left to its ttl: %s", self.names.key, error)

    def _last_words(self, hold: HoldState) -> Steps[None]:
        """Waits until the watch has told of the release, if somebody listens to that."""
        view = self.tracker.views.get(self.names.prefix)
        now = yield NOW
        until = now + _LAST_WORDS if self._rest(hold, now) <= 0 else now
        while (
            view
            and self._env.listened(events.unlocked)
            and now < until
            and view.look(hold.place.entry, hold.token)[0] is not Standing.GONE
        ):
            yield Park(until, self.woken)
            self.woken.clear()
            now = yield NOW

    # What befalls it between its calls. Called by the threads of its client.

    def listen(self) -> None:
        """Somebody listens to the events of the key."""
        self._check()
        self.tracker.key_watched = self.tracker.changed = True

    def _listens(self) -> bool:
        return any(self._env.listened(name) for name in events.OF_THE_KEY)

    @property
    def interest(self) -> bytes | None:
        """The entry whose changes matter; None: that of every one."""
        if self._listens():
            return None
        wait, hold = self._wait, self.hold
        if wait and wait.place:
            return wait.interest
        return hold.place.entry if hold else b""

    @property
    def watches(self) -> dict[bytes, Found | None]:
        """What is to be watched, and what is known of it."""
        if self.closed:
            return {}
        watches = self.tracker.watches
        if self._wait and self._wait.place and self.names.prefix not in watches:
            watches[self._wait.watches] = None
        return watches

    def seen(self, now: float) -> None:
        """There is another view: what it has told so far counts."""
        self.tracker.look(now)
        self._stir()

    def watched(
        self, name: bytes, changes: Sequence[Change], *, synthesised: bool, now: float
    ) -> None:
        """A watch has told of something."""
        if not self.closed:
            self.tracker.watched(name, changes, synthesised=synthesised, now=now)
            self._stir()

    def watch_failed(self, name: bytes, error: MicrolockError, *, final: bool, now: float) -> None:
        """A watch is interrupted; if `final` it has ended."""
        if self.closed:
            return
        self.tracker.watch_failed(name, error, final=final, now=now)
        if final and self._wait:
            self._wait_error = error
        self._stir()

    def _stir(self) -> None:
        """Has those look again that wait for something."""
        self.woken.set()
        self.turns.pass_on()

    def stir_all(self) -> None:
        """Has every call look again: the client is closed."""
        self.woken.set()
        self.turns.wake()

    @property
    def next_due(self) -> float | None:
        """When there is something to do; None: nothing."""
        if self.closed:
            return None
        times = [self.tracker.next_due, self._wait.due() if self._wait else None]
        return min((at for at in times if at is not None), default=None)

    def due(self, now: float) -> Sequence[Lease]:
        """Does what is due. Returns the leases to renew now."""
        if self.closed:
            return ()
        leases = self.tracker.due(now)
        self._stir_if_lost()
        if self._wait and (at := self._wait.due()) is not None and at <= now:
            leases = (*leases, *self._wait.leases)
        return leases

    def _stir_if_lost(self) -> None:
        if self.turns.tickets and self.free:
            self.turns.pass_on()

    def renewed(self, lease_id: int, lifetime: Lifetime, now: float) -> None:
        """etcd has answered a renewal."""
        if self._wait and self._wait.renewed(lease_id, lifetime):
            self.woken.set()
        else:
            self.tracker.renewed(lease_id, lifetime, now)
            self._stir_if_lost()

    def silent(self, lease_id: int, error: MicrolockError, *, sent: float, now: float) -> None:
        """etcd did not renew a lease, though it was asked to, not before `sent`."""
        if self._wait:
            self._wait.silent(now)
        self.tracker.silent(lease_id, error, sent=sent, now=now)
        self._stir_if_lost()

    def release_at_exit(self, now: float) -> Sequence[Steps[object]]:
        """The process ends. Returns what gives back what it has."""
        ends: list[Steps[object]] = []
        if self._wait:
            # Nobody is woken: a waiter has nothing more to do, and is not to join again.
            self._wait_error = DestroyedError("the interpreter exits")
            ends += map(_revoke, self._wait.leases)
            self._wait.place = None
        hold = self.hold
        if hold and hold.remaining(now) and not self._env.forked:
            hold.end()
            early = self._rest(hold, now) > 0
            ends += [self._release(hold, 0, now)] if early else map(_revoke, hold.leases)
        return ends


def _revoke(lease: Lease) -> Steps[None]:
    yield Revoke(lease.id)
