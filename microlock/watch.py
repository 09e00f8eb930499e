"""Watching: one thread and one stream for all the locks of a client, one watch for each key.

The stream is opened with the first watch, resumed from the next revision after a disconnect, and
closed after the last one. A watch that starts, or that finds its past compacted, starts from now
and reads the key once: a watch at a past revision is served late by etcd, and the read tells what
happened before.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any
from weakref import ref

from tenacity import RetryCallState, Retrying, retry_if_exception_type

from microlock.core.port import Found
from microlock.core.queue import Holder, Standing
from microlock.engine.reentrant_event import ReentrantEvent
from microlock.errors import (
    DestroyedError,
    MicrolockError,
    StoreError,
    StorePermissionError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from microlock.etcd import messages
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.client import Budget, EtcdClient, backoff
from microlock.etcd.wire import Wire
from microlock.session import Session, StaleLoginError, Watch, Watching

log = logging.getLogger("microlock")


class _Reference(ref[Watching]):
    """Who is told, and by which watch. There may be very many."""

    __slots__ = ("name",)
    name: bytes


class Watcher:
    """The watches of one client."""

    def __init__(self, client: EtcdClient) -> None:
        self._client = client
        self._closed = ReentrantEvent()
        self._abandoned: SimpleQueue[bytes] = SimpleQueue()
        self._on_abandoned = self._abandon  # one, and not one for each reference
        self._lock = threading.RLock()
        # Under the lock:
        self._watches: dict[bytes, Watch] = {}
        self._thread: threading.Thread | None = None  # None  =>  there are no watches
        self._session: Session | None = None
        # Of the thread alone:
        self._worked = False  # since the last failure
        self._told: type[MicrolockError] | None = None  # the failure that all have been told of

    def watch(
        self, name: bytes, watching: Watching, *, wait: bool = True, known: Found | None = None
    ) -> None:
        """Tells `watching`, which is held weakly, of every change from when this returns.

        `name`: the prefix of a lock, for all its entries, or one entry. `known`: what was there at
        some revision: it is told what changed since, and nothing is read.

        While etcd can't be reached it returns when a first attempt has failed, after the client's
        timeout at the latest, and what changed is told when etcd is back. Without `wait` it
        returns at once.

        Raises:
            StoreError: etcd refuses: no permission, no TLS, not etcd. Nothing is watched then.
        """
        self._client.check()
        with self._lock:
            watch = self._watches.get(name)
            if watch is None:
                watch = self._watches[name] = Watch(name, paused=True)
            self._add(watch, watching)
            if watch.paused:
                if known:
                    watch.rebase(known)
                if self._session:
                    self._session.create(watch)
                watch.paused = False
            if self._thread is None or self._thread.ident is None:  # interrupted in its start
                self._thread = threading.Thread(
                    target=self._run, name="microlock-watch", daemon=True
                )
                try:
                    self._thread.start()
                except RuntimeError:  # too many threads, or the interpreter exits
                    self._thread = None
                    raise
        if not wait:
            return
        if not watch.settled.wait(self._client.timeout):
            watch.owe()
            watching.on_watch_error(
                StoreTimeoutError(f"{self._client!r} did not answer: watching begins when it does"),
                final=False,
            )
        if watch.error and not isinstance(watch.error, StoreUnavailableError):
            raise watch.error

    def unwatch(self, name: bytes, watching: Watching) -> None:
        """Tells it nothing more."""
        with self._lock:
            watch = self._watches.get(name)
            if watch and watch.watching.pop(id(watching), None) and not watch.watching:
                self._end_watch(watch)

    def pause(self, name: bytes, watching: Watching, *, unless: Callable[[], bool]) -> bool:
        """Tells it nothing until it watches again, if nobody else watches this; but keeps the
        stream open for that.

        Returns whether nothing is told.
        """
        with self._lock:
            watch = self._watches.get(name)
            if unless():
                return False
            if watch and watch.paused:
                self._add(watch, watching)
                return True
            if watch and any(each is not watching for each in watch.alive()):
                return False
            if watch:
                watch.watching.clear()
            paused = Watch(name, paused=True)
            self._add(paused, watching)
            self._watches[name] = paused
            if watch and self._session:
                self._session.cancel(watch)
            return True

    def _add(self, watch: Watch, watching: Watching) -> None:
        known = watch.watching.get(id(watching))
        if known is None or known() is not watching:  # an id is used again
            watch.watching[id(watching)] = reference = _Reference(watching, self._on_abandoned)
            reference.name = watch.name

    def look(self, name: bytes, entry: bytes, token: int) -> tuple[Standing, Holder | None]:
        """Where an entry stands, and who holds the lock, as far as the watch has told."""
        watch = self._watches.get(name)
        return watch.look(entry, token) if watch else (Standing.UNKNOWN, None)

    def close(self) -> None:
        self._closed.set()
        with self._lock:
            thread, session, watches = self._thread, self._session, list(self._watches.values())
        for watch in watches:
            watch.failed(DestroyedError(f"{self._client!r} was closed"), final=True)
        if session:
            session.stream.close()
        if thread and thread.ident and thread is not threading.current_thread():
            thread.join(timeout=1)

    def _abandon(self, reference: Any) -> None:
        # Called by the garbage collector, wherever it is: it may take no lock. Any reply wakes
        # the thread, which does the rest.
        self._abandoned.put(reference.name)
        if session := self._session:
            session.wake()

    def _end_watch(self, watch: Watch) -> None:
        """Under the lock: nobody listens to it any more."""
        if self._watches.get(watch.name) is watch:
            del self._watches[watch.name]
        if self._session and not watch.paused:
            self._session.cancel(watch)
        elif self._session and not self._watches:
            self._session.wake()

    def _needed(self) -> bool:
        """Whether there is anything to watch. If not, the thread is to end."""
        with self._lock:
            while not self._abandoned.empty():
                if watch := self._watches.get(self._abandoned.get()):
                    dead = [each for each, reference in watch.watching.items() if not reference()]
                    for each in dead:
                        del watch.watching[each]
                    if not watch.watching:
                        self._end_watch(watch)
            if self._watches and not self._closed.is_set():
                return True
            self._thread = self._session = None
            return False

    def _run(self) -> None:
        follow = Retrying(
            retry=retry_if_exception_type(StoreError),
            wait=self._delay,
            sleep=self._closed.sleep,
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
            watch.failed(error, final=True)

    def _delay(self, state: RetryCallState) -> float:
        if self._worked:
            self._worked, state.attempt_number = False, 1
        return backoff(state)

    def _follow(self) -> None:
        """Watches until nobody listens. Raises the StoreError that ended it."""
        while self._needed():
            self._follow_stream()

    def _follow_stream(self) -> None:
        wire: Wire | None = None
        session: Session | None = None
        try:
            stream, wire = self._client.open_watch()
            session = Session(stream)
            with self._lock:
                self._session = session
                for watch in self._watches.values():
                    if not watch.paused:
                        session.create(watch)
            while self._needed():
                self._received(session, session.stream.receive())
        except StaleLoginError:
            raise
        except DestroyedError:
            self._client.check()
            if session is None:  # there is no other stream to be had
                raise
        except StoreError as error:
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

    def _received(self, session: Session, reply: pb.WatchResponse) -> None:
        with self._lock:
            watch = session.of(reply)
            if watch is None or self._watches.get(watch.name) is not watch:
                return  # nobody listens to it any more; or the answer to `Session.wake`
        if reply.canceled and not reply.compact_revision:
            self._refused(watch, reply.cancel_reason)
        elif reply.canceled or (
            reply.created and self._put_back(session, watch, reply.header.revision)
        ):
            watch.forget()
            with self._lock:
                session.cancel(watch)
                session.create(watch)
        elif reply.created:
            if watch.next_revision is None:
                found = self._read(watch)
                if found is None:
                    return
                watch.rebase(found)
            watch.runs()
            self._worked, self._told = True, None
        else:
            watch.apply([messages.event(event) for event in reply.events])

    def _put_back(self, session: Session, watch: Watch, revision: int) -> bool:
        """Whether etcd, at this revision, has not what was told already: its data is an older one.

        A member alone may lag, and will tell when it has caught up.
        """
        told = (watch.next_revision or 1) - 1
        if max(revision, session.known) >= told:
            return False
        found = self._read(watch)  # as of now, whichever member is asked
        if found is None:
            return False
        session.known = found.revision
        return found.revision < told

    def _read(self, watch: Watch) -> Found | None:
        """What there is now. None if the user may not read it, which ends the watch."""
        try:
            found: Found = self._client.perform(watch.read, Budget.of(self._client.timeout))
        except StorePermissionError as error:
            self._drop(watch, error)
            return None
        return found

    def _refused(self, watch: Watch, reason: str) -> None:
        # A watch is refused to a user who may not read the key, and to one whose token expired;
        # etcd 3.5.1 gives the same reason for both. The read tells: it logs in again if need be.
        if self._read(watch):
            raise StaleLoginError(f"etcd ended the watch: {reason}")

    def _drop(self, watch: Watch, error: StoreError) -> None:
        with self._lock:
            self._end_watch(watch)
        log.warning("the watch of %r ended: %s", watch.name, error)
        watch.failed(error, final=True)

    def _broke(self, error: StoreError) -> None:
        """Tells of a failure of the stream: once, until it works again or fails otherwise."""
        # Refusals and timeouts take turns in one outage.
        kind = StoreUnavailableError if isinstance(error, StoreUnavailableError) else type(error)
        news, self._told = kind is not self._told, kind
        if news:
            log.warning("watching is interrupted: %s", error)
        with self._lock:
            watches = [watch for watch in self._watches.values() if not watch.paused]
        for watch in watches:
            if not watch.settled.is_set() and not isinstance(error, StoreUnavailableError):
                self._drop(watch, error)  # it never worked and is not going to
            elif news or not watch.settled.is_set():
                watch.failed(error, final=False)
