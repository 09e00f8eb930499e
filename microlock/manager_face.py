"""What both faces of the manager have in common."""

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
    """Locks of one node, with defaults for all of them."""

    # What makes a lock of each kind:
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
        self._etcd = etcd  # a lent client is ours only as long as somebody keeps it
        self._node_id = node_id
        self._prefix = check_prefix(prefix)
        self._ttl = ttl
        self._auto_renew = check_bool("auto_renew", auto_renew)
        self._retries = check_int("retries", retries, 0)
        self._interval = check_seconds("interval", interval)

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
        """A lock that is not taken yet: for `with`, or for listeners. Nothing is sent.

        The arguments are those of `Microlock`. Raises KeyRequiredError and what `Microlock` does.
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
        """Takes a lock, and returns it: to be given back with its `unlock()`.

        For a block use `with manager.create(name):`, or `semaphore`, `read`, `write` or `many` for
        another kind of lock.

        Args:
            name: the key, after the prefix.
            ttl, auto_renew: if not those of the manager.
            max_hold, min_hold: as for `Microlock`.
            timeout, retries, interval: as for `Microlock.lock()`; a `timeout` other than 0 takes
                the place of the manager's retries.

        Raises: as `Microlock.lock()`.
        """
        raise NotImplementedError

    def holder(self, name: str) -> Any:
        """Who holds this lock, read from etcd, of several the first; None if it is free.

        Raises:
            StoreError: etcd refused or can't be reached.
            DestroyedError, ForkedError: the client can't be used any more, or not here.
        """
        raise NotImplementedError

    def locks(self) -> Any:
        """Who holds what under the prefix and who waits for it, in the order of the names.

        All of it is as it was at one moment. Each of several keys that are taken in one is a lock
        of its own. Raises as `holder()`.
        """
        raise NotImplementedError

    def remaining(self, holder: Holder) -> Any:
        """Seconds that the lease of a holder or waiter has left, to the second before; 0.0 if it
        has ended. It may be renewed meanwhile. Raises as `holder()`.

        Args:
            holder: of `locks()` or `holder()`.
        """
        raise NotImplementedError

    def release(self, name: str | Iterable[str], token: int, *, limit: int = 1) -> Any:
        """Gives back the hold with this token, whoever took it, of whichever kind.

        The object that took it loses it, and is told so a moment later; until then it believes that
        it holds the lock.

        Args:
            name: the key, after the prefix; of a hold of several keys all of them.
            token: the fencing token of the hold.
            limit: that of a semaphore.

        Raises:
            LockNotOwnedError: the lock is not held with this token (any more). Nothing was changed.
            StoreError: etcd refused or can't be reached; see `may_have_happened`. Try again.
            DestroyedError, ForkedError: the client can't be used any more, or not here.
            KeyRequiredError, InvalidArgumentError: an argument is wrong.
        """
        raise NotImplementedError

    def extend(self, name: str | Iterable[str], token: int, ttl: float, *, limit: int = 1) -> Any:
        """Gives the hold with this token another ttl, whoever took it, of whichever kind.

        Whoever calls this answers for the hold from now on: the object that took it no longer
        renews it, and holds it until its own deadline at the most. The token stays. Other locks of
        a session stay as they are.

        Args:
            name: the key, after the prefix; of a hold of several keys any: all are extended.
            token: the fencing token of the hold.
            ttl: seconds from now.
            limit: that of a semaphore.

        Returns:
            Seconds left.

        Raises:
            LockNotOwnedError: the lock is not held with this token (any more). Nothing was changed.
            LockUncertainError: what is left of the hold can't be ended.
            StoreError: etcd refused or can't be reached; see `may_have_happened`.
            DestroyedError, ForkedError: the client can't be used any more, or not here.
            KeyRequiredError, InvalidTtlError, InvalidArgumentError: an argument is wrong.
        """
        raise NotImplementedError

    def break_lock(self, name: str) -> Any:
        """Ends the hold that a lock is under, whoever has it: for operators.

        Whoever holds it loses it, and is told so if it is one of ours; but it may be at work
        still. The next in the queue gets the lock. Of several holders it is the first one;
        `release()` ends any of them, by its token.

        Returns:
            Whose hold was broken; None if the lock was free, or was given back just now.

        Raises:
            StoreError: etcd refused or can't be reached; see `may_have_happened`.
            DestroyedError, ForkedError: the client can't be used any more, or not here.
            KeyRequiredError: `name` is wrong.
        """
        raise NotImplementedError

    def _taking(
        self, timeout: float | None, retries: int | None, interval: float | None
    ) -> dict[str, Any]:
        """How to call `lock()`."""
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
                "%r broke %r, locked by %s, token %s", self, kinds[0].key, holder, holder.token
            )
        return holder

    def _held(self, name: object, limit: int) -> Sequence[Names]:
        """As `_kinds`, of one name or of several."""
        if isinstance(name, str):
            return self._kinds(name, semaphore(check_int("limit", limit, 1)))
        keys = [self._names(each).key for each in check_keys(name)]
        return (Names.of_all(keys, self._node_id),)

    def _kinds(self, name: object, queue: Admission = MUTEX) -> Sequence[Names]:
        """What a lock may be in etcd that is called so."""
        key = self._names(name).key
        return [Names.of(key, self._node_id, each) for each in (queue, READER)]

    def _lease_of(self, holder: Holder) -> int:
        if not isinstance(holder, Holder):
            raise InvalidArgumentError(f"holder must be a Holder, not {holder!a:.80}")
        return holder.lease_id

    def _names(self, name: object) -> Names:
        return Names.of(f"{self._prefix}{check_key(name).decode()}", self._node_id)
