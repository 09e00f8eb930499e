"""Clients of one lock on one store, as they can be: the real core, interleaved at every request.

A model is changed by moves, each the smallest thing that can happen: a request arrives at etcd, its
answer at the client, or is lost; a copy arrives late; a watch tells of one change; time passes;
somebody interferes. After each move all is checked that is to hold at any moment.

What a client does is decided by the real core (see `actor`). What is written here is the world.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from actor import LONGER, TAKING, TTL, Actor, Task, Thrown
from shared_etcd import CHANGED, CHANGES

from microlock.core.call import Park
from microlock.core.hold import HoldState
from microlock.core.keys import Names, entry_name
from microlock.core.place import Place
from microlock.core.port import (
    Enter,
    Event,
    Get,
    Grant,
    Join,
    KeepAlive,
    Leave,
    Lifetime,
    Read,
    Revoke,
)
from microlock.core.port import (
    Move as Put,
)
from microlock.core.queue import places
from microlock.errors import (
    DestroyedError,
    LockCancelledError,
    LockLostError,
    LockUncertainError,
    MicrolockError,
    StoreError,
    StoreNoSpaceError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from microlock.memory.state import State
from microlock.memory.store import timed

KEYS = "foo", "bar"
LOCKS = b"foo/", b"bar/"
MOMENT = 0.001
# How fast the clocks of the clients go. The slow one uses up nearly all of a deadline's margin.
RATES = (0.991, 1.0, 1.004)
# Each client makes its own lease ids, so that they do not depend on who comes first.
LEASES_OF_A_CLIENT = 0x1000

Move = tuple[str, int, Any]  # its kind, whose it is, and how


class Violation(AssertionError):
    """Something happened that must not."""


@dataclass
class Flight:
    """The request of a call, on its way.

    Attributes:
        sent: when it left, by the clock of the client.
        arrived: the answer on its way back, or the error; None if it is the request that is.
        doubt: an earlier copy of the request had no answer.
        leases: those that the call has to do with.
        held: the place that was held when it began, and since when.
        unsettled: what was to settle something had no answer, or was refused.
    """

    leases: frozenset[int]
    held: tuple[Place, float] | None
    sent: float = 0.0
    arrived: Any = None
    doubt: bool = False
    unsettled: bool = False

    def state(self) -> tuple[Any, ...]:
        return self.sent, self.arrived, self.doubt, self.leases, self.unsettled


@dataclass
class Client:
    """One process with one lock object.

    Attributes:
        names: what it calls itself.
        rate: how fast its clock goes.
        life: how often it was started again.
        fresh: it has not locked yet, so it speaks for its node.
        beat: what etcd has answered to the last renewal in the background.
        flights: the requests of its calls, by the number of the thread.
        todo: what its threads are going to do, for those who plan.
    """

    index: int
    names: Names
    rate: float
    actor: Actor
    life: int = 0
    fresh: bool = True
    beat: tuple[tuple[int, Lifetime], ...] = ()
    flights: dict[int, Flight] = field(default_factory=dict)
    todo: tuple[tuple[str, ...], ...] = ((),)
    _shared: bool = False  # another may have the same object
    _state: int | None = None

    def copy(self) -> Client:
        other = copy.copy(self)
        other.flights = {owner: copy.copy(flight) for owner, flight in self.flights.items()}
        other._shared = self._shared = True
        return other

    def act(self, now: float, act: str, *args: Any) -> Any:
        """Something happens to its object."""
        if self._shared:
            self.actor, self._shared = self.actor.copy(), False
        self._state = None
        return self.actor.do(now, act, *args)

    def state(self) -> Any:
        if self._state is None:
            self._state = hash(self.actor.state())
        flights = tuple((owner, each.state()) for owner, each in sorted(self.flights.items()))
        return self.life, self.fresh, self.beat, self.todo, flights, self._state


@dataclass(frozen=True)
class Late:
    """A copy of a request that is still under way."""

    client: int
    life: int
    request: Any


@dataclass
class Model:
    """All clients and their etcd.

    Attributes:
        lagging: whether a watch tells of changes one by one, later; else at once.
        min_hold: as for `Microlock`.
        late: copies under way.
        removed: tokens of entries that somebody else has deleted, moved, or ended the lease of.
        given_up: leases that may stand until they end: of who crashed, or was told so.
        kept: entries, their tokens, and until when they are to stay though they were given back.
        lost: the clients that have noticed a loss, and its token.
        tokens: of the last holds that began, by their locks.
        story: what happened.
        whole: whether all was well so far.
    """

    store: State
    clients: list[Client]
    lagging: bool = True
    min_hold: float = 0.0
    late: tuple[Late, ...] = ()
    removed: frozenset[int] = frozenset()
    given_up: frozenset[int] = frozenset()
    kept: frozenset[tuple[bytes, int, float]] = frozenset()
    lost: frozenset[tuple[int, int]] = frozenset()
    tokens: tuple[tuple[bytes, int], ...] = ()
    story: list[Move] = field(default_factory=list)
    whole: bool = True
    _own: set[int] = field(default_factory=set)  # the clients that no other model has, too

    @classmethod
    def of(
        cls,
        clients: int | Sequence[str],
        *,
        threads: int = 1,
        ahead: int = 0,
        lagging: bool = True,
        min_hold: float = 0.0,
    ) -> Model:
        """`clients`: how many, or of each the keys that it takes in one.

        `ahead`: entries of others, who are in the queue already, and leave in any order.
        """
        wanted = KEYS[:1] * clients if isinstance(clients, int) else clients
        made = []
        for index, keys in enumerate(wanted):
            names = Names.of_all(keys.split(), "abc"[index])
            actor = Actor(names, LEASES_OF_A_CLIENT * (index + 1), min_hold)
            made.append(Client(index, names, RATES[index], actor, todo=((),) * threads))
        model = cls(State(), made, lagging, min_hold)
        model._own = set(range(len(made)))
        model.given_up = frozenset(range(1, ahead + 1))
        for lease_id in model.given_up:
            model.store.apply(Grant(lease_id, 60))
            model.store.put(entry_name(LOCKS[0], lease_id), b"", lease_id)
        return model

    def copy(self) -> Model:
        """Clients are copied when they change: see `to_change`."""
        store = self.store.copy()
        self._own = set()
        return replace(
            self, store=store, clients=list(self.clients), story=list(self.story), _own=set()
        )

    def to_change(self, index: int) -> Client:
        """One that is going to change."""
        if index not in self._own:
            self.clients[index] = self.clients[index].copy()
            self._own.add(index)
        return self.clients[index]

    def state(self) -> tuple[Any, ...]:
        """Equal for two models to which the same can happen."""
        store = self.store
        runs = [w.since for c in self.clients for w in c.actor.watching.values() if w.since]
        return (
            (store.now, store.revision, frozenset(store.keys.values())),
            (frozenset(store.leases.items()), store.events(b"", min(runs, default=1 << 60))),
            tuple(client.state() for client in self.clients),
            frozenset(Counter(self.late).items()),
            (self.removed, self.given_up, self.kept, self.lost, self.tokens),
        )

    # What can happen.

    def moves(self) -> list[Move]:
        """All that can happen next; operations are begun by who asks for them."""
        found: list[Move] = []
        for client in self.clients:
            found += self._moves_of(client)
        found += [("late", late.client, n) for n, late in enumerate(self.late)]
        found += [("leave", 0, name) for name in self.others()]
        found += [("interfere", 0, how) for how in self._interferences()]
        found += [("time", 0, how) for how in self._times()]
        return found

    def _moves_of(self, client: Client) -> Iterable[Move]:
        index, actor, now = client.index, client.actor, self.now(client)
        for owner, task in sorted(actor.tasks.items()):
            flight = client.flights[owner]
            if not isinstance(task.request, Park):
                yield ("arrive" if flight.arrived is None else "answer"), index, owner
            elif task.request.on.is_set() or task.request.until <= now:
                yield "wake", index, owner
            for how in self._faults(client, owner, task):
                yield "lose", index, (owner, how)
        due = actor.core.tracker.next_due
        if client.beat:
            yield "renewed", index, None
            yield "silent", index, None
        elif due <= now:
            yield "due", index, None
        for name, watch in actor.watching.items():
            if self._untold(client, name):
                yield "watch", index, name
            if watch.runs:
                yield "forget", index, name
                yield "refuse", index, name
        if actor.core.status.left:
            yield "rest", index, None
        turn = actor.core.turns.current
        if turn and not actor.core.status.destroyed:
            yield "signal", index, turn.owner
        if any(task.op in TAKING for task in actor.tasks.values()):
            yield "cancel", index, None
        yield "crash", index, None

    def ops(self, client: Client, owner: int = 0) -> list[str]:
        """What a thread of a client can begin."""
        actor = client.actor
        if owner in actor.tasks or actor.core.status.destroyed:
            return []
        hold = self.hold(client)
        if hold and hold.owner == owner:
            return ["unlock", "exit", "renew", "extend", "shorten", "destroy"]
        begin = ["lock", "wait", "wait a while", "retry", "destroy"]
        if hold or client.fresh:
            return [*begin, "unlock", "renew", "extend"]
        return begin

    def _faults(self, client: Client, owner: int, task: Task) -> list[str]:
        request, flight = task.request, client.flights[owner]
        faults = ["interrupt"]
        if isinstance(request, Park):
            return faults
        faults.append("timeout")
        if not isinstance(request, Grant):
            faults.append("repeat")
        if flight.arrived is None:
            faults.append("unavailable")
            if isinstance(request, CHANGES):
                faults.append("no space")
        return faults

    def _interferences(self) -> Iterable[Any]:
        for name, _ in self.entries():
            yield "delete", name
            yield "revoke", name

    def _times(self) -> Iterable[str]:
        yield from ("soon", "later")
        if self._deadlines():
            yield from ("before a deadline", "past a deadline")
        if self._dues():
            yield "due"
        if self.store.leases:
            yield "end of a lease"

    def entries(self, *locks: bytes) -> list[tuple[bytes, int]]:
        """The names and tokens of all in the queues of these locks, oldest first, or of all."""
        keys = self.store.keys.values()
        return [(name, at.token) for lock in locks or LOCKS for name, at in places(lock, keys)]

    def others(self) -> list[bytes]:
        """The names of those in the queue that are nobody's here, oldest first."""
        return [name for name, _ in self.entries() if _client_of(_born(name)) < 0]

    def now(self, client: Client) -> float:
        return 1000 + (self.store.now - 1000) * client.rate

    def _at(self, client: Client, time: float) -> float:
        """A time of its clock, by the clock of the store."""
        return 1000 + (time - 1000) / client.rate

    def hold(self, client: Client) -> HoldState | None:
        """What it would say that it holds, if it were asked."""
        hold = client.actor.core.status.hold
        # Of a copy: who looks past the deadline ends it.
        held = hold and not client.actor.core.status.destroyed and self._stands(client, hold)
        return hold if held else None

    def _stands(self, client: Client, hold: HoldState) -> bool:
        return copy.copy(hold).remaining(self.now(client)) > 0

    def believes(self, client: Client) -> bool:
        """Whether it would say that it holds."""
        return self.hold(client) is not None

    def _untold(self, client: Client, name: bytes) -> tuple[Event, ...] | bool:
        """What its watch is to tell next; True: that it begins."""
        watch = client.actor.watching[name]
        if not watch.runs:
            return True
        assert watch.since
        return tuple(self.store.events(name, watch.since))

    def _deadlines(self) -> list[float]:
        """When those that hold cease to believe it, by the clock of the store."""
        holds = [(client, self.hold(client)) for client in self.clients]
        return [self._at(client, hold.place.deadline) for client, hold in holds if hold]

    def _dues(self) -> list[float]:
        """When something is to be done next, by the clock of the store."""
        found = []
        for client in self.clients:
            parks = [task.request for task in client.actor.tasks.values()]
            times = [each.until for each in parks if isinstance(each, Park)]
            times.append(client.actor.core.tracker.next_due)
            found += [self._at(client, at) for at in times if self.now(client) < at < 1e9]
        return found

    # What happens.

    def do(self, move: Move) -> None:
        """One move, and a look at what became of it."""
        self.story.append(move)
        self.whole = False
        kind, index, how = move
        getattr(self, f"_{kind}")(index, how)
        if not self.lagging:
            for client in self.clients:
                while told := [n for n in client.actor.watching if self._untold(client, n)]:
                    self._watch(client.index, told[0])
                    client = self.clients[client.index]
        self.check()
        self.whole = True

    def begin(self, index: int, op: str, owner: int = 0) -> None:
        self.do(("begin", index, (owner, op)))

    def _begin(self, index: int, how: tuple[int, str]) -> None:
        client, (owner, op) = self.to_change(index), how
        hold = client.actor.core.status.hold
        held = (hold.place, hold.since) if hold and not hold.returned else None
        client.flights[owner] = Flight(_ids(held[0]) if held else frozenset(), held)
        if op in TAKING:
            client.fresh = False
        self._act(client, owner, "begin", owner, op)

    def _act(self, client: Client, owner: int, act: str, *args: Any) -> Any:
        """A call goes on, up to its next request or its end."""
        now = self.now(client)
        result = client.act(now, act, *args)
        actor = client.actor
        if actor.over:
            self._ended(client, actor.over, client.flights.pop(owner))
        elif owner not in actor.tasks:
            del client.flights[owner]
        elif act == "again" and result:
            pass  # the same request leaves once more
        elif not isinstance(request := actor.tasks[owner].request, Park):
            flight = client.flights[owner]
            flight.sent, flight.arrived, flight.doubt = now, None, False
            flight.leases |= _named(request)
        return result

    def _ended(self, client: Client, task: Task, flight: Flight) -> None:
        core, error = client.actor.core, task.error
        hold = core.status.hold
        silent = isinstance(
            error, KeyboardInterrupt | LockLostError | DestroyedError | LockCancelledError
        )
        if isinstance(error, LockUncertainError) or (
            flight.unsettled and (silent or core.status.closed)
        ):
            self.given_up |= flight.leases  # it has said so, or logged it
        if core.status.closed and isinstance(error, MicrolockError):
            self.given_up |= flight.leases
        if self.min_hold and task.op not in TAKING:
            self.given_up |= flight.leases  # it is not ended before its time: it ends by itself
        if flight.unsettled and flight.held and not self.believes(client):
            self.given_up |= _ids(flight.held[0])  # lost, and could not be ended
        if self.min_hold and flight.held and hold and hold.returned and error is None:
            self._given_back(client, *flight.held)
        if core._lease and core._lease.id in {_put_under(each.request) for each in self.late}:
            raise Violation("a lease is kept though a put under it is under way")
        if core.status.closed and not client.actor.tasks:
            self._restart(client)

    def _given_back(self, client: Client, place: Place, since: float) -> None:
        """It may have to stay for a while; but for what the clocks differ in."""
        until = self._at(client, since) + 0.98 * self.min_hold
        if self.store.now < until:
            self.kept |= {(entry, place.token, until) for entry in place.entries}
        if kv := self.store.keys.get(place.entry):
            self.given_up |= {kv.lease_id}

    def _restart(self, client: Client) -> None:
        client.life += 1
        client.actor = Actor(client.names, client.actor.next_id, self.min_hold)
        client.fresh, client.beat, client.flights = True, (), {}
        client._shared, client._state = False, None

    # The moves.

    def _arrive(self, index: int, owner: int) -> None:
        client = self.to_change(index)
        request = client.actor.tasks[owner].request
        client.flights[owner].arrived = self._apply(client, client.life, request)

    def _answer(self, index: int, owner: int) -> None:
        client = self.to_change(index)
        flight = client.flights[owner]
        answer = flight.arrived
        match answer:
            case (kind, _):
                answer = (kind, flight.doubt)
            case _:
                answer = timed(answer, flight.sent, self.now(client))
        if isinstance(answer, CHANGED):
            answer = replace(answer, repeated=flight.doubt)
        self._act(client, owner, "resume", owner, answer)

    def _wake(self, index: int, owner: int) -> None:
        self._act(self.to_change(index), owner, "resume", owner, None)

    def _lose(self, index: int, lost: tuple[int, str]) -> None:
        client, (owner, how) = self.to_change(index), lost
        flight, request = client.flights[owner], client.actor.tasks[owner].request
        under_way = flight.arrived is None and how in ("timeout", "repeat", "interrupt")
        if under_way and isinstance(request, Grant | Revoke | CHANGES):
            self.late += (Late(index, client.life, request),)
        if how == "repeat":
            if self._act(client, owner, "again", owner):
                flight.arrived, flight.doubt, flight.sent = None, True, self.now(client)
            return
        # Who is interrupted while destroy() waits for its turn gives nothing back.
        ending = isinstance(request, Park) and client.actor.tasks[owner].op == "destroy"
        if ending or isinstance(request, Revoke | Leave):
            flight.unsettled = True
        changes = not isinstance(request, Read | Get | KeepAlive)
        errors: dict[str, Thrown] = {
            "timeout": (StoreTimeoutError, changes),
            "unavailable": (StoreUnavailableError, changes and flight.doubt),
            "no space": (StoreNoSpaceError, flight.doubt),
            "interrupt": (KeyboardInterrupt, False),
        }
        self._act(client, owner, "resume", owner, errors[how])

    def _late(self, _: int, number: int) -> None:
        late = self.late[number]
        self.late = self.late[:number] + self.late[number + 1 :]
        self._apply(self.clients[late.client], late.life, late.request)

    def _due(self, index: int, _: Any) -> None:
        """Leases are renewed in the background; the answers are on their way."""
        client = self.to_change(index)
        sent = self.now(client)
        leases = client.act(sent, "due")
        waits = any(task.op in TAKING for task in client.actor.tasks.values())
        hold = client.actor.core.status.hold  # which destroy() may be about to end
        if leases and not waits and not (hold and self._stands(client, hold)):
            raise Violation(f"{client.names.node_id} renews what it does not hold")
        client.beat = tuple(
            (each, timed(self.store.apply(KeepAlive(each)), sent, sent)) for each in leases
        )

    def _renewed(self, index: int, _: Any) -> None:
        client = self.to_change(index)
        beat, client.beat = client.beat, ()
        for lease_id, lifetime in beat:
            answer = replace(lifetime, at=self.now(client))
            client.act(self.now(client), "renewed", lease_id, answer)

    def _silent(self, index: int, _: Any) -> None:
        client = self.to_change(index)
        beat, client.beat = client.beat, ()
        for lease_id, lifetime in beat:
            client.act(self.now(client), "silent", lease_id, lifetime.sent)

    def _rest(self, index: int, _: Any) -> None:
        """What a lost hold has in etcd still is ended, on another thread."""
        client = self.to_change(index)
        for lease_id in client.act(self.now(client), "rest"):
            self._apply(client, client.life, Revoke(lease_id))

    def _watch(self, index: int, name: bytes) -> None:
        """It begins, or tells of one more change."""
        client = self.to_change(index)
        told = self._untold(client, name)
        if isinstance(told, tuple):
            events = tuple(each for each in told if each.revision == told[0].revision)
            client.act(self.now(client), "events", name, events)
        else:
            found = self.store.apply(Read(name) if name in LOCKS else Get(name))
            client.act(self.now(client), "watch", name, found)

    def _forget(self, index: int, name: bytes) -> None:
        client = self.to_change(index)
        client.act(self.now(client), "compacted", name)

    def _refuse(self, index: int, name: bytes) -> None:
        client = self.to_change(index)
        client.act(self.now(client), "refused", name)

    def _cancel(self, index: int, _: Any) -> None:
        client = self.to_change(index)
        client.act(self.now(client), "cancel")

    def _signal(self, index: int, owner: int) -> None:
        """A handler of a signal calls destroy(), in the middle of a call of the same thread."""
        client = self.to_change(index)
        client.act(self.now(client), "begin_to_end", owner)

    def _leave(self, _: int, name: bytes) -> None:
        """One of the others gives back the lock, or gives up."""
        self.store.delete(name)

    def _crash(self, index: int, _: Any) -> None:
        client = self.to_change(index)
        for owner, flight in client.flights.items():
            request = client.actor.tasks[owner].request
            self.given_up |= flight.leases
            if flight.arrived is None and isinstance(request, Grant | Revoke | CHANGES):
                self.late += (Late(index, client.life, request),)
        if hold := client.actor.core.status.hold:
            self.given_up |= _ids(hold.place)
        self._restart(client)

    def _interfere(self, _: int, how: tuple[str, bytes]) -> None:
        """An operator deletes an entry, or revokes its lease."""
        what, name = how
        kv = self.store.keys[name]
        self.removed |= {kv.create_revision}
        if what == "revoke":
            self.store.apply(Revoke(kv.lease_id))
        else:
            self.store.delete(name)

    def _time(self, _: int, how: str) -> None:
        store = self.store
        match how:
            case "soon":
                store.pass_time(0.3)
            case "later":
                store.pass_time(TTL / 3)
            case "before a deadline":
                store.pass_time(max(0.0, min(self._deadlines()) - MOMENT - store.now))
            case "past a deadline":
                store.pass_time(min(self._deadlines()) + MOMENT - store.now)
            case "due":
                store.pass_time(min(self._dues()) + MOMENT - store.now)
            case "end of a lease":
                store.pass_time(min(lease.end for lease in store.leases.values()) - store.now)

    def _apply(self, client: Client, life: int, request: Any) -> Any:
        """etcd does it. Returns what it answers, or the error."""
        before = dict(self.store.keys)
        try:
            answer = self.store.apply(request)
        except StoreError as error:
            return type(error), False
        for name, kv in before.items():
            now = self.store.keys.get(name)
            if now == kv:
                continue
            if _client_of(_born(name)) != client.index:
                raise Violation(f"{client.names.node_id} has touched the entry {name!r} of another")
            # What a process has sent and did not live to see is as what an operator does.
            if life != client.life:
                self.removed |= {kv.create_revision}
        return answer

    # What is to hold.

    def check(self) -> None:
        entries = self.entries()
        for client in self.clients:
            self._check_hold(client, entries)
        for name, token, until in self.kept:
            if (
                self.store.now < until
                and token not in self.removed
                and (name, token) not in entries
            ):
                raise Violation(f"the entry {name!r} of {token} did not stay until {until}")
        for name, token in entries:
            if not self._answered_for(name, token):
                raise Violation(f"the entry {name!r} of {token} is left over")

    def _check_hold(self, client: Client, entries: list[tuple[bytes, int]]) -> None:
        who, last, hold = client.names.node_id, client.actor.core.status.hold, self.hold(client)
        if any(each is not last and self._stands(client, each) for each in client.actor.holds):
            raise Violation(f"two threads of {who} were told that they hold")
        tasks = client.actor.tasks.values()
        if sum(not isinstance(each.request, Park) for each in tasks) > 1:
            raise Violation(f"two calls of {who} ask at once")
        if last and last.ended.is_set() and not last.returned:
            self.lost |= {(client.index, last.token)}
        if hold is None:
            return
        mine = [(entry, hold.token) for entry in hold.place.entries]
        takes = any(each.op in TAKING for each in tasks)
        if hold.hold and hold not in client.actor.holds and not takes:
            raise Violation(f"{who} believes in {mine}, which no lock() has returned")
        if (client.index, hold.token) in self.lost:
            raise Violation(f"{who} believes again in {mine}, which was lost")
        if any(each not in entries and self._knows(client, each[0]) for each in mine):
            raise Violation(f"{who} believes in {mine}, though it was told that it is gone")
        if hold.token in self.removed:
            return
        if mine != [each for lock in client.names.locks for each in self.entries(lock)[:1]]:
            raise Violation(f"{who} believes in {mine}; there are {entries}")
        last = dict(self.tokens)
        for lock in client.names.locks:
            if hold.token < last.get(lock, 0):
                raise Violation(f"the token {hold.token} after {last[lock]}")
            last[lock] = hold.token
        self.tokens = tuple(sorted(last.items()))

    def _knows(self, client: Client, entry: bytes) -> bool:
        """Whether it was told all about an entry."""
        names = client.actor.watching.keys() & {entry, entry.rpartition(b"/")[0] + b"/"}
        return any(self._untold(client, name) == () for name in names)

    def _answered_for(self, name: bytes, token: int) -> bool:
        ids = {_born(name), self.store.keys[name].lease_id}
        if ids & self.given_up:
            return True
        client = self.clients[_client_of(_born(name))]
        if any(ids & flight.leases for flight in client.flights.values()):
            return True
        hold = client.actor.core.status.hold
        return bool(hold and not hold.returned and name in hold.place.entries)

    def finish(self) -> None:
        """From here on nothing goes wrong, and every hold is given back: all that was begun ends.
        Then all copies arrive, all clients are gone, and the lock is free."""
        for name in self.others():
            self.do(("leave", 0, name))
        for _ in range(400):
            if not any(self._go_on(client.index) for client in self.clients):
                if not any(client.actor.tasks for client in self.clients):
                    break
                self._check_turn()
                self.do(("time", 0, "due" if self._dues() else "later"))
        else:
            raise Violation("an operation does not end")
        while self.late:
            self.do(("late", self.late[0].client, 0))
        for client in self.clients:
            self.do(("crash", client.index, None))
        self.store.pass_time(LONGER)
        if self.entries():
            raise Violation(f"after the ttl there are {self.entries()}")
        self.begin(0, "lock")
        while self._go_on(0, unlock=False):
            pass
        if not self.believes(self.clients[0]):
            raise Violation("a free lock can't be taken")

    def _check_turn(self) -> None:
        """Who has its turn goes on, as it was told all."""
        for client in self.clients:
            wait = client.actor.core.status.wait
            if wait and wait.place:
                first = [each for lock in client.names.locks for each in self.entries(lock)[:1]]
                if first == [(entry, wait.place.token) for entry in wait.place.entries]:
                    raise Violation(f"it is the turn of {client.names.node_id}, which waits on")

    def _go_on(self, index: int, *, unlock: bool = True) -> bool:
        """Does what is next for a client, as long as there is anything."""
        client = self.clients[index]
        for move in self._moves_of(client):
            if move[0] in ("watch", "wake", "arrive", "answer", "due", "renewed", "rest"):
                self.do(move)
                return True
        hold = self.hold(client)
        # Another thread may have lost a hold before, and be told so.
        for owner in sorted(
            range(len(client.todo)), key=lambda each: not hold or each != hold.owner
        ):
            if unlock and "unlock" in self.ops(client, owner) and self.believes(client):
                self.begin(index, "unlock", owner)
                return True
        return False


def _ids(place: Place) -> frozenset[int]:
    return frozenset(lease.id for lease in place.leases)


def _named(request: Any) -> set[int]:
    """The leases that a request is about."""
    match request:
        case Grant() | KeepAlive() | Revoke() | Enter() | Join():
            return {request.lease_id}
        case Leave():
            return {_born(request.entry)}
        case Put():
            return {_born(request.entry), request.lease_id, request.next_lease_id}
    return set()


def _put_under(request: Any) -> int | None:
    """The lease that the request may put an entry under."""
    match request:
        case Enter() | Join():
            return request.lease_id
        case Put():
            return request.next_lease_id
    return None


def _born(name: bytes) -> int:
    """The lease that an entry is named after."""
    return int(name.rpartition(b"/")[2], 16)


def _client_of(lease_id: int) -> int:
    return lease_id // LEASES_OF_A_CLIENT - 1
