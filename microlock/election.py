"""The election of a leader: the blocking face."""

from __future__ import annotations

from collections.abc import Iterator
from queue import SimpleQueue

from microlock.core.hold import Hold
from microlock.core.keys import check_value
from microlock.core.queue import Leader
from microlock.election_face import ElectionFace, Following
from microlock.events import LockEvent
from microlock.lock import Lock

Told = SimpleQueue[LockEvent | None]


class Election(ElectionFace, Lock):
    """A lock whose holder leads, and proclaims a value that all clients can read and follow.

    It has all calls and events of a `Microlock`: `lock()` and `with` stand for election too, and an
    object that loses the lock is no longer the leader.

    The leader's entry in etcd has the value that it proclaims. So Go's `concurrency.Election`,
    `etcdctl elect` and etcd's election service take part in the same election. An object that acts
    for its node (it has called neither `lock()` nor `campaign()`) finds the hold of its node only
    if that proclaims the node id.

    Args:
        etcd, key, node_id, ttl, auto_renew, max_hold, min_hold, timeout: as for `Microlock`. A
            leader without a value proclaims its node id.

    Raises:
        InvalidArgumentError: an argument is wrong. Its subclasses: KeyRequiredError,
            NodeIdRequiredError, InvalidTtlError, ClientRequiredError.
    """

    def campaign(self, value: str | bytes | None = None, *, timeout: float | None = None) -> Hold:
        said = None if value is None else check_value(value)
        hold = self._acquire(timeout, value=said).hold
        assert hold
        return hold

    def proclaim(self, value: str | bytes) -> float:
        said, call = check_value(value), self._call()
        call.value = said
        return self._host.run(call, self._core.proclaim(call))

    def resign(self) -> None:
        self.unlock()

    def leader(self) -> Leader | None:
        holder = self.holder()
        return Leader(holder.value, holder.token) if holder else None

    def observe(self) -> Iterator[Leader]:
        told: Told = SimpleQueue()
        return self._observed(told, self._follow(told.put))

    def _observed(self, told: Told, following: Following) -> Iterator[Leader]:
        try:
            while (event := told.get()) is not None:
                yield from following.leaders(event)
        finally:
            self._leave(following)

    def destroy(self) -> None:
        try:
            super().destroy()
        finally:
            self._closed()
