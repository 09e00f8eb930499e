"""`lost`: the loss of a hold, as an event."""

from __future__ import annotations

import math

from microlock.core.hold import HoldState
from microlock.core.status import Status
from microlock.engine.clock import Clock
from microlock.engine.reentrant_event import ReentrantEvent


class Loss:
    """What both faces of `lost` share."""

    # Seconds after which a wait looks at the clock. None: the renewals notice the deadline too.
    _nap: float | None = None

    def __init__(self, status: Status, hold: HoldState | None, clock: Clock) -> None:
        self._status = status
        self._hold = hold
        self._clock = clock

    def is_set(self) -> bool:
        """Whether the hold was lost."""
        return self._status.reason(self._hold, self._clock.now()) is not None

    def _ahead(self, end: float | None) -> tuple[ReentrantEvent, float] | None:
        """The event to wait for next, and until when; None: the hold or the time is over."""
        hold, now = self._hold, self._clock.now()
        if hold is None or hold.ended.is_set() or self.is_set() or (end is not None and end <= now):
            return None
        nap = math.inf if self._clock.turned or self._nap is None else self._nap
        until = now + (min(hold.remaining(now), nap) or 0.01)  # 0: it is being given back
        assert isinstance(hold.ended, ReentrantEvent)
        return hold.ended, until if end is None else min(until, end)


class ThreadLoss(Loss):
    """The loss of a hold, as a `threading.Event` that is set at the loss."""

    # Waits in pieces: a wait stands still while the machine is suspended, the deadline does not.
    _nap = 0.5

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the hold ends, at most `timeout` seconds.

        Returns True if the hold was lost, False if it was given back or the time is over. It
        notices the deadline by itself, also without renewal.
        """
        clock = self._clock
        end = None if timeout is None else clock.now() + timeout
        while ahead := self._ahead(end):
            ended, until = ahead
            ended.wait(until - clock.now(), clock)
        clock.leave()
        return self.is_set()
