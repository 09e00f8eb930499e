"""The end of a hold, to wait for."""

from __future__ import annotations

import math

from microlock.core.hold import HoldState
from microlock.core.status import Status
from microlock.engine.clock import Clock
from microlock.engine.reentrant_event import ReentrantEvent

_NAP = 0.5


class Loss:
    """What `Microlock.lost` is; in the manner of `threading.Event`."""

    def __init__(self, status: Status, hold: HoldState | None, clock: Clock) -> None:
        self._status = status
        self._hold = hold
        self._clock = clock

    def is_set(self) -> bool:
        """Whether the hold was lost."""
        return self._status.reason(self._hold, self._clock.now()) is not None

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the hold ends, `timeout` seconds at most.

        Returns whether it was lost: False also when it was given back. The deadline counts by
        itself, also when nobody is there to notice it.
        """
        clock, hold = self._clock, self._hold
        end = None if timeout is None else clock.now() + timeout
        while hold and not hold.ended.is_set() and not self.is_set():
            now = clock.now()
            if end is not None and end <= now:
                break
            # Not the whole time: a clock that waits stands still while the machine is suspended,
            # and the deadline does not. 0: it is being given back.
            nap = math.inf if clock.turned else _NAP
            patience = min(hold.remaining(now), nap) or 0.01
            assert isinstance(hold.ended, ReentrantEvent)
            hold.ended.wait(patience if end is None else min(patience, end - now), clock)
        clock.leave()
        return self.is_set()
