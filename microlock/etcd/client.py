"""A client of etcd: every call has a deadline, finds a member that lives, and logs in.

What is passing (a member that is down, an election, a lost reply) is tried again with jitter, at
the next member, until the deadline. What is permanent is raised at once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from tenacity import (
    Retrying,
    retry_if_exception,
    retry_if_exception_type,
    wait_random_exponential,
)
from tenacity.nap import sleep_using_event

from microlock import clock
from microlock.errors import (
    DestroyedError,
    EtcdAuthenticationError,
    EtcdError,
    EtcdPermissionError,
    EtcdTimeoutError,
    ForkedError,
)
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.calls import attempt
from microlock.etcd.failover import Trial
from microlock.etcd.login import Given, Identity
from microlock.etcd.messages import WATCH
from microlock.etcd.wire import Metadata, Stream, Wire
from microlock.requests import Get, Grant, KeepAlive, Read, Request, Revoke

T = TypeVar("T")

# Without it a stream to a member that is cut off from its leader stays silent for ever.
HAS_LEADER: Metadata = (("hasleader", "true"),)

backoff = wait_random_exponential(multiplier=0.05, max=0.5)


@dataclass(frozen=True)
class Budget:
    """The time that one call of a user may take, by `microlock.clock`: until `work` for what it
    asks for, until `end` for undoing what is in doubt then."""

    work: float
    end: float

    @classmethod
    def of(cls, seconds: float) -> Budget:
        end = clock.now() + seconds
        return cls(end - min(1.0, seconds / 4), end)


class EtcdClient:
    """What `connect()` returns: for any number of locks and threads of one process.

    Use it as a context manager, or call `close()`. After `os.fork()` the child needs its own.

    Attributes:
        timeout: seconds that each call of a lock may take.
    """

    def __init__(
        self, wires: Sequence[Wire], *, timeout: float, identity: Identity | None = None
    ) -> None:
        self.timeout = timeout
        self._wires = wires
        self._current = 0
        self._identity = identity or Given()
        self._closed = threading.Event()
        self._pid = os.getpid()
        self._shared: dict[Any, Any] = {}
        self._shared_lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(wire.address for wire in self._wires)}>"

    def __enter__(self) -> EtcdClient:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the background threads and the connections; holds end with their ttl.

        Twice is fine. Later calls raise DestroyedError. So do those under way, or, where it can't
        be told any more what became of them, LockUncertainError.
        """
        self._closed.set()
        if self.forked:
            return  # the threads and the connections are the parent's
        with self._shared_lock:
            shared = list(self._shared.values())
            self._shared.clear()
        for each in shared:
            each.close()
        for wire in self._wires:
            wire.close()

    @property
    def forked(self) -> bool:
        """Whether this is a child of the process that made it."""
        return os.getpid() != self._pid

    def check(self) -> None:
        """Raises DestroyedError after `close()`, ForkedError in a child of its process."""
        if self.forked:
            raise ForkedError(f"{self!r} was made before os.fork(): connect() again in the child")
        if self._closed.is_set():
            raise DestroyedError(f"{self!r} is closed")

    def one(self, kind: Callable[[EtcdClient], T]) -> T:
        """The one `kind` of this client, such as its watcher; made when first asked for.

        It is closed with the client.
        """
        self.check()
        with self._shared_lock:
            self.check()
            if kind not in self._shared:
                self._shared[kind] = kind(self)
            made: T = self._shared[kind]
            return made

    def perform(self, request: Request, budget: Budget) -> Any:
        """Does what a flow asks for; the reply is as `microlock.requests` says."""
        # Undoing has the time that was kept back for it.
        until = budget.end if isinstance(request, Revoke) else budget.work
        trial = Trial(len(self._wires))

        def once() -> Any:
            self.check()
            wire = self._wires[self._current]
            # Each attempt leaves time for others: at the other members, or here again.
            timeout = (until - clock.now()) / (len(self._wires) + 1)
            metadata: Metadata = ()
            try:
                if timeout <= 0:
                    raise EtcdTimeoutError("no time was left to ask etcd")
                metadata = self._identity.metadata(wire, timeout)
                return attempt(
                    request, wire, timeout=timeout, metadata=metadata, repeated=trial.doubt
                )
            except EtcdError as error:
                login_again = isinstance(error, EtcdAuthenticationError) and self._identity.refused(
                    metadata
                )
                if trial.failed(wire.address, error, login_again=login_again):
                    self.move_on(wire)
                raise

        def worth_another_try(_: BaseException) -> bool:
            if isinstance(request, Grant) and trial.doubt:
                return False
            return trial.worth_another_try(ever_answered=any(w.answered for w in self._wires))

        try:
            return Retrying(
                retry=retry_if_exception_type(EtcdError) & retry_if_exception(worth_another_try),
                wait=lambda state: backoff(state) if trial.round_over else 0.0,
                stop=lambda state: clock.now() + state.upcoming_sleep >= until,
                sleep=sleep_using_event(self._closed),
                reraise=True,
            )(once)
        except EtcdError as error:
            verdict = trial.verdict()
            if isinstance(request, Read | Get | KeepAlive):  # as if it had not
                verdict.may_have_happened = False
            if verdict is error:
                raise
            raise verdict from error

    def open_watch(self) -> tuple[Stream, Wire]:
        """A new stream of watches to a member that answers, and which one that is.

        Raises what a call raises: a stream that fails tells little of why.
        """
        with suppress(EtcdPermissionError):  # as good an answer as any
            self.perform(Get(b"health"), Budget.of(self.timeout))
        wire = self._wires[self._current]
        metadata = self._identity.metadata(wire, self.timeout) + HAS_LEADER
        return wire.stream(WATCH, pb.WatchResponse, timeout=None, metadata=metadata), wire

    def move_on(self, wire: Wire) -> None:
        """This member failed: the next call goes to the next one."""
        if wire is self._wires[self._current]:
            self._current = (self._current + 1) % len(self._wires)
