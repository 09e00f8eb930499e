"""What happens while a flow waits in the queue of a `Store`, one thing after the other.

When the wait is over is decided by the real `Wait`, by what a real `View` of the store tells it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from shared_etcd import Store

from microlock.core.keys import is_prefix, lock_of, range_of
from microlock.core.place import AwaitTurn, Place, TurnResult
from microlock.core.port import Get, KeepAlive, Read, Revoke
from microlock.core.queue import Holder, Standing, places
from microlock.core.view import View
from microlock.core.wait import Wait

EARLY = 0.9


@dataclass(frozen=True)
class Watched:
    """What a watch has told so far."""

    view: View

    def look(self, entry: bytes, token: int) -> tuple[Standing, Holder | None]:
        return self.view.standing(entry, token), self.view.holder


class Stay:
    """One wait at one place.

    Attributes:
        heard: whether the watches and the renewals have answers.
    """

    def __init__(self, store: Store, wait: Wait) -> None:
        self.store = store
        self.wait = wait
        self.heard = True
        self._views: dict[bytes, View] = {}

    @property
    def place(self) -> Place:
        """With its lease as it was renewed meanwhile."""
        assert self.wait.place
        return self.wait.place

    def views(self, *names: bytes) -> Mapping[bytes, Watched]:
        """What the watches of these names tell."""
        if self.heard:
            self._views = {name: self._listen(name) for name in names}
        return {name: Watched(view) for name, view in self._views.items()}

    def _listen(self, name: bytes) -> View:
        view = self._views.get(name)
        if view is None or view.next_revision is None:
            view = View(lock_of(name) or name)
            view.rebase(self.store.apply(Read(name) if is_prefix(name) else Get(name)))
        events = self.store.events(range_of(name), view.next_revision or 0)
        view.apply(each for each in events if is_prefix(name) or name == each.name)
        return view


Happening = Callable[[Stay], None]


def stand(store: Store, wait: Wait, request: AwaitTurn, course: Iterator[Happening]) -> TurnResult:
    """Has it happen until the wait has ended. After all of it the time is over."""
    wait.begin(request, store.now)
    stay = Stay(store, wait)
    try:
        while (result := _result(stay, wait)) is None:
            happening = next(course, None)
            if happening is None:
                return _time_is_over(stay, request)
            happening(stay)
            store.pass_time(store.latency)
        return result
    finally:
        wait.place = None


def _result(stay: Stay, wait: Wait) -> TurnResult | None:
    while True:
        watched = wait.watches
        result = wait.result(stay.views(*watched), stay.store.now)
        if result or wait.watches == watched:
            return result


def _time_is_over(stay: Stay, request: AwaitTurn) -> TurnResult:
    """It goes on as one that has no time left."""
    wait = Wait(stay.store.names.locks, stay.store.now, EARLY)
    wait.begin(replace(request, place=stay.place), stay.store.now)
    result = _result(stay, wait)
    assert result
    return result


def the_first_leaves(stay: Stay) -> None:
    (name, _), *_ = places(stay.store.names.lock, stay.store.keys.values())
    stay.store.remove(name)


def the_place_is_deleted(stay: Stay) -> None:
    stay.store.remove(stay.place.entry)


def the_lease_is_revoked(stay: Stay) -> None:
    stay.store.apply(Revoke(stay.place.lease.id))


def the_lease_is_renewed(stay: Stay) -> None:
    for lease in stay.wait.leases:
        stay.wait.renewed(lease.id, stay.store.ask(KeepAlive(lease.id)))


def silence(stay: Stay) -> None:
    """No answer until the deadline of the lease, which etcd still has."""
    stay.heard = False
    stay.store.pass_time(stay.place.lease.deadline - stay.store.now)


def long_silence(stay: Stay) -> None:
    """No answer until the lease has ended, and the place with it."""
    stay.heard = False
    stay.store.pass_time(stay.place.lease.ttl)


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
