"""Many locks under one prefix: who holds what, and ending or extending a hold from elsewhere."""

from __future__ import annotations

import logging

from microlock.core import elsewhere
from microlock.core.keys import (
    Names,
    check_bool,
    check_int,
    check_key,
    check_node_id,
    check_prefix,
    check_seconds,
    check_ttl,
)
from microlock.core.queue import Holder
from microlock.engine.host import LEASE_IDS, look
from microlock.etcd.lent import client_of
from microlock.lock import Microlock

log = logging.getLogger("microlock")


class LockManager:
    """Locks of one node, with defaults for all of them.

    Args:
        etcd, node_id: as for `Microlock`.
        prefix: what each key begins with; "" for the whole of etcd.
        ttl, auto_renew: as for `Microlock`, for each lock.
        retries, interval: as for `Microlock.lock()`, for each `lock()`.

    Raises:
        NodeIdRequiredError, InvalidTtlError, ClientRequiredError, InvalidArgumentError: an
            argument is wrong.
    """

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
    ) -> Microlock:
        """A lock that is not taken yet: for `with`, or for listeners. Nothing is sent.

        The arguments are those of `Microlock`. Raises KeyRequiredError and what `Microlock` does.
        """
        key = self._names(name).key
        return Microlock(
            self._etcd,
            key,
            self._node_id,
            self._ttl if ttl is None else ttl,
            auto_renew=self._auto_renew if auto_renew is None else auto_renew,
            max_hold=max_hold,
            min_hold=min_hold,
            timeout=timeout,
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
    ) -> Microlock:
        """Takes a lock, and returns it: to be given back with its `unlock()`.

        For a block use `with manager.create(name):`.

        Args:
            name: the key, after the prefix.
            ttl, auto_renew: if not those of the manager.
            max_hold, min_hold: as for `Microlock`.
            timeout, retries, interval: as for `Microlock.lock()`; a `timeout` other than 0 takes
                the place of the manager's retries.

        Raises: as `Microlock.lock()`.
        """
        lock = self.create(
            name, ttl=ttl, auto_renew=auto_renew, max_hold=max_hold, min_hold=min_hold
        )
        if retries is None:
            retries = self._retries if timeout == 0 else 0
        lock.lock(
            timeout=timeout,
            retries=retries,
            interval=self._interval if interval is None else interval,
        )
        return lock

    def holder(self, name: str) -> Holder | None:
        """Who holds this lock, read from etcd; None if it is free.

        Raises:
            StoreError: etcd refused or can't be reached.
            DestroyedError, ForkedError: the client can't be used any more, or not here.
        """
        return next(iter(look(self._client, elsewhere.places(self._names(name)))), None)

    def locks(self) -> dict[str, Holder]:
        """Who holds what under the prefix, by name. Raises as `holder()`.

        What changes meanwhile may be told as it was or as it is by then, lock by lock.
        """
        return look(self._client, elsewhere.locks(self._prefix.encode()))

    def release(self, name: str, token: int) -> None:
        """Gives back the hold with this token, whoever took it.

        The object that took it loses it, and is told so.

        Args:
            name: the key, after the prefix.
            token: the fencing token of the hold.

        Raises:
            LockNotOwnedError: the lock is not held with this token (any more). Nothing was changed.
            StoreError: etcd refused or can't be reached; see `may_have_happened`. Try again.
            DestroyedError, ForkedError: the client can't be used any more, or not here.
            KeyRequiredError, InvalidArgumentError: an argument is wrong.
        """
        look(self._client, elsewhere.release(self._names(name), check_int("token", token, 1)))

    def extend(self, name: str, token: int, ttl: float) -> float:
        """Gives the hold with this token another ttl, whoever took it.

        Whoever calls this answers for the hold from now on: the object that took it no longer
        renews it, and holds it until its own deadline at the most. The token stays.

        Args:
            name: the key, after the prefix.
            token: the fencing token of the hold.
            ttl: seconds from now.

        Returns:
            Seconds left.

        Raises:
            LockNotOwnedError: the lock is not held with this token (any more). Nothing was changed.
            LockUncertainError: what is left of the hold can't be ended.
            StoreError: etcd refused or can't be reached; see `may_have_happened`.
            DestroyedError, ForkedError: the client can't be used any more, or not here.
            KeyRequiredError, InvalidTtlError, InvalidArgumentError: an argument is wrong.
        """
        seconds, number = check_ttl(ttl), check_int("token", token, 1)
        names = self._names(name)
        steps = elsewhere.extend(names, number, seconds, lease_ids=LEASE_IDS)
        return look(self._client, steps)

    def break_lock(self, name: str) -> Holder | None:
        """Ends the hold that a lock is under, whoever has it: for operators.

        Whoever holds it loses it, and is told so if it is a `Microlock`; but it may be at work
        still. The next in the queue gets the lock.

        Returns:
            Whose hold was broken; None if the lock was free, or was given back just now.

        Raises:
            StoreError: etcd refused or can't be reached; see `may_have_happened`.
            DestroyedError, ForkedError: the client can't be used any more, or not here.
            KeyRequiredError: `name` is wrong.
        """
        names = self._names(name)
        holder = look(self._client, elsewhere.break_lock(names))
        if holder:
            log.warning(
                "%r broke %r, locked by %s, token %s", self, names.key, holder, holder.token
            )
        return holder

    def _names(self, name: object) -> Names:
        return Names.of(f"{self._prefix}{check_key(name).decode()}", self._node_id)
