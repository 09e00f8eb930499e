"""Running users' handlers: in order, on one thread for each client, apart from all that reads from
etcd, so that a handler may take its time and may call any method of a lock."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from weakref import finalize

from microlock.etcd.client import EtcdClient

log = logging.getLogger("microlock")


class Handlers:
    """The thread that runs handlers; it starts with the first one."""

    def __init__(self, client: EtcdClient) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        # For a client that is dropped, not closed.
        finalize(client, self._jobs.put, None).atexit = False

    def submit(self, job: Callable[[], None]) -> None:
        """Runs it after those before it; never blocks."""
        self._jobs.put(job)
        with self._lock:
            if self._thread is None or self._thread.ident is None:  # interrupted in its start
                self._thread = threading.Thread(
                    target=_run, args=(self._jobs,), name="microlock-handlers", daemon=True
                )
                try:
                    self._thread.start()
                except RuntimeError:  # too many threads, or the interpreter exits
                    self._thread = None
                    raise

    def finish(self, job: Callable[[], None], *, timeout: float) -> None:
        """Runs it after those before it, and waits for that, `timeout` seconds at most.

        A handler that calls this does not wait: it is one of those before it.
        """
        thread = self._thread
        if thread is None or not thread.is_alive():
            job()
            return
        done = threading.Event()
        self._jobs.put(job)
        self._jobs.put(done.set)
        if thread is not threading.current_thread():
            done.wait(timeout)

    def close(self) -> None:
        """Runs what was submitted so far, and ends."""
        self._jobs.put(None)


def _run(jobs: SimpleQueue[Callable[[], None] | None]) -> None:
    while (job := jobs.get()) is not None:
        try:
            job()
        except Exception:  # a handler's own are caught where it is called
            log.exception("a job of the handlers' thread failed")
        del job  # or the thread would keep its lock until the next one comes
