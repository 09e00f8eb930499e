"""Dials a member: looks its name up at each dial, and tries all its addresses (RFC 8305).

If an address does not answer soon, the next one is tried beside it. An address that connects but is
of no use then, for example because the process behind it hangs, comes last at the next dial.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401  else the first look-up imports it, perhaps during a fork
import errno
import os
import selectors
import socket
from collections.abc import Sequence
from itertools import zip_longest
from math import inf
from typing import Any

from microlock.engine import clock
from microlock.engine.reentrant_event import ReentrantEvent
from microlock.engine.threads import Daemon
from microlock.etcd.wire import Address

# Seconds until the next address is tried too, if the others have not answered: RFC 8305, 8.
NEXT_AFTER = 0.25

_UNDER_WAY = {errno.EINPROGRESS, errno.EWOULDBLOCK, getattr(errno, "WSAEWOULDBLOCK", 0)} - {0}

# The family, and the address for `connect()`.
_Place = tuple[int, Any]


class Dialler:
    """Makes sockets to one member, for any thread."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._looking_up: _LookUp | None = None
        self._useless: dict[Any, float] = {}  # addresses, and when they were of no use

    def dial(self, deadline: float) -> tuple[socket.socket, Any]:
        """Returns a connected, non-blocking socket, and its address.

        Raises:
            OSError: the error of the last address that failed.
            TimeoutError: the deadline is over.
        """
        if not self._address.host:
            return _first([(socket.AF_UNIX, self._address.path)], deadline)
        useless = self._useless
        order = sorted(self._places(deadline), key=lambda place: useless.get(place[1], -inf))
        return _first(order, deadline)

    def avoid(self, where: Any) -> None:
        """Tries this address last from now on."""
        if len(self._useless) > 100:  # addresses come and go
            self._useless.clear()
        self._useless[where] = clock.now()

    def _places(self, deadline: float) -> Sequence[_Place]:
        host, port = self._address.host, self._address.port
        try:
            return places(host, port, numeric=True)
        except OSError:  # a name
            pass
        look_up = self._looking_up
        if look_up is None or look_up.done.is_set():  # one at a time: a dead resolver takes long
            look_up = _LookUp(host, port)
            try:
                Daemon("microlock-names", look_up.run).start()
            except RuntimeError as error:  # too many threads, or the interpreter exits
                raise OSError(f"no thread can be started to look up {host}") from error
            self._looking_up = look_up  # only once its thread runs, and so will end it
        if not look_up.done.wait(max(0.0, deadline - clock.now())):
            raise TimeoutError(f"the look-up of {host} timed out")
        return look_up.found()


class _LookUp:
    """A look-up of a name. No deadline can end it, so it has its own thread."""

    def __init__(self, host: str, port: int) -> None:
        self.done = ReentrantEvent()
        self._host, self._port = host, port
        self._outcome: Sequence[_Place] | str = "it was not made"

    def run(self) -> None:
        try:
            self._outcome = places(self._host, self._port)
        except Exception as error:  # noqa: BLE001  the dialling thread raises it
            reason = getattr(error, "strerror", None) or error
            self._outcome = f"{self._host} was not found: {reason}"
        finally:
            self.done.set()

    def found(self) -> Sequence[_Place]:
        if isinstance(self._outcome, str):
            raise OSError(self._outcome)
        return self._outcome


def places(host: str, port: int, *, numeric: bool = False) -> Sequence[_Place]:
    """The addresses of a host: IPv6 and IPv4 in turn, in the system's order."""
    flags = socket.AI_NUMERICHOST if numeric else 0
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except UnicodeError as error:
        raise OSError(f"{host!r} is not a valid host name") from error
    kinds: dict[int, list[_Place]] = {}
    for family, _, _, _, where in found:
        kinds.setdefault(family, []).append((family, where))
    return [each for turn in zip_longest(*kinds.values()) for each in turn if each]


def _first(places: Sequence[_Place], deadline: float) -> tuple[socket.socket, Any]:
    """The first socket that connects, and its address."""
    left = list(places)
    error: OSError = TimeoutError("the connection timed out")
    with selectors.DefaultSelector() as trying:
        try:
            while left or trying.get_map():
                if left:
                    family, where = left.pop(0)
                    try:
                        each = socket.socket(family, socket.SOCK_STREAM)
                    except OSError as failed:  # the system has no IPv6, but the name has
                        error = failed
                        continue
                    each.setblocking(False)
                    try:
                        code = each.connect_ex(where)
                    except OSError:  # a path that is too long
                        each.close()
                        raise
                    if code and code not in _UNDER_WAY:
                        error = OSError(code, os.strerror(code))
                        each.close()
                        continue
                    trying.register(each, selectors.EVENT_WRITE, where)
                now = clock.now()
                if now >= deadline:
                    raise TimeoutError("the connection timed out")
                patience = deadline - now
                for key, _ in trying.select(min(patience, NEXT_AFTER) if left else patience):
                    each = key.fileobj  # type: ignore[assignment]
                    code = each.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    trying.unregister(each)  # now: an interrupt closes what is registered
                    if not code:
                        return each, key.data
                    error = OSError(code, os.strerror(code))
                    each.close()
            raise error
        finally:
            for key in list(trying.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]
