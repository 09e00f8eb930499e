"""What every call carries to say who calls."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Protocol

from microlock.engine import clock
from microlock.errors import StoreTimeoutError
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.messages import AUTHENTICATE
from microlock.etcd.off_main_thread import NotBackError, OffMainThread
from microlock.etcd.wire import Metadata, Wire

# Seconds that a login may come back late: it keeps its own time.
_GRACE = 2.0


class Identity(Protocol):
    def known(self) -> Metadata | None:
        """What to send along; None: etcd must be asked."""

    def metadata(self, wire: Wire, timeout: float) -> Metadata:
        """What to send along; may ask the member at `wire`, for `timeout` seconds."""

    def refused(self, metadata: Metadata) -> bool:
        """etcd refused this. Returns whether asking again may give another."""


class Given:
    """Metadata that somebody else answers for; none by default."""

    def __init__(self, metadata: Callable[[], Metadata] = tuple) -> None:
        self._metadata = metadata

    def known(self) -> Metadata | None:
        return self._metadata()

    def metadata(self, wire: Wire, timeout: float) -> Metadata:
        return self._metadata()

    def refused(self, metadata: Metadata) -> bool:
        return False


class Login:
    """A user with a password. The token they give is renewed when etcd no longer takes it.

    It travels as metadata, so it works without TLS too, where gRPC sends no call credentials.
    """

    def __init__(self, user: str, password: str) -> None:
        self._user = user
        self._password = password
        self._token: str | None = None
        self._lock = threading.Lock()  # one login at a time, for all who wait for it
        # An interrupt could leave that lock taken; on another thread than the main one none comes.
        self._off_main_thread = OffMainThread()

    def known(self) -> Metadata | None:
        token = self._token
        return None if token is None else (("token", token),)

    def metadata(self, wire: Wire, timeout: float) -> Metadata:
        token = self._token
        if token is None:
            log_in = partial(self._log_in, wire, timeout)
            try:
                token = self._off_main_thread.run(log_in, patience=timeout + _GRACE)
            except NotBackError:
                raise StoreTimeoutError(f"the login at {wire.address} did not come back") from None
        return (("token", token),)

    def refused(self, metadata: Metadata) -> bool:
        for _, token in metadata:  # none: it was the login that was refused
            if token == self._token:  # or another thread has a new one already
                self._token = None
            return True
        return False

    def _log_in(self, wire: Wire, timeout: float) -> str:
        end = clock.now() + timeout
        if not self._lock.acquire(timeout=timeout):
            raise StoreTimeoutError(
                f"no time was left to log in at {wire.address}: another login is under way"
            )
        try:
            token = self._token
            if token is None:
                request = pb.AuthenticateRequest(name=self._user, password=self._password)
                left = max(end - clock.now(), 0.0)
                reply = wire.call(
                    AUTHENTICATE, request, pb.AuthenticateResponse, timeout=left, metadata=()
                )
                token = self._token = reply.token
            return token
        finally:
            self._lock.release()
