"""Makes the calls of the main thread on another thread.

Python handles signals on the main thread only. If a handler raises, as at Ctrl-C, a mutex of grpcio
may stay locked for ever, and every other thread that uses the channel hangs.
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
        # Only when this is dropped: calls may still come on a closed wire, and while the
        # interpreter exits.
        finalize(self, self._jobs.put, None).atexit = False

    def run(self, call: Callable[[], T], *, patience: float = 60) -> T:
        """Makes the call, for the main thread on another thread, and returns its result.

        A call that has not returned after `patience` seconds raises NotBackError.
        """
        if threading.get_ident() != threading.main_thread().ident:
            return call()
        return self.aside(call, patience=patience)

    def aside(self, call: Callable[[], T], *, patience: float = 60) -> T:
        """As `run`, on another thread for any caller. An interrupt ends the wait, not the call."""
        try:
            self._idle.get_nowait()
        except Empty:  # there is none yet, or an interrupted call still runs
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
            del error  # or it would keep itself alive, by its traceback


def _work(jobs: SimpleQueue[Any], idle: SimpleQueue[None]) -> None:
    while (job := jobs.get()) is not None:
        call, outcome = job
        try:
            answer: tuple[Any, BaseException | None] = (call(), None)
        except BaseException as error:  # noqa: BLE001  the waiting thread gets it
            answer = None, error
        idle.put(None)
        outcome.put(answer)
        del job, call, outcome, answer  # or the thread would keep them alive until the next job
    jobs.put(None)  # for the other threads
