"""Whether another try is of use, and what to tell when none is: the decisions of one call."""

from __future__ import annotations

from microlock.errors import (
    StoreAuthenticationError,
    StoreError,
    StoreTimeoutError,
    StoreTlsError,
    StoreUnavailableError,
    WrongServerError,
)


class Trial:
    """What one call has met so far.

    Attributes:
        doubt: an attempt had no answer, and may be applied yet.
    """

    def __init__(self, members: int) -> None:
        self.doubt = False
        self._members = members
        self._failed: dict[str, StoreError] = {}  # the last failure at each member's address
        self._last: StoreError | None = None
        self._logins = 0
        self._log_in_again = False

    @property
    def round_over(self) -> bool:
        """Every member has failed once, so the next try is to wait a little."""
        return len(self._failed) >= self._members

    def failed(self, address: str, error: StoreError, *, login_again: bool) -> bool:
        """Notes a failure. Returns whether another member may do better.

        `login_again`: it was the token that was refused, and another can be had.
        """
        self._last = error
        self.doubt |= error.may_have_happened
        # Tokens expire; but a new one that is refused is no good.
        self._log_in_again = login_again and self._logins == 0
        self._logins += login_again
        elsewhere = isinstance(error, StoreUnavailableError | StoreTlsError | WrongServerError)
        if elsewhere:
            self._failed[address] = error
        return elsewhere

    def worth_another_try(self, *, ever_answered: bool) -> bool:
        """Whether the last failure is one to try again after."""
        if isinstance(self._last, StoreAuthenticationError):
            return self._log_in_again
        if self._last not in self._failed.values():
            return False
        if not self.round_over or self.doubt:
            return True
        # Whom every member turns away, and none ever answered, has a wrong address rather than
        # bad luck.
        slow = any(isinstance(each, StoreTimeoutError) for each in self._failed.values())
        return (ever_answered or slow) and any(map(_passing, self._failed.values()))

    def verdict(self) -> StoreError:
        """The error to raise: of several members' the one that says most."""
        assert self._last
        verdict = self._last
        if _passing(verdict):
            verdict = next((e for e in self._failed.values() if not _passing(e)), verdict)
        verdict.may_have_happened = self.doubt
        return verdict


def _passing(error: StoreError) -> bool:
    return isinstance(error, StoreUnavailableError)
