"""What both faces of the election have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from weakref import ref

from microlock import events
from microlock.core.admission import LEADER
from microlock.core.queue import Leader
from microlock.errors import StoreAuthenticationError, StorePermissionError
from microlock.events import LockEvent
from microlock.face import Face

Put = Callable[[LockEvent | None], object]


class ElectionFace(Face):
    """A lock whose holder leads."""

    _admission = LEADER
    _followed: tuple[Following, ...] = ()

    def campaign(self, value: str | bytes | None = None, *, timeout: float | None = None) -> Any:
        """Stands for election: waits until this object leads. It is `lock()`, with a value.

        Args:
            value: what it proclaims: str, as UTF-8, or bytes, at most 1 MiB. None: the node id,
                or what this object has proclaimed last.
            timeout: seconds to wait, as for `lock()`; None: as long as it takes.

        Returns:
            The hold, as of `lock()`.

        Raises: as `lock()`.
        """
        raise NotImplementedError

    def proclaim(self, value: str | bytes) -> Any:
        """Proclaims another value. The place and the token stay, and the whole ttl is put back.

        Args:
            value: as for `campaign()`.

        Returns:
            Seconds left.

        Raises as `extend()`. After a StoreError that `may_have_happened`, the next `renew()`,
        `extend()` or `proclaim()` finishes what was begun.
        """
        raise NotImplementedError

    def resign(self) -> Any:
        """Gives the lead back. It is `unlock()`, and raises as that does."""
        raise NotImplementedError

    def leader(self) -> Any:
        """Who leads, read from etcd; None if nobody does. Raises as `holder()`."""
        raise NotImplementedError

    def observe(self) -> Any:
        """Iterates over the leaders from now on: each that comes, and each value that it proclaims.

        None is missed while etcd is away, unless etcd has compacted it meanwhile. Who leads already
        is told by `leader()`. It ends with the object or its client.

        Raises:
            StorePermissionError, StoreAuthenticationError: etcd refuses to watch the key.
            DestroyedError, ForkedError: the object can't be used any more, or not here.
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
    """Follows the leaders of an election, for one who iterates over them.

    Args:
        put: is given what happens, and None at the end; on any thread.
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
        """Nothing more happens."""
        self._put(None)

    def leaders(self, event: LockEvent) -> Iterator[Leader]:
        """Who leads from this event on, if anybody does. Raises what has ended the watch."""
        if event.error:
            raise event.error
        if event.token is not None and event.value is not None:
            yield Leader(event.value, event.token)

    def end(self) -> None:
        """Nobody iterates any more."""
        if election := self._election():
            for name, handler in self._handlers.items():
                with suppress(KeyError):  # the object has removed all
                    election.remove_listener(name, handler)
