"""A client of etcd for locks whose time passes by hand: nothing works in the background."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from faults import Caller
from store import Store

from microlock.core.port import Found
from microlock.core.queue import Standing
from microlock.engine.handlers import Handlers
from microlock.etcd.client import EtcdClient
from microlock.renewal import Keeper
from microlock.watch import Watcher


class Client(EtcdClient):
    """One whose requests are answered by a store, or meet the faults of their type."""

    def __init__(self, store: Store) -> None:
        super().__init__([], timeout=5)
        self.faults: dict[Any, Any] = {}
        self.caller = Caller(store, self.faults)
        self.background = Background()

    def perform(self, request: Any, budget: Any) -> Any:
        return self.caller.perform(request)

    def one(self, kind: Any) -> Any:
        self.check()
        assert kind in (Handlers, Keeper, Watcher)
        return self.background


class Background:
    """What a client has threads for. Handlers run at once; renewals and the watch are left to the
    tests.

    Attributes:
        kept: what the keeper would look after, in the order of the calls.
        places: what the keeper would give back at exit.
        watching: what the watcher would tell.
        standing: what the watch knows of any place.
    """

    def __init__(self) -> None:
        self.kept: list[Any] = []
        self.places: list[Any] = []
        self.watching: list[Any] = []
        self.standing = Standing.UNKNOWN

    def submit(self, job: Callable[[], None]) -> None:
        job()

    def finish(self, job: Callable[[], None], *, timeout: float) -> None:
        job()

    def keep(self, kept: Any) -> None:
        self.kept.append(kept)

    def remember(self, place: Any) -> None:
        self.places.append(place)

    def watch(
        self, name: bytes, watching: Any, *, wait: bool = True, known: Found | None = None
    ) -> None:
        self.watching.append(watching)

    def pause(self, name: bytes, watching: Any, *, unless: Callable[[], bool]) -> bool:
        return not unless()

    def unwatch(self, prefix: bytes, watching: Any) -> None:
        if watching in self.watching:
            self.watching.remove(watching)

    def look(self, prefix: bytes, entry: bytes, token: int) -> tuple[Standing, None]:
        return self.standing, None
