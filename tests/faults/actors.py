"""Processes that take part in a small scenario, and write down what they do and are told.

All but one that is to be paused run as threads of the test; each has a client of its own, so the
library knows them from processes by nothing.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from faces import Microlock
from fenced import Fenced
from history import Called, Claimed, Ended, Fault, History, Listens, Returned, Told, now
from recorder import Recorder

from microlock import Hold, LockEvent, MicrolockError, connect, events
from microlock.server import find_binary

LONG = 60  # seconds; no scenario takes so long

_numbers = count(1)


class Actor:
    """A process with one lock object, whose every call is written down."""

    def __init__(
        self,
        history: History,
        endpoint: str,
        key: str,
        node: str,
        *,
        ttl: float = LONG,
        timeout: float = 10,
        kind: str = "Microlock",
        limit: int = 1,
        others: Sequence[str] = (),
    ) -> None:
        """`limit`: of a semaphore; `others`: further keys of several."""
        self.told: list[LockEvent] = []
        self._history = history
        self._number = next(_numbers)
        self._ttl = int(ttl)
        self._timeout = timeout
        self._etcd = connect(endpoint, timeout=timeout)
        self._key, self._shared = key, {"limit": limit, "others": others}
        keys = [key, *others] if others else key
        extra = {"limit": limit} if limit > 1 else {}
        self.microlock = Microlock(self._etcd, keys, node, ttl=ttl, kind=kind, **extra)
        self.microlock.on(events.lost, self._told)

    def lock(self, *, timeout: float = 0) -> Hold | None:
        """None if it raised."""
        within = timeout or self._timeout
        held: Hold | None = self._call(
            "lock",
            lambda: self.microlock.lock(timeout=timeout),
            within=within,
            waits=timeout > 0,
        )
        return held

    def unlock(self) -> None:
        self._call("unlock", self.microlock.unlock)

    def renew(self) -> None:
        self._call("renew", self.microlock.renew)

    def claim(self) -> bool:
        """Whether it holds the lock, as it says."""
        before = now()
        token, left = self.microlock.token, self.microlock.remaining
        if token is None or not self.microlock.held:
            return False
        self._history.note(Claimed(before, now(), self._number, self._key, token, left))
        return True

    def listen(self) -> None:
        for event in (events.locked, events.unlocked):
            self.microlock.on(event, self._told)
        self._history.note(Listens(now(), self._number, self._key, self._shared["limit"]))

    def was_told(self, event: str, token: int) -> bool:
        return any((each.name, each.token) == (event, token) for each in self.told)

    def note_ended(self) -> None:
        self._call("destroy", self.microlock.destroy)
        self._etcd.close()
        self._history.note(Ended(now()))
        self._history.close()

    def _call(self, op: str, method: Callable[[], Any], **fields: Any) -> Any:
        number = next(_numbers)
        self._history.note(
            Called(
                *(now(), number, self._number, op, self._key, self.microlock.node_id),
                **{"within": self._timeout, "ttl": self._ttl, **self._shared, **fields},
            )
        )
        try:
            result = method()
        except MicrolockError as error:
            self._history.note(Returned(now(), number, type(error).__name__))
            return None
        if isinstance(result, Hold):
            self._history.note(
                Returned(now(), number, None, result.token, result.lease_id, result.ttl)
            )
        else:
            self._history.note(Returned(now(), number))
        return result

    def _told(self, event: LockEvent) -> None:
        reason = event.reason and event.reason.name
        self._history.note(
            Told(
                *(now(), self._number, event.name, self._key, event.token),
                synthesised=event.synthesised,
                reason=reason,
            )
        )
        self.told.append(event)


class Stage:
    """Where a scenario is played: an etcd, a recorder, a directory for the histories."""

    def __init__(self, endpoint: str, run: Path, prefix: str, *, fenced: bool = True) -> None:
        self.endpoint = endpoint
        self.run = run
        self.key = f"{prefix}foo"
        self.fenced = fenced
        self.store = Fenced(run / "store.db", fenced=fenced)
        self.recorder = Recorder([endpoint], run, prefix=prefix)
        self._faults = History(run / "faults.jsonl")
        self._actors = ExitStack()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._actors.close()
            self.recorder.finish()
            self.store.dump(self.run / "store.jsonl")
        finally:
            self.recorder.close()
            self._faults.close()

    def actor(self, name: str, *, endpoint: str | None = None, node: str = "", **of: Any) -> Actor:
        """A process of this name; its node is called the same, if nothing else is said."""
        history = History(self.run / f"{name}.jsonl")
        key = of.pop("key", self.key)
        made = Actor(history, endpoint or self.endpoint, key, node or name, **of)
        self._actors.callback(made.note_ended)
        return made

    @contextmanager
    def fault(self, name: str) -> Iterator[None]:
        begun = now()
        yield
        self._faults.note(Fault(begun, now(), name))

    def delete(self, entry: str) -> None:
        """As an operator would."""
        theirs = {name: value for name, value in os.environ.items() if name[:4] != "ETCD"}
        with self.fault(f"delete {entry}"):
            subprocess.run(
                [find_binary("etcdctl"), f"--endpoints={self.endpoint}", "del", entry],
                env=theirs | {"ETCDCTL_API": "3"},
                check=True,
                timeout=20,
                stdout=subprocess.DEVNULL,
            )

    def closes(self, closing: Callable[[], object]) -> None:
        """Called at the end, after the actors that are made from now on."""
        self._actors.callback(closing)

    def free(self) -> bool:
        """Whether nobody has an entry."""
        with connect(self.endpoint) as etcd, suppress(MicrolockError):
            return Microlock(etcd, self.key, "onlooker").holder() is None
        return False
