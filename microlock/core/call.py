"""One call of a user: who makes it, the time that it has, and what it asks of whoever drives it.

A call is a generator. It yields requests of a store (see `core.port`), `NOW` and `Park`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from microlock.core.hold import Event
from microlock.core.port import KeepAlive, Revoke
from microlock.core.retry import NOW, Budget
from microlock.core.turns import Kind, Ticket
from microlock.errors import MicrolockError

__all__ = ["NOW", "Call", "Park", "Steps"]

T = TypeVar("T")
Steps = Generator[Any, Any, T]


@dataclass(frozen=True, slots=True)
class Park:
    """Asks to wait until `on` is set, or it is `until`. No reply."""

    until: float
    on: Event


class Call:
    """One call, from its beginning to its end.

    Args:
        ticket: its place among the calls on the same object.
        started: when it began.
        timeout: seconds that it may take, the client's.
        wait: for `lock()`: seconds to wait for the lock; None is no end. 0: it does not wait.
        stop: raises what ends it early, if anything has.
        queued: the error for a call that does not wait while another waits in the queue.

    Attributes:
        until: when a wait gives up; None if it has no end, or there is none.
        asked: how many requests it has made.
        revoked: leases that it has asked to be revoked.
    """

    def __init__(
        self,
        ticket: Ticket,
        started: float,
        timeout: float,
        *,
        wait: float | None = 0.0,
        stop: Callable[[], None] | None = None,
        queued: Callable[[], MicrolockError],
    ) -> None:
        self.ticket = ticket
        self.started = started
        self.wait = wait
        self.stop = stop
        self.queued = queued
        self.asked = 0
        self.revoked: set[int] = set()
        self.until: float | None = None
        self._timeout = timeout
        self._turn_began = started
        self._end = math.inf
        self._budget: Budget | None = None
        if wait == 0:
            self._budget = Budget.of(started, timeout, stop)
        elif wait is not None:
            self._end = started + wait
            # The rest is for undoing.
            self.until = self._end - min(0.25, max(wait / 10, min(0.05, wait / 2)))

    @property
    def owner(self) -> object:
        return self.ticket.owner

    @property
    def turn_until(self) -> float:
        """When it gives up waiting for its turn."""
        if self.ticket.kind is Kind.HOLD:
            return math.inf if self.until is None else self.until
        return self._turn_began + self._timeout

    def budget(self, request: object, now: float) -> Budget:
        """The time for its next request."""
        self.asked += 1
        if isinstance(request, Revoke):
            self.revoked.add(request.lease_id)
        if self.until is not None:
            # What is kept back for undoing is also for the one whose turn comes then.
            work = self._end if isinstance(request, KeepAlive) else self.until
            return Budget(work, min(self._end, now + self._timeout), self.stop)
        if self._budget is None:
            self._budget = Budget.of(now, self._timeout, self.stop)
        return self._budget

    def parked(self, now: float) -> None:
        """It has waited: what follows has a time of its own, if the wait has no end."""
        self._budget, self._turn_began = None, now

    def undo(self) -> None:
        """What follows takes back what was done, in a time of its own, and is not stopped."""
        self.until, self.stop, self._budget = None, None, None
