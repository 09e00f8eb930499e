"""An event that a signal's handler may set while its own thread is about to wait for it.

What a call of a user does may be interrupted by a handler that makes another call, on the same
thread: so every lock that a call takes is reentrant, and here there is none.
"""

from __future__ import annotations

from queue import Empty, SimpleQueue


class Flag:
    """As `threading.Event`, whose lock is not reentrant: a handler that runs in the middle of
    `wait()` and calls `set()`, on the same thread, would wait for itself for ever."""

    def __init__(self) -> None:
        self._set = False
        self._waiting: list[SimpleQueue[None]] = []  # one for each `wait()`

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        for each in tuple(self._waiting):
            each.put(None)

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until it is set, `timeout` seconds at most. Returns whether it is."""
        woken: SimpleQueue[None] = SimpleQueue()
        self._waiting.append(woken)
        try:
            if not self._set:  # whoever sets it after this look wakes us
                woken.get(timeout=None if timeout is None else max(0.0, timeout))
        except Empty:
            pass
        finally:
            self._waiting.remove(woken)
        return self._set

    def sleep(self, seconds: float) -> None:
        """Waits until it is set, or the time is over."""
        self.wait(seconds)
