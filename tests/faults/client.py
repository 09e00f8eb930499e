"""A client in a run under faults: works on locks at random, and writes down all that it sees.

    python client.py '{"run": ..., "name": ..., "endpoints": [...], "keys": [...], "seed": ...,
                       "seconds": ..., "tasks": ...}'

A process of its own, which may be paused and killed. Each of its workers does what users do: it
takes a lock, says that it holds it, writes to the fenced store, renews, gives back, forgets to.
Its locks are those of threads, or of tasks.
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

from microlock import (
    EtcdClient,
    Hold,
    LockEvent,
    LockLostError,
    Microlock,
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
    lock: Callable[..., Microlock]  # makes one
    history: History
    store: Fenced
    keys: list[str]
    end: float


class Seen:
    """A lock, and all that it does, in the history."""

    def __init__(self, client: Client, key: str, node: str, **options: Any) -> None:
        self.number = next(_numbers)
        self.key = key
        self.node = node
        self._client = client
        self.token: int | None = None  # of the last hold
        self.lock = client.lock(client.etcd, key, node, TTL, **options)
        for name in OWN:
            self.lock.on(name, self._told)

    def listen(self) -> None:
        self.lock.on(events.locked, self._told)
        self.lock.on(events.unlocked, self._told)
        self._note(Listens(now(), self.number, self.key))

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
        self._note(Called(now(), number, self.number, op, self.key, self.node, within, ttl, waits))
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
        self._client.store.write(self._client.name, self.key, token)
        return True

    def write_late(self) -> None:
        """A write that was long on its way: its hold is over, and another may have begun."""
        assert self.token
        self._client.store.write(self._client.name, self.key, self.token)

    def deaf(self) -> None:
        self._note(Deaf(now(), self.number))

    def _told(self, event: LockEvent) -> None:
        reason = event.reason.name if event.reason else None
        self._note(
            Told(now(), self.number, event.name, event.key, event.token, event.synthesised, reason)
        )

    def _note(self, record: Any) -> None:
        self._client.history.note(record)


def work(client: Client, node: str, rng: Random) -> None:
    """Takes locks at random until the time is over."""
    while now() < client.end:
        seen = Seen(client, rng.choice(client.keys), node, auto_renew=rng.random() < 0.6)
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
    take = partial(seen.lock.lock, timeout=timeout)
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
    run, name, keys = Path(settings["run"]), settings["name"], settings["keys"]
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
        lock = loop_face.lock if tasks else Microlock
        store, end = Fenced(run / "store.db"), now() + settings["seconds"]
        client = Client(name, etcd, lock, history, store, keys, end)
        listeners = [Seen(client, key, f"{name}-listener") for key in rng.sample(keys, LISTENERS)]
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
