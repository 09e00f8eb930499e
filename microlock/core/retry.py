"""Retries of one request to a store, at the next member, within a deadline.

After a passing failure (a member that is down, an election, a lost reply) the request is sent again
with jitter, to the next member, until the deadline. A permanent failure is raised at once.

It is one coroutine for both faces, and awaits only what it is given. On a thread what it awaits
blocks, so it never suspends.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from microlock.core.port import (
    Get,
    Grant,
    KeepAlive,
    KeepAlives,
    Read,
    ReadAll,
    Request,
    Revoke,
    TimeToLive,
)
from microlock.errors import (
    StoreError,
    StoreTimeoutError,
    StoreTlsError,
    StoreUnavailableError,
    WrongServerError,
)

# The minimum seconds of an attempt, if the deadline allows: enough for a busy machine.
_LEAST = 0.3
# The same for a renewal: `etcd grpc-proxy` passes renewals on only every half second.
_RENEWAL = 0.7
# The minimum seconds for undoing, even if it begins late because the process was suspended: what is
# not undone keeps others out for a whole ttl.
_UNDOING = 0.25
_READS = Read | Get | ReadAll | TimeToLive | KeepAlive | KeepAlives
_RENEWS = (KeepAlive, KeepAlives)
# The most addresses that a message names.
_NAMED = 3


class Budget(NamedTuple):  # made for each call, in half the time of a dataclass
    """The time that one call of a user may take.

    Attributes:
        work: the deadline of the call's work, by the monotonic clock.
        end: the deadline for undoing what is then in doubt.
        stop: raises the error that ends the call early, if any. Only undoing goes on then.
    """

    work: float
    end: float
    stop: Callable[[], None] | None = None

    def until(self, request: Request) -> float:
        """The deadline of a request. A revocation undoes, and may use the time kept for that."""
        return self.end if isinstance(request, Revoke) else self.work

    @classmethod
    def of(cls, now: float, seconds: float, stop: Callable[[], None] | None = None) -> Budget:
        """A budget of so many seconds from `now`. The last quarter, at most 1 s, is for undoing.

        `now`: by the monotonic clock.
        """
        end = now + seconds
        return cls(end - (1.0 if seconds >= 4 else seconds / 4), end, stop)


class Members:
    """The members of one store, for all calls of one client.

    Any thread may use it: to note a failure twice does no harm.

    Attributes:
        addresses, count: the addresses of the members, and their number.
        current: the address of the member to ask next.
        trouble: the text of the last failure; None after an answer.
    """

    def __init__(self, addresses: Sequence[str], *, answered: Callable[[], bool]) -> None:
        """`answered`: returns whether any member has ever answered."""
        self.addresses = tuple(addresses)
        self.count = len(self.addresses)
        self.current = addresses[0] if addresses else ""
        self.trouble: str | None = None
        self.answered = answered

    def __str__(self) -> str:
        """The addresses, and the last error."""
        trouble = f"; the last error was: {self.trouble}" if self.trouble else ""
        return _listed(self.addresses) + trouble

    def move_on(self, member: str) -> None:
        """This member failed: the next call goes to the next one."""
        if member == self.current:
            following = self.addresses.index(member) + 1
            self.current = self.addresses[following % self.count]


@dataclass(frozen=True, slots=True)
class Now:
    """A request for the time. Reply: seconds, by the monotonic clock."""


NOW = Now()


class Attempt(Protocol):
    """Sends a request once. Returns the reply, whose type depends on the request."""

    def __call__(
        self, member: str, request: Any, *, timeout: float, repeated: bool
    ) -> Awaitable[Any]:
        """
        Args:
            member: the address of the member to send it to.
            timeout: seconds.
            repeated: an earlier copy got no answer, and may still be applied.
        """


async def persist(
    request: Request,
    members: Members,
    budget: Budget,
    *,
    attempt: Attempt,
    pause: Callable[[float], Awaitable[object]],
    now: Callable[[], float],
    patience: float,
    jitter: Callable[[int], float],
) -> Any:
    """Tries until there is an answer, the time is over, or another try would not help.

    Args:
        pause: waits so many seconds, or less if the client is closed.
        now: returns the time, by the monotonic clock.
        patience: the most seconds that the request may take, whatever the budget.
        jitter: returns the seconds to pause after so many attempts.

    Returns:
        The reply to the request.

    Raises:
        StoreError: the most useful of the members' errors.
        Exception: what `budget.stop` raises.
    """
    at, undoes = now(), isinstance(request, Revoke)
    until = budget.until(request)
    if undoes:
        until = max(until, at + min(_UNDOING, patience))
    least = _RENEWAL if isinstance(request, _RENEWS) else _LEAST
    retries: Retries | None = None  # until an attempt fails
    while True:
        if budget.stop and not undoes:
            budget.stop()
        left = min(until - at, patience)
        if left <= 0:
            break
        member = members.current
        # Each attempt leaves time for attempts at the other members, or at this one again.
        timeout = min(left, max(least, left / (members.count + 1)))
        try:
            reply = await attempt(
                member, request, timeout=timeout, repeated=retries is not None and retries.doubt
            )
        except StoreError as error:
            retries = retries or Retries(members)
            retries.failed(member, error)
        else:
            members.trouble = None
            return reply
        if not retries.worth_another(request):
            break
        seconds = jitter(retries.attempts) if retries.round_over else 0.0
        at = now()
        if at + seconds >= until:
            break
        if seconds:
            await pause(seconds)
            at = now()
    raise (retries or Retries(members)).verdict(request)


class Retries:
    """The state of the retries of one request.

    Attributes:
        attempts: the number of failed attempts.
        doubt: whether one of them got no answer, and may still be applied.
    """

    def __init__(self, members: Members) -> None:
        self.attempts = 0
        self.doubt = False
        self._members = members
        self._failed: dict[str, StoreError] = {}  # the last error of each member
        self._last: StoreError | None = None

    @property
    def round_over(self) -> bool:
        """Whether every member has failed once, so that the next try waits a little."""
        return len(self._failed) >= self._members.count

    def failed(self, member: str, error: StoreError) -> None:
        """Notes a failure, and goes on to another member if that may help."""
        self.attempts += 1
        self.doubt |= error.may_have_happened
        self._last = error
        if _elsewhere(error):
            # A timeout does not replace a permanent error of the same member.
            known = self._failed.get(member, error)
            if _passing(known) or not isinstance(error, StoreTimeoutError):
                self._failed[member] = error
            self._members.trouble = str(error)
            self._members.move_on(member)

    def worth_another(self, request: Request) -> bool:
        """Whether to try again after the last failure."""
        once = isinstance(request, Grant) or getattr(request, "once", False)
        if not _elsewhere(self._last) or (once and self.doubt):
            return False
        if not self.round_over or self.doubt:
            return True
        # If no member has ever answered, and all turn us away, the addresses are probably wrong.
        failures = self._failed.values()
        slow = any(isinstance(each, StoreTimeoutError) for each in failures)
        return (slow or self._members.answered()) and any(map(_passing, failures))

    def verdict(self, request: Request) -> StoreError:
        """The error to raise: the most useful of the members' errors."""
        verdict = self._last
        if verdict is None:
            return StoreTimeoutError(f"no time was left to ask {self._members}")
        if _passing(verdict):
            verdict = next((e for e in self._failed.values() if not _passing(e)), verdict)
        if _elsewhere(verdict):
            others = [each for each, error in self._failed.items() if error is not verdict]
            if others:
                verdict.args = (f"{verdict}; {_listed(others)} failed too",)
        # A read changes nothing, so a read without an answer has not happened.
        verdict.may_have_happened = self.doubt and not isinstance(request, _READS)
        return verdict


def _passing(error: object) -> bool:
    return isinstance(error, StoreUnavailableError)


def _elsewhere(error: object) -> bool:
    """Whether another member may answer."""
    return isinstance(error, StoreUnavailableError | StoreTlsError | WrongServerError)


def _listed(addresses: Sequence[str]) -> str:
    more = len(addresses) - _NAMED
    return ", ".join(addresses[:_NAMED]) + (f" and {more} more" if more > 0 else "")
