"""Reads the watch stream: one thread and one stream for all watches of a client.

The thread starts with the first watch, and ends a little after the last one. It passes what it
reads to `microlock.core.watchstream`, and performs the commands that this returns.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty
from typing import Any

from microlock.core.port import Found, Get, Read, ReadAll, WatchReply
from microlock.core.queue import Holder, Standing
from microlock.core.retry import Budget
from microlock.core.watchstream import (
    Cancel,
    Command,
    Create,
    Log,
    Query,
    Reopen,
    Subscriber,
    Tell,
    TellFailed,
    WatchStream,
)
from microlock.engine.client import Client, Watching
from microlock.engine.reentrant_event import ReentrantEvent
from microlock.engine.threads import Daemon
from microlock.errors import (
    DestroyedError,
    MicrolockError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)

# The thread and its stream stay so many seconds without a watch: another wait may begin soon.
_LINGER = 2.0
# The minimum time for a member to create a watch, in seconds.
_PATIENCE = 4.0

log = logging.getLogger("microlock")


@dataclass(frozen=True, slots=True)
class Watched:
    """What a watch knows; for any thread."""

    reader: Reader
    name: bytes

    def look(self, entry: bytes, token: int) -> tuple[Standing, Holder | None]:
        """The standing of the entry that was put at revision `token`, and the lock's holder."""
        with self.reader._lock:
            return self.reader._machine.look(self.name, entry, token)


# Work for the thread: review a name, take a reply of the stream with this mark, or check whether to
# end.
_Item = bytes | tuple[object, WatchReply | MicrolockError] | None


class Reader:
    """The watches of one client."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._clock = client.clock
        self._inbox = self._clock.inbox()  # of `_Item`
        # While it is held, nothing blocks and no subscriber is called: a signal handler or a
        # garbage collection may take it.
        self._lock = threading.RLock()
        # Under the lock:
        self._machine = WatchStream()
        self._settling: list[tuple[bytes, ReentrantEvent]] = []  # those in `settling`
        self._thread: threading.Thread | None = None
        self._stream: Watching | None = None
        self._mark: object = None  # marks its replies; None  <=>  there is no stream
        # Of the thread alone:
        self._open_at = 0.0  # no stream is opened before this time

    # For any thread.

    def watch(self, name: bytes, subscriber: Subscriber, *, known: Found | None = None) -> Watched:
        """Notifies `subscriber` of every change from now on, until `unwatch`. Returns at once.

        A second call does nothing.

        Args:
            name: the prefix of a lock, for all its entries; one entry; or `overview.watch_name`.
            known: the state at some revision. If there is no watch of this name yet, it starts
                there, and nothing is read.

        Raises:
            DestroyedError, ForkedError: the client can't be used any more, or not in this process.
            RuntimeError: no thread can be started. Nothing is watched.
        """
        self._client.check()
        with self._lock:
            self._machine.subscribe(name, subscriber, known)
        self._inbox.put(name)
        try:
            self._start()
        except RuntimeError:  # too many threads, or the interpreter exits
            self.unwatch(name, subscriber)
            raise
        return Watched(self, name)

    def unwatch(self, name: bytes, subscriber: Subscriber) -> None:
        """Ends the notifications, except running ones. Never blocks; a second call does nothing."""
        if self._client.forked:  # a thread of the parent may hold the mutex for ever
            return
        with self._lock:
            known = self._machine.unsubscribe(name, subscriber)
        if known:
            self._inbox.put(name)

    def watching(self, name: bytes, *, besides: Subscriber) -> bool:
        """Whether another subscriber of this client watches it."""
        with self._lock:
            return self._machine.watching(name, besides)

    def error(self, name: bytes) -> MicrolockError | None:
        """Why its watch does not run now; None: it runs, or has not begun."""
        with self._lock:
            return self._machine.error(name)

    def told(self, name: bytes) -> int:
        """The last revision that the subscribers of this name know; 0: none."""
        with self._lock:
            return self._machine.told(name)

    @property
    def names(self) -> list[bytes]:
        """The names that this client watches."""
        with self._lock:
            return self._machine.names

    @contextmanager
    def settling(self, name: bytes) -> Iterator[ReentrantEvent]:
        """Yields an event that is set when the watch runs, or when its first attempt has failed.

        If the block is left earlier, the subscribers are notified of a timeout, and get the state
        as a change when the watch runs.

        Raises at the end of the block:
            StoreError: etcd refuses: no permission, no TLS, not etcd.
            DestroyedError: the client was closed.
        """
        settled = ReentrantEvent()
        waiting = name, settled
        with self._lock:
            self._settling.append(waiting)
            if self._thread is None:
                settled.set()
        try:
            self._inbox.put(name)
            yield settled
            if not settled.is_set():
                late = StoreTimeoutError(
                    f"{self._client!r} did not answer: the watch begins when it does"
                )
                self._feed(self._machine.late, name, late)
        finally:
            with self._lock:
                self._settling.remove(waiting)
            self._clock.leave()
        with self._lock:
            error = self._machine.error(name)
        if error and not isinstance(error, StoreUnavailableError):
            raise error

    def close(self) -> None:
        """Ends the thread and the stream, and notifies all subscribers, on this thread."""
        thread = self._thread
        self._end(DestroyedError(f"{self._client!r} was closed"))
        self._inbox.put(None)
        if thread and thread.ident and thread is not threading.current_thread():
            thread.join(timeout=1)

    def _start(self) -> None:
        with self._lock:
            if self._thread and self._thread.ident:  # otherwise its start was interrupted
                return
            thread = self._thread = Daemon("microlock-watch", self._run)
        # Without the lock: a new thread may collect garbage before it says that it runs.
        try:
            self._clock.start(thread)
        except RuntimeError:
            with self._lock:
                if self._thread is thread:
                    self._thread = None
            raise

    # The thread.

    def _run(self) -> None:
        try:
            self._follow()
        except MicrolockError as error:  # the client was closed, here or by its owner
            self._fail(error)
        except BaseException as error:
            log.exception("the watches of %r ended", self._client)
            self._fail(MicrolockError(f"the watch ended: {error!r}"))

    def _fail(self, error: MicrolockError) -> None:
        with self._lock:
            mine = self._thread is threading.current_thread()
        if mine:
            self._end(error)

    def _follow(self) -> None:
        """Reads until there is nothing to watch. Raises if nothing can be watched any more."""
        self._open_at, asked, patience = 0.0, None, 0.0
        while True:
            now, before = self._clock.now(), asked
            with self._lock:
                if self._thread is not threading.current_thread():  # a second thread was started
                    return
                idle, asked = self._machine.idle, self._machine.asked
            if asked != before:
                # Longer than `settling` waits, which comes first.
                patience = now + max(2 * self._client.timeout, _PATIENCE)
            wait = None
            if idle:
                wait = _LINGER
            elif self._stream is None:
                wait = self._open_at - now
                if wait <= 0:
                    self._open()
                    continue
            elif asked is not None:
                wait = max(0.0, patience - now)
            try:
                item: _Item = self._inbox.get(timeout=wait)
            except Empty:
                if idle:
                    self._rest()
                elif asked is not None:
                    # Pings do not show this: a proxy, or a hanging server, still answers them.
                    slow = StoreTimeoutError(f"{self._client!r} did not create the watch in time")
                    self._feed(self._machine.broke, slow)
                continue
            self._client.check()
            self._take(item)

    def _rest(self) -> None:
        """Ends the stream, and then the thread if there is still nothing to watch."""
        self._feed(self._machine.restart)
        with self._lock:
            if self._machine.idle and self._inbox.empty():
                self._thread = None

    def _end(self, error: MicrolockError) -> None:
        """Nothing is watched any more."""
        with self._lock:
            commands = self._machine.end(error)
            stream = self._detach()
            self._thread = None
        if stream:
            stream.close()
        self._perform(commands)

    def _detach(self) -> Watching | None:
        """From now on the stream's replies are ignored. Returns it, to be closed. Call it under the
        lock."""
        stream, self._stream, self._mark = self._stream, None, None
        return stream

    def _open(self) -> None:
        mark = object()
        try:
            stream = self._client.open_watch(lambda told: self._inbox.put((mark, told)))
        except StoreError as error:
            self._feed(self._machine.broke, error)
            return
        with self._lock:
            if ours := self._thread is threading.current_thread():
                self._mark, self._stream = mark, stream
        if ours:
            self._feed(self._machine.opened)
        else:  # closed meanwhile
            stream.close()

    def _take(self, item: _Item) -> None:
        match item:
            case bytes():
                self._feed(self._machine.review, item)
            case (mark, told) if mark is self._mark:
                if isinstance(told, StoreError):
                    self._feed(self._machine.broke, told)
                elif isinstance(told, MicrolockError):  # another part of the program closed it
                    self._feed(self._machine.restart)
                else:
                    self._feed(self._machine.received, told)

    def _feed(self, act: Callable[..., Iterable[Command]], *args: Any) -> None:
        """Passes something to the machine, and performs its commands."""
        self._perform(self._fed(act, *args))

    def _fed(self, act: Callable[..., Iterable[Command]], *args: Any) -> Iterable[Command]:
        with self._lock:
            return act(*args)

    def _perform(self, commands: Iterable[Command]) -> None:
        """Performs the commands in order. Then wakes those in `settling`, whose subscribers have
        been notified."""
        todo = deque(commands)
        while todo:
            match todo.popleft():
                case Query(name, request):
                    todo += self._fed(self._machine.read, name, self._ask(request))
                case Create(watch_id, name, start):
                    if stream := self._stream:
                        stream.create(watch_id, name, start)
                case Cancel(watch_id):
                    if stream := self._stream:
                        stream.cancel(watch_id)
                case Reopen(attempt, error):
                    self._reopen(attempt, error)
                case Log(text):
                    log.warning(text)
                case Tell() | TellFailed() as tell:
                    self._tell(tell)
        with self._lock:
            settled = [event for name, event in self._settling if self._machine.settled(name)]
        for event in settled:
            event.set()

    def _ask(self, request: Read | Get | ReadAll) -> Found | StoreError:
        try:
            found: Found = self._client.perform(
                request, Budget.of(self._clock.now(), self._client.timeout)
            )
        except StoreError as error:
            return error
        return found

    def _reopen(self, attempt: int, error: StoreError | None) -> None:
        with self._lock:
            stream = self._detach()
        if stream:
            stream.close()
            if error:
                self._client.move_on(stream.member)
        self._open_at = self._clock.now() + self._client.jitter(attempt)

    def _tell(self, tell: Tell | TellFailed) -> None:
        for subscriber in tell.subscribers:
            try:
                tell.deliver(subscriber)
            except BaseException:  # one subscriber must not end the watches of others
                log.exception("%r failed to handle a change", subscriber)
