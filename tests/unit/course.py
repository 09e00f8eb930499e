"""What happens while a flow waits in the queue of a `Store`, one thing after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from store import FOO, Store

from microlock.core.place import AwaitTurn, Place, TurnResult
from microlock.core.port import KeepAlive, Revoke
from microlock.core.queue import Standing, holder_of, places


@dataclass
class Stay:
    """One wait at one place.

    Attributes:
        place: with its lease as it was renewed meanwhile.
        after: the older entry that is watched, far from the turn.
        end: what ends the wait, other than the watch.
    """

    store: Store
    place: Place
    after: tuple[bytes, int] | None = None
    end: Standing | None = None

    def far(self) -> bool:
        """Whether the older entry is there, so that nothing of the lock is heard."""
        if self.after is None:
            return False
        name, token = self.after
        kv = self.store.keys.get(name)
        return kv is not None and kv.create_revision == token

    def seen(self) -> Standing | None:
        """What the watch tells of the place, if it ends the wait."""
        if self.far():
            return None
        kv = self.store.keys.get(self.place.entry)
        if kv is None or kv.create_revision != self.place.token:
            return Standing.GONE
        holder = holder_of(FOO.prefix, self.store.keys.values())
        return Standing.FIRST if holder and holder.token == self.place.token else None


Happening = Callable[[Stay], None]


def stand(store: Store, request: AwaitTurn, course: Iterator[Happening]) -> TurnResult:
    """Has it happen until the wait has ended. After all of it the time is over."""
    stay = Stay(store, request.place, request.after)
    while not (end := stay.end or stay.seen()):
        next(course, time_is_over)(stay)
        store.pass_time(store.latency)
    holder = holder_of(FOO.prefix, store.keys.values())
    if end is Standing.UNKNOWN or not holder:
        holder = request.holder
    return TurnResult(end, stay.place.lease, store.now, holder)


def the_first_leaves(stay: Stay) -> None:
    (name, _), *_ = places(FOO.prefix, stay.store.keys.values())
    stay.store.remove(name)


def the_place_is_deleted(stay: Stay) -> None:
    stay.store.remove(stay.place.entry)


def the_lease_is_revoked(stay: Stay) -> None:
    stay.store.apply(Revoke(stay.place.lease.id))


def the_lease_is_renewed(stay: Stay) -> None:
    lifetime = stay.store.ask(KeepAlive(stay.place.lease.id))
    if lifetime.ttl > 0:
        stay.place = stay.place.renewed(stay.place.lease.id, lifetime)
    else:
        stay.end = Standing.GONE


def time_is_over(stay: Stay) -> None:
    stay.end = Standing.WAITS


def silence(stay: Stay) -> None:
    """No answer until the deadline of the lease, which etcd still has."""
    stay.store.pass_time(stay.place.lease.deadline - stay.store.now)
    stay.end = Standing.UNKNOWN


def long_silence(stay: Stay) -> None:
    """No answer until the lease has ended, and the place with it."""
    stay.store.pass_time(stay.place.lease.ttl)
    stay.end = Standing.UNKNOWN


def passes(seconds: float) -> Happening:
    return lambda stay: stay.store.pass_time(seconds)


def enters(node_id: str) -> Happening:
    def happens(stay: Stay) -> None:
        stay.store.enter(node_id)

    return happens


def leaves(name: bytes) -> Happening:
    return lambda stay: stay.store.remove(name)


def fails(error: BaseException) -> Happening:
    def happens(stay: Stay) -> None:
        raise error

    return happens
