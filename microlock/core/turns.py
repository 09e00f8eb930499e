"""The calls on one object take turns: one at a time, in the order of asking.

A call that waits for the lock also waits until the object holds nothing, so threads and tasks that
share an object take turns on it. Other calls pass such a call.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from microlock.core.call import NOW, Call, Kind, Park, Steps
from microlock.core.status import Status
from microlock.errors import LockCancelledError, MicrolockError, StoreTimeoutError


class Turns:
    """A mutex that is given in the order of asking.

    An interrupt may come between any two lines, and the state is valid there.

    Attributes:
        calls: the calls that have a turn, wait for one or pause, in the order of asking.
        current: the call that has the turn.
    """

    __slots__ = ("_status", "calls", "current")

    def __init__(self, status: Status) -> None:
        self.calls: tuple[Call, ...] = ()
        self.current: Call | None = None
        self._status = status

    def take(self, call: Call) -> Steps[None]:
        """Waits for the turn of this call, which `give` ends. Raises if it can't have one."""
        for each in self.calls:
            # This may be a signal handler in the middle of that call, which goes on only after
            # this.
            waits = call.kind is Kind.WAIT and not each.paused
            if each.owner == call.owner and (each is self.current or waits):
                raise self._busy()
        self.ask(call)
        call.now = yield NOW
        if self.current is not call:
            # Before the check: a signal handler may wake this call during the check.
            call.woken = call.woken or self._status.env.event()
        while self.current is not call:
            if error := self._refusal(call, call.now):
                self.give(call)
                raise error
            hold = self._status.hold
            expires = hold.place.deadline if hold and hold.alive else math.inf
            assert call.woken
            yield Park(min(call.turn_until, max(expires, call.now)), call.woken)
            call.woken.clear()
            call.now = yield NOW
            self._status.noticed(call.now)
            self.pass_on()

    def _refusal(self, call: Call, now: float) -> MicrolockError | None:
        """The error that ends the wait for a turn, if any."""
        status, late = self._status, call.turn_until <= now
        if call.kind is not Kind.END:
            self.check(call)
            hold = status.present(now) if call.kind is Kind.WAIT else None
            if hold and (late or hold.owner == call.owner):
                return status.locked_by_this(hold)
            queued = status.queued(call.kind)
            if queued and (late or call.kind is not Kind.WAIT):
                return queued
        return self._busy() if late else None

    def _busy(self) -> MicrolockError:
        error = StoreTimeoutError("another call of this object still runs")
        return error.about(self._status.names.key)

    def check(self, call: Call) -> None:
        """Raises the error that ends a call early, if any."""
        self._status.check_alive()
        if call.cancelled:
            raise LockCancelledError(self._status.names.key, self._status.names.node_id)

    def ask(self, call: Call) -> None:
        """Queues a call for a turn, which it may get at once."""
        self.calls = (*self.calls, call)
        self.pass_on()

    def give(self, call: Call) -> None:
        """Ends the turn of a call, or its wait for one. A second call does nothing."""
        if call is self.current:
            self.current = None  # first: a signal handler may ask for a turn in the middle of this
        elif call not in self.calls:
            return
        self.calls = tuple([each for each in self.calls if each is not call])
        call.paused = False
        self.pass_on()

    def pause(
        self, call: Call, until: float, ended: Callable[[], bool] = lambda: False
    ) -> Steps[None]:
        """Waits between two turns, until that time or until `ended()`; what ends it wakes the call.
        Raises the error that ends the call early."""
        call.paused = True
        woken = call.woken = call.woken or self._status.env.event()
        woken.clear()
        self.calls = (*self.calls, call)
        try:
            while (now := (yield NOW)) < until and not ended():
                self.check(call)
                yield Park(until, woken)
                woken.clear()
            call.parked(now)
        finally:
            self.give(call)

    def pass_on(self) -> None:
        """If no call has the turn, gives it to the first that can have it."""
        if self.current or not self.calls:
            return
        # A signal handler may call in the middle of a call that waits on the same thread.
        innermost = {call.owner: call for call in self.calls}
        for call in self.calls:
            can = call.kind is not Kind.WAIT or self._status.free
            if can and not call.paused and innermost[call.owner] is call:
                call.wake()
                self.current = call
                return

    def wake(self) -> None:
        """Wakes all calls."""
        for call in self.calls:
            call.wake()

    def cancel(self) -> None:
        """Ends the waits for the lock."""
        for call in self.calls:
            call.cancelled |= call.stop is not None
        self.wake()
