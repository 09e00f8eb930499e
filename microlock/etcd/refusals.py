"""What follows when etcd refuses who calls: the same again, a new login, or an error. Decided
without asking anybody, for a face that blocks and for one that must not."""

from __future__ import annotations

import enum

from microlock.errors import StoreAuthenticationError, StoreError, StoreUnavailableError
from microlock.etcd.translate import Refusal, refusal
from microlock.etcd.wire import Metadata

# So many new tokens in a row that etcd does not know, and it is no accident any more.
_FRESH = 3


class Then(enum.Enum):
    """What follows a refusal."""

    AGAIN = "the same again"
    ANEW = "again, with what a new login gives"
    FINAL = "the error"


class Refusals:
    """Those of one attempt at a request.

    Attributes:
        count: how many there were, for the pause before the next try: the first needs none.
    """

    def __init__(self) -> None:
        self.count = 0
        self._unknown = 0  # new tokens in a row that etcd did not know

    def then(self, error: StoreAuthenticationError, metadata: Metadata, *, fresh: bool) -> Then:
        """What follows this one.

        Args:
            metadata: what was sent.
            fresh: it is the outcome of a login since the attempt began.
        """
        self.count += 1
        if refusal(error) is Refusal.OLD:  # users or roles have changed: passing, however often
            self._unknown = 0
            return Then.ANEW if _has_revision(metadata) else Then.AGAIN
        self._unknown += fresh
        return Then.FINAL if self._unknown >= _FRESH else Then.ANEW


def too_late(error: StoreAuthenticationError) -> StoreError:
    """In place of a refusal that is not final, when there is no time for another try."""
    return StoreUnavailableError(str(error))


def _has_revision(metadata: Metadata) -> bool:
    """A simple token is a name for what etcd knows; one of JWT says of which revision it is."""
    return any(name == "token" and value.count(".") == 2 for name, value in metadata)
