"""The parts of the other kinds that both faces share. As a base class, each comes before `Lock`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from microlock.core.admission import semaphore
from microlock.core.keys import Names, check_int
from microlock.core.lock import LockCore


class SemaphoreFace:
    def __init__(
        self,
        etcd: object,
        key: str,
        node_id: str,
        limit: int,
        ttl: float = 1,
        *,
        auto_renew: bool = False,
        max_hold: float | None = None,
        min_hold: float = 0,
        timeout: float | None = None,
    ) -> None:
        self._admission = semaphore(check_int("limit", limit, 1))
        super().__init__(  # type: ignore[call-arg]  # of `Lock`, of either face
            etcd,
            key,
            node_id,
            ttl,
            auto_renew=auto_renew,
            max_hold=max_hold,
            min_hold=min_hold,
            timeout=timeout,
        )

    __init__.__qualname__ = "Semaphore.__init__"  # in the TypeErrors of wrong arguments

    @property
    def limit(self) -> int:
        """How many objects may hold it at a time."""
        return self._admission.limit


class MultiFace:
    _core: LockCore

    def __init__(
        self,
        etcd: object,
        keys: Iterable[str],
        node_id: str,
        ttl: float = 1,
        *,
        auto_renew: bool = False,
        max_hold: float | None = None,
        min_hold: float = 0,
        timeout: float | None = None,
    ) -> None:
        super().__init__(  # type: ignore[call-arg]  # of `Lock`, of either face
            etcd,
            keys,  # which `_named` takes
            node_id,
            ttl,
            auto_renew=auto_renew,
            max_hold=max_hold,
            min_hold=min_hold,
            timeout=timeout,
        )

    __init__.__qualname__ = "MultiLock.__init__"  # in the TypeErrors of wrong arguments

    def _named(self, key: Any, node_id: str) -> Names:
        return Names.of_all(key, node_id)

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of the locks."""
        names = self._core.names
        return tuple(map(names.of_lock, names.locks))
