"""The clock that deadlines are measured by, and the waits for them.

A lease in etcd goes on while this machine is suspended, and so must the clock. On Linux that is
CLOCK_BOOTTIME (man 2 clock_gettime), on macOS CLOCK_MONOTONIC (man 3 clock_gettime); Python's
time.monotonic stands still there. Never the wall clock.

All that the locks of a client decide, and all that they wait for, goes by the clock of their
client. It is this one, unless a test turns one of its own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

if hasattr(time, "CLOCK_BOOTTIME"):
    now = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
elif sys.platform == "darwin":
    now = partial(time.clock_gettime, time.CLOCK_MONOTONIC)
else:
    now = time.monotonic  # type: ignore[assignment]


class Inbox(Protocol):
    """What one thread waits at, and any thread puts something into; as `queue.SimpleQueue`."""

    def put(self, item: Any, block: bool = True) -> None:
        """Never blocks. `block` means nothing: the callback of a weakref gets one more."""

    def get(self, *, timeout: float | None) -> Any:
        """The next item. `timeout`: seconds by the clock that made it; then it raises Empty."""

    def get_nowait(self) -> Any: ...

    def empty(self) -> bool: ...


class Clock(Protocol):
    """What a client's locks go by.

    Attributes:
        turned: it stands still until somebody turns it: a wait by it needs no naps.
    """

    @property
    def turned(self) -> bool: ...

    def now(self) -> float: ...

    def inbox(self) -> Inbox: ...

    def start(self, thread: Thread) -> None:
        """Starts a thread that does what an inbox of this clock asks for. Raises as it does."""

    def leave(self) -> None:
        """This thread, not started by `start`, has done what it waited at an inbox for."""

    def alarm(
        self, at: float, wake: Callable[[], object], loop: AbstractEventLoop
    ) -> Callable[[], object]:
        """Has the loop, whose thread this is, call `wake` at that time. Returns what cancels it."""


class RealClock:
    """The clock of the system: `Clock` with nothing in between."""

    turned = False
    now = staticmethod(now)

    def inbox(self) -> Inbox:
        return SimpleQueue()

    def start(self, thread: Thread) -> None:
        thread.start()

    def leave(self) -> None: ...

    def alarm(
        self, at: float, wake: Callable[[], object], loop: AbstractEventLoop
    ) -> Callable[[], object]:
        return loop.call_later(max(0.0, at - now()), wake).cancel


REAL = RealClock()
