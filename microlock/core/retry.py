"""Another try, at the next member, within the time: one call to a store.

What is passing (a member that is down, an election, a lost reply) is tried again with jitter, at
the next member, until the deadline. What is permanent is raised at once.

Written once as a coroutine, which awaits nothing but what it is given: on a thread that blocks, and
the coroutine never suspends.
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

# Seconds that an attempt has, if there are so many: enough for a machine that is busy.
_LEAST = 0.3
# As much for a renewal: `etcd grpc-proxy` passes them on every half a second.
_RENEWAL = 0.7
# Seconds that undoing has at the least, though it may begin late, by a process that was suspended:
# what is not undone keeps others out for a whole ttl.
_UNDOING = 0.25
_READS = Read | Get | ReadAll | TimeToLive | KeepAlive | KeepAlives
_RENEWS = (KeepAlive, KeepAlives)
# The most addresses that a message has.
_NAMED = 3


class Budget(NamedTuple):  # made for each call, in half the time of a dataclass
    """The time that one call of a user may take.

    Attributes:
        work: when the call must have what it asks for, by the monotonic clock.
        end: when what is in doubt then must be undone.
        stop: raises what ends the call early; only undoing goes on then.
    """

    work: float
    end: float
    stop: Callable[[], None] | None = None

    def until(self, request: Request) -> float:
        """The deadline of a request: undoing has the time that was kept back for it."""
        return self.end if isinstance(request, Revoke) else self.work

    @classmethod
    def of(cls, now: float, seconds: float, stop: Callable[[], None] | None = None) -> Budget:
        """One of so many seconds from now, the last quarter of which, at most 1 s, is for undoing.

        `now`: by the monotonic clock.
        """
        end = now + seconds
        return cls(end - (1.0 if seconds >= 4 else seconds / 4), end, stop)


class Members:
    """The members of one store, for all calls of one client.

    Any thread may use it: to note a failure twice does no harm.

    Attributes:
        addresses, count: where they are, and how many.
        current: the address of the one to ask next.
        trouble: what the last failure said; None after an answer.
    """

    def __init__(self, addresses: Sequence[str], *, answered: Callable[[], bool]) -> None:
        """`answered`: whether any of them ever gave an answer."""
        self.addresses = tuple(addresses)
        self.count = len(self.addresses)
        self.current = addresses[0] if addresses else ""
        self.trouble: str | None = None
        self.answered = answered

    def __str__(self) -> str:
        """All of them, and what is the matter with them."""
        trouble = f"; the last error was: {self.trouble}" if self.trouble else ""
        return _listed(self.addresses) + trouble

    def move_on(self, member: str) -> None:
        """This member failed: the next call goes to the next one."""
        if member == self.current:
            following = self.addresses.index(member) + 1
            self.current = self.addresses[following % self.count]


@dataclass(frozen=True, slots=True)
class Now:
    """Tell the time. Reply: seconds, by the monotonic clock."""


NOW = Now()


class Attempt(Protocol):
    """Sends a request once; returns the reply, as the request says."""

    def __call__(
        self, member: str, request: Any, *, timeout: float, repeated: bool
    ) -> Awaitable[Any]:
        """
        Args:
            member: the address of the member to send it to.
            timeout: seconds.
            repeated: an earlier copy got no answer, and may be applied yet.
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
    """Tries until there is an answer, the time is over, or another try is of no use.

    Args:
        pause: waits so many seconds, or less if the client is closed.
        now: the time, by the monotonic clock.
        patience: seconds that no request may take longer than, whatever the budget.
        jitter: the seconds to pause after so many attempts.

    Returns:
        What the request is answered.

    Raises:
        StoreError: of several members' errors the one that says most.
        Exception: what `budget.stop` raises.
    """
    at, undoes = now(), isinstance(request, Revoke)
    until = budget.until(request)
    if undoes:
        until = max(until, at + min(_UNDOING, patience))
    least = _RENEWAL if isinstance(request, _RENEWS) else _LEAST
    retries: Retries | None = None  # until something fails
    while True:
        if budget.stop and not undoes:
            budget.stop()
        left = min(until - at, patience)
        if left <= 0:
            break
        member = members.current
        # Each attempt leaves time for others: at the other members, or here again.
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
    """The state of the retries: what the attempts of one call have met so far.

    Attributes:
        attempts: how many have failed.
        doubt: one of them had no answer, and may be applied yet.
    """

    def __init__(self, members: Members) -> None:
        self.attempts = 0
        self.doubt = False
        self._members = members
        self._failed: dict[str, StoreError] = {}  # what was last the matter with each member
        self._last: StoreError | None = None

    @property
    def round_over(self) -> bool:
        """Every member has failed once, so the next try is to wait a little."""
        return len(self._failed) >= self._members.count

    def failed(self, member: str, error: StoreError) -> None:
        """Notes a failure; another member may do better."""
        self.attempts += 1
        self.doubt |= error.may_have_happened
        self._last = error
        if _elsewhere(error):
            # That the time was over takes nothing back of what will not pass.
            known = self._failed.get(member, error)
            if _passing(known) or not isinstance(error, StoreTimeoutError):
                self._failed[member] = error
            self._members.trouble = str(error)
            self._members.move_on(member)

    def worth_another(self, request: Request) -> bool:
        """Whether the last failure is one to try again after."""
        once = isinstance(request, Grant) or getattr(request, "once", False)
        if not _elsewhere(self._last) or (once and self.doubt):
            return False
        if not self.round_over or self.doubt:
            return True
        # Whom every member turns away, and none ever answered, has a wrong address rather than
        # bad luck.
        failures = self._failed.values()
        slow = any(isinstance(each, StoreTimeoutError) for each in failures)
        return (slow or self._members.answered()) and any(map(_passing, failures))

    def verdict(self, request: Request) -> StoreError:
        """The error to raise: of several members' the one that says most."""
        verdict = self._last
        if verdict is None:
            return StoreTimeoutError(f"no time was left to ask {self._members}")
        if _passing(verdict):
            verdict = next((e for e in self._failed.values() if not _passing(e)), verdict)
        if _elsewhere(verdict):
            others = [each for each, error in self._failed.items() if error is not verdict]
            if others:
                verdict.args = (f"{verdict}; {_listed(others)} failed too",)
        # Without an answer it is as if a read had not happened.
        verdict.may_have_happened = self.doubt and not isinstance(request, _READS)
        return verdict


def _passing(error: object) -> bool:
    return isinstance(error, StoreUnavailableError)


def _elsewhere(error: object) -> bool:
    """Whether another member may do better."""
    return isinstance(error, StoreUnavailableError | StoreTlsError | WrongServerError)


def _listed(addresses: Sequence[str]) -> str:
    more = len(addresses) - _NAMED
    return ", ".join(addresses[:_NAMED]) + (f" and {more} more" if more > 0 else "")
