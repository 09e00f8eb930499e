"""The part of the manager that both faces share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

from microlock.core.admission import MUTEX, READER, Admission, semaphore
from microlock.core.keys import (
    Names,
    check_bool,
    check_int,
    check_key,
    check_keys,
    check_node_id,
    check_prefix,
    check_seconds,
    check_ttl,
)
from microlock.core.queue import Holder
from microlock.errors import InvalidArgumentError
from microlock.etcd.lent import client_of
from microlock.face import Face

L = TypeVar("L", bound=Face)
S = TypeVar("S", bound=Face)
R = TypeVar("R", bound=Face)
W = TypeVar("W", bound=Face)
M = TypeVar("M", bound=Face)
E = TypeVar("E", bound=Face)
T = TypeVar("T", bound=Face)

log = logging.getLogger("microlock")


class ManagerFace(Generic[L, S, R, W, M, E]):
    """Makes, lists and breaks locks under a prefix, with defaults for all of them."""

    # The class of each kind:
    _mutex: Callable[..., L]
    _semaphore: Callable[..., S]
    _reader: Callable[..., R]
    _writer: Callable[..., W]
    _several: Callable[..., M]
    _election: Callable[..., E]

    def __init__(
        self,
        etcd: object,
        node_id: str,
        *,
        prefix: str = "",
        ttl: float = 1,
        auto_renew: bool = False,
        retries: int = 0,
        interval: float = 1,
    ) -> None:
        check_node_id(node_id)
        check_ttl(ttl)
        self._client = client_of(etcd)
        self._etcd = etcd  # keeps a lent client alive: ours refers to it weakly
        self._node_id = node_id
        self._prefix = check_prefix(prefix)
        self._ttl = ttl
        self._auto_renew = check_bool("auto_renew", auto_renew)
        self._retries = check_int("retries", retries, 0)
        self._interval = check_seconds("interval", interval)

    __init__.__qualname__ = "LockManager.__init__"  # in the TypeErrors of wrong arguments

    def __repr__(self) -> str:
        return f"<LockManager of {self._node_id!r} under {self._prefix!r}>"

    def create(
        self,
        name: str,
        *,
        ttl: float | None = None,
        auto_renew: bool | None = None,
        max_hold: float | None = None,
        min_hold: float = 0,
        timeout: float | None = None,
    ) -> L:
        """A `Microlock` that is not taken yet, for `with` or for listeners. Nothing is sent.

        The arguments are those of `Microlock`. Raises as `Microlock`; KeyRequiredError if `name` is
        wrong.
        """
        return self._made(
            self._mutex,
            self._names(name).key,
            ttl=ttl,
            auto_renew=auto_renew,
            max_hold=max_hold,
            min_hold=min_hold,
            timeout=timeout,
        )

    def semaphore(
        self,
        name: str,
        limit: int,
        *,
        ttl: float | None = None,
        auto_renew: bool | None = None,
        max_hold: float | None = None,
        min_hold: float = 0,
        timeout: float | None = None,
    ) -> S:
        """As `create()`: a `Semaphore`, which `limit` objects may hold at a time."""
        return self._made(
            self._semaphore,
            self._names(name).key,
            limit,
            ttl=ttl,
            auto_renew=auto_renew,
            max_hold=max_hold,
            min_hold=min_hold,
            timeout=timeout,
        )

    def read(
        self,
        name: str,
        *,
        ttl: float | None = None,
        auto_renew: bool | None = None,
        max_hold: float | None = None,
        min_hold: float = 0,
        timeout: float | None = None,
    ) -> R:
        """As `create()`: a `ReadLock`."""
        return self._made(
            self._reader,
            self._names(name).key,
            ttl=ttl,
            auto_renew=auto_renew,
            max_hold=max_hold,
            min_hold=min_hold,
            timeout=timeout,
        )

    def write(
        self,
        name: str,
        *,
        ttl: float | None = None,
        auto_renew: bool | None = None,
        max_hold: float | None = None,
        min_hold: float = 0,
        timeout: float | None = None,
    ) -> W:
        """As `create()`: a `WriteLock`."""
        return self._made(
            self._writer,
            self._names(name).key,
            ttl=ttl,
            auto_renew=auto_renew,
            max_hold=max_hold,
            min_hold=min_hold,
            timeout=timeout,
        )

    def many(
        self,
        names: Iterable[str],
        *,
        ttl: float | None = None,
        auto_renew: bool | None = None,
        max_hold: float | None = None,
        min_hold: float = 0,
        timeout: float | None = None,
    ) -> M:
        """As `create()`: a `MultiLock` of these names."""
        return self._made(
            self._several,
            [self._names(name).key for name in check_keys(names)],
            ttl=ttl,
            auto_renew=auto_renew,
            max_hold=max_hold,
            min_hold=min_hold,
            timeout=timeout,
        )

    def election(
        self,
        name: str,
        *,
        ttl: float | None = None,
        auto_renew: bool | None = None,
        max_hold: float | None = None,
        min_hold: float = 0,
        timeout: float | None = None,
    ) -> E:
        """As `create()`: an `Election`."""
        return self._made(
            self._election,
            self._names(name).key,
            ttl=ttl,
            auto_renew=auto_renew,
            max_hold=max_hold,
            min_hold=min_hold,
            timeout=timeout,
        )

    def _made(
        self,
        kind: Callable[..., T],
        key: object,
        *more: object,
        ttl: float | None,
        auto_renew: bool | None,
        **options: Any,
    ) -> T:
        return kind(
            self._etcd,
            key,
            self._node_id,
            *more,
            ttl=self._ttl if ttl is None else ttl,
            auto_renew=self._auto_renew if auto_renew is None else auto_renew,
            **options,
        )

    def lock(
        self,
        name: str,
        *,
        ttl: float | None = None,
        auto_renew: bool | None = None,
        max_hold: float | None = None,
        min_hold: float = 0,
        timeout: float | None = 0,
        retries: int | None = None,
        interval: float | None = None,
    ) -> Any:
        """Takes a lock, and returns it: give it back with its `unlock()`.

        For a block use `with manager.create(name):`, or for another kind of lock `semaphore`,
        `read`, `write` or `many`.

        Args:
            name: the key without the prefix.
            ttl, auto_renew: None: as for the manager.
            max_hold, min_hold: as for `Microlock`.
            timeout, retries, interval: as for `Microlock.lock()`. A `timeout` other than 0 replaces
                the retries of the manager.

        Raises: as `Microlock.lock()`.
        """
        raise NotImplementedError

    def holder(self, name: str) -> Any:
        """The holder of this lock, read from etcd; the first of several, None if the lock is free.

        Raises:
            StoreError: etcd refused or can't be reached.
            DestroyedError, ForkedError: the client can't be used any more, or not in this process.
        """
        raise NotImplementedError

    def locks(self) -> Any:
        """The holders and waiters of all locks under the prefix, ordered by name.

        All of it is as of one moment. Each key of a `MultiLock` is listed as its own lock. Raises
        as `holder()`.
        """
        raise NotImplementedError

    def remaining(self, holder: Holder) -> Any:
        """The seconds that the lease of a holder or waiter has left, rounded down by etcd.

        0.0 if the lease has ended. The holder may renew it at any time. Raises as `holder()`.

        Args:
            holder: from `locks()` or `holder()`.
        """
        raise NotImplementedError

    def release(self, name: str | Iterable[str], token: int, *, limit: int = 1) -> Any:
        """Gives back the hold with this token, whichever node and kind of lock it is of.

        The object that took the lock loses it. It learns so a moment later; until then it reports
        the lock as held.

        Args:
            name: the key without the prefix; for a `MultiLock`, all its keys.
            token: the fencing token of the hold.
            limit: the limit, for a semaphore.

        Raises:
            LockNotOwnedError: no hold has this token (any more). Nothing was changed.
            StoreError: etcd refused or can't be reached; see `may_have_happened`. Try again.
            DestroyedError, ForkedError: the client can't be used any more, or not in this process.
            KeyRequiredError, InvalidArgumentError: an argument is wrong.
        """
        raise NotImplementedError

    def extend(self, name: str | Iterable[str], token: int, ttl: float, *, limit: int = 1) -> Any:
        """Gives the hold with this token a new ttl, whichever node and kind of lock it is of.

        From now on the caller has to renew or release the hold, by this token: the object that took
        the lock no longer renews it, and reports it as held until its own deadline at most. The
        token stays the same. Other locks under the same lease are not changed.

        Args:
            name: the key without the prefix; for a `MultiLock` any of its keys: all are extended.
            token: the fencing token of the hold.
            ttl: seconds from now.
            limit: the limit, for a semaphore.

        Returns:
            Seconds left.

        Raises:
            LockNotOwnedError: no hold has this token (any more). Nothing was changed.
            LockUncertainError: the hold has ended, and its lease could not be revoked.
            StoreError: etcd refused or can't be reached; see `may_have_happened`.
            DestroyedError, ForkedError: the client can't be used any more, or not in this process.
            KeyRequiredError, InvalidTtlError, InvalidArgumentError: an argument is wrong.
        """
        raise NotImplementedError

    def break_lock(self, name: str) -> Any:
        """Ends the current hold of a lock, whichever node it is of: for operators.

        The holder loses the lock, and learns so if it uses microlock; but it may still be at work.
        The next waiter gets the lock. Of several holders this ends the first; `release()` ends any
        of them, by its token.

        Returns:
            The holder whose hold was ended; None if the lock was free, or was given back just now.

        Raises:
            StoreError: etcd refused or can't be reached; see `may_have_happened`.
            DestroyedError, ForkedError: the client can't be used any more, or not in this process.
            KeyRequiredError: `name` is wrong.
        """
        raise NotImplementedError

    def _taking(
        self, timeout: float | None, retries: int | None, interval: float | None
    ) -> dict[str, Any]:
        """The arguments for `lock()`."""
        if retries is None:
            retries = self._retries if timeout == 0 else 0
        return {
            "timeout": timeout,
            "retries": retries,
            "interval": self._interval if interval is None else interval,
        }

    def _broke(self, kinds: Sequence[Names], holder: Holder | None) -> Holder | None:
        if holder:
            log.warning(
                "%r broke the lock %r of %s, token %s", self, kinds[0].key, holder, holder.token
            )
        return holder

    def _held(self, name: object, limit: int) -> Sequence[Names]:
        """As `_kinds`, of one name or of several."""
        if isinstance(name, str):
            return self._kinds(name, semaphore(check_int("limit", limit, 1)))
        keys = [self._names(each).key for each in check_keys(name)]
        return (Names.of_all(keys, self._node_id),)

    def _kinds(self, name: object, queue: Admission = MUTEX) -> Sequence[Names]:
        """The kinds of lock that may have this name: a queue, and readers and writers."""
        key = self._names(name).key
        return [Names.of(key, self._node_id, each) for each in (queue, READER)]

    def _lease_of(self, holder: Holder) -> int:
        if not isinstance(holder, Holder):
            raise InvalidArgumentError(f"holder must be a Holder, not {holder!a:.80}")
        return holder.lease_id

    def _names(self, name: object) -> Names:
        return Names.of(f"{self._prefix}{check_key(name).decode()}", self._node_id)
