"""Deliberate bugs, each put into the library for a while: what the checker has to catch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import scenarios
from actors import Stage
from verdict import Rule

from microlock import events
from microlock.core import admission, flows
from microlock.core.flows import Flow, taking
from microlock.core.hold import HoldState
from microlock.core.keys import Names
from microlock.core.lease import Lease
from microlock.core.place import Contended, Place
from microlock.core.port import Enter, Entered, Found, Leave, Lifetime, Read
from microlock.core.queue import Holder
from microlock.core.status import Status
from microlock.engine.emitter import LockEmitter
from microlock.errors import LossReason
from microlock.etcd import messages, watching


@dataclass(frozen=True)
class Sabotage:
    """A bug, the scenario that it shows in, and the rule that it breaks.

    Attributes:
        fenced: False for a store that looks at no token.
    """

    name: str
    bug: Callable[[], AbstractContextManager[Any]]
    scenario: Callable[[Stage], None]
    rule: Rule
    fenced: bool = True


# unlock()


def blind_delete() -> AbstractContextManager[Any]:
    """Deletes whatever stands under the name of the lock."""

    def release(names: Names, place: Place, ttl: int) -> Flow[Lease | None]:
        found: Found = yield Read(names.prefix)
        for kv in found.keys:
            yield Leave(kv.name, kv.create_revision)
        return place.lease

    return patch.object(flows, "release", release)


def compare_value() -> AbstractContextManager[Any]:
    """Deletes the holder's entry if it is of the same node, whose hold ever it is."""

    def release(names: Names, place: Place, ttl: int) -> Flow[Lease | None]:
        found: Found = yield Read(names.prefix, 1)
        for kv in found.keys:
            if kv.value == names.value:
                yield Leave(kv.name, kv.create_revision)
        return place.lease

    return patch.object(flows, "release", release)


def release_nothing() -> AbstractContextManager[Any]:
    """Says that the lock was given back, and does nothing."""

    def release(names: Names, place: Place, ttl: int) -> Flow[Lease | None]:
        yield from ()
        return place.lease

    return patch.object(flows, "release", release)


# lock()


def clean_up_nothing() -> AbstractContextManager[Any]:
    """Leaves the lease, and what is or may be under it, when lock() fails: an outcome that nobody
    knows is reported as a plain failure."""

    def discard(names: Names, *leases: Lease, after: BaseException | None = None) -> Flow[None]:
        yield from ()

    return patch.object(taking, "discard", discard)


def jump_the_queue() -> AbstractContextManager[Any]:
    """Joins the queue, and looks at nobody who stands there."""
    join = taking._join

    def heedless(
        names: Names, entry: bytes, lease: Lease
    ) -> Flow[tuple[Place, Holder | None, float]]:
        place, _, at = yield from join(names, entry, lease)
        return place, None, at

    return patch.object(taking, "_join", heedless)


# More than a mutex


def overlook_writers() -> AbstractContextManager[Any]:
    """Reads while somebody writes."""
    return patch.multiple(
        "microlock.kinds.ReadLock", _admission=replace(admission.READER, rivals=b"none/")
    )


def one_too_many() -> AbstractContextManager[Any]:
    """Lets one more than the limit have a semaphore."""
    semaphore = admission.semaphore
    return patch("microlock.kinds_face.semaphore", lambda limit: semaphore(limit + 1))


def two_transactions() -> AbstractContextManager[Any]:
    """Puts the entries of several keys one after the other."""
    put = taking._put

    def one_by_one(names: Names, lease: Lease, now: float) -> Flow[Any]:
        place = yield from put(replace(names, others=()), lease, now)
        others = taking._others(names, lease) if isinstance(place, Place) else ()
        for lock, entry in others:
            entered: Entered = yield Enter(lock, entry, names.value, lease.id)
            if entered.token is None:
                return Contended(Holder.of(entered.before[0]), replace(lease, doubtful=True))
        return replace(place, others=tuple([entry for _, entry in others])) if others else place

    return patch.object(taking, "_put", one_by_one)


# Time


def deadline_from_the_reply() -> AbstractContextManager[Any]:
    """Counts the ttl from when the reply came, not from when the request was sent."""
    return patch.object(messages, "Lifetime", lambda ttl, sent, at: Lifetime(ttl, at, at))


# Being told


def _losing(times: int) -> AbstractContextManager[Any]:
    def lose(self: Status, hold: HoldState, reason: LossReason) -> None:
        if hold.lose(reason):
            self.changed = True
            for _ in range(times):
                self.tell_of(events.lost, hold, reason=reason)

    return patch.object(Status, "lose", lose)


def lose_silently() -> AbstractContextManager[Any]:
    return _losing(0)


def lose_twice() -> AbstractContextManager[Any]:
    return _losing(2)


@contextmanager
def watch_from_now() -> Iterator[None]:
    """Goes on after a disconnect with what comes, without what went by."""
    request = watching.pb.WatchCreateRequest

    def forgetful(**fields: Any) -> Any:
        return request(**fields | {"start_revision": 0})

    with patch.object(watching.pb, "WatchCreateRequest", forgetful):
        yield


def tell_twice() -> AbstractContextManager[Any]:
    """Tells each time twice that the lock was taken."""
    tell = LockEmitter._tell

    def careless(self: LockEmitter, name: str, **fields: Any) -> Any:
        if name == events.locked:
            tell(self, name, **fields)
        return tell(self, name, **fields)

    return patch.object(LockEmitter, "_tell", careless)


SABOTAGES = (
    Sabotage("no fencing", nullcontext, scenarios.paused, Rule.STORE, fenced=False),
    Sabotage("blind delete", blind_delete, scenarios.taken_away, Rule.ENDED),
    Sabotage("value compare", compare_value, scenarios.taken_away_among_namesakes, Rule.ENDED),
    Sabotage("release nothing", release_nothing, scenarios.cycle, Rule.LEFT),
    Sabotage("no clean-up after a wait", clean_up_nothing, scenarios.waiting_in_vain, Rule.LEFT),
    Sabotage("a doubt is a failure", clean_up_nothing, scenarios.no_answer, Rule.LEFT),
    Sabotage("jump the queue", jump_the_queue, scenarios.waiting, Rule.OVERLAP),
    Sabotage("jump the queue quietly", jump_the_queue, scenarios.waiting, Rule.ORDER),
    Sabotage("overlook writers", overlook_writers, scenarios.written, Rule.OVERLAP),
    Sabotage("overlook writers quietly", overlook_writers, scenarios.written, Rule.ORDER),
    Sabotage("one too many", one_too_many, scenarios.full, Rule.OVERLAP),
    Sabotage("one too many, quietly", one_too_many, scenarios.full, Rule.ORDER),
    Sabotage("keys in two transactions", two_transactions, scenarios.several, Rule.TOKEN),
    Sabotage(
        "deadline from the reply", deadline_from_the_reply, scenarios.late_replies, Rule.CLAIM
    ),
    Sabotage("lose silently", lose_silently, scenarios.expires, Rule.UNNOTICED),
    Sabotage("lose twice", lose_twice, scenarios.expires, Rule.LOST),
    Sabotage("watch from now", watch_from_now, scenarios.cut_off, Rule.MISSED),
    Sabotage("tell twice", tell_twice, scenarios.cut_off, Rule.TOLD),
)
