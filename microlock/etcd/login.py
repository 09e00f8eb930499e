"""The metadata that identifies the caller, and logins to get it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Protocol

from microlock.engine.reentrant_event import ReentrantEvent
from microlock.engine.threads import Daemon
from microlock.errors import (
    MicrolockError,
    StoreAuthenticationError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.messages import AUTHENTICATE
from microlock.etcd.off_main_thread import OffMainThread
from microlock.etcd.translate import Refusal, refusal
from microlock.etcd.wire import Metadata, Wire

# Seconds for a login, even if nobody waits for it any more: etcd compares passwords slowly, and the
# next caller can use the token.
_PATIENCE = 10.0

_NOBODY: Metadata = ()


class Identity(Protocol):
    """
    Attributes:
        user: the name of the user; None: unknown.
    """

    @property
    def user(self) -> str | None: ...

    def known(self) -> Metadata | None:
        """The metadata to send; None: a login is needed. Never blocks."""

    def log_in(self, wire: Wire, timeout: float) -> Metadata:
        """Logs in at a member within `timeout` seconds, and returns the metadata to send. Callers
        at the same time share one login. Raises a MicrolockError."""

    def drop(self, metadata: Metadata) -> bool:
        """etcd refused this metadata. Returns whether a login may give another."""


class Given:
    """Metadata that comes from elsewhere; none by default."""

    user = None

    def __init__(self, metadata: Callable[[], Metadata] = tuple) -> None:
        self._metadata = metadata

    def known(self) -> Metadata:
        return self._metadata()

    def log_in(self, wire: Wire, timeout: float) -> Metadata:
        return self._metadata()

    def drop(self, metadata: Metadata) -> bool:
        return False


class Login:
    """A user with a password. It logs in again when etcd no longer accepts its token, and sends
    none if etcd's authentication is off.

    The token is sent as metadata, so this works without TLS too, where gRPC sends no call
    credentials.
    """

    def __init__(self, user: str, password: str) -> None:
        self.user = user
        self._password = password
        self._known: Metadata | None = None
        # Guards the running logins, by the address of the member. An interrupt could leave it
        # locked, so the main thread, where interrupts come, never takes it.
        self._lock = threading.Lock()
        self._under_way: dict[str, _Outcome] = {}
        self._off_main_thread = OffMainThread()

    def known(self) -> Metadata | None:
        return self._known

    def log_in(self, wire: Wire, timeout: float) -> Metadata:
        outcome = self._off_main_thread.run(partial(self._begin, wire, timeout))
        if not outcome.there.wait(max(0.0, timeout)):
            raise StoreTimeoutError(f"no time was left to log in at {wire.address}")
        if outcome.error:
            raise copy(outcome.error)
        assert outcome.metadata is not None
        return outcome.metadata

    def drop(self, metadata: Metadata) -> bool:
        if metadata == self._known:  # otherwise another thread has a new one already
            self._known = None
        return True

    def _begin(self, wire: Wire, timeout: float) -> _Outcome:
        """The running login at this member, or a new one, or the metadata that came meanwhile."""
        outcome = _Outcome()
        with self._lock:
            if under_way := self._under_way.get(wire.address):
                return under_way
            if self._known is not None:
                outcome.metadata = self._known
                outcome.there.set()
                return outcome
            self._under_way[wire.address] = outcome
        try:
            Daemon("microlock-login", self._run, wire, outcome, _PATIENCE).start()
        except RuntimeError:  # too many threads, or the interpreter exits
            self._run(wire, outcome, timeout)
        return outcome

    def _run(self, wire: Wire, outcome: _Outcome, timeout: float) -> None:
        try:
            outcome.metadata = self._ask(wire, timeout)
        except MicrolockError as error:
            outcome.error = error
        except Exception as error:  # noqa: BLE001  the waiters get it
            outcome.error = StoreUnavailableError(f"the login at {wire.address} failed: {error!r}")
        with self._lock:
            if outcome.metadata is not None:
                self._known = outcome.metadata
            self._under_way.pop(wire.address, None)
        outcome.there.set()

    def _ask(self, wire: Wire, timeout: float) -> Metadata:
        request = pb.AuthenticateRequest(name=self.user, password=self._password)
        try:
            reply = wire.call(
                AUTHENTICATE, request, pb.AuthenticateResponse, timeout=timeout, metadata=()
            )
        except StoreAuthenticationError as error:
            if refusal(error) is Refusal.OFF:  # then send no token, as etcdctl
                return _NOBODY
            raise
        return (("token", reply.token),)


class _Outcome:
    """The outcome of a login: metadata or an error, once `there` is set."""

    def __init__(self) -> None:
        self.there = ReentrantEvent()
        self.metadata: Metadata | None = None
        self.error: MicrolockError | None = None
