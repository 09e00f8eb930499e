"""One call of a user: who makes it, the time that it has, and what it asks of whoever drives it.

A call is a generator. It yields requests of a store (see `core.port`), `NOW` and `Park`.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from microlock.core.hold import Event
from microlock.core.port import Grant, KeepAlive, Revoke
from microlock.core.retry import NOW, Budget
from microlock.errors import MicrolockError

__all__ = ["NOW", "Call", "Kind", "Park", "Steps"]

T = TypeVar("T")
Steps = Generator[Any, Any, T]


@dataclass(frozen=True, slots=True)
class Park:
    """Asks to wait until `on` is set, or it is `until`. No reply."""

    until: float
    on: Event


class Kind(enum.Enum):
    """What a call is about, and so what it waits for."""

    ACT = "the hold: waits for its turn, but not while another call waits in the queue of the lock"
    TRY = "to take the lock if it is free: waits as ACT"
    WAIT = "to wait for the lock: waits for its turn, and until the object holds nothing"
    END = "the end of the object: waits for its turn, whatever it takes"


class Call:
    """One call, from its beginning to its end.

    Args:
        kind: what it is about.
        owner: the thread or task that calls.
        started: when it began.
        timeout: seconds that it may take, the client's.
        wait: for `lock()`: seconds to wait for the lock; None is no end. 0: it does not wait.

    Attributes:
        now: when it looked last; when its turn came.
        until: when a wait gives up; None if it has no end, or there is none.
        stop: raises what ends it early, if anything has; None: nothing does.
        cancelled: it is to end early.
        woken: set when it is to look again; None: it does not wait.
        paused: it has no turn and waits for none, but will.
        requests: how many requests it has made.
        leases: those that it may have left in etcd.
        unsettled: why a lease could not be revoked.
        value: what its entry is to say; None: as before.
    """

    __slots__ = (
        "_began",
        "_budget",
        "_end",
        "_timeout",
        "_turn_asked",
        "cancelled",
        "kind",
        "leases",
        "now",
        "owner",
        "paused",
        "requests",
        "started",
        "stop",
        "unsettled",
        "until",
        "value",
        "woken",
    )

    def __init__(
        self, kind: Kind, owner: object, started: float, timeout: float, *, wait: float | None = 0.0
    ) -> None:
        self.kind = kind
        self.owner = owner
        self.started = self.now = started
        self.stop: Callable[[], None] | None = None
        self.cancelled = self.paused = False
        self.woken: Event | None = None
        self.requests = 0
        self.leases: frozenset[int] = frozenset()
        self.unsettled: str | None = None  # no error, which would keep the call
        self.until: float | None = None
        self.value: bytes | None = None
        self._timeout = timeout
        self._turn_asked = started  # when it began to wait for its turn
        self._began: float | None = started if wait == 0 else None  # None: with its next request
        self._end = math.inf
        self._budget: Budget | None = None
        if wait:
            self._end = started + wait
            # The rest, a tenth but 0.05 to 0.25 s, and no more than half of it, is for undoing.
            self.until = self._end - min(0.25, max(wait / 10, min(0.05, wait / 2)))

    @property
    def turn_until(self) -> float:
        """When it gives up waiting for its turn."""
        if self.kind is Kind.WAIT:
            return math.inf if self.until is None else self.until
        return self._turn_asked + self._timeout

    def wake(self) -> None:
        """Has it look again, if it waits."""
        if self.woken:
            self.woken.set()

    def budget(self, request: object, now: float) -> Budget:
        """The time for its next request."""
        self.requests += 1
        if isinstance(request, Grant):
            self.leases |= {request.lease_id}
        if self.until is not None:
            # The keep-alive of a waiter whose turn comes then may take what is kept back.
            work = self._end if isinstance(request, KeepAlive) else self.until
            return Budget(work, min(self._end, now + self._timeout), self.stop)
        if self._budget is None:
            began = now if self._began is None else self._began
            self._budget = Budget.of(began, self._timeout, self.stop)
        return self._budget

    def tried(self, request: object, error: MicrolockError | None = None) -> None:
        """A request has an answer, or none in time, which is the error; it was not interrupted."""
        if isinstance(request, Revoke):
            self.leases -= {request.lease_id}
            self.unsettled = str(error) if error else self.unsettled

    def parked(self, now: float) -> None:
        """It has waited: what follows has a time of its own, if the wait has no end."""
        self._budget, self._began, self._turn_asked = None, None, now

    def undo(self) -> None:
        """What follows takes back what was done, in a time of its own, and is not stopped."""
        self.until, self.stop, self._budget, self._began = None, None, None, None
