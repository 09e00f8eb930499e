"""Where a client comes from, told without a network: a channel asks for nothing by itself."""

from __future__ import annotations

import copy
import gc
import pickle
from pathlib import Path
from weakref import ref

import grpc
import pytest

from microlock import Microlock, connect
from microlock.errors import ClientRequiredError, InvalidArgumentError, StoreUnavailableError
from microlock.etcd.lent import client_of
from microlock.etcd.wire.grpcio import GrpcWire


def addresses(endpoints: object) -> list[str]:
    with connect(endpoints) as client:
        return repr(client).removeprefix("<EtcdClient ").removesuffix(">").split(", ")


@pytest.mark.parametrize(
    ("endpoints", "expected"),
    [
        ("etcd0", ["etcd0:2379"]),
        ("etcd0:1234", ["etcd0:1234"]),
        ("http://etcd0:1234", ["etcd0:1234"]),
        ("http://etcd0/", ["etcd0:2379"]),
        ("https://etcd0", ["etcd0:2379"]),
        ("10.0.0.1:1", ["10.0.0.1:1"]),
        ("[::1]", ["[::1]:2379"]),
        ("[::1]:1234", ["[::1]:1234"]),
        ("unix:///run/etcd", ["unix:///run/etcd"]),
        ("unix:etcd.sock", ["unix:etcd.sock"]),
        ("unix-abstract:etcd", ["unix-abstract:etcd"]),
        ("etcd0,etcd1:1234", ["etcd0:2379", "etcd1:1234"]),
        (" etcd0 , etcd1 ", ["etcd0:2379", "etcd1:2379"]),
        (["etcd0", "http://etcd1"], ["etcd0:2379", "etcd1:2379"]),
        (("etcd0", "etcd0:2379"), ["etcd0:2379"]),
        (iter(["etcd0"]), ["etcd0:2379"]),
    ],
)
def test_endpoints_are_taken_as_people_write_them(endpoints, expected):
    assert addresses(endpoints) == expected


@pytest.mark.parametrize(
    "endpoints",
    [
        None,
        5,
        "",
        " ",
        ",",
        "etcd0,",
        "etcd0:port",
        "etcd0:99999",
        "etcd0:0",
        ":2379",
        "::1",
        "[::1",
        "etcd 0",
        "etcd0/path",
        "etcd0?query",
        "etcd0#fragment",
        "http://",
        "ftp://etcd0",
        "unix:",
        "unix-abstract:",
        "http://root:secret@etcd0",
        "http://:secret@etcd0",
        b"etcd0",
        [],
        [None],
        ["etcd0", b"etcd1"],
        ["etcd0,etcd1"],
    ],
    ids=ascii,
)
def test_endpoints_that_are_none_are_refused(endpoints):
    with pytest.raises(InvalidArgumentError, match=r"^endpoints"):
        connect(endpoints)


HERE = __file__  # a file that can be read


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ca_cert": "/no/such/file"}, "ca_cert: '/no/such/file' can't be read"),
        ({"ca_cert": Path("/no/such/file")}, "ca_cert: .* can't be read"),
        ({"ca_cert": b"PEM"}, "ca_cert must be the path of a file, not b'PEM'"),
        ({"ca_cert": "nul\0"}, "ca_cert: .* can't be read"),
        ({"ca_cert": ""}, "ca_cert: '' can't be read"),
        ({"cert_key": HERE}, "cert_key and cert_cert belong together"),
        ({"cert_cert": HERE}, "cert_key and cert_cert belong together"),
        ({"cert_key": "/no/such/file", "cert_cert": HERE}, "cert_key: .* can't be read"),
        ({"user": "root"}, "user and password belong together"),
        ({"password": "secret"}, "user and password belong together"),
        ({"user": "", "password": "secret"}, "user must be a non-empty str, not ''"),
        ({"user": 5, "password": "secret"}, "user must be a non-empty str, not 5"),
        ({"user": "root", "password": ""}, "password must be a non-empty str"),
        ({"user": "root", "password": b"secret"}, "password must be a non-empty str, not bytes"),
        ({"timeout": 0}, "timeout must be more than 0 seconds.*, not 0"),
        ({"timeout": -1}, "timeout must be more than 0 seconds.*, not -1"),
        ({"timeout": float("nan")}, "timeout must be more than 0 seconds.*, not nan"),
        ({"timeout": float("inf")}, "timeout must be more than 0 seconds.*, not inf"),
        ({"timeout": None}, "timeout must be a number of seconds, not None"),
        ({"timeout": "5"}, "timeout must be a number of seconds, not '5'"),
        ({"timeout": True}, "timeout must be a number of seconds, not True"),
        ({"endpoints": "http://etcd0", "ca_cert": HERE}, "endpoints must not mix http with TLS"),
        ({"endpoints": "http://etcd0,https://etcd1"}, "endpoints must not mix http with TLS"),
    ],
    ids=lambda each: ascii(each) if isinstance(each, dict) else None,
)
def test_a_bad_argument_is_named(arguments, message):
    with pytest.raises(InvalidArgumentError, match=f"^{message}"):
        connect(**arguments)


def test_a_client_has_the_timeout_it_was_given():
    with connect("etcd0", timeout=2) as client:
        assert client.timeout == 2.0


@pytest.mark.parametrize("way", [copy.copy, pickle.dumps])
def test_a_client_is_neither_copied_nor_pickled(way):
    with (
        connect("etcd0", user="root", password="secret") as client,
        pytest.raises(TypeError, match="can't be copied or pickled"),
    ):
        way(client)


def test_a_client_does_not_show_its_password():
    with connect("etcd0", user="root", password="secret") as client:
        assert "secret" not in f"{client!r} {client!s} {vars(client)!r}"


@pytest.mark.parametrize(
    "arguments",
    [
        {"password": "secret"},
        {"user": "root", "password": b"secret"},
        {"user": 5, "password": "secret"},
        {"user": "root", "password": "secret", "timeout": 0},
        {"user": "root", "password": "secret", "endpoints": "etcd0:port"},
        {"endpoints": "http://root:secret@etcd0"},
        {"endpoints": ["http://root:secret@etcd0"]},
        {"endpoints": "root:secret%40etcd0:2379"},
        {"endpoints": "http://root:secret\uff20etcd0"},
        {"endpoints": "http://root:secret#@etcd0"},
    ],
    ids=ascii,
)
def test_an_error_does_not_show_a_password(arguments):
    with pytest.raises(InvalidArgumentError) as raised:
        connect(**arguments)
    assert "secret" not in str(raised.value)
    assert "secret" not in str(raised.value.__context__)


class LooksLikeOne:
    """It has what python-etcd3 has, but no gRPC channel."""

    channel = "http://etcd0"
    metadata = None
    timeout = None


UNSUITABLE = pytest.mark.parametrize(
    "etcd", [None, object(), "localhost:2379", b"", 0, {}, [], connect, LooksLikeOne()]
)


@UNSUITABLE
def test_what_is_no_client_is_refused(etcd):
    with pytest.raises(ClientRequiredError, match=r"^etcd must be"):
        client_of(etcd)


@UNSUITABLE
def test_a_lock_without_a_client_is_refused(etcd):
    with pytest.raises(ClientRequiredError):
        Microlock(etcd, "foo", "alpha")


def test_a_client_of_ours_is_taken_as_it_is():
    with connect("etcd0") as client:
        assert client_of(client) is client


class Lender:
    """What python-etcd3 has."""

    metadata = None
    timeout = None

    def __init__(self) -> None:
        self.channel = grpc.insecure_channel("etcd0:2379")


def test_a_lent_client_is_looked_up_before_anything_is_made(monkeypatch):
    lender = Lender()
    client = client_of(lender)
    monkeypatch.setattr("microlock.etcd.wire.grpcio.GrpcWire", None)
    assert client_of(lender) is client


def test_a_handler_that_comes_while_a_lent_client_is_made_gets_the_same_one(monkeypatch):
    lender, handled = Lender(), []

    class Interrupted(GrpcWire):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)
            if not handled:
                handled.append(None)
                handled.append(client_of(lender))

    monkeypatch.setattr("microlock.etcd.wire.grpcio.GrpcWire", Interrupted)
    assert client_of(lender) is handled[1]


def test_a_lent_client_that_is_dropped_is_forgotten():
    lender = Lender()
    known = ref(client_of(lender))
    del lender
    gc.collect()
    assert known() is None


@pytest.mark.parametrize("name", ["x" * 64, "a..b", "nul\0", "\udcff"], ids=ascii)
def test_a_server_name_that_tls_cannot_send_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="server_name can't be used") as refused:
        connect("https://etcd0", server_name=name)
    assert str(refused.value).isprintable()


def test_a_name_that_is_none_is_told_when_it_is_dialled() -> None:
    with connect("\udcff:1", timeout=0.5) as etcd, pytest.raises(StoreUnavailableError):
        Microlock(etcd, "foo", "node-a").lock()
