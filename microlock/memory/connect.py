"""`connect("memory://name")`: finds or makes the store with this name."""

from __future__ import annotations

import os
import re
from itertools import count
from typing import Protocol
from weakref import WeakValueDictionary

from microlock.engine.client import Client, Store
from microlock.engine.clock import Clock
from microlock.errors import InvalidArgumentError
from microlock.memory.store import Memory

SCHEME = "memory://"

_NAME = re.compile(r"[A-Za-z0-9._~-]{1,255}")

_numbers = count(1)


class Named(Store, Protocol):
    """A store in this process that clients find by its address."""

    @property
    def clock(self) -> Clock: ...


# Stores that `connect()` has made stay as long as the process, like a server.
_made: dict[str, Named] = {}
_known: WeakValueDictionary[str, Named] = WeakValueDictionary()

if hasattr(os, "register_at_fork"):  # a forked child does not share its parent's stores
    os.register_at_fork(after_in_child=_known.clear)
    os.register_at_fork(after_in_child=_made.clear)


def connect(address: str, *, timeout: float) -> Client:
    """A client of the store at this address, which is made if there is none.

    Args:
        address: `memory://` for a new store, or `memory://name`.
        timeout: seconds.

    Raises:
        InvalidArgumentError: the name is wrong.
    """
    name = address.removeprefix(SCHEME)
    if not name:
        store: Named = Memory(f"memory (unnamed, {next(_numbers)})")
        return Client(store, timeout=timeout, clock=store.clock)
    if not _NAME.fullmatch(name):
        raise InvalidArgumentError(
            f"endpoints: {address!r} is not memory:// or memory://name, of letters, digits and ._~-"
        )
    # In one step: another thread may ask for it at the same time.
    known = _known.get(address) or _made.setdefault(address, Memory(address))
    return Client(known, timeout=timeout, clock=known.clock)


def publish(address: str, store: Named) -> None:
    """Makes a store available at this address, as long as it is referenced elsewhere."""
    _known[address] = store
