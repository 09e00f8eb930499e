"""A way to etcd that can be cut for one client alone."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from time import sleep

HOST = "127.0.0.1"


class Proxy:
    """Relays TCP connections to an endpoint, until `cut()` and again after `mend()`.

    `delay`: seconds that what comes from there takes longer.
    """

    def __init__(self, endpoint: str, *, delay: float = 0) -> None:
        self._delay = delay
        host, _, port = endpoint.rpartition(":")
        self._target = (host, int(port))
        self._lock = threading.Lock()
        # Under the lock:
        self.accepted = 0  # connections so far
        self._sockets: set[socket.socket] = set()
        self._listener = self._bound(0)
        self.port = self._listener.getsockname()[1]
        self.mend()

    @property
    def endpoint(self) -> str:
        """Where clients connect, `host:port`; the same over all cuts."""
        return f"{HOST}:{self.port}"

    def cut(self) -> None:
        """Breaks all connections; new ones are refused."""
        with self._lock:
            for each in (self._listener, *self._sockets):
                _end(each)
            self._sockets.clear()
            self._listener = self._bound(self.port)  # keeps the port, and refuses

    def mend(self) -> None:
        """Lets new connections through."""
        self._listener.listen()
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        """Ends it."""
        self.cut()
        self._listener.close()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(self._target)
                with self._lock:
                    if listener is not self._listener:
                        _end(client)
                        _end(server)
                        return
                    self.accepted += 1
                    self._sockets |= {client, server}
                for one, other, delay in ((client, server, 0), (server, client, self._delay)):
                    threading.Thread(
                        target=self._relay, args=(one, other, delay), daemon=True
                    ).start()

    def _relay(self, source: socket.socket, sink: socket.socket, delay: float) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                sleep(delay)
                sink.sendall(data)
        with self._lock:
            for each in (source, sink):
                _end(each)
                self._sockets.discard(each)

    def _bound(self, port: int) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        return listener


def _end(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)  # wakes who waits for it
    each.close()
