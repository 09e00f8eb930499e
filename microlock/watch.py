"""Watching: one thread and one stream for all the locks of a client, one watch for each key.

The stream is opened with the first watch, resumed from the next revision after a disconnect, and
closed after the last one. A watch that starts, or that finds its past compacted, starts from now
and reads the key once: a watch at a past revision is served late by etcd, and the read tells what
happened before.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Protocol
from weakref import ref

from tenacity import RetryCallState, Retrying, retry_if_exception_type
from tenacity.nap import sleep_using_event

from microlock.errors import (
    DestroyedError,
    EtcdError,
    EtcdPermissionError,
    EtcdTimeoutError,
    EtcdUnavailableError,
    MicrolockError,
)
from microlock.etcd import messages
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.client import Budget, EtcdClient, backoff
from microlock.etcd.wire import Stream, Wire
from microlock.feed import Feed
from microlock.keys import range_end
from microlock.queue import Change
from microlock.requests import Found, Read

log = logging.getLogger("microlock")


class Watching(Protocol):
    """Who is told; on the thread that reads from etcd, so it is to return at once."""

    def on_changes(self, changes: Sequence[Change], *, synthesised: bool) -> None: ...

    def on_watch_error(self, error: MicrolockError) -> None: ...


class _Watch:
    """The watch of one key, for all who listen to it."""

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix
        self.feed = Feed(prefix)
        self.watching: list[ref[Watching]] = []
        self.settled = threading.Event()  # set: it runs, or `error` says why it does not yet
        self.error: MicrolockError | None = None

    def runs(self) -> None:
        self.error = None
        self.settled.set()

    def failed(self, error: MicrolockError) -> None:
        self.error = error
        self.feed.owe()
        for each in self.alive():
            each.on_watch_error(error)
        self.settled.set()

    def tell(self, changes: Sequence[Change], *, synthesised: bool = False) -> None:
        for each in self.alive() if changes else ():
            each.on_changes(changes, synthesised=synthesised)

    def alive(self) -> list[Watching]:
        return [each for each in (reference() for reference in tuple(self.watching)) if each]


class _Session:
    """The watches on one stream, from its opening to its end."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._asked: deque[_Watch] = deque()  # in the order of the replies to come
        self._ids: dict[_Watch, int] = {}
        self._watches: dict[int, _Watch] = {}
        self._last_id = 0

    def create(self, watch: _Watch) -> None:
        # From 1 up: where etcd 3.5.1 forbids a watch, it ends the watch 0 of the stream instead.
        self._last_id += 1
        self._ids[watch] = self._last_id
        self._watches[self._last_id] = watch
        self._asked.append(watch)
        create = pb.WatchCreateRequest(
            key=watch.prefix,
            range_end=range_end(watch.prefix),
            start_revision=watch.feed.next_revision or 0,
            watch_id=self._last_id,
        )
        self.stream.send(pb.WatchRequest(create_request=create))

    def cancel(self, watch: _Watch) -> None:
        watch_id = self._ids.pop(watch, None)
        if watch_id is not None:
            del self._watches[watch_id]
            cancel = pb.WatchCancelRequest(watch_id=watch_id)
            self.stream.send(pb.WatchRequest(cancel_request=cancel))

    def of(self, reply: pb.WatchResponse) -> _Watch | None:
        """Whose reply it is. One to a forbidden watch does not always carry its id."""
        return self._asked.popleft() if reply.created else self._watches.get(reply.watch_id)


class _StaleLoginError(EtcdError):
    """The stream was opened with a token that has expired: it is to be opened again."""


class Watcher:
    """The watches of one client."""

    def __init__(self, client: EtcdClient) -> None:
        self._client = client
        self._closed = threading.Event()
        self._abandoned: SimpleQueue[bytes] = SimpleQueue()
        self._lock = threading.Lock()
        # Under the lock:
        self._watches: dict[bytes, _Watch] = {}
        self._thread: threading.Thread | None = None  # None  =>  there are no watches
        self._session: _Session | None = None
        # Of the thread alone:
        self._worked = False  # since the last failure
        self._told: type[MicrolockError] | None = None  # the failure that all have been told of

    def watch(self, prefix: bytes, watching: Watching) -> None:
        """Tells `watching`, which is held weakly, of every change from when this returns.

        While etcd can't be reached it returns when a first attempt has failed, after the client's
        timeout at the latest, and what changed is told when etcd is back.

        Raises:
            EtcdError: etcd refuses: no permission, no TLS, not etcd. Nothing is watched then.
        """
        self._client.check()
        with self._lock:
            watch = self._watches.get(prefix)
            if watch is None:
                watch = self._watches[prefix] = _Watch(prefix)
                if self._session:
                    self._session.create(watch)
            if all(each is not watching for each in watch.alive()):
                watch.watching.append(ref(watching, lambda _: self._abandon(prefix)))
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="microlock-watch", daemon=True)
                thread.start()
                self._thread = thread
        if not watch.settled.wait(self._client.timeout):
            watch.feed.owe()
            watching.on_watch_error(
                EtcdTimeoutError(f"{self._client!r} did not answer: watching begins when it does")
            )
        if watch.error and not isinstance(watch.error, EtcdUnavailableError):
            raise watch.error

    def unwatch(self, prefix: bytes, watching: Watching) -> None:
        """Tells it nothing more."""
        with self._lock:
            if watch := self._watches.get(prefix):
                self._keep(watch, [each for each in watch.alive() if each is not watching])

    def close(self) -> None:
        self._closed.set()
        with self._lock:
            thread, session, watches = self._thread, self._session, list(self._watches.values())
        for watch in watches:
            watch.error = DestroyedError(f"{self._client!r} was closed")
            watch.settled.set()
        if session:
            session.stream.close()
        if thread and thread is not threading.current_thread():
            thread.join(timeout=1)

    def _abandon(self, prefix: bytes) -> None:
        # Called by the garbage collector, wherever it is: it may take no lock. Any reply wakes
        # the thread, which does the rest.
        self._abandoned.put(prefix)
        if session := self._session:
            session.stream.send(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))

    def _keep(self, watch: _Watch, watching: list[Watching]) -> None:
        """Under the lock: these alone go on listening; without any the watch ends."""
        wanted = {id(each) for each in watching}
        watch.watching = [each for each in watch.watching if id(each()) in wanted]
        if not watching:
            self._watches.pop(watch.prefix, None)
            if self._session:
                self._session.cancel(watch)

    def _needed(self) -> bool:
        """Whether there is anything to watch. If not, the thread is to end."""
        with self._lock:
            while not self._abandoned.empty():
                if watch := self._watches.get(self._abandoned.get()):
                    self._keep(watch, watch.alive())
            if self._watches and not self._closed.is_set():
                return True
            self._thread = self._session = None
            return False

    def _run(self) -> None:
        follow = Retrying(
            retry=retry_if_exception_type(EtcdError),
            wait=self._delay,
            sleep=sleep_using_event(self._closed),
        )
        try:
            follow(self._follow)
        except MicrolockError as error:  # the client was closed, here or by its owner
            self._end(error)
        except Exception as error:
            log.exception("watching with %r ended", self._client)
            self._end(MicrolockError(f"watching ended: {error!r}"))

    def _end(self, error: MicrolockError) -> None:
        if self._closed.is_set():
            return
        with self._lock:
            watches = list(self._watches.values())
            self._watches.clear()
            self._thread = self._session = None
        for watch in watches:
            watch.failed(error)

    def _delay(self, state: RetryCallState) -> float:
        if self._worked:
            self._worked, state.attempt_number = False, 1
        return backoff(state)

    def _follow(self) -> None:
        """Watches on one stream until nobody listens. Raises the EtcdError that ended it."""
        if not self._needed():
            return
        wire: Wire | None = None
        session: _Session | None = None
        try:
            stream, wire = self._client.open_watch()
            session = _Session(stream)
            with self._lock:
                self._session = session
                for watch in self._watches.values():
                    session.create(watch)
            while self._needed():
                self._received(session, session.stream.receive())
        except _StaleLoginError:
            raise
        except EtcdError as error:
            self._broke(error)
            if wire:
                self._client.move_on(wire)
            raise
        finally:
            if session:
                with self._lock:
                    if self._session is session:
                        self._session = None
                session.stream.close()

    def _received(self, session: _Session, reply: pb.WatchResponse) -> None:
        with self._lock:
            watch = session.of(reply)
        if watch is None:
            return  # of a watch that nobody listens to any more, or the answer to `_abandon`
        behind = reply.created and reply.header.revision + 1 < (watch.feed.next_revision or 0)
        if reply.canceled and not reply.compact_revision:
            self._refused(watch, reply.cancel_reason)
        elif reply.canceled or behind:  # behind: at a member that lags, or data was put back
            watch.feed.forget()
            with self._lock:
                session.cancel(watch)
                session.create(watch)
        elif reply.created:
            if watch.feed.next_revision is None:
                found = self._read(watch)
                if found is None:
                    return
                watch.tell(watch.feed.rebase(found), synthesised=True)
            watch.runs()
            self._worked, self._told = True, None
        else:
            watch.tell(watch.feed.apply(map(messages.event, reply.events)))

    def _read(self, watch: _Watch) -> Found | None:
        """What there is now. None if the user may not read it, which ends the watch."""
        try:
            found: Found = self._client.perform(Read(watch.prefix), Budget.of(self._client.timeout))
        except EtcdPermissionError as error:
            self._drop(watch, error)
            return None
        return found

    def _refused(self, watch: _Watch, reason: str) -> None:
        # A watch is refused to a user who may not read the key, and to one whose token expired;
        # etcd 3.5.1 gives the same reason for both. The read tells: it logs in again if need be.
        if self._read(watch):
            raise _StaleLoginError(f"etcd ended the watch: {reason}")

    def _drop(self, watch: _Watch, error: EtcdError) -> None:
        with self._lock:
            self._watches.pop(watch.prefix, None)
            if self._session:
                self._session.cancel(watch)
        log.warning("the watch of %r ended: %s", watch.prefix, error)
        watch.failed(error)

    def _broke(self, error: EtcdError) -> None:
        """Tells of a failure of the stream: once, until it works again or fails otherwise."""
        # Refusals and timeouts take turns in one outage.
        kind = EtcdUnavailableError if isinstance(error, EtcdUnavailableError) else type(error)
        news, self._told = kind is not self._told, kind
        if news:
            log.warning("watching is interrupted: %s", error)
        with self._lock:
            watches = list(self._watches.values())
        for watch in watches:
            if not watch.settled.is_set() and not isinstance(error, EtcdUnavailableError):
                self._drop(watch, error)  # it never worked and is not going to
            elif news or not watch.settled.is_set():
                watch.failed(error)
