"""A way to etcd on which what a network does to connections can be done to them."""

from __future__ import annotations

import random
import socket
import threading
from contextlib import suppress
from time import sleep

HOST = "127.0.0.1"
_RETRANSMISSION = 0.2  # seconds; TCP_RTO_MIN of Linux


class Proxy:
    """Relays TCP connections to an endpoint.

    TCP loses nothing from the middle of a connection, and neither does this: what is held back
    arrives late when it is let through, or is lost with its connection.

    Args:
        endpoint: where it leads, `host:port`.

    Attributes:
        requests, replies: let bytes through while they are set.
        delay: seconds that what comes back takes longer.
        loss: which part of what passes is lost and sent again by TCP, in 0 to 1: so much of it,
            and all behind it, takes 0.2 s longer.
        accepted: connections so far.
        refused: those that were closed at once, as there was nobody at the endpoint.
    """

    def __init__(self, endpoint: str, *, delay: float = 0) -> None:
        host, _, port = endpoint.rpartition(":")
        self._target = (host, int(port))
        self.requests = threading.Event()
        self.replies = threading.Event()
        self.delay = delay
        self.loss = 0.0
        self._marker: bytes | None = None  # the replies stop when this passes by
        self._everywhere = True
        self._mute: set[tuple[socket.socket, socket.socket]] = set()
        self._left: int | None = None  # bytes until all connections break
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        # Under the lock:
        self.accepted = 0
        self.refused = 0
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._listener = self._bound(0)
        self._port = self._listener.getsockname()[1]
        self.let_through()
        self.mend()

    @property
    def endpoint(self) -> str:
        """Where clients connect, `host:port`; the same over all cuts."""
        return f"{HOST}:{self._port}"

    def swallow(self) -> None:
        """Becomes a black hole: takes connections and what they send, and says nothing."""
        self.requests.clear()
        self.replies.clear()

    def let_through(self) -> None:
        """Lets everything through, also what was held back."""
        self.requests.set()
        self.replies.set()

    def withhold_replies_from(self, marker: bytes, *, everywhere: bool = True) -> None:
        """From the next request on that contains this, which is sent on, no reply comes back; or on
        its connection alone."""
        self._marker, self._everywhere = marker, everywhere

    def reset_after(self, count: int) -> None:
        """Breaks all connections when so many more bytes have come back; once."""
        self._left = count

    def reset(self) -> None:
        """Breaks all connections, and what is held back with them; new ones are relayed."""
        self._marker = self._left = None
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            for each in pair:
                _end(each)
        self.let_through()

    def cut(self) -> None:
        """Breaks all connections; new ones are refused."""
        with self._lock:
            _end(self._listener)
            self._listener = self._bound(self._port)  # keeps the port, and refuses
        self.reset()

    def mend(self) -> None:
        """Takes connections again after `cut()`."""
        self._listener.listen()
        self._start(self._accept, self._listener)

    def close(self) -> None:
        """Ends it."""
        self._closed = True
        self.cut()
        _end(self._listener)
        for thread in self._threads:
            thread.join(timeout=10)
            assert not thread.is_alive()

    def _bound(self, port: int) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        return listener

    def _start(self, run: object, *args: object) -> None:
        thread = threading.Thread(target=run, args=args, name="proxy", daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while not self._closed:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                self.refused += 1
                _end(client)
                continue
            with self._lock:
                if listener is not self._listener:  # cut meanwhile
                    _end(client)
                    _end(server)
                    return
                self.accepted += 1
                self._pairs.add((client, server))
            self._start(self._relay, client, server, self.requests)
            self._start(self._relay, server, client, self.replies)

    def _relay(self, source: socket.socket, sink: socket.socket, gate: threading.Event) -> None:
        back = gate is self.replies
        pair = (sink, source) if back else (source, sink)
        with suppress(OSError):
            while data := source.recv(65_536):
                if not back and self._marker and self._marker in data:
                    if self._everywhere:
                        self.replies.clear()
                    else:
                        self._mute.add(pair)
                sleep(self.delay * back + _RETRANSMISSION * (random.random() < self.loss))
                while not gate.wait(0.05) and pair in self._pairs:
                    pass
                while back and pair in self._mute and pair in self._pairs:
                    sleep(0.05)
                if pair not in self._pairs:
                    break  # broken: nothing of it is to arrive any more
                if back and self._left is not None:
                    self._left, data = self._left - len(data), data[: self._left]
                    if self._left < 0:
                        sink.sendall(data)
                        self.reset()
                        break
                sink.sendall(data)
        with self._lock:
            self._pairs.discard(pair)
        for each in pair:
            _end(each)


def _end(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)  # wakes who waits for it
    each.close()
