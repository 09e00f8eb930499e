"""Starting the threads of a client.

The system gives a signal to any thread that does not block it, and Python runs its handler on the
main thread, when that comes back from what it waits for. Taken by one of our threads, a SIGTERM
would not wake a main thread in `time.sleep()`. So they block all signals, and so do the threads
that they start in turn, as grpcio's. The handlers' threads don't: they run users' code, whose
child processes would block them too.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# What a thread brings upon itself must not be blocked (man 2 sigprocmask).
_OWN = {"SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP"}
_BLOCKED = {each for each in signal.Signals if each.name not in _OWN}


def start(thread: threading.Thread) -> None:
    """Starts it with all signals blocked. Raises RuntimeError if no thread can be started."""
    masked(thread.start)


def masked(act: Callable[[], T]) -> T:
    """Does something that starts threads, with all signals blocked; returns its result."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        return act()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
        return act()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
