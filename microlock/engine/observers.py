"""Observers of a client: they get every event of its locks, independently of all handlers.

The handlers of a lock run one after the other, where its user wants them, and a slow one delays the
next. Observers have their own mailbox, and so their own thread. Each event comes with its time, and
in the context of the call that caused it.
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

# The most events that wait for a hanging observer; later ones are dropped.
_LIMIT = 10_000


class Observer(Protocol):
    """Gets the events of locks."""

    def observe(self, lock: Any, event: LockEvent, at: float) -> bool:
        """Takes an event of a lock, at this time of the client's clock. Returns whether the
        observer covers the lock: then no other observer gets the event."""


class Observers:
    """The observers of one client. They get all events but those of the key."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._mailbox = Mailbox()
        self.all: tuple[Observer, ...] = ()

    def add(self, observer: Observer) -> None:
        """It gets events from now on."""
        self.all = (*self.all, observer)
        self._client.observers = self

    def finish(self, timeout: float) -> None:
        """The client is about to close."""
        self.flush()

    def flush(self) -> None:
        """Waits a moment until they have got the events so far."""
        with suppress(MicrolockError):  # the client is closed, and has flushed already
            handlers = self._client.one(Handlers)
            handlers.end(self._mailbox, lambda: None, timeout=PATIENCE)

    def remove(self, observer: Observer) -> None:
        """It gets no more events."""
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
        """The client is closed: there are no more events."""
        self._client.observers = None
