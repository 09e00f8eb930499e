"""One call of a user: its owner, its time, and its state.

A call runs as a generator, which yields requests to a store (see `core.port`), `NOW` and `Park`.
The driver answers them.
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
    """A request to wait until `on` is set, or until the time `until`. No reply."""

    until: float
    on: Event


class Kind(enum.Enum):
    """The purpose of a call, which decides what it waits for."""

    ACT = "the hold: waits for its turn, but not while another call waits in the queue of the lock"
    TRY = "to take the lock if it is free: waits as ACT"
    WAIT = "to wait for the lock: waits for its turn, and until the object holds nothing"
    END = "the end of the object: waits for its turn, whatever it takes"


class Call:
    """One call, from its beginning to its end.

    Args:
        kind: the purpose of the call.
        owner: the thread or task that calls.
        started: when it began.
        timeout: seconds that it may take: the timeout of the client.
        wait: for `lock()`: seconds to wait for the lock. None: no limit. 0: it does not wait.

    Attributes:
        now: when its turn came, or when it last checked for it.
        until: when a wait gives up. None: no limit, or no wait.
        stop: raises the error that ends the call early, if any. None: nothing ends it early.
        cancelled: whether it should end early.
        woken: set when it should check again. None: it does not wait.
        paused: it neither has a turn nor waits for one, but will ask for one again.
        requests: the number of its requests.
        leases: the leases that it may have left in etcd.
        unsettled: why a lease could not be revoked.
        value: the new value of its entry. None: no change.
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
            # A tenth of the wait is kept for undoing: 0.05 to 0.25 s, but at most half of the wait.
            self.until = self._end - min(0.25, max(wait / 10, min(0.05, wait / 2)))

    @property
    def turn_until(self) -> float:
        """When the call stops waiting for its turn."""
        if self.kind is Kind.WAIT:
            return math.inf if self.until is None else self.until
        return self._turn_asked + self._timeout

    def wake(self) -> None:
        """Makes it check again, if it waits."""
        if self.woken:
            self.woken.set()

    def budget(self, request: object, now: float) -> Budget:
        """The time for its next request."""
        self.requests += 1
        if isinstance(request, Grant):
            self.leases |= {request.lease_id}
        if self.until is not None:
            # If the turn comes then, the waiter's keep-alive may use the time kept for undoing.
            work = self._end if isinstance(request, KeepAlive) else self.until
            return Budget(work, min(self._end, now + self._timeout), self.stop)
        if self._budget is None:
            began = now if self._began is None else self._began
            self._budget = Budget.of(began, self._timeout, self.stop)
        return self._budget

    def tried(self, request: object, error: MicrolockError | None = None) -> None:
        """A request has ended without an interrupt: with an answer, or with this error."""
        if isinstance(request, Revoke) and error:
            self.unsettled = str(error)
        elif isinstance(request, Revoke):
            self.leases -= {request.lease_id}

    def parked(self, now: float) -> None:
        """A wait is over. If it had no limit, what follows has its own time."""
        self._budget, self._began, self._turn_asked = None, None, now

    def undo(self) -> None:
        """From now on the call undoes what it did, in its own time, and is not ended early."""
        self.until, self.stop, self._budget, self._began = None, None, None, None
