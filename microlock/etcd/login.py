"""What every call carries to say who calls."""

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

# Seconds that a login may take, whoever still waits for it: etcd compares passwords slowly, and
# what it gives is of use to the next who asks.
_PATIENCE = 10.0

_NOBODY: Metadata = ()


class Identity(Protocol):
    def known(self) -> Metadata | None:
        """What to send along; None: `log_in` tells. Never blocks."""

    def log_in(self, wire: Wire, timeout: float) -> Metadata:
        """What to send along, as the member at `wire` says within `timeout` seconds. Who asks at
        the same time shares one login. Raises a MicrolockError."""

    def drop(self, metadata: Metadata) -> bool:
        """etcd refused this. Returns whether a login may give another."""


class Given:
    """Metadata that somebody else answers for; none by default."""

    def __init__(self, metadata: Callable[[], Metadata] = tuple) -> None:
        self._metadata = metadata

    def known(self) -> Metadata:
        return self._metadata()

    def log_in(self, wire: Wire, timeout: float) -> Metadata:
        return self._metadata()

    def drop(self, metadata: Metadata) -> bool:
        return False


class Login:
    """A user with a password. The token they give is renewed when etcd no longer takes it, and none
    is sent where etcd does not ask who calls.

    It travels as metadata, so it works without TLS too, where gRPC sends no call credentials.
    """

    def __init__(self, user: str, password: str) -> None:
        self._user = user
        self._password = password
        self._known: Metadata | None = None
        # Of the logins under way, by the address of the member. An interrupt could leave it taken;
        # on another thread than the main one none comes.
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
        if metadata == self._known:  # or another thread has a new one already
            self._known = None
        return True

    def _begin(self, wire: Wire, timeout: float) -> _Outcome:
        """The login that is under way at this member, or a new one, or what has come meanwhile."""
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
        except Exception as error:  # noqa: BLE001  whoever waits learns of it
            outcome.error = StoreUnavailableError(f"the login at {wire.address} failed: {error!r}")
        with self._lock:
            if outcome.metadata is not None:
                self._known = outcome.metadata
            self._under_way.pop(wire.address, None)
        outcome.there.set()

    def _ask(self, wire: Wire, timeout: float) -> Metadata:
        request = pb.AuthenticateRequest(name=self._user, password=self._password)
        try:
            reply = wire.call(
                AUTHENTICATE, request, pb.AuthenticateResponse, timeout=timeout, metadata=()
            )
        except StoreAuthenticationError as error:
            if refusal(error) is Refusal.OFF:  # as etcdctl, which does not say who calls then
                return _NOBODY
            raise
        return (("token", reply.token),)


class _Outcome:
    """Of a login: what to send along, or an error, once it is there."""

    def __init__(self) -> None:
        self.there = ReentrantEvent()
        self.metadata: Metadata | None = None
        self.error: MicrolockError | None = None
