"""Free ports: each process that uses this module gets different ones."""

from __future__ import annotations

import os
import random
import socket
import threading
from collections import deque
from collections.abc import Iterable

from microlock.server._binary import EtcdServerError

HOST = "127.0.0.1"
# Below the ports of outgoing connections: a client that dials etcd again and again while it is down
# could otherwise get etcd's own port as its local port.
_FIRST, _LAST = 20_000, 32_000
_STRETCH = 24
_MOST = 100  # stretches for one process

_lock = threading.Lock()
# The process that has bound the first port of a stretch may use the others until it ends.
_bound: list[int] = []  # file descriptors
_new: deque[int] = deque()
# Reused only when there are no new ones: a caller may be about to bind its port, or to bind it
# again.
_given: deque[int] = deque()


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that are free now, and that no other process gets from here.

    Raises:
        EtcdServerError: there are not enough.
    """
    with _lock:
        free: list[int] = []
        again = len(_given)
        while len(free) < count:
            if not _new and len(_bound) < _MOST:
                _new.extend(_stretch())
            if not _new:
                again -= 1
                if again < 0:
                    raise EtcdServerError(f"no free ports on {HOST} from {_FIRST} to {_LAST}")
            port = (_new or _given).popleft()
            _given.append(port)
            probe = _bind(port)
            if probe is not None:
                probe.close()
                free.append(port)
        return free


def _stretch() -> Iterable[int]:
    """The ports of a new stretch; none if all are taken."""
    firsts = range(_FIRST, _LAST, _STRETCH)
    for first in random.SystemRandom().sample(firsts, len(firsts)):
        bound = _bind(first)
        if bound is not None:
            _bound.append(bound.detach())
            return range(first + 1, first + _STRETCH)
    return ()


def _bind(port: int) -> socket.socket | None:
    bound = socket.socket()
    try:
        bound.bind((HOST, port))
    except OSError:
        bound.close()
        return None
    return bound


def _forget() -> None:
    """After a fork, in the child: the stretches belong to the parent."""
    global _lock
    _lock = threading.Lock()
    _new.clear()
    _given.clear()
    for each in _bound:
        os.close(each)
    _bound.clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget)
