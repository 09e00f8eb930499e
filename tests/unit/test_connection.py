"""gRPC on one HTTP/2 connection, against a peer that sends whatever bytes a test wants."""

from __future__ import annotations

import contextlib
import itertools
import random
import struct
import tracemalloc
from collections.abc import Callable, Sequence

import http2
import ngh2
import pytest
from http2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GRPC,
    HEADERS,
    HELLO,
    INTERNAL_ERROR,
    NO_ERROR,
    PADDED,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    UNKNOWN,
    WINDOW_UPDATE,
    Frame,
    answer,
    block,
    data,
    frame,
    goaway,
    headers,
    leading,
    message,
    parse,
    reset,
    settings,
    trailing,
    window_update,
)
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from microlock.etcd.wire.connection import STATUS, Connection, Failure, Rpc
from microlock.etcd.wire.frames import Headers

REQUEST = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/etcdserverpb.KV/Txn"),
    (b":authority", b"etcd"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
)
MIB = 2**20
LATE = Failure("DEADLINE_EXCEEDED", "late")
OK = "ok", None
NOTHING_BY_NOW = "nothing", None


class Talk:
    """A connection and the time, in seconds; what the peer says is given to it."""

    def __init__(self, hello: bytes = HELLO, streams: Sequence[str] = ()) -> None:
        self.connection = Connection(streams=streams)
        self.now = 100.0
        self.take()
        if hello:
            self.hear(hello)
            self.take()

    def call(self, request: bytes = b"request", head: Headers = REQUEST) -> Rpc:
        rpc = Rpc()
        self.connection.begin(rpc, head, message(request), True, self.now)
        return rpc

    def stream(self) -> tuple[Rpc, list[bytes]]:
        seen: list[bytes] = []
        rpc = Rpc(sink=seen.append)
        self.connection.begin(rpc, REQUEST, b"", False, self.now)
        return rpc, seen

    def hear(self, said: bytes) -> None:
        self.connection.receive(said, self.now)

    def take(self) -> list[Frame]:
        """What goes to the peer."""
        return list(parse(self.connection.take(self.now)))

    def tend(self, later: float) -> None:
        self.now += later
        self.connection.tend(self.now)


def called(said: bytes, *more: bytes) -> Rpc:
    """What comes of a call, number 1, to which the peer says this."""
    talk = Talk()
    rpc = talk.call()
    talk.take()
    for each in (said, *more):
        talk.hear(each)
        talk.take()
    return rpc


def outcome(rpc: Rpc) -> tuple[str, bool | None]:
    """What it is, and whether it may have happened."""
    if not rpc.ended:
        return NOTHING_BY_NOW
    if rpc.failure is None:
        return OK
    return rpc.failure.status, rpc.failure.may_have_happened


def of_kind(frames: list[Frame], *kinds: int) -> list[Frame]:
    return [each for each in frames if each.kind in kinds]


# Answers


def test_the_request_of_a_call_to_a_stream_ends_when_its_answer_is_there() -> None:
    talk = Talk(streams=("/a/stream",))
    head = tuple((name, b"/a/stream" if name == b":path" else value) for name, value in REQUEST)
    rpc = talk.call(head=head)
    assert not any(each.flags & END_STREAM for each in talk.take())
    talk.hear(leading(1) + data(1, message(b"reply")))
    assert_answered(rpc)
    assert talk.connection.idle
    assert not talk.connection.wants_taking(talk.now)  # it goes with the next request
    (end,) = of_kind(talk.take(), DATA)
    assert (end.flags & END_STREAM, end.payload) == (END_STREAM, b"")
    talk.hear(trailing(1, "2"))  # it is of no interest
    assert_answered(rpc)


def test_a_call_to_a_stream_that_ends_without_an_answer_says_why() -> None:
    talk = Talk(streams=("/a/stream",))
    head = tuple((name, b"/a/stream" if name == b":path" else value) for name, value in REQUEST)
    rpc = talk.call(head=head)
    talk.hear(headers(1, *GRPC, ("grpc-status", "14"), ended=True))
    assert outcome(rpc) == ("UNAVAILABLE", True)


def test_the_request_of_any_other_call_is_whole_at_once() -> None:
    talk = Talk(streams=("/a/stream",))
    talk.call()
    assert of_kind(talk.take(), DATA)[-1].flags & END_STREAM


def assert_answered(rpc: Rpc, reply: bytes = b"reply") -> None:
    assert (outcome(rpc), rpc.reply) == (OK, reply)


def test_a_call_sends_its_headers_and_its_message_and_ends_its_side() -> None:
    talk = Talk()
    talk.call(b"abc")
    head, body = talk.take()
    assert (head.kind, head.flags, head.stream) == (HEADERS, END_HEADERS, 1)
    assert body == (DATA, END_STREAM, 1, b"\0\0\0\0\x03abc")


def test_a_call_is_answered() -> None:
    assert_answered(called(answer(1, b"reply")))


def test_a_server_of_ngh2_reads_the_call_and_its_answer_is_read() -> None:
    talk, server = Talk(hello=b""), ngh2.Connection(ngh2.Role.SERVER)
    server.initiate_connection()
    fresh = Connection()
    rpc = Rpc()
    fresh.begin(rpc, REQUEST, message(b"abc"), True, talk.now)
    server.receive_data(fresh.take(0))
    request, content = (
        next(each for each in seen if isinstance(each, kind))
        for seen in [server.events()]
        for kind in (ngh2.RequestReceived, ngh2.DataReceived)
    )
    assert (request.headers, content.data) == (REQUEST, message(b"abc"))
    fields = tuple((name.encode(), value.encode()) for name, value in GRPC)
    server.send_response(1, fields)
    server.send_data(1, message(b"reply"))
    server.send_trailers(1, ((b"grpc-status", b"0"),))
    fresh.receive(server.data_to_send(), 0)
    assert_answered(rpc)


def test_an_answer_is_read_byte_by_byte() -> None:
    talk = Talk()
    rpc = talk.call()
    talk.take()
    for byte in answer(1, b"reply"):
        assert not rpc.ended
        talk.hear(bytes((byte,)))
    assert_answered(rpc)


def test_an_empty_reply_is_one() -> None:
    assert_answered(called(answer(1, b"")), b"")


def test_a_message_may_be_in_pieces_and_empty_frames_between() -> None:
    said = message(b"reply")
    pieces = b"".join(data(1, said[at : at + 1]) + data(1, b"") for at in range(len(said)))
    assert_answered(called(leading(1) + pieces + trailing(1)))


def test_padding_is_no_part_of_a_message() -> None:
    padded = frame(DATA, PADDED, 1, b"\x03" + message(b"reply") + b"\0\0\0")
    assert_answered(called(leading(1) + padded + trailing(1)))


def test_headers_may_go_on_in_continuations() -> None:
    said = block(*GRPC, ("x", "y" * 99))
    head = frame(HEADERS, 0, 1, said[:5]) + frame(CONTINUATION, 0, 1, said[5:9])
    head += frame(CONTINUATION, END_HEADERS, 1, said[9:])
    assert_answered(called(head + data(1, message(b"reply")) + trailing(1)))


def test_frames_of_kinds_that_nobody_knows_are_passed_over() -> None:
    strange = frame(UNKNOWN, 255, 0, b"whatever") + frame(UNKNOWN, 0, 1)
    assert_answered(called(strange + leading(1) + strange + answer(1, b"reply")[len(leading(1)) :]))


def test_an_informational_response_is_passed_over() -> None:
    assert_answered(called(headers(1, (":status", "103")) + answer(1, b"reply")))


def test_answers_come_in_any_order() -> None:
    talk = Talk()
    rpcs = [talk.call() for _ in range(3)]
    talk.take()
    talk.hear(answer(5, b"c") + leading(1) + answer(3, b"b") + answer(1, b"a")[len(leading(1)) :])
    assert [rpc.reply for rpc in rpcs] == [b"a", b"b", b"c"]
    assert talk.connection.idle


def test_who_waits_is_notified_once() -> None:
    ends: list[int] = []
    talk, rpc = Talk(), Rpc(lambda: ends.append(1))
    talk.connection.begin(rpc, REQUEST, message(b""), True, talk.now)
    talk.take()
    talk.hear(answer(1, b"reply") + reset(1, NO_ERROR) + goaway(0))
    talk.connection.cancel(rpc, LATE)
    talk.hear(b"")
    assert ends == [1]
    assert_answered(rpc)


def test_an_answer_to_nothing_that_was_asked_is_passed_over() -> None:
    talk = Talk()
    gone = talk.call()
    talk.connection.cancel(gone, LATE)
    rpc = talk.call()
    talk.take()
    talk.hear(answer(1, b"late") + answer(3, b"reply"))
    assert_answered(rpc)
    assert outcome(gone) == ("DEADLINE_EXCEEDED", True)


def test_a_call_that_is_given_up_is_reset() -> None:
    talk = Talk()
    rpc = talk.call()
    talk.take()
    talk.connection.cancel(rpc, LATE)
    assert [(each.kind, each.stream) for each in talk.take()] == [(RST_STREAM, 1)]
    assert talk.connection.idle


# Streams


def test_a_stream_hands_on_each_message_in_pieces_or_several_in_a_frame() -> None:
    talk = Talk()
    rpc, seen = talk.stream()
    talk.take()
    said = b"".join(message(each) for each in (b"a", b"", b"bc"))
    talk.hear(leading(1) + data(1, said) + data(1, said[:8]) + data(1, said[8:]))
    assert seen == [b"a", b"", b"bc"] * 2
    talk.hear(data(1, message(b"d") + b"\0\0"))
    assert seen[6:] == [b"d"]
    assert not rpc.ended


def test_a_stream_sends_messages_until_it_is_finished() -> None:
    talk = Talk()
    rpc, _ = talk.stream()
    assert [each.kind for each in talk.take()] == [HEADERS]
    talk.connection.send(rpc, message(b"a"))
    talk.connection.send(rpc, b"", ended=True)
    sent = of_kind(talk.take(), DATA)
    assert b"".join(each.payload for each in sent) == message(b"a")
    assert sent[-1].flags == END_STREAM


def test_a_stream_that_the_peer_ended_is_over_and_takes_no_more() -> None:
    talk = Talk()
    rpc, _ = talk.stream()
    talk.take()
    talk.hear(leading(1) + trailing(1))
    assert outcome(rpc) == OK
    talk.take()
    talk.connection.send(rpc, message(b"a"))
    assert not talk.take()


def test_a_stream_whose_messages_cannot_be_taken_ends_and_no_other() -> None:
    def sink(_: bytes) -> None:
        raise ValueError("no message")

    talk, rpc = Talk(), Rpc(sink=sink)
    talk.connection.begin(rpc, REQUEST, b"", False, talk.now)
    other = talk.call()
    talk.take()
    talk.hear(leading(1) + data(1, message(b"a")) + answer(3, b"reply"))
    assert outcome(rpc) == ("INTERNAL", True)
    assert_answered(other)


# Statuses


@pytest.mark.parametrize(("number", "name"), list(enumerate(STATUS)))
def test_each_status_has_its_name(number: int, name: str) -> None:
    rpc = called(leading(1) + data(1, message(b"reply")) + trailing(1, str(number)))
    assert outcome(rpc) == (OK if name == "OK" else (name, True))
    assert name == "OK" or (rpc.failure and rpc.failure.answer)


@pytest.mark.parametrize("status", ["17", "99999999999999999999", "00"])
def test_a_status_that_nobody_knows_is_unknown(status: str) -> None:
    assert outcome(called(leading(1) + trailing(1, status))) == ("UNKNOWN", True)


@pytest.mark.parametrize("status", ["", "-1", "zero", "\u00b2"])
def test_a_status_that_is_no_number_is_none(status: str) -> None:
    assert outcome(called(leading(1) + trailing(1, status))) == ("INTERNAL", True)


def test_trailers_may_come_alone_and_their_message_is_percent_encoded() -> None:
    status = ("grpc-status", "5"), ("grpc-message", "caf%C3%A9 100%25 %zz%")
    rpc = called(headers(1, *GRPC, *status, ended=True))
    assert outcome(rpc) == ("NOT_FOUND", True)
    assert rpc.failure
    assert rpc.failure.details == "café 100% %zz%"
    assert rpc.failure.answer


@pytest.mark.parametrize("raw", [b"%FF%C3", b"\xff\xc3"])
def test_a_message_that_is_no_utf_8_is_shown_all_the_same(raw: bytes) -> None:
    rpc = called(leading(1) + trailing(1, "5", ("grpc-message", raw)))
    assert rpc.failure
    assert len(rpc.failure.details) == 2


def test_trailers_alone_that_say_ok_are_no_reply() -> None:
    assert outcome(called(headers(1, *GRPC, ("grpc-status", "0"), ended=True))) == (
        "INTERNAL",
        True,
    )


def test_a_status_of_ok_is_known_again_and_not_taken_for_another() -> None:
    talk = Talk()
    for stream, status in ((1, "0"), (3, "0"), (5, "5"), (7, "0")):
        rpc = talk.call()
        talk.take()
        talk.hear(leading(stream) + data(stream, message(b"reply")) + trailing(stream, status))
        assert outcome(rpc) == (OK if status == "0" else ("NOT_FOUND", True))


@pytest.mark.parametrize("body", [b"", b"<html>", b"\0<html>"])
@pytest.mark.parametrize(
    ("status", "name"),
    [
        ("400", "INTERNAL"),
        ("401", "UNAUTHENTICATED"),
        ("403", "PERMISSION_DENIED"),
        ("404", "UNIMPLEMENTED"),
        ("429", "UNAVAILABLE"),
        ("502", "UNAVAILABLE"),
        ("503", "UNAVAILABLE"),
        ("504", "UNAVAILABLE"),
        ("418", "UNKNOWN"),
        ("200", "UNKNOWN"),
    ],
)
def test_who_speaks_http_and_no_grpc_is_named_by_the_status(
    status: str, name: str, body: bytes
) -> None:
    head = headers(1, (":status", status), ("content-type", "text/html"), ended=not body)
    rpc = called(head + (data(1, body, ended=True) if body else b""))
    assert outcome(rpc) == (name, True)
    assert rpc.failure
    assert f"HTTP status {status}" in rpc.failure.details


def test_a_proxy_that_answers_with_a_status_of_grpc_is_taken_at_its_word() -> None:
    said = (":status", "503"), ("content-type", "application/grpc"), ("grpc-status", "14")
    assert outcome(called(headers(1, *said, ended=True))) == ("UNAVAILABLE", True)


# What is no answer


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (leading(1) + data(1, message(b"a")) + data(1, message(b"b")), "INTERNAL"),
        (leading(1) + data(1, message(b"a") + message(b"b")), "INTERNAL"),
        (leading(1) + trailing(1), "INTERNAL"),
        (leading(1) + data(1, message(b"a"), ended=True), "INTERNAL"),
        (leading(1) + data(1, message(b"abc")[:-1]) + trailing(1), "INTERNAL"),
        (leading(1) + data(1, b"\x01" + message(b"compressed")[1:]), "INTERNAL"),
        (leading(1) + data(1, b"\0\xff\xff\xff\xff" + bytes(99)), "INTERNAL"),
        (leading(1) + headers(1, *GRPC), "UNAVAILABLE"),
        (headers(1, *GRPC, ("Upper", "case")), "UNAVAILABLE"),
        (headers(1, *GRPC, ("content-length", "3")) + data(1, message(b"abc")), "UNAVAILABLE"),
        (leading(1) + reset(1, INTERNAL_ERROR), "UNAVAILABLE"),
        (reset(1, NO_ERROR), "INTERNAL"),
        (data(1, message(b"abc")), "UNAVAILABLE"),
        (frame(PUSH_PROMISE, END_HEADERS, 1, struct.pack(">L", 2) + b"\x82"), "UNAVAILABLE"),
        (frame(DATA, 0, 0, b"x"), "UNAVAILABLE"),
        (frame(HEADERS, END_HEADERS, 1, b"\x88\xff\xff\xff\xff\x0f"), "UNAVAILABLE"),
        (leading(1) + frame(SETTINGS, 0, 0, b"odd"), "UNAVAILABLE"),
        (frame(DATA, 0, 1, bytes(16_385)), "UNAVAILABLE"),
        (headers(1, *((f"x-{n}", "y" * 999) for n in range(300)), ended=True), "UNAVAILABLE"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "UNAVAILABLE"),
        (b"\x15\x03\x01\0\x02\x02\x16" + bytes(99), "UNAVAILABLE"),
        (b"\xff" * 999, "UNAVAILABLE"),
        (b"", "UNAVAILABLE"),
        ((leading(1) + data(1, message(b"reply")))[:-4], "nothing"),
    ],
)
def test_what_is_no_answer_fails_and_may_have_happened(said: bytes, status: str) -> None:
    rpc = called(said)
    assert outcome(rpc) == (status, None if status == "nothing" else True)
    if not rpc.ended:
        rpc = called(said, b"")
        assert outcome(rpc) == ("UNAVAILABLE", True)


def test_one_answer_that_violates_http_2_does_not_hinder_the_others() -> None:
    talk = Talk()
    bad, good = talk.call(), talk.call()
    talk.take()
    talk.hear(leading(1) + leading(1) + answer(3, b"reply"))
    assert_answered(good)
    talk.take()
    assert outcome(bad) == ("UNAVAILABLE", True)
    assert talk.connection.usable


def test_a_reply_that_came_before_the_peer_broke_the_rules_counts() -> None:
    for wrong in (frame(DATA, 0, 0, b"x"), frame(PING, 0, 0, bytes(8)) * 2_000, b"\xff" * 99):
        talk = Talk()
        first, second = talk.call(), talk.call()
        talk.take()
        talk.hear(answer(1, b"reply") + wrong)
        assert_answered(first)
        assert outcome(second) == ("UNAVAILABLE", True)
        assert talk.connection.broken


@pytest.mark.parametrize(
    "said", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x01\0\x02\x02\x16" + bytes(99), b"\0"]
)
def test_who_does_not_begin_with_settings_breaks_the_connection(said: bytes) -> None:
    talk = Talk(hello=b"")
    talk.hear(said)
    if said == b"\0":
        assert not talk.connection.broken
        talk.hear(b"")
    assert talk.connection.broken
    assert not talk.connection.ready
    assert not talk.connection.usable


def test_nothing_can_begin_on_a_connection_that_is_broken_and_nothing_was_sent() -> None:
    talk = Talk()
    talk.hear(b"")
    refused = talk.call()
    assert outcome(refused) == ("UNAVAILABLE", False)
    assert refused.failure
    assert refused.failure.details == "the peer closed the connection"


# Did not happen


@pytest.mark.parametrize("said", [reset(1, REFUSED_STREAM), goaway(0)])
def test_what_the_peer_says_it_did_not_process_did_not_happen(said: bytes) -> None:
    assert outcome(called(said)) == ("UNAVAILABLE", False)


@pytest.mark.parametrize("said", [reset(1, REFUSED_STREAM), goaway(0)])
@pytest.mark.parametrize("begun", [leading(1), leading(1) + data(1, message(b"reply"))])
def test_what_the_peer_has_begun_to_answer_may_have_happened_whatever_it_says(
    said: bytes, begun: bytes
) -> None:
    assert outcome(called(begun + said)) == ("UNAVAILABLE", True)


def test_a_peer_that_goes_away_in_order_answers_what_it_has_begun() -> None:
    talk = Talk()
    first, second = talk.call(), talk.call()
    talk.take()
    talk.hear(goaway(2**31 - 1))
    assert not talk.connection.usable
    talk.hear(goaway(1))
    assert outcome(second) == ("UNAVAILABLE", False)
    talk.hear(answer(1, b"reply"))
    assert_answered(first)
    assert outcome(talk.call()) == ("UNAVAILABLE", False)


def test_a_peer_that_goes_away_because_of_an_error_ends_what_it_did_not_begin() -> None:
    talk = Talk()
    first, second = talk.call(), talk.call()
    talk.take()
    talk.hear(goaway(1, INTERNAL_ERROR))
    assert (outcome(first), outcome(second)) == (NOTHING_BY_NOW, ("UNAVAILABLE", False))
    talk.hear(b"")
    assert outcome(first) == ("UNAVAILABLE", True)


def test_what_waits_for_its_turn_when_the_peer_goes_away_was_never_sent() -> None:
    talk = Talk(settings(MAX_CONCURRENT_STREAMS=1) + frame(SETTINGS, ACK, 0))
    first, second = talk.call(), talk.call()
    assert len(of_kind(talk.take(), HEADERS)) == 1
    talk.hear(goaway(2**31 - 1) + answer(1, b"reply"))
    talk.take()
    assert_answered(first)
    assert outcome(second) == ("UNAVAILABLE", False)


def test_a_peer_that_goes_away_and_breaks_the_rules_ends_what_is_under_way() -> None:
    talk = Talk()
    rpc = talk.call()
    talk.take()
    talk.hear(goaway(1) + frame(DATA, 0, 0, b"x"))
    talk.take()
    talk.hear(frame(PING, 0, 0, bytes(8)))
    assert outcome(rpc) == ("UNAVAILABLE", True)


def test_headers_that_are_too_large_are_never_sent() -> None:
    talk, rpc = Talk(), Rpc()
    fields = (*REQUEST, (b"token", b"t" * 70_000))
    talk.connection.begin(rpc, fields, message(b""), True, talk.now)
    assert not of_kind(talk.take(), HEADERS, DATA)
    assert outcome(rpc) == ("UNAVAILABLE", False)


def test_a_connection_that_has_used_its_streams_takes_no_more() -> None:
    talk = Talk()
    rpc = talk.call()
    rpc.stream = 0
    talk.connection._frames._request = lambda _: 2**30 + 1  # type: ignore[method-assign]
    talk.connection._frames._data = lambda *_, **__: None  # type: ignore[method-assign]
    talk.call()
    assert not talk.connection.usable


@pytest.mark.parametrize("method", ["_request", "_data"])
def test_a_call_that_the_frames_refuse_was_not_sent_and_ends_the_others(method: str) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise ngh2.NGH2Error("no")

    talk = Talk()
    other = talk.call()
    talk.take()
    setattr(talk.connection._frames, method, refuse)
    assert outcome(talk.call()) == ("UNAVAILABLE", False)
    assert outcome(other) == ("UNAVAILABLE", True)
    assert not talk.take()


def test_bytes_that_the_frames_cannot_make_end_the_connection() -> None:
    def refuse() -> bytes:
        raise ngh2.NGH2Error("no")

    talk = Talk()
    rpc = talk.call()
    talk.connection._frames._take = refuse
    assert not talk.take()
    assert outcome(rpc) == ("UNAVAILABLE", True)


# Flow control and limits


def test_more_calls_than_the_peer_takes_at_a_time_wait_their_turn() -> None:
    talk = Talk(settings(MAX_CONCURRENT_STREAMS=2) + frame(SETTINGS, ACK, 0))
    rpcs = [talk.call() for _ in range(4)]
    assert {each.stream for each in talk.take()} == {1, 3}
    for stream, following in ((3, {5}), (1, {7}), (5, set()), (7, set())):
        talk.hear(answer(stream, b"reply"))
        assert {each.stream for each in talk.take()} == following
    assert [outcome(rpc) for rpc in rpcs] == [OK] * 4


def test_a_call_that_is_given_up_while_it_waits_for_its_turn_is_never_sent() -> None:
    talk = Talk(settings(MAX_CONCURRENT_STREAMS=1) + frame(SETTINGS, ACK, 0))
    talk.call()
    second, third = talk.call(), talk.call()
    talk.take()
    talk.connection.cancel(second, LATE)
    talk.hear(answer(1, b"reply"))
    assert {each.stream for each in of_kind(talk.take(), HEADERS, DATA)} == {third.stream}


def test_calls_before_the_first_settings_are_sent_and_answered() -> None:
    talk = Talk(hello=b"")
    rpc = talk.call()
    assert len(of_kind(talk.take(), HEADERS)) == 1
    talk.hear(HELLO + answer(1, b"reply"))
    assert_answered(rpc)


def test_a_request_of_1_mib_goes_as_far_as_the_windows_allow_and_no_further() -> None:
    talk = Talk()
    request = random.Random(1).randbytes(MIB)
    rpc = talk.call(request)
    sent = b""
    while len(sent) < MIB + 5:
        part = b"".join(each.payload for each in of_kind(talk.take(), DATA))
        assert 0 < len(part) <= 65_535
        assert not talk.take()
        sent += part
        talk.hear(window_update(0, len(part)) + window_update(1, len(part)))
    assert sent == message(request)
    talk.hear(answer(1, b"reply"))
    assert_answered(rpc)


def test_what_a_larger_window_allows_is_sent_at_once() -> None:
    talk = Talk()
    talk.call(bytes(MIB))
    talk.take()
    assert not talk.connection.wants_taking(talk.now)
    talk.hear(window_update(0, 100) + window_update(1, 100))
    assert talk.connection.wants_taking(talk.now)


def test_a_call_that_waited_for_a_stream_is_sent_as_soon_as_one_has_ended() -> None:
    talk = Talk(settings(MAX_CONCURRENT_STREAMS=1) + frame(SETTINGS, ACK, 0))
    talk.call()
    talk.call()
    talk.take()
    assert not talk.connection.wants_taking(talk.now)
    talk.hear(answer(1, b"reply"))
    assert talk.connection.wants_taking(talk.now)


def test_a_call_that_waited_for_the_stream_of_an_answered_keep_alive_is_sent_at_once() -> None:
    path = "/etcdserverpb.Lease/LeaseKeepAlive"
    talk = Talk(settings(MAX_CONCURRENT_STREAMS=1) + frame(SETTINGS, ACK, 0), streams=[path])
    talk.call(head=(*REQUEST[:2], (b":path", path.encode()), *REQUEST[3:]))
    waiting = talk.call()
    talk.take()
    talk.hear(leading(1) + data(1, message(b"reply")))
    assert talk.connection.wants_taking(talk.now)
    assert [(each.stream, each.flags) for each in talk.take()] == [(1, END_STREAM)]
    talk.hear(trailing(1))
    assert talk.connection.wants_taking(talk.now)
    assert {each.stream for each in talk.take()} == {waiting.stream}


def test_a_request_obeys_a_window_and_a_frame_that_become_smaller() -> None:
    talk = Talk()
    talk.hear(settings(INITIAL_WINDOW_SIZE=1_000, MAX_FRAME_SIZE=16_384))
    rpc = talk.call(bytes(5_000))
    sent = of_kind(talk.take(), DATA)
    assert sum(len(each.payload) for each in sent) == 1_000
    talk.hear(window_update(1, 9_000))
    assert sum(len(each.payload) for each in of_kind(talk.take(), DATA)) == 4_005
    assert not rpc.ended


def test_a_reply_of_24_mib_is_read_and_the_windows_opened_before_they_are_used_up() -> None:
    talk = Talk()
    rpc = talk.call()
    talk.take()
    reply = random.Random(1).randbytes(24 * MIB)
    said = leading(1) + data(1, message(reply)) + trailing(1)
    open_for = {0: 16 * MIB, 1: 16 * MIB}
    for at in range(0, len(said), 65_536):
        talk.hear(said[at : at + 65_536])
        for each in open_for:
            open_for[each] -= 65_536
        if talk.connection.wants_taking(talk.now):
            for each in of_kind(talk.take(), WINDOW_UPDATE):
                open_for[each.stream] += struct.unpack(">L", each.payload)[0]
        assert min(open_for.values()) > 0
    assert_answered(rpc, reply)


def test_an_error_while_a_large_request_is_under_way_is_the_answer() -> None:
    talk = Talk()
    rpc = talk.call(bytes(MIB))
    talk.take()
    status = ("grpc-status", "8"), ("grpc-message", "too large")
    talk.hear(headers(1, *GRPC, *status, ended=True) + reset(1, NO_ERROR))
    assert outcome(rpc) == ("RESOURCE_EXHAUSTED", True)
    talk.hear(window_update(0, MIB))
    assert not of_kind(talk.take(), DATA)


# Signs of life


def test_a_peer_that_is_silent_while_something_is_asked_is_pinged_and_then_given_up() -> None:
    talk = Talk()
    rpc = talk.call()
    talk.take()
    talk.tend(5.9)
    assert not talk.take()
    talk.tend(0.2)
    assert [(each.kind, each.flags) for each in talk.take()] == [(PING, 0)]
    talk.tend(2.9)
    assert not talk.take()
    assert outcome(rpc) == NOTHING_BY_NOW
    talk.tend(0.2)
    assert outcome(rpc) == ("UNAVAILABLE", True)
    assert isinstance(talk.connection.broken, TimeoutError)


def test_a_peer_that_answers_pings_is_not_given_up() -> None:
    talk = Talk()
    rpc = talk.call()
    talk.take()
    for _ in range(5):
        talk.tend(6.1)
        (ping,) = talk.take()
        talk.now += 2
        talk.hear(frame(PING, ACK, 0, ping.payload))
    assert outcome(rpc) == NOTHING_BY_NOW
    assert talk.connection.usable


def test_a_peer_of_whom_nothing_is_asked_is_not_pinged() -> None:
    talk = Talk()
    rpc = talk.call()
    talk.take()
    talk.hear(answer(1, b"reply"))
    talk.tend(100)
    assert not talk.take()
    assert_answered(rpc)


def test_a_peer_that_answers_no_call_is_pinged_though_each_call_is_given_up_in_time() -> None:
    talk = Talk()
    pings = 0
    for _ in range(9):
        rpc = talk.call()
        pings += len(of_kind(talk.take(), PING))
        talk.now += 1
        talk.connection.cancel(rpc, LATE)
    assert pings == 1
    talk.now += 2
    assert outcome(talk.call()) == ("UNAVAILABLE", False)


def test_a_peer_that_was_idle_is_not_blamed_for_the_time_before_it_was_asked() -> None:
    talk = Talk()
    talk.now += 1_000
    talk.call()
    assert not of_kind(talk.take(), PING)


def test_a_ping_of_the_peer_is_answered_with_the_next_request() -> None:
    talk = Talk()
    talk.take()
    talk.hear(window_update(0, 9) + frame(PING, 0, 0, b"12345678"))  # as etcd, with each reply
    assert not talk.connection.wants_taking(talk.now + 0.1)
    talk.call()
    assert (PING, ACK, 0, b"12345678") in talk.take()


def test_a_ping_of_the_peer_is_answered_in_time_without_a_request() -> None:
    talk = Talk()
    talk.now += 0.3
    talk.hear(frame(PING, 0, 0, b"12345678"))
    assert talk.connection.wants_taking(talk.now)
    assert talk.take() == [(PING, ACK, 0, b"12345678")]


def test_the_settings_of_the_peer_are_acknowledged_at_once() -> None:
    talk = Talk(hello=b"")
    assert talk.connection.wants_taking(talk.now)
    talk.hear(settings())
    assert (SETTINGS, ACK, 0, b"") in talk.take()


# Floods: a peer that sends one kind of frame for ever

_BIG = block(("x" * 50, "y" * 15_000))
FLOODS: dict[str, tuple[bytes, Callable[[int], bytes]]] = {
    "PING": (b"", lambda _: frame(PING, 0, 0, b"12345678")),
    "SETTINGS": (b"", lambda _: settings(INITIAL_WINDOW_SIZE=65_535)),
    "long SETTINGS": (b"", lambda _: frame(SETTINGS, 0, 0, struct.pack(">HL", 4, 65_535) * 2_700)),
    "WINDOW_UPDATE": (b"", lambda _: window_update(0, 1)),
    "large WINDOW_UPDATE": (b"", lambda _: window_update(0, 2**31 - 1)),
    "empty CONTINUATION": (frame(HEADERS, 0, 1, b"\x88"), lambda _: frame(CONTINUATION, 0, 1)),
    "large CONTINUATION": (
        frame(HEADERS, 0, 1, b"\x88"),
        lambda _: frame(CONTINUATION, 0, 1, _BIG),
    ),
    "headers, each new": (b"", lambda n: headers(1, (":status", "103"), (f"x{n}", "y" * 15_000))),
    "empty DATA": (leading(1), lambda _: frame(DATA, 0, 1)),
    "DATA of a message that does not end": (
        leading(1) + data(1, b"\0\xff\xff\xff\xff"),
        lambda _: frame(DATA, 0, 1, bytes(16_000)),
    ),
    "DATA that nobody asked for": (b"", lambda _: frame(DATA, 0, 77, bytes(16_000))),
    "messages to a call": (leading(1), lambda _: frame(DATA, 0, 1, message(b"reply"))),
    "RST_STREAM of idle streams": (b"", lambda _: reset(99, 1)),
    "RST_STREAM": (b"", lambda _: reset(1, 1)),
    "PUSH_PROMISE": (
        b"",
        lambda n: frame(PUSH_PROMISE, END_HEADERS, 1, struct.pack(">L", 2 * n + 2) + b"\x82"),
    ),
    "PRIORITY": (b"", lambda _: frame(PRIORITY, 0, 1, bytes(5))),
    "GOAWAY": (b"", lambda _: goaway(1)),
    "unknown frames": (b"", lambda _: frame(UNKNOWN, 0, 0, bytes(100))),
}


@pytest.mark.parametrize("name", FLOODS)
@pytest.mark.parametrize("taken", [True, False], ids=["taken", "nobody takes"])
def test_a_flood_ends_the_connection_or_costs_no_memory(name: str, taken: bool) -> None:
    before, one = FLOODS[name]
    talk = Talk()
    rpc = talk.call()
    talk.take()
    talk.hear(before)
    tracemalloc.start()
    try:
        held = tracemalloc.get_traced_memory()[0]
        for number in range(0, 3_000, 100):
            talk.hear(b"".join(one(each) for each in range(number, number + 100)))
            if taken:
                talk.take()
            assert tracemalloc.get_traced_memory()[0] - held < 4 * MIB
            if talk.connection.broken:
                break
    finally:
        tracemalloc.stop()
    talk.hear(b"")
    assert rpc.ended


# Anything at all


def conversation(streams: list[int]) -> bytes:
    """What a server says to three calls and a watch."""
    said = [
        HELLO + window_update(0, 7) + frame(PING, 0, 0, b"12345678"),
        *(answer(stream, b"reply") for stream in streams[:2]),
        headers(streams[2], *GRPC, ("grpc-status", "5"), ("grpc-message", "no"), ended=True),
        leading(streams[3]) + data(streams[3], message(b"a") + message(b"b")),
        goaway(2**31 - 1) + goaway(streams[3]) + trailing(streams[3]),
    ]
    return b"".join(said)


def assert_takes_anything(said: list[bytes]) -> None:
    """It ends with the connection, and each thing that was asked has ended exactly once."""
    talk = Talk(hello=b"")
    ends: list[int] = []
    rpcs = [Rpc(lambda number=number: ends.append(number)) for number in range(3)]  # type: ignore[misc]
    rpcs.append(Rpc(lambda: ends.append(3), lambda _: None))
    for rpc in rpcs:
        talk.connection.begin(rpc, REQUEST, message(b"request"), rpc.sink is None, talk.now)
    for each in said:
        talk.hear(each)
        talk.take()
        talk.tend(0.1)
    talk.hear(b"")
    assert sorted(ends) == [0, 1, 2, 3]
    assert all(rpc.ended for rpc in rpcs)
    for rpc in rpcs[:3]:
        assert (rpc.reply is not None) or rpc.failure
    assert talk.connection.idle


def cut(said: bytes, at: list[int]) -> list[bytes]:
    places = sorted({each % (len(said) + 1) for each in at} | {0, len(said)})
    return [said[a:b] for a, b in itertools.pairwise(places) if said[a:b]]


CUTS = st.lists(st.integers(0, 1_000), max_size=8)
FUZZ = hypothesis_settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@FUZZ
@given(st.binary(max_size=400), CUTS, st.booleans())
def test_random_bytes_raise_nothing(noise: bytes, cuts: list[int], greeted: bool) -> None:
    assert_takes_anything(cut(HELLO * greeted + noise, cuts))


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    said = bytearray(conversation([1, 3, 5, 7]))
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, len(said) - 1))
        match draw(st.sampled_from(["change", "remove", "insert", "repeat"])):
            case "change":
                said[at] = draw(st.integers(0, 255))
            case "remove":
                del said[at : at + draw(st.integers(1, 9))]
            case "insert":
                said[at:at] = draw(st.binary(min_size=1, max_size=9))
            case "repeat":
                said[at:at] = said[max(0, at - draw(st.integers(1, 60))) : at]
        said = said or bytearray(b"\0")
    return bytes(said)


@FUZZ
@given(mutated(), CUTS)
def test_a_conversation_that_was_changed_at_random_raises_nothing(
    said: bytes, cuts: list[int]
) -> None:
    assert_takes_anything(cut(said, cuts))


@st.composite
def frames_at_random(draw: st.DrawFn) -> bytes:
    """Frames that are whole, and mean anything."""
    made = b""
    for _ in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from([*range(10), UNKNOWN]))
        stream = draw(st.sampled_from([0, 1, 3, 5, 7, 9, 2, 2**31 - 1]))
        payload = draw(
            st.one_of(
                st.binary(max_size=40),
                st.just(block(*GRPC)),
                st.just(block(("grpc-status", "0"))),
                st.binary(max_size=9).map(message),
            )
        )
        made += frame(kind, draw(st.sampled_from([0, 1, 4, 5, 8, 13])), stream, payload)
    return made


@FUZZ
@given(frames_at_random(), CUTS)
def test_frames_at_random_raise_nothing(said: bytes, cuts: list[int]) -> None:
    assert_takes_anything(cut(HELLO + said, cuts))


@FUZZ
@given(frames_at_random(), st.sampled_from([b"", leading(1), leading(1) + data(1, b"\0\0\0")]))
def test_only_what_the_peer_refused_before_any_answer_did_not_happen(
    said: bytes, begun: bytes
) -> None:
    talk = Talk()
    rpc = talk.call()
    talk.take()
    talk.hear(begun)
    talk.hear(said)
    talk.take()
    talk.hear(b"")
    if rpc.failure and not rpc.failure.may_have_happened:
        assert not begun
        assert any(
            (each.kind == http2.RST_STREAM and each.stream == 1)
            or (each.kind == http2.GOAWAY and each.stream == 0)
            for each in _whole(said)
        )


def _whole(said: bytes) -> list[Frame]:
    seen: list[Frame] = []
    with contextlib.suppress(AssertionError, struct.error):
        seen.extend(parse(said))
    return seen
