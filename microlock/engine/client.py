"""A client of a store: what the locks of a process share, and how they call the store on a thread.

A `Store` knows which store it is, and how to send one request.
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


# Receives the replies of a watch stream.
Sink = Callable[[WatchReply | MicrolockError], None]


class Watching(Protocol):
    """A watch stream. Each call returns at once.

    Attributes:
        member: the address of the member that serves it.
    """

    @property
    def member(self) -> str: ...

    def create(self, watch_id: int, name: bytes, start: int | None) -> None:
        """Creates a watch of a lock or an entry, from revision `start` on; None: from now on."""

    def cancel(self, watch_id: int) -> None: ...

    def close(self) -> None: ...


class Store(Protocol):
    """A store of locks, as one client sees it.

    Attributes:
        members: its addresses, without duplicates.
        answered: whether any member has ever answered.
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
            repeated: an earlier attempt had no answer, and may still be applied.

        Raises:
            StoreError: the request failed; the text names the member.
        """

    def open_watch(self, member: str, sink: Sink, *, timeout: float) -> Watching:
        """Opens a watch stream at a member, within `timeout` seconds.

        `sink` gets each reply as it comes, and at the end the error that ended the stream.
        """

    def on_loop(self) -> AsyncStore:
        """The same store, for the running loop of asyncio."""

    def close(self) -> None: ...


class AsyncStore(Protocol):
    """A store on one loop of asyncio."""

    def attempt(
        self, member: str, request: Request, *, timeout: float, repeated: bool
    ) -> Awaitable[Any]:
        """As `Store.attempt`. A cancelled request may have happened."""

    def close(self) -> None: ...


class Client:
    """A client of a store, for any number of locks, threads and event loops of one process.

    Use it as a context manager, `with` or `async with`, or call `close()` or `aclose()`. After
    `os.fork()` the child process needs its own client.

    Attributes:
        timeout: seconds that each call of a lock may take.
        store: the store that it calls.
        closed: set by `close()`.
        clock: the clock of its locks.
        observers: get every event of its locks; None: there are none.
        random, jitter: random numbers that spread renewals (in [0, 1)), and the pauses between
            tries (in seconds, by the number of tries).
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
        raise TypeError(f"{self!r} can't be copied or pickled: call connect() in each process")

    def __enter__(self: C) -> C:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the background threads and the connections; holds end with their ttl.

        A second call does nothing. Later calls of its locks raise DestroyedError. Running calls
        raise it too, or LockUncertainError if their outcome is unknown.
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
        """Whether this process is a fork of the one that made the client."""
        return os.getpid() != self._pid

    def check(self) -> None:
        """Raises DestroyedError after `close()`, ForkedError in a child process."""
        if os.getpid() != self._pid:
            raise ForkedError(f"{self!r} was made before os.fork(): call connect() in the child")
        if self.closed.is_set():
            raise DestroyedError(f"{self!r} is closed")

    def one(self, kind: Callable[[Client], T]) -> T:
        """This client's only object of `kind`, such as its reader; made at the first call.

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
        """Performs a request: one of `core.port`, or one that this store alone knows.

        `patience`: seconds for one attempt; None: the client's timeout.

        Raises:
            StoreError: the time is over, or another try would not help.
            DestroyedError, ForkedError: the client can't be used any more, or not in this process.
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
        """As `perform`, with the `attempt` and `pause` of a thread, or of a loop."""
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
        """Changes your own keys in one transaction, only if the lock is still held.

        Args:
            guard: what `Microlock.guard()` returned.
            put: the values to put, by key.
            delete: the keys to delete.

        Returns:
            The store's revision after the transaction.

        Raises:
            LockLostError: the hold of the guard has ended. Nothing was changed.
            StoreError: the store refused or can't be reached. With `may_have_happened`, the store
                may have done it, or may still do it while the hold stands; it was sent only once.
            DestroyedError, ForkedError: the client can't be used any more, or not in this process.
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
        """Opens a watch stream at a member that answers.

        `sink`: as for `Store.open_watch`.

        A read comes first, and raises as any call: a stream that fails says little about the cause.
        """
        with suppress(StorePermissionError):  # an answer, too
            self.perform(Get(b"health"), Budget.of(self.clock.now(), self.timeout))
        return self.store.open_watch(self._members.current, sink, timeout=self.timeout)

    def move_on(self, member: str) -> None:
        """This member failed: the next call goes to another one."""
        self._members.move_on(member)
