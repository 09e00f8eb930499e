"""The threads of a client.

The system gives a signal to any thread that does not block it. Python runs the handler on the main
thread, after its current wait. If one of our threads took a SIGTERM, it would not wake a main
thread in `time.sleep()`. So our threads block all signals, and so do the threads that they start,
such as grpcio's. The threads of handlers don't: they run users' code, and its child processes would
block signals too.

Each thread blocks signals for itself, before its `start()` returns; a signal that it takes earlier
is handled when the caller goes on. The caller can't block them meanwhile: if it were interrupted in
between, its main thread would block signals for ever.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from itertools import count
from queue import SimpleQueue

# Signals that a thread causes itself must not be blocked (man 2 sigprocmask).
_OWN = {"SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP"}
_BLOCKED = {each for each in signal.Signals if each.name not in _OWN}


class Daemon(threading.Thread):
    """A daemon thread that blocks all signals."""

    def __init__(self, name: str, run: Callable[..., object], *args: object) -> None:
        super().__init__(target=run, args=args, name=name, daemon=True)
        # Not an Event: an interrupt during the wait could leave that locked.
        self._blocks: SimpleQueue[None] = SimpleQueue()

    def start(self) -> None:
        super().start()
        self._blocks.get()

    def run(self) -> None:
        try:
            if hasattr(signal, "pthread_sigmask"):  # not Windows
                signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
        finally:
            self._blocks.put(None)
        super().run()


_numbers = count()


class _Thread(threading.local):
    def __init__(self) -> None:
        self.number = next(_numbers)


_this = _Thread()


def this_thread() -> int:
    """A number for this thread. Unlike its ident, no later thread gets it again."""
    return _this.number
