"""A client of a store: what the locks of one process share, and their calls on the caller's thread.

Which store it is, and how one request gets there, is the matter of a `Store`.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

from microlock.core.hold import Guard
from microlock.core.port import Get, Request, WatchReply
from microlock.core.retry import Attempt, Budget, Members, persist
from microlock.engine.backoff import halfway, jitter
from microlock.engine.clock import REAL, Clock
from microlock.engine.drive import finished
from microlock.engine.reentrant_event import ReentrantEvent
from microlock.engine.transaction import checked, committed
from microlock.errors import (
    DestroyedError,
    ForkedError,
    MicrolockError,
    StorePermissionError,
)

if TYPE_CHECKING:
    from microlock.engine.observers import Observers

T = TypeVar("T")
C = TypeVar("C", bound="Client")


# Takes what a stream of watches tells.
Sink = Callable[[WatchReply | MicrolockError], None]


class Watching(Protocol):
    """A stream of watches. Each call returns at once.

    Attributes:
        member: the address that it comes from.
    """

    @property
    def member(self) -> str: ...

    def create(self, watch_id: int, name: bytes, start: int | None) -> None:
        """Makes a watch of a lock or an entry, from the revision `start` on; None is now."""

    def cancel(self, watch_id: int) -> None: ...

    def close(self) -> None: ...


class Store(Protocol):
    """A store of locks, as one client sees it.

    Attributes:
        members: the addresses that it can be asked at, no two the same.
        answered: whether any of them ever gave an answer.
    """

    @property
    def members(self) -> Sequence[str]: ...

    @property
    def answered(self) -> bool: ...

    def attempt(self, member: str, request: Request, *, timeout: float, repeated: bool) -> Any:
        """Sends the request once; the reply is as `microlock.core.port` says.

        Args:
            member: the address to send it to.
            timeout: seconds.
            repeated: an earlier attempt had no answer, and may be applied yet.

        Raises:
            StoreError: there is no such reply; its text names the member.
        """

    def open_watch(self, member: str, sink: Sink, *, timeout: float) -> Watching:
        """A new stream of watches from a member, which is opened within `timeout` seconds.

        `sink` gets what it tells, as it comes, and at last the error that it ended with.
        """

    def on_loop(self) -> AsyncStore:
        """The same store, for the running loop of asyncio."""

    def close(self) -> None: ...


class AsyncStore(Protocol):
    """A store on one loop of asyncio."""

    def attempt(
        self, member: str, request: Request, *, timeout: float, repeated: bool
    ) -> Awaitable[Any]:
        """As `Store.attempt`. One that is cancelled may have happened."""

    def close(self) -> None: ...


class Client:
    """What locks call a store through, any number of them and from any thread of one process.

    Use it as a context manager, `with` or `async with`, or call `close()` or `aclose()`. After
    `os.fork()` the child needs its own.

    Attributes:
        timeout: seconds that each call of a lock may take.
        store: what it calls.
        closed: set by `close()`.
        clock: what its locks go by.
        observers: who is told of every event of its locks; None: nobody.
        random, jitter: what spreads renewals (a number in [0, 1)), and the pauses between tries
            (seconds after so many).
    """

    def __init__(self, store: Store, *, timeout: float, clock: Clock = REAL) -> None:
        self.timeout = timeout
        self.store = store
        self.clock = clock
        self.observers: Observers | None = None
        # Nothing is left to chance where a test turns the clock.
        self.random: Callable[[], float] = (lambda: 0.5) if clock.turned else random.random
        self.jitter: Callable[[int], float] = halfway if clock.turned else jitter
        self._members = Members(store.members, answered=lambda: store.answered)
        self.closed = ReentrantEvent()
        self._pid = os.getpid()
        self._shared: dict[Any, Any] = {}
        self._shared_lock = threading.RLock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(self._members.addresses)}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} can't be copied or pickled: connect() in each process")

    def __enter__(self: C) -> C:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the background threads and the connections; holds end with their ttl.

        Twice is fine. Later calls raise DestroyedError. So do those under way, or, where it can't
        be told any more what became of them, LockUncertainError.
        """
        if self.forked or sys.is_finalizing():
            self.closed.set()
            return  # the threads and the connections are the parent's, or stand still for ever
        if not self.closed.is_set():
            for each in list(self._shared.values()):
                if hasattr(each, "finish"):  # what needs a client that works still
                    each.finish(self.timeout)
        self.closed.set()
        with self._shared_lock:
            shared = list(self._shared.values())
            self._shared.clear()
        for each in shared:
            each.close()
        self.store.close()

    async def aclose(self) -> None:
        """As `close()`, without blocking the running loop of asyncio."""
        from microlock.engine.awaiting import aside  # asyncio: not for everybody

        await aside("microlock-close", self.close)

    async def __aenter__(self: C) -> C:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    @property
    def forked(self) -> bool:
        """Whether this is a child of the process that made it."""
        return os.getpid() != self._pid

    def check(self) -> None:
        """Raises DestroyedError after `close()`, ForkedError in a child of its process."""
        if os.getpid() != self._pid:
            raise ForkedError(f"{self!r} was made before os.fork(): connect() again in the child")
        if self.closed.is_set():
            raise DestroyedError(f"{self!r} is closed")

    def one(self, kind: Callable[[Client], T]) -> T:
        """The one `kind` of this client, such as its watcher; made when first asked for.

        It is closed with the client.
        """
        known: T | None = self._shared.get(kind)  # after close() there is none
        if known is not None and not self.forked:
            return known
        self.check()  # before the lock too: in a child of the process nobody may release it
        with self._shared_lock:
            self.check()
            if kind not in self._shared:
                self._shared[kind] = kind(self)
            made: T = self._shared[kind]
            return made

    def perform(self, request: Any, budget: Budget, *, patience: float | None = None) -> Any:
        """Does what is asked for: a request of the port, or of the store alone.

        `patience`: seconds that one attempt has, if not the client's timeout.

        Raises:
            StoreError: the time is over, or another try is of no use.
            DestroyedError, ForkedError: the client can't be used any more, or not here.
        """
        patience = self.timeout if patience is None else patience
        return finished(self.persist, request, budget, self._attempt, self._pause, patience)

    async def persist(
        self,
        request: Any,
        budget: Budget,
        attempt: Attempt,
        pause: Callable[[float], Awaitable[object]],
        patience: float,
    ) -> Any:
        """As `perform`, by these: on a thread, or on a loop."""
        try:
            return await persist(
                request,
                self._members,
                budget,
                attempt=attempt,
                pause=pause,
                now=self.clock.now,
                patience=patience,
                jitter=self.jitter,
            )
        except MicrolockError as verdict:
            # It says all that a user needs: what stood on the way to it (the wire's own error, the
            # attempts before) would be pages, and hold what was called.
            verdict.__context__ = None
            raise verdict.with_traceback(None) from None

    async def _attempt(self, member: str, request: Any, *, timeout: float, repeated: bool) -> Any:
        self.check()
        return self.store.attempt(member, request, timeout=timeout, repeated=repeated)

    async def _pause(self, seconds: float) -> None:
        self.closed.wait(seconds, self.clock)

    def transaction(
        self,
        guard: Guard,
        *,
        put: Mapping[str, str | bytes] | Mapping[bytes, str | bytes] = MappingProxyType({}),
        delete: Iterable[str | bytes] = (),
    ) -> int:
        """Changes keys of yours if the lock is still held: all of it, or nothing.

        Args:
            guard: what `Microlock.guard()` returned.
            put: values by their keys.
            delete: keys.

        Returns:
            The store's revision after it.

        Raises:
            LockLostError: the hold of the guard has ended. Nothing was changed.
            StoreError: the store refused or can't be reached. If `may_have_happened`, it was done,
                or will be as long as the hold stands: it is sent once only.
            DestroyedError, ForkedError: the client can't be used any more, or not here.
            InvalidArgumentError: an argument is wrong.
        """
        request = checked(guard, put, delete)
        try:
            revision = self.perform(request, Budget.of(self.clock.now(), self.timeout))
        finally:
            self.clock.leave()
        return committed(guard, revision)

    async def atransaction(
        self,
        guard: Guard,
        *,
        put: Mapping[str, str | bytes] | Mapping[bytes, str | bytes] = MappingProxyType({}),
        delete: Iterable[str | bytes] = (),
    ) -> int:
        """As `transaction()`, without blocking the running loop of asyncio."""
        from microlock.engine.loop_client import Loops  # asyncio: not for everybody

        request = checked(guard, put, delete)
        budget = Budget.of(self.clock.now(), self.timeout)
        return committed(guard, await self.one(Loops).here().perform(request, budget))

    def open_watch(self, sink: Sink) -> Watching:
        """A new stream of watches from a member that answers.

        `sink`: as for `Store.open_watch`.

        Raises what a call raises: a stream that fails tells little of why.
        """
        with suppress(StorePermissionError):  # as good an answer as any
            self.perform(Get(b"health"), Budget.of(self.clock.now(), self.timeout))
        return self.store.open_watch(self._members.current, sink, timeout=self.timeout)

    def move_on(self, member: str) -> None:
        """This member failed: the next call goes to the next one."""
        self._members.move_on(member)
