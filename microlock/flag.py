"""An event that a signal's handler may set while its own thread is about to wait for it.

What a call of a user does may be interrupted by a handler that makes another call, on the same
thread: so every lock that a call takes is reentrant.
"""

from __future__ import annotations

import threading


class Flag:
    """As `threading.Event`, whose lock is not reentrant: a handler that runs in the middle of
    `wait()` and calls `set()`, on the same thread, would wait for itself for ever."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        with self._lock:
            self._set = True
            self._changed.notify_all()

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until it is set, `timeout` seconds at most. Returns whether it is."""
        with self._lock:
            return self._changed.wait_for(lambda: self._set, timeout)

    def sleep(self, seconds: float) -> None:
        """Waits until it is set, or the time is over."""
        self.wait(seconds)
