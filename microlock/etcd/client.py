"""A client of etcd: every call has a deadline, finds a member that lives, and logs in.

What is passing (a member that is down, an election, a lost reply) is tried again with jitter, at
the next member, until the deadline. What is permanent is raised at once.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

from tenacity import (
    Retrying,
    retry_if_exception,
    retry_if_exception_type,
    wait_random_exponential,
)

from microlock.core.hold import Guard
from microlock.core.port import (
    CreatedAt,
    Delete,
    Get,
    Grant,
    KeepAlive,
    KeepAlives,
    Outcome,
    Put,
    Read,
    Request,
    Revoke,
    Txn,
)
from microlock.core.retry import Trial
from microlock.engine import clock
from microlock.engine.reentrant_event import ReentrantEvent
from microlock.errors import (
    DestroyedError,
    ForkedError,
    InvalidArgumentError,
    LockLostError,
    LossReason,
    StoreAuthenticationError,
    StoreError,
    StorePermissionError,
    StoreTimeoutError,
)
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.calls import attempt
from microlock.etcd.login import Given, Identity
from microlock.etcd.messages import WATCH
from microlock.etcd.wire import HAS_LEADER, Metadata, Stream, Wire

T = TypeVar("T")

# Seconds that an attempt has, if there are so many: enough for a machine that is busy.
_LEAST = 0.3
# Seconds that undoing has at the least, though it may begin late, by a process that result still:
# what is not undone keeps others out for a whole ttl.
_UNDOING = 0.25

backoff = wait_random_exponential(multiplier=0.05, max=0.5)


@dataclass(frozen=True)
class Budget:
    """The time that one call of a user may take, by our clock: until `work` for what it asks for,
    until `end` for undoing what is in doubt then. Once `stop` is set only undoing goes
    on."""

    work: float
    end: float
    stop: ReentrantEvent | None = None

    @classmethod
    def of(cls, seconds: float, stop: ReentrantEvent | None = None) -> Budget:
        end = clock.now() + seconds
        return cls(end - min(1.0, seconds / 4), end, stop)

    def until(self, request: Request) -> float:
        """Undoing has the time that was kept back for it."""
        return self.end if isinstance(request, Revoke) else self.work


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
        self._closed = ReentrantEvent()
        self._pid = os.getpid()
        self._shared: dict[Any, Any] = {}
        self._shared_lock = threading.RLock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(wire.address for wire in self._wires)}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} can't be copied or pickled: connect() in each process")

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
        if self.forked or sys.is_finalizing():
            return  # the threads and the connections are the parent's, or stand still for ever
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
        known: T | None = self._shared.get(kind)  # after close() there is none
        if known is not None and not self.forked:
            return known
        self.check()  # before the lock too: in a child of the process nobody may release it
        with self._shared_lock:
            self.check()
            if kind not in self._shared:
                self._shared[kind] = kind(self)
            made: T = self._shared[kind]
            return made

    def perform(self, request: Request, budget: Budget) -> Any:
        """Does what a flow asks for; the reply is as `microlock.core.port` says."""
        if isinstance(request, Revoke):
            latest = clock.now() + min(_UNDOING, self.timeout)
            budget = replace(budget, end=max(budget.end, latest))
        trial = Trial(len(self._wires))
        try:
            # Most calls need no other, and tenacity costs more than all of it.
            return self._attempt(request, budget, trial)
        except StoreError as error:
            failures = [error]
        return self._try_again(request, budget, trial, failures)

    def _attempt(self, request: Request, budget: Budget, trial: Trial) -> Any:
        self.check()
        if budget.stop and budget.stop.is_set() and not isinstance(request, Revoke):
            raise DestroyedError("destroyed in the middle of a call")
        wire = self._wires[self._current]
        # Each attempt leaves time for others: at the other members, or here again.
        left = min(budget.until(request) - clock.now(), self.timeout)
        timeout = min(left, max(_LEAST, left / (len(self._wires) + 1)))
        metadata: Metadata = ()
        try:
            if timeout <= 0:
                raise StoreTimeoutError("no time was left to ask etcd")
            metadata = self._identity.metadata(wire, timeout)
            return attempt(request, wire, timeout=timeout, metadata=metadata, repeated=trial.doubt)
        except StoreError as error:
            login_again = isinstance(error, StoreAuthenticationError) and self._identity.refused(
                metadata
            )
            if trial.failed(wire.address, error, login_again=login_again):
                self.move_on(wire)
            raise

    def _try_again(
        self, request: Request, budget: Budget, trial: Trial, failures: list[StoreError]
    ) -> Any:
        """`failures`: the one so far; it is taken out, not to be kept by its own traceback."""
        until = budget.until(request)

        def worth_another_try(_: BaseException) -> bool:
            once = isinstance(request, Grant) or (isinstance(request, Txn) and request.once)
            if once and trial.doubt:
                return False
            return trial.worth_another_try(ever_answered=any(w.answered for w in self._wires))

        def again() -> Any:
            if failures:
                raise failures.pop()
            return self._attempt(request, budget, trial)

        try:
            return Retrying(
                retry=retry_if_exception_type(StoreError) & retry_if_exception(worth_another_try),
                wait=lambda state: backoff(state) if trial.round_over else 0.0,
                stop=lambda state: clock.now() + state.upcoming_sleep >= until,
                sleep=self._closed.sleep,
                reraise=True,
            )(again)
        except StoreError as error:
            verdict = trial.verdict()
            if isinstance(request, Read | Get | KeepAlive | KeepAlives):  # as if it had not
                verdict.may_have_happened = False
            if verdict is error:
                raise
            raise verdict from error

    def transaction(
        self,
        guard: Guard,
        *,
        put: Mapping[str, str | bytes] | Mapping[bytes, str | bytes] = MappingProxyType({}),
        delete: Iterable[str | bytes] = (),
    ) -> int:
        """Changes keys of yours if the lock is still held: all of it, or nothing.

        Args:
            guard: what `Microlock.guard()` returned.
            put: values by their keys.
            delete: keys.

        Returns:
            etcd's revision after it.

        Raises:
            LockLostError: the hold of the guard has ended. Nothing was changed.
            StoreError: etcd refused or can't be reached. If `may_have_happened`, it was done, or
                will be as long as the hold stands: it is sent once only.
            DestroyedError, ForkedError: the client can't be used any more, or not here.
            InvalidArgumentError: an argument is wrong.
        """
        if not isinstance(guard, Guard):
            raise InvalidArgumentError(f"guard must be what guard() returns, not {guard!r}")
        if not isinstance(put, Mapping):
            raise InvalidArgumentError(f"put must be values by their keys, not a {_kind(put)}")
        if isinstance(delete, str | bytes) or not isinstance(delete, Iterable):
            raise InvalidArgumentError(f"delete must be a list of keys, not a {_kind(delete)}")
        puts = tuple(Put(_key(key), _bytes("put", value), 0) for key, value in put.items())
        deletes = tuple(Delete(_key(key)) for key in delete)
        txn = Txn((CreatedAt(guard.key, guard.revision),), puts + deletes, once=True)
        outcome: Outcome = self.perform(txn, Budget.of(self.timeout))
        if not outcome.succeeded:
            raise LockLostError(guard.lock, guard.node_id, LossReason.DELETED)
        return outcome.revision

    def open_watch(self) -> tuple[Stream, Wire]:
        """A new stream of watches to a member that answers, and which one that is.

        Raises what a call raises: a stream that fails tells little of why.
        """
        with suppress(StorePermissionError):  # as good an answer as any
            self.perform(Get(b"health"), Budget.of(self.timeout))
        wire = self._wires[self._current]
        metadata = self._identity.metadata(wire, self.timeout) + HAS_LEADER
        return wire.stream(WATCH, pb.WatchResponse, timeout=None, metadata=metadata), wire

    def move_on(self, wire: Wire) -> None:
        """This member failed: the next call goes to the next one."""
        if wire is self._wires[self._current]:
            self._current = (self._current + 1) % len(self._wires)


def _key(key: object) -> bytes:
    encoded = _bytes("a key", key)
    if not encoded:
        raise InvalidArgumentError("a key must not be empty")
    return encoded


def _kind(value: object) -> str:
    """All that an error tells of data."""
    return type(value).__name__


def _bytes(what: str, value: object) -> bytes:
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise InvalidArgumentError(f"{what} cannot be encoded as UTF-8") from error
    if isinstance(value, bytes):
        return value
    raise InvalidArgumentError(f"{what} must be str or bytes, not a {_kind(value)}")
