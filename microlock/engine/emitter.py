"""pyee's emitter, with handlers that run apart from the threads that read from the store.

A handler gets the `LockEvent` if it accepts an argument, and nothing if it does not. If it raises,
that is logged and emitted as `error`; it stops nothing.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, NoReturn, Protocol

from pyee import EventEmitter

from microlock import events
from microlock.errors import InvalidArgumentError, MicrolockError
from microlock.events import LockEvent

_PYEES_OWN = "new_listener"

log = logging.getLogger("microlock")

# The events of an object and its hold. The key's events are not logged: there may be very many.
_LEVELS = {
    events.waiting: logging.DEBUG,
    events.acquired: logging.DEBUG,
    events.released: logging.DEBUG,
    events.failed: logging.DEBUG,
    events.renewed: logging.DEBUG,
    events.suspended: logging.WARNING,
    events.lost: logging.WARNING,
}


class Runner(Protocol):
    """Runs the handlers of one lock, one after the other.

    Attributes:
        awaits: whether handlers may be coroutine functions.
    """

    awaits: bool

    def submit(self, job: Callable[[], Sequence[Coroutine[Any, Any, None]]]) -> None:
        """Runs the job after the earlier ones, and awaits what it returns. Never blocks.

        Raises:
            MicrolockError: the client is closed.
            RuntimeError: no thread can be started, and there is none.
        """


class LockEmitter(EventEmitter):
    """A pyee `EventEmitter` for the events of one lock."""

    _begun: list[tuple[LockEvent, Awaitable[object]]]  # by handlers, in `_deliver`

    def __init__(self, key: str, runner: Runner) -> None:
        super().__init__()
        # Replaces pyee's. A signal handler may interrupt a call, and add or remove a handler.
        self._lock = threading.RLock()  # type: ignore[assignment]
        self._key = key
        self._runner = runner

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} can't be copied or pickled: make a new lock instead")

    def listeners(self, event: str) -> list[Callable[..., Any]]:
        """The handlers of an event."""
        with self._lock:
            return super().listeners(event)

    def remove_listener(self, event: str, f: Callable[..., Any]) -> None:
        """Removes a handler of an event."""
        if event != _PYEES_OWN:
            _check(event)
        super().remove_listener(event, f)

    def event_names(self) -> set[str]:
        """The events that have handlers."""
        with self._lock:
            return super().event_names()

    def _listened(self, name: str) -> bool:
        """Whether an event has handlers."""
        return bool(self._events.get(name))  # pyee may leave an event without one

    def _listens(self, event: str) -> None:
        """Called after a handler of this event was added. If it raises, the handler is removed."""

    def _closed(self) -> None:
        """Called when the client is closed: no more events."""

    def _tell(self, name: str, **fields: Any) -> tuple[Any, ...] | None:
        """Emits an event: its handlers run after those of earlier events. Returns what to log."""
        level = _LEVELS.get(name, logging.NOTSET)
        logged = level and log.isEnabledFor(level)
        listened = self._listened(name)
        if not logged and not listened:
            return None
        event = LockEvent(name, fields.pop("key", self._key), **fields)
        if listened:
            try:
                self._runner.submit(partial(self._deliver, event))
            except MicrolockError:
                pass  # the client is closed, and so are its threads
            except RuntimeError:  # no thread can be started; the event has happened all the same
                log.exception(
                    "no thread can be started: handlers of %r of lock %r miss it", name, self._key
                )
        if not logged:
            return None
        why = event.reason.value if event.reason else event.error
        about = name, event.key, event.node_id, event.token, f": {why}" if why else ""
        return level, "%s: lock %r, node %r, token %s%s", *about

    def _deliver(self, event: LockEvent) -> Sequence[Coroutine[Any, Any, None]]:
        """Calls the handlers. Returns the coroutines of handlers that are coroutine functions."""
        if not self.listeners(event.name):  # pyee raises an `error` without a listener
            return ()
        begun = self._begun = []
        try:
            self.emit(event.name, event)
        except BaseException:  # an interrupt: the coroutines are not awaited
            for _, each in begun:
                getattr(each, "close", bool)()
            raise
        return [self._finish(*each) for each in begun]

    async def _finish(self, event: LockEvent, begun: Awaitable[object]) -> None:
        try:
            await begun
        except (Exception, SystemExit) as error:  # noqa: BLE001  sys.exit() ends no events
            self._failed(event, error)

    def _failed(self, event: LockEvent, error: BaseException) -> None:
        log.error(
            "a handler of the event %r of the lock %r failed", event.name, event.key, exc_info=error
        )
        if event.name != events.error and isinstance(error, Exception):
            self._tell(events.error, error=error)

    # These two methods of pyee add a handler (all others go through it), and run it.

    def _add_event_handler(self, event: str, k: Callable[..., Any], v: Callable[..., Any]) -> None:
        if event == _PYEES_OWN:
            super()._add_event_handler(event, k, v)
            return
        _check(event)
        if not callable(k):
            raise InvalidArgumentError(f"a handler of {event!r} must be callable, not {k!r}")
        if inspect.iscoroutinefunction(k) and not self._runner.awaits:
            raise InvalidArgumentError(f"a handler of {event!r} must not be async, but {k!r} is")
        if not _accepts(k, None) and not _accepts(k):
            raise InvalidArgumentError(
                f"a handler of {event!r} must accept the event or nothing, unlike {k!r}"
            )
        known = k in self.listeners(event)
        if v is not k:
            v.__wrapped__ = k  # type: ignore[attr-defined]  # shows what `once` has wrapped
        super()._add_event_handler(event, k, v)
        try:
            self._listens(event)
        except MicrolockError:
            if not known:
                self.remove_listener(event, k)
            raise

    def _emit_run(
        self, f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if not (args and isinstance(args[0], LockEvent)):  # pyee's own
            super()._emit_run(f, args, kwargs)
            return
        event = args[0]
        try:
            outcome = f(event) if _accepts(f, event) else f()
        except BaseException as error:  # sys.exit() ends no events
            if self._runner.awaits and isinstance(error, KeyboardInterrupt):
                raise  # on a loop, which may be that of the main thread, it is no handler's
            self._failed(event, error)
            return
        if self._runner.awaits and inspect.isawaitable(outcome):
            self._begun.append((event, outcome))


def _check(event: object) -> None:
    if not isinstance(event, str) or event not in events.ALL:
        names = ", ".join(sorted(events.ALL))
        raise InvalidArgumentError(f"event must be one of {names}, not {event!r}")


def _accepts(handler: Callable[..., Any], *args: object) -> bool:
    try:
        inspect.signature(handler).bind(*args)
    except TypeError:
        return False
    except ValueError:  # some builtins tell no signature
        return True
    return True
