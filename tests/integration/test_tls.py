"""TLS on both sides; and each way to get it, or the port, wrong: named, and at once, if it does not
look like a member that is about to start."""

from __future__ import annotations

import http.server
import re
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import grpc
import pytest
from certificates import Pki, tls
from conftest import Etcd
from proxy import Proxy
from watching import eventually
from witness import AT_ONCE, Witness, assert_works, at_most

from microlock import (
    Microlock,
    StoreError,
    StoreTlsError,
    StoreUnavailableError,
    WrongServerError,
    connect,
)
from microlock.etcd.client import EtcdClient

TIMEOUT = 20.0
SHORT = 1.5
OwnEtcd = Callable[..., Etcd]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki.made_in(tmp_path_factory.mktemp("pki"))


# What every wrong connection has to do


def assert_readable_at_night(error: StoreError) -> None:
    """The traceback is of the call and no more; the last line says it all, in two lines at most."""
    shown = "".join(traceback.format_exception(error))
    assert len(shown.splitlines()) < 30
    assert shown.count("Traceback") == 1
    assert not re.search("grpc/|tenacity|_InactiveRpcError", shown)
    assert str(error).isprintable()
    assert len(str(error)) < 240


def assert_named(etcd: EtcdClient, error: type[StoreError], address: str) -> None:
    """lock() and on() give this error at once, and it says where; nothing may have happened."""
    foo = Microlock(etcd, "foo", "node-a")
    with at_most(AT_ONCE), pytest.raises(error) as refused:
        foo.lock()
    assert type(refused.value) is error
    assert address in str(refused.value)
    assert not refused.value.may_have_happened
    assert_readable_at_night(refused.value)
    with at_most(AT_ONCE), pytest.raises(error) as refused:
        foo.on("unlocked", print)
    assert type(refused.value) is error
    assert address in str(refused.value)
    assert not foo.listeners("unlocked")
    with at_most(AT_ONCE):
        foo.destroy()


def assert_perhaps_tls(etcd: EtcdClient, address: str) -> None:
    """lock() tries until the deadline, as a member may be about to start; the error names TLS. A
    listener is told the same, and stays."""
    foo = Microlock(etcd, "foo", "node-a")
    with at_most(etcd.timeout + AT_ONCE), pytest.raises(StoreUnavailableError) as refused:
        foo.lock()
    assert not refused.value.may_have_happened
    witness = Witness(foo, "error")
    foo.on("unlocked", print)
    assert witness.saw("error", within=AT_ONCE)
    error = witness.errors()[0]
    assert isinstance(error, StoreUnavailableError)
    assert "TLS" in str(error)
    assert address in str(error)
    assert foo.listeners("unlocked")
    foo.destroy()


# TLS that works


def test_a_lock_works_over_tls(own_etcd: OwnEtcd, pki: Pki) -> None:
    server = own_etcd(flags=tls(pki.server))
    with connect(server.endpoint, ca_cert=pki.ca, timeout=TIMEOUT) as etcd:
        assert_works(Microlock(etcd, "foo", "node-a", ttl=5))


def test_a_lock_works_over_tls_by_name_and_url(own_etcd: OwnEtcd, pki: Pki) -> None:
    port = own_etcd(flags=tls(pki.server)).endpoint.rpartition(":")[2]
    with connect(f"https://localhost:{port}", ca_cert=Path(pki.ca), timeout=TIMEOUT) as etcd:
        assert_works(Microlock(etcd, "foo", "node-a", ttl=5))


def test_a_lock_works_over_mutual_tls(own_etcd: OwnEtcd, pki: Pki) -> None:
    server = own_etcd(flags=tls(pki.server, client_ca=pki.ca))
    with connect(
        server.endpoint,
        ca_cert=pki.ca,
        cert_cert=pki.client.cert,
        cert_key=pki.client.key,
        timeout=TIMEOUT,
    ) as etcd:
        assert_works(Microlock(etcd, "foo", "node-a", ttl=5))


# TLS that does not


def test_a_server_of_another_ca_is_a_tls_error(own_etcd: OwnEtcd, pki: Pki) -> None:
    server = own_etcd(flags=tls(pki.server))
    with connect(server.endpoint, ca_cert=pki.other_ca, timeout=TIMEOUT) as etcd:
        assert_named(etcd, StoreTlsError, server.endpoint)


def test_a_ca_that_is_not_given_is_a_tls_error(own_etcd: OwnEtcd, pki: Pki) -> None:
    server = own_etcd(flags=tls(pki.server))
    with connect(f"https://{server.endpoint}", timeout=TIMEOUT) as etcd:
        assert_named(etcd, StoreTlsError, server.endpoint)


def test_a_missing_client_certificate_is_a_tls_error(own_etcd: OwnEtcd, pki: Pki) -> None:
    server = own_etcd(flags=tls(pki.server, client_ca=pki.ca))
    with connect(server.endpoint, ca_cert=pki.ca, timeout=TIMEOUT) as etcd:
        assert_named(etcd, StoreTlsError, server.endpoint)


def test_a_client_certificate_of_another_ca_is_a_tls_error(own_etcd: OwnEtcd, pki: Pki) -> None:
    server = own_etcd(flags=tls(pki.server, client_ca=pki.ca))
    with connect(
        server.endpoint,
        ca_cert=pki.ca,
        cert_cert=pki.stranger.cert,
        cert_key=pki.stranger.key,
        timeout=TIMEOUT,
    ) as etcd:
        assert_named(etcd, StoreTlsError, server.endpoint)


def test_a_certificate_for_another_host_is_a_tls_error(own_etcd: OwnEtcd, pki: Pki) -> None:
    server = own_etcd(flags=tls(pki.server_elsewhere))
    with connect(server.endpoint, ca_cert=pki.ca, timeout=TIMEOUT) as etcd:
        assert_named(etcd, StoreTlsError, server.endpoint)


def test_plaintext_against_tls_is_unavailable_and_names_tls(own_etcd: OwnEtcd, pki: Pki) -> None:
    server = own_etcd(flags=tls(pki.server))
    with connect(server.endpoint, timeout=SHORT) as etcd:
        assert_perhaps_tls(etcd, server.endpoint)


def test_plaintext_against_mutual_tls_is_unavailable_and_names_tls(
    own_etcd: OwnEtcd, pki: Pki
) -> None:
    server = own_etcd(flags=tls(pki.server, client_ca=pki.ca))
    with connect(server.endpoint, timeout=SHORT) as etcd:
        assert_perhaps_tls(etcd, server.endpoint)


def test_tls_against_plaintext_is_unavailable_and_names_tls(etcd_server: Etcd, pki: Pki) -> None:
    with connect(etcd_server.endpoint, ca_cert=pki.ca, timeout=SHORT) as etcd:
        assert_perhaps_tls(etcd, etcd_server.endpoint)


def test_lock_is_tried_until_what_closes_each_connection_has_an_etcd_behind_it(
    own_etcd: OwnEtcd,
) -> None:
    server = own_etcd()
    server.kill()
    with (
        closing(Proxy(server.endpoint)) as proxy,
        connect(proxy.endpoint, timeout=TIMEOUT) as etcd,
        ThreadPoolExecutor() as pool,
    ):
        taken = pool.submit(Microlock(etcd, "foo", "node-a").lock)
        assert eventually(lambda: proxy.refused > 1)
        server.start()
        assert taken.result(TIMEOUT)


def test_a_wrong_certificate_at_one_member_of_two_hinders_nobody(
    own_etcd: OwnEtcd, pki: Pki
) -> None:
    bad, good = own_etcd(flags=tls(pki.server_elsewhere)), own_etcd(flags=tls(pki.server))
    with connect([bad.endpoint, good.endpoint], ca_cert=pki.ca, timeout=TIMEOUT) as etcd:
        assert_works(Microlock(etcd, "foo", "node-a", ttl=5))


# No etcd at all


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address that refuses connections."""
    with socket.socket() as bound:  # bound, so that nobody else takes it; but it listens to none
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


class Silent(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Prints nothing."""


@contextmanager
def http1_server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def some_other_grpc_server() -> Iterator[str]:
    with ThreadPoolExecutor() as pool:
        server = grpc.server(pool)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(grace=None).wait()


def test_lock_says_at_once_that_nothing_listens(nobody: str) -> None:
    with connect(nobody, timeout=TIMEOUT) as etcd:
        foo = Microlock(etcd, "foo", "node-a")
        with at_most(AT_ONCE), pytest.raises(StoreUnavailableError) as refused:
            foo.lock()
    assert type(refused.value) is StoreUnavailableError
    assert nobody in str(refused.value)
    assert "Connection refused" in str(refused.value)
    assert not refused.value.may_have_happened
    assert_readable_at_night(refused.value)


def test_lock_says_at_once_that_nothing_listens_where_tls_is_expected(
    nobody: str, pki: Pki
) -> None:
    with connect(nobody, ca_cert=pki.ca, timeout=TIMEOUT) as etcd:
        foo = Microlock(etcd, "foo", "node-a")
        with at_most(AT_ONCE), pytest.raises(StoreUnavailableError) as refused:
            foo.lock()
    assert type(refused.value) is StoreUnavailableError


def test_a_listener_is_told_at_once_that_nothing_listens_and_stays(nobody: str) -> None:
    with connect(nobody, timeout=TIMEOUT) as etcd:
        foo = Microlock(etcd, "foo", "node-a")
        witness = Witness(foo, "error")
        with at_most(AT_ONCE):
            foo.on("unlocked", print)
        assert witness.saw("error", within=AT_ONCE)
        [error] = witness.errors()
        assert type(error) is StoreUnavailableError
        assert nobody in str(error)
        assert foo.listeners("unlocked")
        with at_most(AT_ONCE):
            foo.destroy()


def test_a_name_that_resolves_to_nothing_is_unavailable_at_once() -> None:
    with connect("etcd.invalid:2379", timeout=TIMEOUT) as etcd:
        foo = Microlock(etcd, "foo", "node-a")
        with at_most(10), pytest.raises(StoreUnavailableError) as refused:
            foo.lock()
    assert type(refused.value) is StoreUnavailableError
    assert "etcd.invalid:2379" in str(refused.value)
    assert_readable_at_night(refused.value)


def test_an_http1_server_is_not_etcd() -> None:
    with http1_server() as address, connect(address, timeout=TIMEOUT) as etcd:
        assert_named(etcd, WrongServerError, address)


def test_another_grpc_server_is_not_etcd() -> None:
    with some_other_grpc_server() as address, connect(address, timeout=TIMEOUT) as etcd:
        assert_named(etcd, WrongServerError, address)
