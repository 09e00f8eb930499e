"""A client in a run under faults: works on locks at random, and writes down all that it sees.

    python client.py '{"run": ..., "name": ..., "endpoints": [...], "keys": [...], "slots": [...],
                       "pages": [...], "seed": ..., "seconds": ..., "tasks": ...}'

A process of its own, which may be paused and killed. Each of its workers does what users do: it
takes a lock, says that it holds it, writes to the fenced store, renews, gives back, forgets to.
Its locks are those of threads, or of tasks, and of all kinds: on the `keys` mutexes, elections, and
several at once; on the `slots` semaphores; on the `pages` readers and writers.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import loop_face
from fenced import Fenced
from history import Called, Claimed, Deaf, Ended, History, Listens, Returned, Stalled, Told, now

import microlock
from microlock import (
    EtcdClient,
    Hold,
    LockEvent,
    LockLostError,
    MicrolockError,
    connect,
    events,
)

WORKERS = 3
LISTENERS = 2
TTL = 2
TIMEOUT = 4.0  # of the client
OWN = (
    events.acquired,
    events.released,
    events.failed,
    events.waiting,
    events.renewed,
    events.suspended,
    events.lost,
)

_numbers = count(1)


@dataclass
class Client:
    """What the workers of a process share."""

    name: str
    etcd: EtcdClient
    lock: Callable[..., Any]  # makes one
    history: History
    store: Fenced
    keys: list[str]
    slots: list[str]
    pages: list[str]
    end: float


@dataclass(frozen=True)
class Wanted:
    """A lock that somebody wants.

    Attributes:
        kind: of its class.
        keys: the first one, and those that are taken in one with it.
        limit: so many older rivals keep it out.
        alone: whether nobody holds it beside: so its tokens fence.
    """

    kind: str
    keys: tuple[str, ...]
    limit: int = 1
    alone: bool = True

    def make(self, client: Client, node: str, **options: Any) -> Any:
        names = list(self.keys) if self.kind == "MultiLock" else self.keys[0]
        limit = {"limit": self.limit} if self.kind == "Semaphore" else {}
        return client.lock(client.etcd, names, node, ttl=TTL, kind=self.kind, **limit, **options)


def wanted(client: Client, rng: Random) -> Wanted:
    """A lock at random; of each key all have the same limit."""
    match rng.choices(["queue", "slot", "page"], [6, 2, 3]):
        case ["slot"]:
            slot = rng.choice(client.slots)
            return Wanted("Semaphore", (slot,), 2 + client.slots.index(slot) % 2, alone=False)
        case ["page"]:
            kind = rng.choice(["ReadLock", "ReadLock", "WriteLock"])
            return Wanted(kind, (rng.choice(client.pages),), alone=kind == "WriteLock")
    kind = rng.choice(["Microlock", "Microlock", "Election", "MultiLock"])
    several = rng.randint(2, 3) if kind == "MultiLock" else 1
    return Wanted(kind, tuple(rng.sample(client.keys, several)))


class Seen:
    """A lock, and all that it does, in the history."""

    def __init__(self, client: Client, wanted: Wanted, node: str, **options: Any) -> None:
        self.number = next(_numbers)
        self.key, *self._others = wanted.keys
        self.node = node
        self._wanted = wanted
        self._client = client
        self.token: int | None = None  # of the last hold
        self.lock = wanted.make(client, node, **options)
        for name in OWN:
            self.lock.on(name, self._told)

    def listen(self) -> None:
        self.lock.on(events.locked, self._told)
        self.lock.on(events.unlocked, self._told)
        for key in self._wanted.keys:
            self._note(Listens(now(), self.number, key, self._wanted.limit))

    def take(self, *, timeout: float) -> Hold:
        if self._wanted.kind == "Election":
            hold: Hold = self.lock.campaign(self.node, timeout=timeout)
        else:
            hold = self.lock.lock(timeout=timeout)
        return hold

    def call(
        self,
        op: str,
        method: Callable[[], Any],
        *,
        within: float | None = TIMEOUT,
        waits: bool = False,
        ttl: int = TTL,
    ) -> MicrolockError | None:
        """Calls it. Returns the error that it raised."""
        number = next(_numbers)
        about = self.number, op, self.key, self.node, within, ttl, waits
        self._note(Called(now(), number, *about, self._wanted.limit, self._others))
        try:
            result = method()
        except MicrolockError as error:
            self._note(Returned(now(), number, type(error).__name__))
            return error
        if isinstance(result, Hold):
            self.token = result.token
            self._note(
                Returned(now(), number, token=result.token, lease=result.lease_id, ttl=result.ttl)
            )
        else:
            self._note(Returned(now(), number))
        return None

    def write(self) -> bool:
        """A write of the holder. Returns whether it still is one."""
        before = now()
        token, remaining = self.lock.token, self.lock.remaining
        if token is None or not self.lock.held:
            return False
        self._note(Claimed(before, now(), self.number, self.key, token, remaining))
        self._store(token)
        return True

    def write_late(self) -> None:
        """A write that was long on its way: its hold is over, and another may have begun."""
        assert self.token
        self._store(self.token)

    def _store(self, token: int) -> None:
        for key in self._wanted.keys if self._wanted.alone else ():
            self._client.store.write(self._client.name, key, token)

    def deaf(self) -> None:
        self._note(Deaf(now(), self.number))

    def _told(self, event: LockEvent) -> None:
        reason = event.reason.name if event.reason else None
        key = event.key if event.name in events.OF_THE_KEY else self.key
        self._note(
            Told(now(), self.number, event.name, key, event.token, event.synthesised, reason)
        )

    def _note(self, record: Any) -> None:
        self._client.history.note(record)


def work(client: Client, node: str, rng: Random) -> None:
    """Takes locks at random until the time is over."""
    while now() < client.end:
        seen = Seen(client, wanted(client, rng), node, auto_renew=rng.random() < 0.6)
        try:
            for _ in range(rng.randrange(1, 4)):
                cycle(seen, rng)
                if now() > client.end:
                    break
        finally:
            if seen.call("destroy", seen.lock.destroy) is None:
                seen.deaf()


def cycle(seen: Seen, rng: Random) -> None:
    """Takes the lock once, and what a holder does then."""
    timeout = 0.0 if rng.random() < 0.5 else rng.uniform(1, 8)
    take = partial(seen.take, timeout=timeout)
    if seen.call("lock", take, within=timeout or TIMEOUT, waits=timeout > 0):
        pause(rng.uniform(0, 0.3))
        return
    # Sometimes for longer than the ttl, whether it is renewed or not.
    until = now() + rng.choice([0, rng.uniform(0, 1), rng.uniform(0, 2 * TTL)])
    while seen.write() and now() < until:
        pause(rng.uniform(0, 0.2))
        if rng.random() < 0.1:
            seen.call("renew", seen.lock.renew)
        elif rng.random() < 0.05:
            ttl = rng.choice([TTL, 2 * TTL])
            seen.call("extend", partial(seen.lock.extend, ttl), ttl=ttl)
    if rng.random() < 0.95:
        error = seen.call("unlock", seen.lock.unlock)
        if error and not isinstance(error, LockLostError) and seen.lock.held:
            seen.call("unlock", seen.lock.unlock)
    if rng.random() < 0.1:
        pause(rng.uniform(0, TTL))
        seen.write_late()


def of_threads(*args: Any, kind: str, **kwargs: Any) -> Any:
    return getattr(microlock, kind)(*args, **kwargs)


def watch_the_clock(history: History, ended: threading.Event) -> None:
    """Notes when this process gets no time to run."""
    before = now()
    while not ended.wait(0.05):
        if now() - before > 0.3:
            history.note(Stalled(now(), before))
        before = now()


def pause(seconds: float) -> None:
    threading.Event().wait(seconds)


def uncaught() -> threading.Event:
    """Set when an error has ended a thread, one of ours or one of the library's."""
    met = threading.Event()
    hook = threading.excepthook

    def note(arguments: threading.ExceptHookArgs) -> None:
        met.set()
        hook(arguments)

    threading.excepthook = note
    return met


def main() -> None:
    faulthandler.register(signal.SIGUSR1)
    died = uncaught()
    settings = json.loads(sys.argv[1])
    run, name = Path(settings["run"]), settings["name"]
    keys = [settings[each] for each in ("keys", "slots", "pages")]
    rng = Random(f"{settings['seed']} {name}")
    logging.basicConfig(filename=run / f"{name}.log", level=logging.INFO)
    history = History(run / f"{name}.jsonl")
    ended = threading.Event()
    # A daemon: a client that ends by an error is to end.
    clock = threading.Thread(target=watch_the_clock, args=(history, ended), daemon=True)
    clock.start()
    endpoints = rng.sample(settings["endpoints"], len(settings["endpoints"]))
    tasks = settings["tasks"]
    with (
        loop_face.running() if tasks else nullcontext(),
        connect(endpoints, timeout=TIMEOUT) as etcd,
    ):
        lock = loop_face.lock if tasks else of_threads
        store, end = Fenced(run / "store.db"), now() + settings["seconds"]
        client = Client(name, etcd, lock, history, store, *keys, end)
        listeners = [
            Seen(client, wanted(client, rng), f"{name}-listener") for _ in range(LISTENERS)
        ]
        for each in listeners:
            each.listen()
        threads = [
            # The first two share a node, as threads of a service may.
            threading.Thread(target=work, args=(client, f"{name}-{i // 2}", Random(rng.random())))
            for i in range(WORKERS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        pause(1)  # for the last events
        for each in listeners:
            each.deaf()
            each.call("destroy", each.lock.destroy)
    ended.set()
    clock.join()
    history.note(Ended(now()))
    history.close()
    sys.exit(1 if died.is_set() else 0)


if __name__ == "__main__":
    main()
