"""What a failure of gRPC means: the kind of error, and whether the request may have happened."""

from __future__ import annotations

import ssl

import grpc
import pytest
from grpc import StatusCode

from microlock.errors import (
    DestroyedError,
    LeaseNotFoundError,
    StoreAuthenticationError,
    StoreError,
    StoreNoSpaceError,
    StorePermissionError,
    StoreTimeoutError,
    StoreTlsError,
    StoreUnavailableError,
    WrongServerError,
)
from microlock.etcd.translate import not_connected
from microlock.etcd.wire.frames import BrokenFramesError
from microlock.etcd.wire.grpcio import translate_rpc
from microlock.etcd.wire.tls import NoHttp2Error


class Failure(grpc.RpcError):
    def __init__(self, code: StatusCode, details: str | None) -> None:
        super().__init__()
        self._code, self._details = code, details

    def code(self) -> StatusCode:
        return self._code

    def details(self) -> str | None:
        return self._details


NO_CONNECTION = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: "
# What etcd and gRPC say, the error, whether the request may have happened.
TABLE = [
    (StatusCode.NOT_FOUND, "etcdserver: requested lease not found", LeaseNotFoundError, False),
    (StatusCode.FAILED_PRECONDITION, "etcdserver: lease already exists", StoreError, False),
    (
        StatusCode.RESOURCE_EXHAUSTED,
        "etcdserver: mvcc: database space exceeded",
        StoreNoSpaceError,
        False,
    ),
    (StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests", StoreUnavailableError, False),
    (
        StatusCode.INVALID_ARGUMENT,
        "etcdserver: user name is empty",
        StoreAuthenticationError,
        False,
    ),
    (
        StatusCode.INVALID_ARGUMENT,
        "etcdserver: authentication failed, invalid user ID or password",
        StoreAuthenticationError,
        False,
    ),
    (
        StatusCode.FAILED_PRECONDITION,
        "etcdserver: authentication is not enabled",
        StoreAuthenticationError,
        False,
    ),
    (
        StatusCode.UNAUTHENTICATED,
        "etcdserver: invalid auth token",
        StoreAuthenticationError,
        False,
    ),
    (
        StatusCode.INVALID_ARGUMENT,
        "etcdserver: revision of auth store is old",
        StoreAuthenticationError,
        False,
    ),
    (
        StatusCode.INVALID_ARGUMENT,
        "etcdserver: revision in header is old",
        StoreAuthenticationError,
        False,
    ),
    (StatusCode.UNAUTHENTICATED, "no", StoreAuthenticationError, False),
    (
        StatusCode.PERMISSION_DENIED,
        "etcdserver: permission denied",
        StorePermissionError,
        False,
    ),
    (StatusCode.UNKNOWN, "etcdserver: permission denied", StorePermissionError, False),
    (StatusCode.PERMISSION_DENIED, "by a proxy", StorePermissionError, False),
    (StatusCode.UNAVAILABLE, "etcdserver: no leader", StoreUnavailableError, True),
    (StatusCode.UNAVAILABLE, "etcdserver: leader changed", StoreUnavailableError, True),
    (StatusCode.UNAVAILABLE, "etcdserver: request timed out", StoreUnavailableError, True),
    (StatusCode.UNAVAILABLE, "Socket closed", StoreUnavailableError, True),
    (StatusCode.UNAVAILABLE, None, StoreUnavailableError, True),
    (
        StatusCode.UNAVAILABLE,
        NO_CONNECTION + "Failed to connect to remote host: Connection refused",
        StoreUnavailableError,
        False,
    ),
    (
        StatusCode.UNAVAILABLE,
        NO_CONNECTION + "connection attempt timed out before receiving SETTINGS frame",
        StoreTimeoutError,
        False,
    ),
    (
        StatusCode.UNAVAILABLE,
        "DNS resolution failed for nowhere:2379: C-ares status is not ARES_SUCCESS",
        StoreUnavailableError,
        False,
    ),
    (
        StatusCode.UNAVAILABLE,
        NO_CONNECTION + "Ssl handshake failed: SSL_ERROR_SSL: CERTIFICATE_VERIFY_FAILED",
        StoreTlsError,
        False,
    ),
    (StatusCode.UNAVAILABLE, NO_CONNECTION + "Socket closed", StoreTimeoutError, False),
    (StatusCode.UNAVAILABLE, NO_CONNECTION + "Handshake read failed", StoreTimeoutError, False),
    (
        StatusCode.UNAVAILABLE,
        NO_CONNECTION + "Failed parsing HTTP/2",
        WrongServerError,
        False,
    ),
    (StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", StoreTimeoutError, True),
    (StatusCode.UNKNOWN, "context deadline exceeded", StoreTimeoutError, True),
    (StatusCode.UNIMPLEMENTED, "unknown service etcdserverpb.KV", WrongServerError, False),
    (StatusCode.CANCELLED, "Channel closed!", DestroyedError, None),
    (StatusCode.INTERNAL, "stream reset", StoreUnavailableError, True),
    (StatusCode.UNKNOWN, "whatever", StoreError, True),
    (StatusCode.UNKNOWN, "context canceled", StoreUnavailableError, True),
    (StatusCode.UNKNOWN, "raft: stopped", StoreUnavailableError, True),
    (StatusCode.UNKNOWN, "raft proposal dropped", StoreUnavailableError, True),
    (
        StatusCode.FAILED_PRECONDITION,
        "etcdserver: rpc not supported for learner",
        StoreUnavailableError,
        False,
    ),
    (StatusCode.DATA_LOSS, "whatever", StoreError, True),
    (StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision", StoreError, False),
    (StatusCode.INVALID_ARGUMENT, "etcdserver: key is not provided", StoreError, False),
]
each = pytest.mark.parametrize(
    ("code", "details", "kind", "doubt"),
    TABLE,
    ids=[f"{code.name}-{(details or '')[-30:]}" for code, details, *_ in TABLE],
)


@each
def test_a_failure_has_its_own_kind_of_error(code, details, kind, doubt):
    assert type(translate_rpc(Failure(code, details), "etcd0:2379", answered=False)) is kind


@each
def test_a_failure_may_have_happened_unless_it_certainly_did_not(code, details, kind, doubt):
    error = translate_rpc(Failure(code, details), "etcd0:2379", answered=False)
    assert getattr(error, "may_have_happened", None) is doubt


@each
def test_a_failure_names_the_member(code, details, kind, doubt):
    assert "etcd0:2379" in str(translate_rpc(Failure(code, details), "etcd0:2379", answered=False))


@pytest.mark.parametrize("text", ["Socket closed", "Connection reset", "Handshake read failed"])
def test_a_connection_closed_at_once_may_be_tls_on_one_side_until_there_was_an_answer(text):
    failure = Failure(StatusCode.UNAVAILABLE, NO_CONNECTION + text)
    assert "TLS" in str(translate_rpc(failure, "etcd0:2379", answered=False))
    answered = translate_rpc(failure, "etcd0:2379", answered=True)
    assert type(answered) is StoreUnavailableError
    assert "TLS" not in str(answered)


def test_a_wrong_certificate_is_told_also_by_a_member_that_has_answered_before():
    failure = Failure(StatusCode.UNAVAILABLE, NO_CONNECTION + "SSL_ERROR_SSL")
    assert type(translate_rpc(failure, "etcd0:2379", answered=True)) is StoreTlsError


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (StatusCode.UNIMPLEMENTED, "HTTP status 404, not gRPC"),
        (StatusCode.UNAVAILABLE, NO_CONNECTION + "Failed parsing HTTP/2"),
    ],
)
def test_what_stands_in_the_place_of_a_member_that_has_answered_will_go_again(code, details):
    said = translate_rpc(Failure(code, details), "etcd0:2379", answered=True)
    assert type(said) is StoreUnavailableError
    assert "is not etcd:" not in str(said)


# No connection


@pytest.mark.parametrize(
    "error",
    [
        BrokenFramesError("HTTP/1.1 503 Service Unavailable"),
        pytest.param(lambda: of_tls("TLSV1_ALERT_INTERNAL_ERROR", "internal error"), id="alert"),
    ],
)
def test_a_member_that_has_answered_and_speaks_otherwise_is_unavailable(error):
    made = error() if callable(error) else error
    assert type(not_connected(made, "etcd:1", answered=True)) is StoreUnavailableError


def of_tls(reason: str, text: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] {text} (_ssl.c:1006)")
    error.reason = reason
    return error


def of_a_certificate(text: str) -> ssl.SSLError:
    error = ssl.SSLCertVerificationError(1, f"[SSL: X] certificate verify failed: {text}")
    error.verify_message = text
    return error


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (
            of_a_certificate("self-signed certificate"),
            StoreTlsError,
            "no TLS connection to etcd:1 (the server's certificate: self-signed certificate)",
        ),
        (
            of_tls("WRONG_VERSION_NUMBER", "wrong version number"),
            StoreTlsError,
            "no TLS connection to etcd:1 (the server does not use TLS)",
        ),
        (
            of_tls("SSLV3_ALERT_BAD_CERTIFICATE", "sslv3 alert bad certificate"),
            StoreTlsError,
            "no TLS connection to etcd:1 (the server says: sslv3 alert bad certificate; it may "
            "need another cert_cert)",
        ),
        (
            of_tls("TLSV1_ALERT_UNKNOWN_CA", "tlsv1 alert unknown ca"),
            StoreTlsError,
            "no TLS connection to etcd:1 (the server says: tlsv1 alert unknown ca; it may need "
            "another cert_cert)",
        ),
        (
            of_tls("TLSV1_ALERT_INTERNAL_ERROR", "tlsv1 alert internal error"),
            StoreTlsError,
            "no TLS connection to etcd:1 (the server says: tlsv1 alert internal error)",
        ),
        (
            of_tls("NO_CERTIFICATE_OR_CRL_FOUND", "no certificate or crl found"),
            StoreTlsError,
            "no TLS connection to etcd:1 (no certificate or crl found)",
        ),
        (
            NoHttp2Error(1, "no ALPN"),
            StoreTlsError,
            "no TLS connection to etcd:1 (no ALPN)",
        ),
        (
            ConnectionRefusedError(111, "Connection refused"),
            StoreUnavailableError,
            "no connection to etcd:1 (Connection refused)",
        ),
        (TimeoutError("it is late"), StoreTimeoutError, "no connection to etcd:1 (it is late)"),
        (
            BrokenFramesError("x" * 999),
            WrongServerError,
            f"etcd:1 is not etcd: it does not speak HTTP/2 ({'x' * 139}\u2026)",
        ),
    ],
)
def test_why_there_is_no_connection_is_said_in_two_lines(
    error: Exception, kind: type[StoreError], text: str
) -> None:
    said = not_connected(error, "etcd:1", answered=False)
    assert (type(said), str(said), said.may_have_happened) == (kind, text, False)


@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize(
    "error",
    [ConnectionResetError("the peer closed the connection"), BrokenPipeError(), ssl.SSLEOFError()],
)
def test_a_connection_that_is_closed_at_once_may_be_tls_on_one_side_if_none_ever_answered(
    error: Exception, answered: bool
) -> None:
    said = not_connected(error, "etcd:1", answered=answered)
    assert ("only one side uses TLS" in str(said)) is not answered
    assert isinstance(said, StoreUnavailableError)
