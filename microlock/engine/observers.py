"""Observers of a client: they learn of every event of its locks, apart from all handlers.

A lock's own handlers run one after the other, where its user wants them; a slow one is in the way
of the next. Observers have a thread of the handlers' to themselves, and each event comes with its
time and in the context of what caused it.
"""

from __future__ import annotations

from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from microlock.engine.handlers import PATIENCE, Handlers, Mailbox
from microlock.errors import MicrolockError
from microlock.events import OF_THE_KEY, LockEvent

if TYPE_CHECKING:
    from microlock.engine.client import Client

# So many events wait at most for an observer that hangs; later ones are not told.
_LIMIT = 10_000


class Observer(Protocol):
    """Is told what happens to locks."""

    def observe(self, lock: Any, event: LockEvent, at: float) -> bool:
        """Something happened to a lock, at this time of the client's clock. Returns whether the
        lock is the observer's: then no other one is told."""


class Observers:
    """Those of one client. They are told of all but the events of the key."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._mailbox = Mailbox()
        self.all: tuple[Observer, ...] = ()

    def add(self, observer: Observer) -> None:
        """Tells it of what happens from now on."""
        self.all = (*self.all, observer)
        self._client.observers = self

    def finish(self, timeout: float) -> None:
        """The client is about to close."""
        self.flush()

    def flush(self) -> None:
        """Waits a moment until they know of what has happened so far."""
        with suppress(MicrolockError):  # the client is closed, and has told them
            handlers = self._client.one(Handlers)
            handlers.end(self._mailbox, lambda: None, timeout=PATIENCE)

    def remove(self, observer: Observer) -> None:
        """Tells it nothing more."""
        self.all = tuple(each for each in self.all if each is not observer)
        if not self.all:
            self._client.observers = None

    def tell(self, lock: object, name: str, key: str, **fields: Any) -> None:
        """Never blocks."""
        if name in OF_THE_KEY or len(self._mailbox.jobs or ()) >= _LIMIT:
            return
        event, at = LockEvent(name, key, **fields), self._client.clock.now()
        job = partial(copy_context().run, self._deliver, lock, event, at)
        # The client is closed, or no thread can be started.
        with suppress(MicrolockError, RuntimeError):
            self._client.one(Handlers).submit(self._mailbox, job)

    def _deliver(self, lock: object, event: LockEvent, at: float) -> None:
        any(each.observe(lock, event, at) for each in self.all)

    def close(self) -> None:
        """The client is closed: nothing happens any more."""
        self._client.observers = None
