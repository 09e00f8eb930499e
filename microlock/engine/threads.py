"""The threads of a client.

The system gives a signal to any thread that does not block it, and Python runs its handler on the
main thread, when that comes back from what it waits for. Taken by one of our threads, a SIGTERM
would not wake a main thread in `time.sleep()`. So they block all signals, and so do the threads
that they start in turn, as grpcio's. The handlers' threads don't: they run users' code, whose
child processes would block them too.

Each thread blocks them for itself, before its `start()` returns: a signal that it takes before that
is handled when the caller goes on. To block them in the caller meanwhile, and unblock them
afterwards, would take a main thread that is interrupted in between its signals for ever.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from itertools import count
from queue import SimpleQueue

# What a thread brings upon itself must not be blocked (man 2 sigprocmask).
_OWN = {"SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP"}
_BLOCKED = {each for each in signal.Signals if each.name not in _OWN}


class Daemon(threading.Thread):
    """A thread that blocks all signals, and that the interpreter does not wait for."""

    def __init__(self, name: str, run: Callable[..., object], *args: object) -> None:
        super().__init__(target=run, args=args, name=name, daemon=True)
        # An event that is waited for could be left locked by an interrupt.
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
