"""Calls of the main thread, made on another one.

Signals arrive on the main thread alone. One whose handler raises, as Ctrl-C does, may leave a lock
of grpcio's behind for ever: every other thread that uses the channel then hangs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar
from weakref import finalize

from microlock.engine.threads import Daemon

T = TypeVar("T")


class NotBackError(Exception):
    """A call has overrun its time."""


class OffMainThread:
    """Threads that make calls for the main thread; they start when they are needed, and end when
    this is dropped."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[tuple[Callable[[], Any], SimpleQueue[Any]] | None] = SimpleQueue()
        self._idle: SimpleQueue[None] = SimpleQueue()  # one item for each thread without a job
        # Not before: somebody may still call, also of a wire that is closed, and while the
        # interpreter exits.
        finalize(self, self._jobs.put, None).atexit = False

    def run(self, call: Callable[[], T], *, patience: float = 60) -> T:
        """What the call returns or raises; one of the main thread is made on another.

        A call that is not back after `patience` seconds raises NotBackError.
        """
        if threading.get_ident() != threading.main_thread().ident:
            return call()
        return self.aside(call, patience=patience)

    def aside(self, call: Callable[[], T], *, patience: float = 60) -> T:
        """As `run`, on another thread whoever calls. An interrupt ends the wait for it, and not the
        call."""
        try:
            self._idle.get_nowait()
        except Empty:  # none yet; or an interrupted call is still under way
            try:
                Daemon("microlock-calls", _work, self._jobs, self._idle).start()
            except RuntimeError:  # too many threads, or the interpreter exits
                return call()
        outcome: SimpleQueue[tuple[T, None] | tuple[None, BaseException]] = SimpleQueue()
        self._jobs.put((call, outcome))
        try:
            result, error = outcome.get(timeout=patience)
        except Empty:
            raise NotBackError from None
        if error is None:
            return result  # type: ignore[return-value]
        try:
            raise error
        finally:
            del error  # or it would keep itself, by its traceback


def _work(jobs: SimpleQueue[Any], idle: SimpleQueue[None]) -> None:
    while (job := jobs.get()) is not None:
        call, outcome = job
        try:
            answer: tuple[Any, BaseException | None] = (call(), None)
        except BaseException as error:  # noqa: BLE001  it goes on to who waits
            answer = None, error
        idle.put(None)
        outcome.put(answer)
        del job, call, outcome, answer  # or the thread would keep them until the next one comes
    jobs.put(None)  # for the other threads
