"""A way to etcd on which requests and replies can be held back or lost."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

HOST = "127.0.0.1"


class Lossy:
    """Relays TCP connections to an endpoint; `requests` and `replies` let bytes through while set.

    What is held back is lost with `reset()`, or arrives late when it is let through. Both held
    back it is a black hole, which takes connections and says nothing.
    """

    def __init__(self, endpoint: str) -> None:
        host, _, port = endpoint.rpartition(":")
        self._target = (host, int(port))
        self.requests = threading.Event()
        self.replies = threading.Event()
        self.requests.set()
        self.replies.set()
        self._marker: bytes | None = None  # the replies stop when this passes by
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()  # under the lock
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._listener = socket.create_server((HOST, 0))
        self.endpoint = f"{HOST}:{self._listener.getsockname()[1]}"
        self._start(self._accept)

    def withhold_replies_from(self, marker: bytes) -> None:
        """From the next request on that contains this, which is sent on, no reply comes back."""
        self._marker = marker

    def swallow(self) -> None:
        """Becomes a black hole."""
        self.requests.clear()
        self.replies.clear()

    def reset(self) -> None:
        """Breaks all connections, and what is held back with them; new ones are relayed."""
        self._marker = None
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            for each in pair:
                _end(each)
        self.requests.set()
        self.replies.set()

    def close(self) -> None:
        self._closed = True
        _end(self._listener)
        self.reset()
        for thread in self._threads:
            thread.join(timeout=10)
            assert not thread.is_alive()

    def _start(self, run: object, *args: object) -> None:
        thread = threading.Thread(target=run, args=args, name="lossy", daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                _end(client)
                continue
            with self._lock:
                self._pairs.add((client, server))
            self._start(self._relay, client, server, self.requests)
            self._start(self._relay, server, client, self.replies)

    def _relay(self, source: socket.socket, sink: socket.socket, gate: threading.Event) -> None:
        pair = (source, sink) if gate is self.requests else (sink, source)
        with suppress(OSError):
            while data := source.recv(65_536):
                if gate is self.requests and self._marker and self._marker in data:
                    self.replies.clear()
                while not gate.wait(0.05) and pair in self._pairs:
                    pass
                if pair not in self._pairs:
                    break  # cut: nothing of it is to arrive any more
                sink.sendall(data)
        with self._lock:
            self._pairs.discard(pair)
        for each in pair:
            _end(each)


def _end(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)  # wakes who waits for it
    each.close()
