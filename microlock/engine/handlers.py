"""Runs users' handlers: those of one lock in order, those of different locks independently.

They run on their own threads, not on those that read from etcd. So a handler may take long, and may
call any method of a lock. A slow handler delays only those of its own lock.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import Empty
from typing import TYPE_CHECKING

from microlock.engine.clock import REAL

if TYPE_CHECKING:
    from microlock.engine.client import Client

from microlock.engine.client import Client
from microlock.errors import MicrolockError

# When an object ends, it waits so many seconds for the handlers of earlier events.
PATIENCE = 1.0
# A thread without work ends after so many seconds.
_IDLE = 2.0
# The most threads: if more locks than that have slow handlers, others wait.
_LIMIT = 100

log = logging.getLogger("microlock")


class Mailbox:
    """The jobs of one lock, done one after the other."""

    __slots__ = ("jobs", "thread")

    def __init__(self) -> None:
        self.jobs: deque[Callable[[], object]] | None = None  # None: there are none
        self.thread: int | None = None  # the thread that does them

    def add(self, job: Callable[[], object]) -> None:
        if self.jobs is None:
            self.jobs = deque()
        self.jobs.append(job)

    def take(self) -> None:
        """Takes the last job back."""
        assert self.jobs
        self.jobs.pop()


class ThreadRunner(Mailbox):
    """Runs the handlers of one lock on the threads of a client; see `microlock.engine.emitter`."""

    __slots__ = ("_client",)

    awaits = False

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client = client

    @property
    def here(self) -> bool:
        """Whether this thread runs a handler of this lock."""
        return self.thread == threading.get_ident()

    def submit(self, job: Callable[[], object]) -> None:
        self._client.one(Handlers).submit(self, job)

    def end(self, job: Callable[[], object], timeout: float) -> None:
        """Does the job after the earlier ones, and waits for it, at most `timeout` seconds."""
        patience = max(0.0, min(timeout, PATIENCE))
        try:
            self._client.one(Handlers).end(self, job, timeout=patience)
        except MicrolockError:  # the client is closed, or not usable here
            job()


class Handlers:
    """Threads that do the jobs of mailboxes: one for each mailbox with jobs."""

    def __init__(self, client: Client | None = None) -> None:
        self._clock = client.clock if client else REAL
        self._wake = self._clock.inbox()  # one item for each wake-up
        self._lock = threading.RLock()
        # Under the lock:
        self._ready: list[Mailbox] = []  # with jobs, and no thread yet
        self._threads = 0
        self._busy = 0  # threads that do jobs
        self._closed = False

    def submit(self, mailbox: Mailbox, job: Callable[[], object]) -> None:
        """Does the job after the earlier ones of its mailbox; never blocks.

        Raises:
            RuntimeError: no thread can be started, and there is none.
        """
        with self._lock:
            if self._closed and mailbox.thread is None:
                return
            mailbox.add(job)
            if mailbox.thread is None and mailbox not in self._ready:
                self._ready.append(mailbox)
            if self._threads - self._busy < len(self._ready) and self._threads < _LIMIT:
                try:
                    self._start()
                except RuntimeError:  # too many threads, or the interpreter exits
                    if not self._threads:
                        self._ready.remove(mailbox)
                        mailbox.take()
                        raise
            self._wake.put(None)

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="microlock-handlers", daemon=True)
        self._threads += 1
        try:
            self._clock.start(thread)
        except BaseException:
            if not thread.ident:  # otherwise the start was interrupted, but the thread runs
                self._threads -= 1
            raise

    def end(self, mailbox: Mailbox, job: Callable[[], object], *, timeout: float) -> None:
        """Does the job after the earlier ones, and waits for it, at most `timeout` seconds.

        If a handler calls this, it does not wait: it is itself one of the earlier jobs.
        """
        done = threading.Event()
        with self._lock:
            alone = not mailbox.jobs and mailbox.thread is None
            if not alone:
                mailbox.add(job)
                mailbox.add(done.set)
            mine = mailbox.thread == threading.get_ident()
        if alone:
            job()
        elif not mine:
            done.wait(timeout)

    def close(self) -> None:
        """Does the jobs submitted so far, and ends."""
        with self._lock:
            self._closed = True
            for _ in range(self._threads):
                self._wake.put(None)

    def _run(self) -> None:
        while (mailbox := self._next()) is not None:
            while job := self._job(mailbox):
                try:
                    job()
                # A fault of ours, since the errors of handlers are caught earlier: it must not end
                # the thread, which other locks need.
                except Exception:
                    log.exception("a thread of the handlers failed in a job")
                del job  # or the thread would keep its lock alive until the next job
            del mailbox

    def _next(self) -> Mailbox | None:
        """The next mailbox with jobs; None: the thread is to end."""
        while True:
            idle = True
            with suppress(Empty):
                self._wake.get(timeout=_IDLE)
                idle = False
            with self._lock:
                if self._ready:
                    mailbox = self._ready.pop(0)
                    mailbox.thread = threading.get_ident()
                    self._busy += 1
                    return mailbox
                if idle or self._closed:
                    self._threads -= 1
                    return None

    def _job(self, mailbox: Mailbox) -> Callable[[], object] | None:
        with self._lock:
            if mailbox.jobs:
                return mailbox.jobs.popleft()
            mailbox.thread = mailbox.jobs = None
            self._busy -= 1
            return None
