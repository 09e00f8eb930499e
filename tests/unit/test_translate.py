"""What a failure of gRPC means: the kind of error, and whether the request may have happened."""

from __future__ import annotations

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
from microlock.etcd.wire.grpcio import translate_rpc


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
