"""Clients of one lock on one store, as they can be: the real flows, interleaved at every request.

A model is changed by moves, each the smallest thing that can happen: a request arrives at etcd, its
answer at the client, or is lost; a copy arrives late; a watch tells of one change; time passes;
somebody interferes. After each move all is checked that is to hold at any moment.

What `Microlock` does around a flow (what it keeps of it, what it believes meanwhile) is written
here again, in few words: `_started` and `_ended`.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from store import Memory, timed

from microlock.core import flows
from microlock.core.keys import Names, entry_name
from microlock.core.lease import Lease
from microlock.core.place import AwaitTurn, Contended, Lost, Place, TurnResult
from microlock.core.port import (
    Delete,
    Found,
    Get,
    Grant,
    KeepAlive,
    Lifetime,
    Outcome,
    Put,
    Read,
    Revoke,
    Txn,
)
from microlock.core.queue import Standing, places
from microlock.core.view import View
from microlock.errors import (
    DestroyedError,
    LockUncertainError,
    MicrolockError,
    StoreError,
    StoreNoSpaceError,
    StoreTimeoutError,
    StoreUnavailableError,
)

KEY = "foo"
PREFIX = b"foo/"
TTL = 5
LONGER, SHORTER = 9, 2  # what extend() asks for
MOMENT = 0.001
# How fast the clocks of the clients go. The slow one uses up nearly all of a deadline's margin.
RATES = (0.991, 1.0, 1.004)
# Each client makes its own lease ids, so that they do not depend on who comes first.
LEASES_OF_A_CLIENT = 0x1000

Move = tuple[str, int, Any]  # its kind, whose it is, and how
Thrown = tuple[type[BaseException], bool]  # the error, and its `may_have_happened`


class Violation(AssertionError):
    """Something happened that must not."""


@dataclass(frozen=True)
class Hold:
    """What a client knows of its hold.

    Attributes:
        since: when it was taken, by the client's clock.
        alive: whether it counts, if its deadline is ahead; not while it is being given back.
        lost: whether its loss was noticed.
    """

    place: Place
    since: float
    alive: bool = True
    lost: bool = False

    def renewed(self, lease_id: int, lifetime: Lifetime) -> Hold:
        return replace(self, place=self.place.renewed(lease_id, lifetime))

    def moved(self, place: Place) -> Hold:
        """Renewed or extended by a call; maybe renewed in the background meanwhile."""
        for lease in self.place.leases:
            if lease.ttl:
                place = place.renewed(lease.id, Lifetime(lease.ttl, lease.sent, lease.sent))
        return replace(self, place=place)


@dataclass
class Call:
    """An operation under way.

    Attributes:
        op: its name.
        make: makes its flow, which is given again what is in `log` when the model was copied.
        request: what it waits for.
        arrived: the answer on its way back, or the error; None if it is the request that is.
        doubt: an earlier copy of the request had no answer.
        leases: those that were given to it.
        first_id: of the leases that it makes itself.
        unsettled: a revocation had no answer, or was refused.
        place, ended: while it waits: its place, as renewed meanwhile, and whether etcd said that
            the lease has ended.
    """

    op: str
    make: Callable[[Callable[[Place], None]], Generator[Any, Any, Any]]
    leases: frozenset[int]
    first_id: int
    sent: float = 0.0
    request: Any = None
    arrived: Any = None
    doubt: bool = False
    unsettled: bool = False
    place: Place | None = None
    ended: bool = False
    log: tuple[Any, ...] = ()
    flow: Generator[Any, Any, Any] | None = None
    kept: list[Place] = field(default_factory=list)

    def state(self) -> tuple[Any, ...]:
        return (
            (self.op, self.leases, self.log, self.sent, self.arrived, self.doubt),
            (self.unsettled, self.place, self.ended),
        )

    def resume(self, how: Any) -> Any:
        """Gives it an answer, or throws an error; returns its next request."""
        if self.flow is None:
            self.flow = self.make(lambda place: self.kept.append(place))
            for each in self.log:
                _give(self.flow, each)
        self.log += (how,)
        self.kept.clear()
        return _give(self.flow, how)


def _give(flow: Generator[Any, Any, Any], how: Any) -> Any:
    if isinstance(how, tuple) and isinstance(how[0], type):
        kind, may_have_happened = how
        error = kind("as it goes")
        if isinstance(error, StoreError):
            error.may_have_happened = may_have_happened
        return flow.throw(error)
    return flow.send(how)


@dataclass
class Client:
    """One process with one lock object.

    Attributes:
        names: what it calls itself.
        rate: how fast its clock goes.
        life: how often it was started again.
        hold: the last one; None once it was given back.
        lease: left for the next cycle.
        fresh: it has not locked yet, so it speaks for its node.
        watch: what it has read, and up to which revision it was told what happened since.
        beat: what etcd has answered to the last renewal in the background.
        next_id: of its leases.
        todo: what it is going to do, for those who plan.
    """

    index: int
    names: Names
    rate: float
    next_id: int
    life: int = 0
    hold: Hold | None = None
    lease: Lease | None = None
    fresh: bool = True
    watch: tuple[Found, int] | None = None
    beat: tuple[tuple[int, Lifetime], ...] = ()
    call: Call | None = None
    todo: tuple[str, ...] = ()

    def copy(self) -> Client:
        other = copy.copy(self)
        if self.call:
            other.call = copy.copy(self.call)
            other.call.flow, other.call.kept = None, []
        return other

    def state(self) -> tuple[Any, ...]:
        return (
            (self.life, self.hold, self.lease, self.fresh, self.watch, self.beat, self.next_id),
            (self.todo, self.call and self.call.state()),
        )


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
        lagging: whether a watch tells of changes one by one, later; else at once, and only those
            that wait.
        late: copies under way.
        removed: tokens of entries that somebody else has deleted, moved, or ended the lease of.
        given_up: leases that may stand until they end: of who crashed, or was told so.
        token: of the last hold that began.
        story: what happened.
        whole: whether all was well so far.
    """

    store: Memory
    clients: list[Client]
    lagging: bool = True
    late: tuple[Late, ...] = ()
    removed: frozenset[int] = frozenset()
    given_up: frozenset[int] = frozenset()
    token: int = 0
    story: list[Move] = field(default_factory=list)
    whole: bool = True

    @classmethod
    def of(cls, clients: int, *, ahead: int = 0, lagging: bool = True) -> Model:
        """`ahead`: entries of others, who are in the queue already, and leave in any order."""
        made = [
            Client(
                index, Names.of(KEY, "abc"[index]), RATES[index], LEASES_OF_A_CLIENT * (index + 1)
            )
            for index in range(clients)
        ]
        model = cls(Memory(), made, lagging)
        model.given_up = frozenset(range(1, ahead + 1))
        for lease_id in model.given_up:
            model.store.apply(Grant(lease_id, 60))
            model.store.apply(Txn((), (Put(entry_name(PREFIX, lease_id), b"", lease_id),)))
        return model

    def copy(self) -> Model:
        store = copy.copy(self.store)
        store.keys, store.leases = dict(store.keys), dict(store.leases)
        store.history = list(store.history)
        clients = [client.copy() for client in self.clients]
        return replace(self, store=store, clients=clients, story=list(self.story))

    def state(self) -> tuple[Any, ...]:
        """Equal for two models to which the same can happen."""
        store = self.store
        told = min((c.watch[0].revision for c in self.clients if c.watch), default=store.revision)
        return (
            (store.now, store.revision, frozenset(store.keys.values())),
            (frozenset(store.leases.items()), store.events(PREFIX, told + 1)),
            tuple(client.state() for client in self.clients),
            frozenset(Counter(self.late).items()),
            (self.removed, self.given_up, self.token),
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
        index, call = client.index, client.call
        if call and isinstance(call.request, AwaitTurn):
            standing = self._standing(client)
            if standing in (Standing.FIRST, Standing.GONE):
                yield "stand", index, standing
            else:
                yield "stand", index, Standing.WAITS
                assert call.place
                if call.place.lease.deadline <= self.now(client):
                    yield "stand", index, Standing.UNKNOWN
        elif call:
            yield ("answer" if call.arrived else "arrive"), index, None
        if call:
            for how in self._faults(call):
                yield "lose", index, how
        if self._renewable(client):
            yield "beat", index, None
        if client.beat:
            yield "beaten", index, None
        if self.lagging and self._watches(client) and self._untold(client):
            yield "watch", index, None
        if client.watch and self.lagging:
            yield "forget", index, None
        yield "crash", index, None

    def ops(self, client: Client) -> list[str]:
        """What a client can begin."""
        if client.call:
            return []
        if client.hold and client.hold.alive and not self._noticed(client):
            return ["unlock", "renew", "extend", "shorten", "destroy"]
        begin = ["lock", "wait"]
        if client.fresh:
            begin += ["adopt and unlock", "adopt and renew"]
        return [*begin, "destroy"] if client.lease or client.hold else begin

    def _faults(self, call: Call) -> list[str]:
        if isinstance(call.request, AwaitTurn):
            return ["unavailable", "destroyed", "interrupt"]
        faults = ["timeout", "interrupt"]
        if not isinstance(call.request, Grant):
            faults.append("repeat")
        if call.arrived is None:
            faults.append("unavailable")
            if isinstance(call.request, Txn):
                faults.append("no space")
            if call.op == "wait" and not isinstance(call.request, Revoke):
                faults.append("destroyed")
        return faults

    def _interferences(self) -> Iterable[Any]:
        for name, _ in self.entries():
            yield "delete", name
            yield "revoke", name

    def _times(self) -> Iterable[str]:
        yield from ("soon", "later")
        if self._deadlines():
            yield from ("before a deadline", "past a deadline")
        if self.store.leases:
            yield "end of a lease"

    def entries(self) -> list[tuple[bytes, int]]:
        """The names and tokens of all in the queue, oldest first."""
        return [(name, at.token) for name, at in places(PREFIX, self.store.keys.values())]

    def others(self) -> list[bytes]:
        """The names of those in the queue that are nobody's here, oldest first."""
        return [name for name, _ in self.entries() if _client_of(_born(name)) < 0]

    def now(self, client: Client) -> float:
        return 1000 + (self.store.now - 1000) * client.rate

    def believes(self, client: Client) -> bool:
        """Whether it would say that it holds."""
        hold = client.hold
        return bool(hold and hold.alive and not hold.lost and not self._over(client))

    def _over(self, client: Client) -> bool:
        assert client.hold
        return client.hold.place.deadline <= self.now(client)

    def _noticed(self, client: Client) -> bool:
        """Whether it knows that its hold is lost."""
        hold = client.hold
        return bool(hold and hold.alive and (hold.lost or self._over(client)))

    def _renewable(self, client: Client) -> bool:
        waits = client.call and isinstance(client.call.request, AwaitTurn)
        return bool(waits) or self.believes(client)

    def _watches(self, client: Client) -> bool:
        waits = client.call and isinstance(client.call.request, AwaitTurn)
        return bool(waits or client.hold)

    def _untold(self, client: Client) -> bool:
        if client.watch is None:
            return True
        return bool(self.store.events(PREFIX, client.watch[1] + 1))

    def _feed(self, client: Client) -> View:
        view = View(PREFIX)
        if client.watch:
            found, told = client.watch
            view.rebase(found)
            events = self.store.events(PREFIX, found.revision + 1)
            view.apply(event for event in events if event.revision <= told)
        return view

    def _standing(self, client: Client) -> Standing:
        assert client.call
        assert client.call.place
        if client.call.ended:
            return Standing.GONE
        place, view = client.call.place, self._feed(client)
        after = client.call.request.after
        if after and view.standing(*after) is not Standing.GONE:
            return Standing.UNKNOWN  # far from its turn it hears of nothing else
        return view.standing(place.entry, place.token)

    def _deadlines(self) -> list[float]:
        """When those that hold cease to believe it, by the clock of the store."""
        return [
            1000 + (client.hold.place.deadline - 1000) / client.rate
            for client in self.clients
            if client.hold and self.believes(client)
        ]

    # What happens.

    def do(self, move: Move) -> None:
        """One move, and a look at what became of it."""
        self.story.append(move)
        self.whole = False
        kind, index, how = move
        getattr(self, f"_{kind}")(self.clients[index], how)
        if not self.lagging:
            for client in self.clients:
                if client.call and isinstance(client.call.request, AwaitTurn):
                    self._catch_up(client)
                else:
                    client.watch = None
        self.check()
        self.whole = True

    def begin(self, index: int, op: str) -> None:
        self.do(("begin", index, op))

    def _begin(self, client: Client, op: str) -> None:
        names, now, hold = client.names, self.now(client), client.hold
        lease, place, first = client.lease, hold.place if hold else None, client.next_id
        lost = place if self._noticed(client) else None
        lease_ids = lambda: count(first)  # noqa: E731

        def taking(flow: Any) -> Callable[[Any], Any]:
            return lambda _: flow(names, TTL, lease, lost=lost, now=now, lease_ids=lease_ids())

        def adopting(act: Callable[[Place], Any]) -> Any:
            found = yield from flows.adopt(names, now=now)
            return (found, (yield from act(found))) if isinstance(found, Place) else None

        makes: dict[str, Callable[[Callable[[Place], None]], Any]] = {
            "lock": taking(flows.try_lock),
            "wait": taking(flows.wait),
            "unlock": lambda _: flows.release(names, place, TTL),
            "renew": lambda _: flows.renew(names, place),
            "extend": lambda keep: flows.extend(
                names, place, LONGER, lease_ids=lease_ids(), keep=keep
            ),
            "shorten": lambda keep: flows.extend(
                names, place, SHORTER, lease_ids=lease_ids(), keep=keep
            ),
            "withdraw": lambda _: flows.release(names, place, 0),
            "adopt and unlock": lambda _: adopting(lambda each: flows.release(names, each, TTL)),
            "adopt and renew": lambda _: adopting(lambda each: flows.renew(names, each)),
            "destroy": lambda _: flows.discard(names, *_leases(place, lease)),
        }
        if op == "destroy" and self.believes(client):
            makes[op] = makes["withdraw"]
        given = frozenset(each.id for each in _leases(place, lease))
        client.call = Call(op, makes[op], given, first)
        if op in ("lock", "wait"):
            client.lease, client.fresh = None, False
            if hold and lost:
                client.hold = replace(hold, lost=True)
        if op in ("unlock", "withdraw", "destroy") and hold:
            client.hold = replace(hold, alive=False)
        self._resume(client, None)

    def _resume(self, client: Client, how: Any) -> None:
        """The operation goes on, up to its next request or its end."""
        call = client.call
        assert call
        try:
            try:
                call.request = call.resume(how)
            finally:
                for place in call.kept:
                    if client.hold:
                        client.hold = client.hold.moved(place)
        except StopIteration as decided:
            client.call = None
            self._ended(client, call, decided.value)
        except (MicrolockError, KeyboardInterrupt) as error:
            client.call = None
            self._ended(client, call, error)
        else:
            call.sent, call.arrived, call.doubt = self.now(client), None, False
            call.place = call.request.place if isinstance(call.request, AwaitTurn) else None
            call.ended = False
            if isinstance(call.request, Grant):
                client.next_id = max(client.next_id, call.request.lease_id + 1)
            if isinstance(call.request, Grant | Revoke):
                call.leases |= {call.request.lease_id}

    def _ended(self, client: Client, call: Call, verdict: Any) -> None:
        hold = client.hold
        uncertain = isinstance(verdict, LockUncertainError)
        if uncertain or (isinstance(verdict, KeyboardInterrupt) and call.unsettled):
            self.given_up |= call.leases
        if call.unsettled and hold and self._noticed(client):
            self.given_up |= _ids(hold.place)  # lost, and could not be ended
        match call.op:
            case "lock" | "wait":
                self._taken(client, verdict)
            case "unlock" | "withdraw" | "destroy":
                self._given_back(client, call, verdict)
            case "adopt and unlock":
                if isinstance(verdict, tuple) and isinstance(verdict[1], Lease):
                    client.lease = verdict[1]
            case "adopt and renew":
                if isinstance(verdict, tuple) and isinstance(verdict[1], Place):
                    self._keep(client, Hold(verdict[1], self.now(client)))
            case _:
                self._kept(client, call, verdict)
        if call.op == "destroy":
            self._restart(client)
        elif isinstance(verdict, DestroyedError):  # that was in the middle of a wait
            self._begin(client, "destroy")
        if client.lease:
            puts = (p for each in self.late for p in _puts(each.request))
            if any(put.lease_id == client.lease.id for put in puts):
                raise Violation("a lease is kept though a put under it is under way")

    def _taken(self, client: Client, verdict: Any) -> None:
        if isinstance(verdict, Place):
            client.hold = Hold(verdict, self.now(client))
            self._look(client)
            if self._noticed(client):
                self._begin(client, "withdraw")
            else:
                self._began(client)
        elif isinstance(verdict, Contended):
            client.hold, client.lease = None, verdict.lease

    def _given_back(self, client: Client, call: Call, verdict: Any) -> None:
        hold = client.hold
        if isinstance(verdict, StoreError) and call.op == "unlock":
            assert hold
            self._keep(client, replace(hold, alive=True))
            return
        if isinstance(verdict, MicrolockError) or (call.op == "destroy" and call.unsettled):
            self.given_up |= call.leases  # it has said so, or it was lost before
        if isinstance(verdict, Lost) and hold and call.op == "unlock":
            client.hold = replace(hold, alive=True, lost=True)
            return
        client.hold = None
        client.lease = verdict if isinstance(verdict, Lease) else None

    def _kept(self, client: Client, call: Call, verdict: Any) -> None:
        """A renewal or an extension has ended."""
        assert client.hold
        left = verdict[0] if isinstance(verdict, tuple) else verdict
        if isinstance(left, Place):
            self._keep(client, client.hold.moved(left))
        elif isinstance(left, Lost):
            client.hold = replace(client.hold, lost=True)
        elif isinstance(left, LockUncertainError):
            client.hold = None

    def _keep(self, client: Client, hold: Hold) -> None:
        client.hold = hold
        self._look(client)
        if self.believes(client):
            self._began(client)

    def _began(self, client: Client) -> None:
        assert client.hold
        token = client.hold.place.token
        if token < self.token and token not in self.removed:
            raise Violation(f"the token {token} after {self.token}")
        self.token = max(self.token, token)

    def _look(self, client: Client) -> None:
        """What the watch says of the hold."""
        hold = client.hold
        if client.watch and hold and hold.alive:
            standing = self._feed(client).standing(hold.place.entry, hold.place.token)
            if standing is Standing.GONE:
                client.hold = replace(hold, lost=True)

    def _restart(self, client: Client) -> None:
        client.life += 1
        client.hold, client.lease, client.call = None, None, None
        client.fresh, client.watch, client.beat = True, None, ()

    # The moves.

    def _arrive(self, client: Client, _: Any) -> None:
        call = client.call
        assert call
        call.arrived = self._apply(client, client.life, call.request)

    def _answer(self, client: Client, _: Any) -> None:
        call = client.call
        assert call
        answer = call.arrived
        match answer:
            case Lifetime() | Outcome():
                answer = timed(answer, call.sent, self.now(client))
            case (kind, _):
                answer = (kind, call.doubt)
        if isinstance(answer, Outcome):
            answer = replace(answer, repeated=call.doubt)
        self._resume(client, None if answer == "revoked" else answer)

    def _lose(self, client: Client, how: str) -> None:
        call = client.call
        assert call
        under_way = call.arrived is None and how in ("timeout", "repeat", "interrupt")
        if under_way and isinstance(call.request, Grant | Revoke | Txn):
            self.late += (Late(client.index, client.life, call.request),)
        if how == "repeat":
            call.arrived, call.doubt, call.sent = None, True, self.now(client)
            return
        if isinstance(call.request, Revoke):
            call.unsettled = True
        changes = not isinstance(call.request, Read | Get | KeepAlive | AwaitTurn)
        errors: dict[str, Thrown] = {
            "timeout": (StoreTimeoutError, changes),
            "unavailable": (StoreUnavailableError, changes and call.doubt),
            "no space": (StoreNoSpaceError, call.doubt),
            "destroyed": (DestroyedError, False),
            "interrupt": (KeyboardInterrupt, False),
        }
        self._resume(client, errors[how])

    def _late(self, client: Client, number: int) -> None:
        late = self.late[number]
        self.late = self.late[:number] + self.late[number + 1 :]
        self._apply(client, late.life, late.request)

    def _stand(self, client: Client, standing: Standing) -> None:
        call = client.call
        assert call
        assert call.place
        holder = self._feed(client).holder or call.request.holder
        self._resume(client, TurnResult(standing, call.place.lease, self.now(client), holder))

    def _beat(self, client: Client, _: Any) -> None:
        """Its leases are renewed in the background; the answers are on their way."""
        call = client.call
        place = call.place if call and call.place else client.hold and client.hold.place
        assert place
        sent = self.now(client)
        client.beat = tuple(
            (lease.id, timed(self.store.apply(KeepAlive(lease.id)), sent, sent))
            for lease in place.leases
        )

    def _beaten(self, client: Client, _: Any) -> None:
        beat, client.beat = client.beat, ()
        for lease_id, lifetime in beat:
            call, hold = client.call, client.hold
            if call and call.place and lease_id == call.place.lease.id:
                if lifetime.ttl > 0:
                    call.place = call.place.renewed(lease_id, lifetime)
                else:
                    call.ended = True
            elif hold and hold.alive and lifetime.sent >= hold.since:
                if lifetime.ttl > 0:
                    client.hold = hold.renewed(lease_id, lifetime)
                elif call is None and any(lease.id == lease_id for lease in hold.place.leases):
                    client.hold = replace(hold, lost=True)

    def _watch(self, client: Client, _: Any) -> None:
        """It begins, or tells of one more change."""
        if client.watch is None:
            self._catch_up(client)
            return
        found, told = client.watch
        event = self.store.events(PREFIX, told + 1)[0]
        client.watch = found, event.revision
        self._look(client)

    def _catch_up(self, client: Client) -> None:
        revision = self.store.revision
        if client.watch is None or client.watch[0].revision < revision:
            client.watch = self.store.apply(Read(PREFIX)), revision
        self._look(client)

    def _leave(self, _: Client, name: bytes) -> None:
        """One of the others gives back the lock, or gives up."""
        self.store.apply(Txn((), (Delete(name),)))

    def _forget(self, client: Client, _: Any) -> None:
        client.watch = None

    def _crash(self, client: Client, _: Any) -> None:
        call = client.call
        if call:
            self.given_up |= call.leases
            if call.arrived is None and isinstance(call.request, Grant | Revoke | Txn):
                self.late += (Late(client.index, client.life, call.request),)
        if client.hold:
            self.given_up |= _ids(client.hold.place)
        self._restart(client)

    def _interfere(self, _: Client, how: tuple[str, bytes]) -> None:
        """An operator deletes an entry, or revokes its lease."""
        what, name = how
        kv = self.store.keys[name]
        self.removed |= {kv.create_revision}
        self.store.apply(Revoke(kv.lease_id) if what == "revoke" else Txn((), (Delete(name),)))

    def _time(self, _: Client, how: str) -> None:
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
        return "revoked" if answer is None else answer

    # What is to hold.

    def check(self) -> None:
        entries = self.entries()
        for client in self.clients:
            if not self.believes(client):
                continue
            assert client.hold
            mine = client.hold.place.entry, client.hold.place.token
            if mine[1] not in self.removed and mine != (entries[0] if entries else None):
                raise Violation(f"{client.names.node_id} believes in {mine}; there are {entries}")
        for name, token in entries:
            if not self._answered_for(name, token):
                raise Violation(f"the entry {name!r} of {token} is left over")

    def _answered_for(self, name: bytes, token: int) -> bool:
        born, under = _born(name), self.store.keys[name].lease_id
        if {born, under} & self.given_up:
            return True
        client = self.clients[_client_of(born)]
        if client.call and (born in client.call.leases or under in client.call.leases):
            return True
        if client.call and client.call.op.startswith("adopt"):
            return True
        return bool(client.hold and client.hold.place.entry == name)

    def finish(self) -> None:
        """From here on nothing goes wrong, and every hold is given back: all that was begun ends.
        Then all copies arrive, all clients are gone, and the lock is free."""
        for name in self.others():
            self.do(("leave", 0, name))
        for _ in range(100):
            if not any(self._go_on(client) for client in self.clients):
                if not any(client.call for client in self.clients):
                    break
                for client in self.clients:
                    if self._renewable(client):
                        self.do(("beat", client.index, None))
                        self.do(("beaten", client.index, None))
                self.do(("time", 0, "later"))
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
        while self._go_on(self.clients[0], unlock=False):
            pass
        if not self.believes(self.clients[0]):
            raise Violation("a free lock can't be taken")

    def _go_on(self, client: Client, *, unlock: bool = True) -> bool:
        """Does what is next for a client, as long as there is anything."""
        index, moves = client.index, [kind for kind, *_ in self._moves_of(client)]
        for kind in ("watch", "arrive", "answer"):
            if kind in moves:
                self.do((kind, index, None))
                return True
        if client.call and self._standing(client) in (Standing.FIRST, Standing.GONE):
            self.do(("stand", index, self._standing(client)))
            return True
        if unlock and client.call is None and "unlock" in self.ops(client):
            self.begin(index, "unlock")
            return True
        return False


def _leases(place: Place | None, lease: Lease | None) -> tuple[Lease, ...]:
    return (*(place.leases if place else ()), *((lease,) if lease else ()))


def _ids(place: Place) -> set[int]:
    return {lease.id for lease in place.leases}


def _ids_of(hold: Hold | None) -> set[int]:
    return _ids(hold.place) if hold else set()


def _puts(request: Any) -> list[Put]:
    return [each for each in request.then if isinstance(each, Put)] if _is_txn(request) else []


def _is_txn(request: Any) -> bool:
    return isinstance(request, Txn)


def _born(name: bytes) -> int:
    """The lease that an entry is named after."""
    return int(name.removeprefix(PREFIX), 16)


def _client_of(lease_id: int) -> int:
    return lease_id // LEASES_OF_A_CLIENT - 1
