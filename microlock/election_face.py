"""The part of the election that both faces share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from weakref import ref

from microlock import events
from microlock.core.admission import LEADER
from microlock.core.queue import Leader
from microlock.errors import StoreAuthenticationError, StorePermissionError, about
from microlock.events import LockEvent
from microlock.face import Face

Put = Callable[[LockEvent | None], object]


class ElectionFace(Face):
    """What both faces of the election share."""

    _admission = LEADER
    _followed: tuple[Following, ...] = ()

    def campaign(self, value: str | bytes | None = None, *, timeout: float | None = None) -> Any:
        """Stands for election: waits until this object leads. It is `lock()` with a value.

        Args:
            value: the value to proclaim: a str, stored as UTF-8, or bytes, at most 1 MiB. None: the
                value that this object proclaimed last, or else the node id.
            timeout: seconds to wait, as for `lock()`. None: no limit.

        Returns:
            The hold, as `lock()` does.

        Raises: as `lock()`.
        """
        raise NotImplementedError

    def proclaim(self, value: str | bytes) -> Any:
        """Proclaims a new value, and renews the hold. The hold keeps its place and its token.

        Args:
            value: as for `campaign()`.

        Returns:
            Seconds left.

        Raises as `extend()`. After a StoreError with `may_have_happened`, the next `renew()`,
        `extend()` or `proclaim()` completes this one first.
        """
        raise NotImplementedError

    def resign(self) -> Any:
        """Stops leading. It is `unlock()`, and raises as that does."""
        raise NotImplementedError

    def leader(self) -> Any:
        """The leader, read from etcd; None if nobody leads. Raises as `holder()`."""
        raise NotImplementedError

    def observe(self) -> Any:
        """Iterates over the leaders from now on: each new leader, and each new value of a leader.

        The current leader is not among them: see `leader()`. If etcd is away for a while, none is
        missed, unless etcd has compacted it meanwhile. The iteration ends with the object or its
        client.

        Raises:
            StorePermissionError, StoreAuthenticationError: etcd refuses to watch the key.
            DestroyedError, ForkedError: the object can't be used any more, or not in this process.
        """
        raise NotImplementedError

    def _follow(self, put: Put) -> Following:
        following = Following(self, put)
        self._followed = (*self._followed, following)
        return following

    def _leave(self, following: Following) -> None:
        self._followed = tuple(each for each in self._followed if each is not following)
        following.end()

    def _closed(self) -> None:
        for each in self._followed:
            each.stop()


class Following:
    """Follows the leaders of an election, for one `observe()`.

    Args:
        put: gets each event, and None at the end; on any thread.
    """

    def __init__(self, election: ElectionFace, put: Put) -> None:
        self._election = ref(election)
        self._put = put
        self._handlers = {events.error: self._failed, events.leader: self._heard}
        for name, handler in self._handlers.items():
            election.on(name, handler)

    def _heard(self, event: LockEvent) -> None:
        self._put(event)

    def _failed(self, event: LockEvent) -> None:
        if isinstance(event.error, StorePermissionError | StoreAuthenticationError):
            self._put(event)

    def stop(self) -> None:
        """Ends the iteration."""
        self._put(None)

    def leaders(self, event: LockEvent) -> Iterator[Leader]:
        """The leader that this event brings, if any. Raises the error that ended the watch."""
        if event.error:
            with about(event.key):
                raise event.error
        if event.token is not None and event.value is not None:
            yield Leader(event.value, event.token)

    def end(self) -> None:
        """Removes the handlers: the iteration has ended."""
        if election := self._election():
            for name, handler in self._handlers.items():
                with suppress(KeyError):  # `remove_all_listeners()` was called
                    election.remove_listener(name, handler)
