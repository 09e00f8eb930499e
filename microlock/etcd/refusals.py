"""Decides what follows when etcd refuses the caller's identity: the same again, a new login, or an
error. Both faces use it."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from typing import Any

from microlock.engine import clock
from microlock.engine.backoff import jitter
from microlock.errors import (
    StoreAuthenticationError,
    StoreError,
    StorePermissionError,
    StoreUnavailableError,
)
from microlock.etcd.login import Identity
from microlock.etcd.translate import Refusal, refusal
from microlock.etcd.wire import Metadata

# After so many new tokens in a row that etcd does not know, another login would not help.
_FRESH = 3


class Then(enum.Enum):
    """What follows a refusal."""

    AGAIN = "the same again"
    ANEW = "again, after a new login"
    FINAL = "the error"


class Refusals:
    """The refusals of one attempt at a request.

    Attributes:
        count: their number, for the pause before the next try; after the first there is no pause.
    """

    def __init__(self) -> None:
        self.count = 0
        self._unknown = 0  # new tokens in a row that etcd did not know

    def then(self, error: StoreAuthenticationError, metadata: Metadata, *, fresh: bool) -> Then:
        """What follows this refusal.

        Args:
            metadata: the metadata that was sent.
            fresh: it comes from a login since the attempt began.
        """
        self.count += 1
        if refusal(error) is Refusal.OLD:  # users or roles have changed: always temporary
            self._unknown = 0
            return Then.ANEW if _has_revision(metadata) else Then.AGAIN
        self._unknown += fresh
        return Then.FINAL if self._unknown >= _FRESH else Then.ANEW


async def attempt(
    identity: Identity,
    timeout: float,
    *,
    send: Callable[[Metadata, float], Awaitable[Any]],
    log_in: Callable[[float], Awaitable[Metadata]],
    pause: Callable[[float], Awaitable[object]],
) -> Any:
    """One attempt at a request, until there is a reply. It awaits only the functions given.

    Args:
        timeout: seconds.
        send: sends the request with this metadata, and waits so many seconds for the reply.
        log_in: logs in within so many seconds, and returns the metadata to send.
        pause: waits so many seconds.

    Raises a StoreError: the final refusal, or a timeout.
    """
    end = clock.now() + timeout
    refusals: Refusals | None = None  # until there is one
    metadata, fresh = identity.known(), False
    while True:
        if metadata is None:
            metadata, fresh = await log_in(timeout), True
            timeout = end - clock.now()
        try:
            return await send(metadata, timeout)
        except StorePermissionError as error:
            if identity.user:
                error.args = (f"{error} (user {identity.user!r})",)
            raise
        except StoreAuthenticationError as error:
            refusals = refusals or Refusals()
            then = refusals.then(error, metadata, fresh=fresh)
            renewable = then is Then.AGAIN or identity.drop(metadata)
            if then is Then.FINAL or not renewable:
                raise
            seconds = jitter(refusals.count - 1) if refusals.count > 1 else 0.0
            timeout = end - clock.now() - seconds
            if timeout <= 0:
                raise too_late(error) from error
        if seconds:
            await pause(seconds)
        before, metadata = metadata, identity.known()
        fresh |= metadata != before


def too_late(error: StoreAuthenticationError) -> StoreError:
    """The error for a refusal that is not final, when there is no time for another try."""
    return StoreUnavailableError(str(error))


def _has_revision(metadata: Metadata) -> bool:
    """Whether the token is a JWT, which contains its revision. A simple token is only a name."""
    return any(name == "token" and value.count(".") == 2 for name, value in metadata)
