"""A server that answers one call as a script says, with whatever frames; and the scripts."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator

from frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    RST_STREAM,
    SETTINGS,
    frame,
)
from hpack import Encoder
from wires import framed

from microlock.etcd import rpc_pb2 as pb

ANSWER = framed(pb.LeaseGrantResponse(ID=7, TTL=60))
Frame = tuple[int, int, int, bytes]  # kind, flags, stream, payload


class Peer:
    """The server's side of one connection, after the request of stream 1 has come."""

    def __init__(self, listening: socket.socket) -> None:
        self.socket, _ = listening.accept()
        self.socket.settimeout(3)
        self._file = self.socket.makefile("rb")
        self._file.read(24)
        encoder = Encoder()
        encoder.header_table_size = 0
        self.encode: Callable[[list[tuple[str, str]]], bytes] = encoder.encode
        self.send(frame(SETTINGS, 0, 0, b""), frame(SETTINGS, ACK, 0, b""))
        self.until(lambda kind, flags, _: kind in (DATA, HEADERS) and bool(flags & END_STREAM))

    def frames(self) -> Iterator[Frame]:
        while len(head := self._file.read(9)) == 9:
            high, low, kind, flags, stream = struct.unpack(">HBBBL", head)
            yield kind, flags, stream, self._file.read((high << 8) + low)

    def until(self, wanted: Callable[[int, int, bytes], bool]) -> Frame:
        return next(each for each in self.frames() if wanted(each[0], each[1], each[3]))

    def send(self, *parts: bytes) -> None:
        self.socket.sendall(b"".join(parts))

    def leading(self) -> bytes:
        block = self.encode([(":status", "200"), ("content-type", "application/grpc")])
        return frame(HEADERS, END_HEADERS, 1, block)

    def trailing(self, status: str = "0", message: str = "") -> bytes:
        block = self.encode([("grpc-status", status), ("grpc-message", message)])
        return frame(HEADERS, END_HEADERS | END_STREAM, 1, block)

    def answer(self) -> None:
        self.send(self.leading(), frame(DATA, 0, 1, ANSWER), self.trailing())


def serve(script: Callable[[Peer], None]) -> str:
    """Serves one connection on a thread; its address."""
    listening = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with listening:
            peer = Peer(listening)
            script(peer)
            try:
                for _ in peer.frames():  # until the client closes it
                    pass
            except OSError:
                pass

    threading.Thread(target=run, daemon=True).start()
    return f"127.0.0.1:{listening.getsockname()[1]}"


def continued(peer: Peer) -> None:
    block = peer.encode([(":status", "200"), ("content-type", "application/grpc"), ("x", "y" * 99)])
    peer.send(frame(HEADERS, 0, 1, block[:5]), frame(CONTINUATION, 0, 1, block[5:9]))
    peer.send(frame(CONTINUATION, END_HEADERS, 1, block[9:]))
    peer.send(frame(DATA, 0, 1, ANSWER), peer.trailing())


def padded(peer: Peer) -> None:
    peer.send(peer.leading(), frame(DATA, PADDED, 1, b"\x03" + ANSWER + b"\0\0\0"))
    peer.send(peer.trailing())


def byte_by_byte(peer: Peer) -> None:
    peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in peer.leading() + frame(DATA, 0, 1, ANSWER) + peer.trailing():
        peer.send(bytes((byte,)))


def pings(peer: Peer) -> None:
    peer.send(frame(PING, 0, 0, b"12345678"))
    peer.until(lambda kind, flags, payload: (kind, flags, payload) == (PING, ACK, b"12345678"))
    peer.answer()


def settings(peer: Peer) -> None:
    changes = struct.pack(">HLHL", 4, 1000, 5, 20_000)  # window, frame
    peer.send(frame(SETTINGS, 0, 0, changes))
    peer.until(lambda kind, flags, _: kind == SETTINGS and bool(flags & ACK))
    peer.answer()


def unknown_frame(peer: Peer) -> None:
    peer.send(frame(0x42, 0, 0, b"whatever"))
    peer.answer()


def goes_away_in_order(peer: Peer) -> None:
    """It answers what it has begun: what a server does that is shut down."""
    peer.send(frame(GOAWAY, 0, 0, struct.pack(">LL", 1, 0)))
    peer.answer()


def goes_away_twice(peer: Peer) -> None:
    """First with the highest number, as Go's servers do."""
    peer.send(frame(GOAWAY, 0, 0, struct.pack(">LL", 2**31 - 1, 0)))
    peer.send(frame(GOAWAY, 0, 0, struct.pack(">LL", 1, 0)))
    peer.answer()


def goes_away_before(peer: Peer) -> None:
    peer.send(frame(GOAWAY, 0, 0, struct.pack(">LL", 0, 0)))


def refuses(peer: Peer) -> None:
    peer.send(frame(RST_STREAM, 0, 1, struct.pack(">L", 7)))


def resets(peer: Peer) -> None:
    peer.send(peer.leading(), frame(RST_STREAM, 0, 1, struct.pack(">L", 2)))


def trailers_only(peer: Peer) -> None:
    headers = [(":status", "200"), ("content-type", "application/grpc")]
    block = peer.encode([*headers, ("grpc-status", "5"), ("grpc-message", "caf%C3%A9 100%25")])
    peer.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, block))


def http_503(peer: Peer) -> None:
    block = peer.encode([(":status", "503"), ("content-type", "text/html")])
    peer.send(frame(HEADERS, END_HEADERS, 1, block), frame(DATA, END_STREAM, 1, b"<html>"))


def disobeys(peer: Peer) -> None:
    """It refers to a table that it was told not to have."""
    peer.send(frame(HEADERS, END_HEADERS, 1, b"\x88\xbe"))


def http_1(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    peer.socket.shutdown(socket.SHUT_WR)


def breaks_off(peer: Peer) -> None:
    peer.send((peer.leading() + frame(DATA, 0, 1, ANSWER))[:-4])
    peer.socket.shutdown(socket.SHUT_RDWR)


# What a call has to give: a reply, or a code of gRPC and whether it may have happened.
SCRIPTS: dict[Callable[[Peer], None], str] = {
    continued: "reply",
    padded: "reply",
    byte_by_byte: "reply",
    pings: "reply",
    settings: "reply",
    unknown_frame: "reply",
    goes_away_in_order: "reply",
    goes_away_twice: "reply",
    goes_away_before: "14, did not happen",
    refuses: "14, did not happen",
    resets: "14, may have happened",
    trailers_only: "5, may have happened: café 100%",
    http_503: "14, may have happened",
    disobeys: "14, may have happened",
    http_1: "14, may have happened",
    breaks_off: "14, may have happened",
}
