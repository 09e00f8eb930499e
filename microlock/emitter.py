"""pyee's emitter, with handlers on a thread of their own.

Handlers are called with the `LockEvent` if they accept an argument, and with none if they don't.
One that raises is logged and reported as `error`; it stops nothing.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from pyee import EventEmitter

from microlock import events
from microlock.engine.handlers import Handlers
from microlock.errors import DestroyedError, InvalidArgumentError, MicrolockError
from microlock.etcd.client import EtcdClient
from microlock.events import LockEvent

# Seconds that destroy() waits for the handlers of the events before it.
_PATIENCE = 1.0

_PYEES_OWN = "new_listener"

log = logging.getLogger("microlock")

# What happens to an object and its hold; of the key's events there may be very many.
_LEVELS = {
    events.waiting: logging.DEBUG,
    events.acquired: logging.DEBUG,
    events.released: logging.DEBUG,
    events.failed: logging.DEBUG,
    events.renewed: logging.DEBUG,
    events.suspended: logging.WARNING,
    events.lost: logging.WARNING,
}


class Emitter(EventEmitter):
    """What a lock tells its listeners."""

    def __init__(self, client: EtcdClient, key: str) -> None:
        super().__init__()
        # pyee's own. A signal's handler may come in the middle, and add or remove another.
        self._lock = threading.RLock()  # type: ignore[assignment]
        self._client = client
        self._key = key

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} can't be copied or pickled: make one where it is needed")

    def _listened(self, event: str) -> None:
        """Called when a handler of this event was added; it is removed again if this raises."""

    def _tell(self, name: str, **fields: Any) -> None:
        """Has the handlers called, after those of the events before."""
        level = _LEVELS.get(name, logging.NOTSET)
        logged = level and log.isEnabledFor(level)
        listened = name in self.event_names()
        if not logged and not listened:
            return
        event = LockEvent(name, self._key, **fields)
        if logged:
            why = event.reason.value if event.reason else event.error
            log.log(
                level,
                "%s: lock %r, node %r, token %s%s",
                *(name, event.key, event.node_id, event.token, f": {why}" if why else ""),
            )
        if listened:
            try:
                self._client.one(Handlers).submit(lambda: self._deliver(event))
            except DestroyedError:
                pass  # the client is closed, and its threads with it
            except (
                RuntimeError
            ):  # no thread can be started; what it is told of is done all the same
                log.exception("nobody was told of %r of %r", name, self._key)

    def _deliver(self, event: LockEvent) -> None:
        if self.listeners(event.name):  # pyee raises an `error` that nobody listens to
            self.emit(event.name, event)

    def _tell_no_more(self, patience: float) -> None:
        """Removes the listeners, when they have been told of what happened so far.

        `patience`: seconds to wait for that, if their handlers take long.
        """
        timeout = max(0.0, min(patience, _PATIENCE))
        try:
            self._client.one(Handlers).finish(self.remove_all_listeners, timeout=timeout)
        except DestroyedError:
            self.remove_all_listeners()

    # pyee's two seams: how a handler is added, by any of its methods, and how it is run.

    def _add_event_handler(self, event: str, k: Callable[..., Any], v: Callable[..., Any]) -> None:
        if event == _PYEES_OWN:
            super()._add_event_handler(event, k, v)
            return
        if not isinstance(event, str) or event not in events.ALL:
            names = ", ".join(sorted(events.ALL))
            raise InvalidArgumentError(f"event must be one of {names}, not {event!r}")
        if not callable(k):
            raise InvalidArgumentError(f"a handler of {event!r} must be callable, not {k!r}")
        if inspect.iscoroutinefunction(k):
            raise InvalidArgumentError(f"a handler of {event!r} must not be async: {k!r}")
        if not _accepts(k, None) and not _accepts(k):
            raise InvalidArgumentError(
                f"a handler of {event!r} must take the event or nothing: {k!r}"
            )
        known = k in self.listeners(event)
        if v is not k:
            v.__wrapped__ = k  # type: ignore[attr-defined]  # shows what `once` has wrapped
        super()._add_event_handler(event, k, v)
        try:
            self._listened(event)
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
            f(event) if _accepts(f, event) else f()
        except BaseException as error:  # sys.exit() in a handler must not end the events
            log.exception("a handler of %r of %r failed", event.name, event.key)
            if event.name != events.error and isinstance(error, Exception):
                self._tell(events.error, error=error)


def _accepts(handler: Callable[..., Any], *args: object) -> bool:
    try:
        inspect.signature(handler).bind(*args)
    except TypeError:
        return False
    except ValueError:  # some builtins tell no signature
        return True
    return True
