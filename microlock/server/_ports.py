"""Ports of one's own: no two processes that ask here are given the same ones."""

from __future__ import annotations

import os
import random
import socket
import threading
from collections import deque
from math import inf
from time import monotonic

from microlock.server._binary import EtcdServerError

HOST = "127.0.0.1"
# Below the ports that outgoing connections get: a client which dials etcd again and again while
# it is down could otherwise be given etcd's own port.
_FIRST, _LAST = 20_000, 32_000
_STRETCH = 24
# Seconds for which a port that was given is not given again: it may not be bound yet.
_REST = 30.0

_lock = threading.Lock()
# Whoever has bound the first port of a stretch may give away the others, until its process ends.
_bound: list[int] = []  # file descriptors
# The ports of our stretches, each with the time when it was given; the latest is the last.
_ports: deque[tuple[int, float]] = deque()


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody uses now, and no other process is given.

    Raises:
        EtcdServerError: there are not so many.
    """
    with _lock:
        now = monotonic()
        free: list[int] = []
        while len(free) < count:
            if not _ports or now < _ports[0][1] + _REST:
                _ports.extendleft((port, -inf) for port in _stretch())
            port, _ = _ports.popleft()
            _ports.append((port, now))
            probe = _bind(port)
            if probe is not None:
                probe.close()
                free.append(port)
        return free


def _stretch() -> range:
    firsts = range(_FIRST, _LAST, _STRETCH)
    for first in random.SystemRandom().sample(firsts, len(firsts)):
        bound = _bind(first)
        if bound is not None:
            _bound.append(bound.detach())
            return range(first + 1, first + _STRETCH)
    raise EtcdServerError(f"no free ports on {HOST} from {_FIRST} to {_LAST}")


def _bind(port: int) -> socket.socket | None:
    bound = socket.socket()
    try:
        bound.bind((HOST, port))
    except OSError:
        bound.close()
        return None
    return bound


def _forget() -> None:
    """In the child of a fork: the stretches are its parent's."""
    global _lock
    _lock = threading.Lock()
    _ports.clear()
    for each in _bound:
        os.close(each)
    _bound.clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget)
