"""A member of etcd in a few threads: it grants leases over HTTP/2, and fails as a test wants."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from http2 import GRPC, goaway, message
from ngh2 import Configuration, Connection, DataReceived, NGH2Error, RequestReceived, Role

from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.messages import GRANT

DEADLINE = 10.0
_GRPC = tuple((name.encode(), value.encode()) for name, value in GRPC)
_OK = ((b"grpc-status", b"0"),)


def granted(request: bytes) -> bytes | None:
    """The id is the ttl that was asked for; a ttl of 0 has no answer, nor has a stream."""
    ttl = pb.LeaseGrantRequest.FromString(request[5:]).TTL
    return pb.LeaseGrantResponse(ID=ttl, TTL=ttl).SerializeToString() if ttl else None


class Member:
    """Serves a socket that listens.

    Attributes:
        accepted: connections so far.
        requests: messages of requests so far.
        before_hello: called with each connection before it is answered.
    """

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self.connections: list[socket.socket] = []
        self.accepted = 0
        self.requests: list[bytes] = []
        self.before_hello: Callable[[socket.socket], object] = lambda _: None
        self.answer = granted
        self._start(self._accept)

    def wait(self, done: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(done, DEADLINE)

    def send(self, said: bytes) -> None:
        """To the newest connection, which must be at rest."""
        self.connections[-1].sendall(said)

    def go_away(self) -> None:
        """In order: what it has begun it answers."""
        self.send(goaway(2**31 - 1))

    def hang_up(self) -> None:
        """Ends all its connections."""
        with self._changed:
            ended, self.connections = self.connections, []
        for each in ended:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.hang_up()
        for each in self._threads:
            each.join(DEADLINE)
            assert not each.is_alive()

    def _start(self, run: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=run, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listening.accept()
                if sock.family != socket.AF_UNIX:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._changed:
                    self.accepted += 1
                    self.connections.append(sock)
                    self._changed.notify_all()
                self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        connection = Connection(Role.SERVER, Configuration())
        bodies: dict[int, bytes] = {}
        with sock, suppress(OSError, NGH2Error):
            self.before_hello(sock)
            connection.initiate_connection()
            sock.sendall(connection.data_to_send())
            while data := sock.recv(65_536):
                connection.receive_data(data)
                for event in connection.events():
                    if isinstance(event, RequestReceived):
                        bodies[event.stream_id] = b""
                    elif isinstance(event, DataReceived):
                        bodies[event.stream_id] += event.data
                        if event.end_stream:
                            self._respond(connection, event.stream_id, bodies.pop(event.stream_id))
                sock.sendall(connection.data_to_send())

    def _respond(self, connection: Connection, stream: int, body: bytes) -> None:
        with self._changed:
            self.requests.append(body)
            self._changed.notify_all()
        answer = self.answer(body)
        if answer is not None:
            connection.send_response(stream, _GRPC)
            connection.send_data(stream, message(answer))
            connection.send_trailers(stream, _OK)


@contextmanager
def serving(listening: socket.socket) -> Iterator[Member]:
    member = Member(listening)
    try:
        yield member
    finally:
        member.close()


def grant(wire: object, ttl: int, timeout: float = DEADLINE) -> int:
    """Asks `wire` for a lease; returns its id, which is to be the ttl."""
    request = pb.LeaseGrantRequest(TTL=ttl)
    answer: pb.LeaseGrantResponse = wire.call(  # type: ignore[attr-defined]
        GRANT, request, pb.LeaseGrantResponse, timeout=timeout, metadata=()
    )
    return answer.ID
