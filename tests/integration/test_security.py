"""What a stranger, a liar and a reader of logs get: what docs/security.md says, and no more."""

from __future__ import annotations

import base64
import datetime
import inspect
import json
import logging
import os
import pickle
import re
import socket
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from urllib.parse import quote

import certificates
import grpc
import pytest
from certificates import Authority, Pki, tls
from conftest import Etcd
from ctl import Etcdctl
from nodes import begin, queued
from test_auth import Guarded
from watching import DEADLINE, Recorder, eventually
from witness import AT_ONCE, Witness, assert_works, at_most, entries

import microlock
from microlock import (
    AlreadyLockedError,
    DestroyedError,
    InvalidArgumentError,
    LockLostError,
    LockManager,
    Microlock,
    MicrolockError,
    StoreAuthenticationError,
    StoreNoSpaceError,
    StorePermissionError,
    StoreTlsError,
    StoreUnavailableError,
    connect,
    etcd3,
)
from microlock.etcd.client import EtcdClient
from microlock.server import find_binary

TIMEOUT = 20.0
PAGE = (Path(__file__).parents[2] / "docs/security.md").read_text()
OwnEtcd = Callable[..., Etcd]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki.made_in(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    """A CA that a test can have certificates of its own from."""
    return Authority(tmp_path, "ours")


# TLS: what is verified


def assert_not_trusted(endpoint: str, ca_cert: str) -> None:
    with connect(endpoint, ca_cert=ca_cert, timeout=TIMEOUT) as etcd:
        foo = Microlock(etcd, "foo", "node-a")
        for call in (foo.lock, foo.holder, lambda: foo.on("unlocked", print)):
            with at_most(AT_ONCE), pytest.raises(StoreTlsError) as refused:
                call()
            assert endpoint in str(refused.value)
            assert not refused.value.may_have_happened


def by_name(etcd: Etcd) -> str:
    return f"localhost:{etcd.endpoint.rpartition(':')[2]}"


@pytest.mark.parametrize("days", [(-3, -1), (1, 3)], ids=["expired", "not yet valid"])
def test_a_certificate_out_of_its_time_is_a_tls_error(
    own_etcd: OwnEtcd, ours: Authority, monkeypatch: pytest.MonkeyPatch, days: tuple[int, int]
) -> None:
    begin_, end = (datetime.timedelta(days=each) for each in days)
    made = certificates._builder

    def at_another_time(*names: Any) -> Any:
        builder = made(*names)
        now = datetime.datetime.now(datetime.timezone.utc)
        builder._not_valid_before, builder._not_valid_after = None, None
        return builder.not_valid_before(now + begin_).not_valid_after(now + end)

    monkeypatch.setattr(certificates, "_builder", at_another_time)
    certificate = ours.issue("server", "127.0.0.1")
    assert_not_trusted(own_etcd(flags=tls(certificate)).endpoint, ours.cert)


def test_a_certificate_for_the_address_alone_is_none_for_the_name(
    own_etcd: OwnEtcd, ours: Authority
) -> None:
    server = own_etcd(flags=tls(ours.issue("server", "127.0.0.1")))
    assert_not_trusted(by_name(server), ours.cert)


def test_a_certificate_for_the_name_alone_is_none_for_the_address(
    own_etcd: OwnEtcd, ours: Authority
) -> None:
    server = own_etcd(flags=tls(ours.issue("server", "localhost")))
    assert_not_trusted(server.endpoint, ours.cert)


def test_a_certificate_with_its_name_in_cn_only_is_refused(
    own_etcd: OwnEtcd, ours: Authority
) -> None:
    server = own_etcd(flags=tls(ours.issue("localhost")))
    assert_not_trusted(by_name(server), ours.cert)


def test_with_mutual_tls_the_common_name_of_the_certificate_is_the_user(
    own_etcd: OwnEtcd, ours: Authority
) -> None:
    root, worker = ours.issue("root"), ours.issue("worker")
    server = own_etcd(flags=tls(ours.issue("server", "127.0.0.1"), client_ca=ours.cert))
    flags = (f"--cacert={ours.cert}", f"--cert={root.cert}", f"--key={root.key}")
    Guarded(server, *flags)
    with connect(
        server.endpoint,
        ca_cert=ours.cert,
        cert_key=worker.key,
        cert_cert=worker.cert,
        timeout=TIMEOUT,
    ) as etcd:
        assert_works(Microlock(etcd, "mine", "node-a", ttl=5))
        with at_most(AT_ONCE), pytest.raises(StorePermissionError):
            Microlock(etcd, "theirs", "node-a").lock()


def test_nothing_turns_the_verification_off() -> None:
    assert set(inspect.signature(connect).parameters) == {
        *("endpoints", "ca_cert", "cert_key", "cert_cert", "user", "password", "server_name"),
        "timeout",
    }
    files = [*Path(microlock.__file__).parent.rglob("*.py")]
    # The service is a server, which need not ask its clients for certificates.
    source = "".join(path.read_text() for path in files if "service" not in path.parts)
    assert not re.search(r"default_authority|verify_mode|check_hostname|CERT_NONE", source)


# What is no certificate


def connecting(arguments: str) -> subprocess.CompletedProcess[str]:
    """A process that connects so and asks who holds a lock; it prints the error's name."""
    code = f"""
from microlock import *
try:
    with connect({arguments}, timeout=5) as etcd:
        Microlock(etcd, "foo", "node-a").holder()
except MicrolockError as error:
    print(type(error).__name__, error)
"""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=30,
        env=os.environ | {"PYTHONPATH": str(Path(microlock.__file__).parents[1])},
    )


def test_an_empty_ca_file_is_refused_and_never_means_the_public_cas(
    own_etcd: OwnEtcd, pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", pki.ca)
    server = own_etcd(flags=tls(pki.server))
    (empty := tmp_path / "empty").touch()
    asked = connecting(f"{server.endpoint!r}, ca_cert={str(empty)!r}")
    assert asked.stdout.startswith("InvalidArgumentError ca_cert"), asked
    assert str(empty) in asked.stdout


def test_without_a_ca_file_those_are_trusted_that_openssl_is_told_to(
    own_etcd: OwnEtcd, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = own_etcd(flags=tls(pki.server))
    assert connecting(f"'https://{server.endpoint}'").stdout.startswith("StoreTlsError")
    monkeypatch.setenv("SSL_CERT_FILE", pki.ca)
    asked = connecting(f"'https://{server.endpoint}'")
    assert (asked.returncode, asked.stdout) == (0, ""), asked


@pytest.mark.parametrize("which", ["cert_key", "cert_cert"])
def test_an_empty_file_of_the_client_is_refused_and_ends_no_process(
    pki: Pki, tmp_path: Path, which: str
) -> None:
    (empty := tmp_path / "empty").touch()
    files = {"cert_key": pki.client.key, "cert_cert": pki.client.cert, which: str(empty)}
    asked = connecting(f"'localhost:1', ca_cert={pki.ca!r}, **{files!r}")
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.startswith(f"InvalidArgumentError {which}"), asked


@pytest.mark.parametrize("which", ["ca_cert", "cert_key", "cert_cert"])
def test_a_file_of_something_else_is_refused(pki: Pki, tmp_path: Path, which: str) -> None:
    (other := tmp_path / "other").write_text("not PEM")
    files = {"ca_cert": pki.ca, "cert_key": pki.client.key, "cert_cert": pki.client.cert}
    with pytest.raises(InvalidArgumentError, match="can't be used"):
        connect("localhost:1", **files | {which: str(other)})  # type: ignore[arg-type]


# What travels in the open


class Tap:
    """Relays connections to an endpoint, and keeps what was sent there."""

    def __init__(self, endpoint: str) -> None:
        host, _, port = endpoint.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._chunks: list[bytes] = []
        self.endpoint = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, name="tap", daemon=True).start()

    @property
    def heard(self) -> bytes:
        return b"".join(self._chunks)

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
            except OSError:
                return
            for source, sink, notes in ((client, server, self._chunks), (server, client, [])):
                threading.Thread(
                    target=self._relay, args=(source, sink, notes), name="tap", daemon=True
                ).start()

    @staticmethod
    def _relay(source: socket.socket, sink: socket.socket, notes: list[bytes]) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                notes.append(data)
                sink.sendall(data)
        for each in (source, sink):
            with suppress(OSError):  # wakes the thread of the other direction, unlike close()
                each.shutdown(socket.SHUT_RDWR)
            each.close()


PASSWORD = "xyzzy-Plugh-4711-frotz-secret"


def test_without_tls_the_password_can_be_read_on_the_way(own_etcd: OwnEtcd) -> None:
    guarded = Guarded(own_etcd())
    guarded.ctl("user", "add", f"open:{PASSWORD}")
    with (
        closing(Tap(guarded.endpoint)) as tap,
        connect(tap.endpoint, user="open", password=PASSWORD, timeout=TIMEOUT) as etcd,
    ):
        with pytest.raises(StorePermissionError):
            Microlock(etcd, "mine", "node-a").holder()
        assert tap.heard.count(PASSWORD.encode()) == 1  # with the login, and no call after it


def test_with_tls_the_password_can_not_be_read_on_the_way(own_etcd: OwnEtcd, pki: Pki) -> None:
    guarded = Guarded(own_etcd(flags=tls(pki.server)), f"--cacert={pki.ca}")
    guarded.ctl("user", "add", f"open:{PASSWORD}")
    with (
        closing(Tap(guarded.endpoint)) as tap,
        connect(
            tap.endpoint, ca_cert=pki.ca, user="open", password=PASSWORD, timeout=TIMEOUT
        ) as etcd,
    ):
        with pytest.raises(StorePermissionError):
            Microlock(etcd, "mine", "node-a").holder()
        assert len(tap.heard) > 500
        assert PASSWORD.encode() not in tap.heard


def test_without_tls_arguments_no_password_is_sent_to_a_server_of_tls(
    own_etcd: OwnEtcd, pki: Pki
) -> None:
    server = own_etcd(flags=tls(pki.server))
    with (
        closing(Tap(server.endpoint)) as tap,
        connect(tap.endpoint, user="worker", password=PASSWORD, timeout=3) as etcd,
    ):
        with at_most(3 + AT_ONCE), pytest.raises(StoreUnavailableError):
            Microlock(etcd, "mine", "node-a").lock()
        assert tap.heard
        assert PASSWORD.encode() not in tap.heard


# Secrets


def forms(secret: str) -> set[str]:
    """As what a secret could be written."""
    raw = secret.encode()
    encoded = {base64.b64encode(part).decode() for part in (raw, b"app:" + raw)}
    return {
        secret,
        repr(secret)[1:-1],
        json.dumps(secret)[1:-1],
        quote(secret),
        raw.hex(),
    } | encoded


def leaks(said: Iterable[str], secrets: dict[str, str]) -> list[tuple[str, str]]:
    """Which secret is in which text."""
    return [
        (name, text)
        for text in said
        for name, secret in secrets.items()
        if any(form in text for form in forms(secret))
    ]


def private_lines(key: str) -> dict[str, str]:
    """The lines of a private key, each of them a secret."""
    lines = Path(key).read_text().splitlines()[1:-1]
    return {f"line {number} of the key": line for number, line in enumerate(lines)}


def chain(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def told_by(error: BaseException) -> list[str]:
    """All that printing, logging or sending an error could tell."""
    said = traceback.format_exception(error)
    for each in chain(error):
        said += [str(each), repr(each), ascii(each), repr(each.args), repr(vars(each))]
        with suppress(Exception):  # gRPC's own can't be pickled
            said.append(pickle.dumps(each).decode("latin-1"))
    return said


def told_by_logs(records: Iterable[logging.LogRecord]) -> list[str]:
    formatter = logging.Formatter()
    return [f"{formatter.format(each)} {vars(each)!r}" for each in records]


@pytest.mark.parametrize(
    "leak",
    [
        lambda secret: f"login {secret}",
        lambda secret: repr({"password": secret}),
        lambda secret: repr((("token", secret),)),
        lambda secret: repr(f"-----BEGIN PRIVATE KEY-----\n{secret}\n".encode()),
        lambda secret: "Basic " + base64.b64encode(f"app:{secret}".encode()).decode(),
        lambda secret: f"http://app:{quote(secret)}@etcd",
        lambda secret: told_by(MicrolockError(secret))[0],
        lambda secret: told_by(raised_from(ValueError(secret)))[0],
        lambda secret: pickle.dumps(MicrolockError(secret)).decode("latin-1"),
        lambda secret: told_by_logs([logging.makeLogRecord({"token": secret})])[0],
    ],
)
def test_the_search_for_secrets_would_find_one(leak: Callable[[str], str]) -> None:
    secret = 'a\tquoted "secret" at/home?'
    assert leaks(["well", leak(secret)], {"it": secret})


def raised_from(cause: Exception) -> Exception:
    error = MicrolockError("well")
    error.__cause__ = cause
    return error


EVENTS = [
    *("locked", "unlocked", "waiting", "acquired", "released", "failed"),
    *("renewed", "suspended", "lost"),
]


class Report:
    """Notes all that is said while many things are done, and what must not be."""

    def __init__(self, key: str) -> None:
        self.secrets = {"password": PASSWORD, **private_lines(key)}
        self.said: list[str] = []
        self.errors: set[type[BaseException]] = set()

    def saw(self, *things: object) -> None:
        for each in things:
            self.said += [repr(each), str(each), f"{each!a}"]

    def refused(self, *calls: Callable[[], object]) -> None:
        for call in calls:
            with pytest.raises(MicrolockError) as refused:
                call()
            self.errors.add(type(refused.value))
            self.said += told_by(refused.value)

    def knows_the_token_of(self, etcd: EtcdClient) -> None:
        token = dict(etcd.store._identity.known() or ()).get("token")  # type: ignore[attr-defined]
        if token:
            self.secrets[f"token {len(self.secrets)}"] = token


def test_nothing_that_can_happen_tells_a_password_a_token_or_a_key(
    own_etcd: OwnEtcd, pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("", "microlock", "grpc"):
        caplog.set_level(logging.DEBUG, name)
    server = own_etcd(flags=tls(pki.server, client_ca=pki.ca))
    mutual = {"ca_cert": pki.ca, "cert_key": pki.client.key, "cert_cert": pki.client.cert}
    guarded = Guarded(
        server,
        *(f"--cacert={pki.ca}", f"--cert={pki.client.cert}", f"--key={pki.client.key}"),
    )
    guarded.ctl("user", "add", f"app:{PASSWORD}")
    guarded.ctl("user", "grant-role", "app", "worker")
    report = Report(pki.client.key)

    def client(password: str = PASSWORD, **files: str) -> EtcdClient:
        made = connect(
            server.endpoint, user="app", password=password, timeout=4, **{**mutual, **files}
        )
        report.saw(made)
        return made

    with warnings.catch_warnings(record=True) as warned, ExitStack() as stack:
        warnings.simplefilter("always")
        etcd = stack.enter_context(client())
        other = stack.enter_context(client())
        manager = LockManager(etcd, "node-m", prefix="mine/")
        foo = Microlock(etcd, "mine", "node-a", ttl=2, auto_renew=True)
        bar = Microlock(other, "mine", "node-b", ttl=2)
        witness = Witness(foo, *EVENTS)
        errors = Witness(foo, "error")
        foo.on("unlocked", lambda: 1 / 0)
        hold = foo.lock()
        report.saw(foo, manager, hold, foo.guard(), foo.holder(), foo.state, foo.lost, witness)
        report.knows_the_token_of(etcd)
        report.refused(bar.lock, foo.lock, bar.unlock)
        waiting = begin(lambda: bar.lock(timeout=DEADLINE))
        assert queued(foo)
        foo.unlock()
        report.saw(waiting.result(DEADLINE))
        assert bar.lost.wait(DEADLINE)
        report.refused(bar.unlock, bar.check)
        foo.lock(timeout=DEADLINE)
        theirs = Microlock(etcd, "theirs", "node-a")
        report.refused(theirs.lock, theirs.holder, lambda: theirs.on("unlocked", print))
        report.refused(lambda: etcd.transaction(foo.guard(), put={"theirs": "x"}))
        report.refused(LockManager(etcd, "node-m").locks)
        server.kill()
        assert eventually(lambda: "suspended" in caplog.text)
        report.refused(foo.renew)
        server.start()  # and has forgotten the tokens
        foo.lost.wait(2)
        foo.holder()
        report.knows_the_token_of(etcd)
        foo.destroy()
        bar.destroy()
        report.refused(foo.lock)

        report.secrets["wrong password"] = wrong = "wrong-" + PASSWORD[::-1]
        report.refused(lambda: client(cert_key=pki.server.key))
        stranger = {"cert_key": pki.stranger.key, "cert_cert": pki.stranger.cert}
        for bad in (client(wrong), client(ca_cert=pki.other_ca), client(**stranger)):
            with bad:
                lock = Microlock(bad, "mine", "node-a", auto_renew=True)
                report.refused(lock.lock, lock.holder, lock.__enter__)
                report.refused(lambda lock=lock: lock.on("unlocked", print))
                report.saw(bad, lock)
                lock.destroy()
        with connect(server.endpoint, user="app", password=PASSWORD, timeout=2) as plain:
            report.refused(Microlock(plain, "mine", "node-a").lock)
        report.refused(Microlock(plain, "mine", "node-a").lock)
        report.saw(plain)
        report.said += map(repr, witness.events + errors.events)
        for error in errors.errors():
            report.said += told_by(error)
    for wrong_call in (
        lambda: connect(user="app"),
        lambda: connect(user=b"app", password=PASSWORD),  # type: ignore[arg-type]
        lambda: connect(user="app", password=PASSWORD.encode()),  # type: ignore[arg-type]
        lambda: connect(f"http://app:{PASSWORD}@localhost:2379"),
        lambda: connect(user="", password=PASSWORD),
    ):
        report.refused(wrong_call)
    report.said += [str(each.message) for each in warned]
    report.said += told_by_logs(caplog.records)
    assert report.errors > {
        *(AlreadyLockedError, LockLostError, DestroyedError),
        *(StorePermissionError, StoreAuthenticationError, StoreTlsError),
    }
    assert "acquired" in caplog.text
    assert sum(name.startswith("token") for name in report.secrets) == 2
    assert leaks(report.said, report.secrets) == []


SECRET = "tr0ub4dor-horse-staple"
PEM = f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n{'A' * 400}\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    "call",
    [
        lambda: connect(cert_key=PEM, cert_cert=__file__),
        lambda: connect(cert_key=PEM[:60], cert_cert=__file__),
        lambda: connect(cert_key=PEM.encode(), cert_cert=__file__),  # type: ignore[arg-type]
        lambda: connect(cert_key={"pem": PEM}, cert_cert=__file__),  # type: ignore[arg-type]
        lambda: connect(ca_cert=PEM),
        lambda: connect(f"http://app:{SECRET}@localhost:2379"),
        lambda: connect(f"http://app:{SECRET}#1@localhost:2379"),
        lambda: connect(f"http://app:{SECRET},1@localhost:2379"),
        lambda: connect(f"http://app:x/{SECRET}@localhost:2379"),
        lambda: connect(f"app:{SECRET}@localhost"),
        lambda: connect([f"localhost,app:{SECRET}@localhost"]),
        lambda: Microlock(f"http://app:{SECRET}@localhost:2379", "foo", "node-a"),
        lambda: Microlock({"user": "app", "password": SECRET}, "foo", "node-a"),
    ],
)
def test_a_secret_in_the_place_of_another_argument_is_not_told(call: Callable[[], object]) -> None:
    with pytest.raises(MicrolockError) as refused:
        call()
    assert leaks(told_by(refused.value), {"it": SECRET}) == []


def test_neither_a_client_nor_a_lock_can_be_pickled(own_etcd: OwnEtcd) -> None:
    guarded = Guarded(own_etcd())
    with guarded.client() as etcd:
        for each in (etcd, Microlock(etcd, "mine", "node-a")):
            with pytest.raises(TypeError):
                pickle.dumps(each)


def test_errors_travel_to_another_process_whole(own_etcd: OwnEtcd) -> None:
    holder = microlock.Holder("node-b", 7, 8)
    reason = microlock.LossReason.DELETED
    for error in (
        AlreadyLockedError("foo", holder),
        microlock.LockNotOwnedError("foo", "node-a", holder),
        LockLostError("foo", "node-a", reason),
        microlock.LockUncertainError("foo", "node-a", 9, "no answer"),
        StorePermissionError("no", may_have_happened=False),
    ):
        sent = pickle.loads(pickle.dumps(error))
        assert type(sent) is type(error)
        assert (str(sent), vars(sent)) == (str(error), vars(error))


def test_who_records_local_variables_records_no_secret_of_a_failed_login(own_etcd: OwnEtcd) -> None:
    etcd = Guarded(own_etcd()).client(password=PASSWORD)
    with etcd, pytest.raises(StoreAuthenticationError) as refused:
        Microlock(etcd, "mine", "node-a").lock()
    recorded = traceback.TracebackException.from_exception(refused.value, capture_locals=True)
    assert PASSWORD not in "".join(recorded.format())


# The least role


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


ROOT_PASSWORD, APP_PASSWORD, GUEST_PASSWORD = "root-of-all", PASSWORD, "nobody-in-particular"


class Secured:
    """An etcd that was set up with the commands of docs/security.md, and a user without a role."""

    def __init__(self, etcd: Etcd) -> None:
        self.etcd = etcd
        self.endpoint = etcd.endpoint
        self.version = tuple(map(int, re.findall(r"\d+", etcd.version)[:3]))
        ctl = Etcdctl(self.endpoint)
        ctl("user", "add", f"guest:{GUEST_PASSWORD}")
        (commands,) = blocks("sh")
        tools = Path(find_binary("etcdctl")).parent
        env = {name: value for name, value in os.environ.items() if name[:4] != "ETCD"}
        subprocess.run(
            ["sh", "-euc", commands],
            env=env
            | {"PATH": f"{tools}:{env['PATH']}", "ETCDCTL_API": "3"}
            | {"ETCDCTL_ENDPOINTS": self.endpoint}
            | {"ROOT_PASSWORD": ROOT_PASSWORD, "APP_PASSWORD": APP_PASSWORD},
            check=True,
            timeout=30,
            stdout=subprocess.DEVNULL,
        )
        self._ctl = ctl

    @property
    def patched(self) -> bool:
        """Whether etcd asks everybody who they are: docs/security.md says since when."""
        fixed = {(3, 4): 42, (3, 5): 28, (3, 6): 9}
        return self.version[2] >= fixed.get(self.version[:2], 0)

    def ctl(self, *arguments: str) -> str:
        return self._ctl(f"--user=root:{ROOT_PASSWORD}", *arguments)

    def app(self) -> EtcdClient:
        return connect(self.endpoint, user="app", password=APP_PASSWORD, timeout=TIMEOUT)


@pytest.fixture
def secured(own_etcd: OwnEtcd) -> Secured:
    return Secured(own_etcd())


def test_the_least_role_is_enough_for_all_that_a_lock_does(secured: Secured) -> None:
    with secured.app() as etcd, secured.app() as other:
        foo = Microlock(etcd, "jobs/nightly", "node-a", ttl=2, auto_renew=True)
        bar = Microlock(other, "jobs/nightly", "node-b", ttl=30)
        assert_works(bar)
        witness = Witness(foo, "locked", "unlocked", "error", "suspended", "lost")
        renewed = Witness(foo, "renewed")
        hold = foo.lock()
        assert eventually(lambda: len(renewed.events) > 1)
        waiting = begin(lambda: bar.lock(timeout=DEADLINE))
        assert queued(foo)
        assert [each.node_id for each in foo.waiters()] == ["node-b"]
        etcd.transaction(foo.guard(), put={"jobs/nightly.done": "yes"}, delete=["jobs/old"])
        foo.check()
        foo.unlock()
        assert waiting.result(DEADLINE).token > hold.token
        assert bar.extend(60) > 50
        bar.unlock()
        assert witness.saw("locked", "unlocked", "locked", "unlocked"), witness.events
        with foo:
            assert foo.held
        foo.destroy()
        bar.destroy()
    assert secured.ctl("get", "--print-value-only", "jobs/nightly.done") == "yes\n"
    assert entries(secured.ctl, "jobs/nightly") == []


def test_the_least_role_is_enough_for_a_manager(secured: Secured) -> None:
    with secured.app() as etcd:
        manager = LockManager(etcd, "node-a", prefix="jobs/", ttl=30)
        one, two = manager.lock("one"), manager.lock("two")
        assert [each.name for each in manager.locks()] == ["one", "two"]
        assert manager.extend("one", one.token, 60) > 50
        manager.release("one", one.token)
        assert manager.break_lock("two")
        assert two.lost.wait(DEADLINE)
        assert manager.locks() == []


@pytest.mark.parametrize("key", ["job", "jobs0", "jobs-1", "jobs.d/nightly", "other"])
def test_outside_its_range_the_least_role_is_refused_at_once(secured: Secured, key: str) -> None:
    with secured.app() as etcd:
        foo, manager = Microlock(etcd, key, "node-a"), LockManager(etcd, "node-a")
        calls: list[Callable[[], object]] = [
            *(foo.lock, foo.holder, lambda: foo.lock(timeout=5), foo.__enter__),
            lambda: foo.on("locked", print),
            lambda: manager.holder(key),
            lambda: manager.break_lock(key),
            lambda: manager.release(key, 1),
            lambda: manager.extend(key, 1, 5),
            *(manager.locks, LockManager(etcd, "node-a", prefix=key).locks),
        ]
        for call in calls:
            with at_most(AT_ONCE), pytest.raises(StorePermissionError) as refused:
                call()
            assert not refused.value.may_have_happened
    assert entries(secured.ctl, key) == []
    assert secured.ctl("lease", "list").splitlines()[1:] == []


def test_the_name_before_the_slash_is_in_the_range_too(secured: Secured) -> None:
    with secured.app() as etcd:
        assert_works(Microlock(etcd, "jobs", "node-a", ttl=5))


@pytest.mark.parametrize("change", [{"put": {"other": "x"}}, {"delete": ["other"]}])
def test_a_transaction_outside_the_range_is_refused_whole_and_the_hold_stands(
    secured: Secured, change: dict[str, Any]
) -> None:
    secured.ctl("put", "other", "theirs")
    with secured.app() as etcd:
        foo = Microlock(etcd, "jobs/nightly", "node-a", ttl=30)
        foo.lock()
        both = {
            "put": {"jobs/mine": "x"} | change.get("put", {}),
            "delete": change.get("delete", ()),
        }
        with at_most(AT_ONCE), pytest.raises(StorePermissionError) as refused:
            etcd.transaction(foo.guard(), **both)
        assert not refused.value.may_have_happened
        foo.renew()
        foo.unlock()
    assert secured.ctl("get", "--print-value-only", "other") == "theirs\n"
    assert secured.ctl("get", "jobs/mine") == ""


def test_the_example_of_the_page_locks(own_etcd: OwnEtcd, pki: Pki) -> None:
    guarded = Guarded(own_etcd(flags=tls(pki.server)), f"--cacert={pki.ca}")
    for arguments in (
        ("user", "add", f"app:{APP_PASSWORD}"),
        ("role", "add", "jobs"),
        ("role", "grant-permission", "jobs", "readwrite", "jobs/", "jobs0"),
        ("user", "grant-role", "app", "jobs"),
    ):
        guarded.ctl(*arguments)
    names: dict[str, Any] = {"work": lambda fence: None}
    examples = blocks("python")
    assert examples
    for each in examples:
        here = each.replace("etcd-1:2379", guarded.endpoint).replace("/etc/etcd/ca.crt", pki.ca)
        here = here.replace('open("/run/secrets/etcd-app").read()', repr(APP_PASSWORD))
        exec(here, names)
    names["etcd"].close()


# What others can still do


rpc: Any = etcd3.etcdrpc
KV, LEASE = "/etcdserverpb.KV/", "/etcdserverpb.Lease/"
MAINTENANCE, AUTH = "/etcdserverpb.Maintenance/", "/etcdserverpb.Auth/"


class Raw:
    """Calls to etcd as anybody can make them: as this user, or as nobody."""

    def __init__(self, channel: grpc.Channel, user: str = "", password: str = "") -> None:
        self._channel = channel
        self._metadata: tuple[tuple[str, str], ...] = ()
        if user:
            login = rpc.AuthenticateRequest(name=user, password=password)
            token = self(AUTH + "Authenticate", login, rpc.AuthenticateResponse).token
            self._metadata = (("token", token),)

    def __call__(self, method: str, request: Any, reply: Any = None) -> Any:
        """`request` may be a message, or the bytes of one."""
        return self._channel.unary_unary(
            method,
            request_serializer=lambda each: getattr(each, "SerializeToString", lambda: each)(),
            response_deserializer=reply and reply.FromString,
        )(request, timeout=DEADLINE, metadata=self._metadata)

    def stream(self, method: str, request: Any, reply: Any) -> Any:
        """The first reply."""
        requests: SimpleQueue[Any] = SimpleQueue()
        requests.put(request)
        call = self._channel.stream_stream(
            method,
            request_serializer=lambda each: each.SerializeToString(),
            response_deserializer=reply.FromString,
        )(iter(requests.get, None), timeout=DEADLINE, metadata=self._metadata)
        try:
            return next(call)
        finally:
            requests.put(None)
            call.cancel()

    def put(self, key: bytes, value: bytes = b"x", lease: int = 0) -> None:
        self(KV + "Put", rpc.PutRequest(key=key, value=value, lease=lease), rpc.PutResponse)

    def get(self, key: bytes) -> Any:
        return self(KV + "Range", rpc.RangeRequest(key=key), rpc.RangeResponse)

    def delete(self, key: bytes) -> None:
        self(KV + "DeleteRange", rpc.DeleteRangeRequest(key=key), rpc.DeleteRangeResponse)

    def nested(self, operation: Any) -> None:
        """In a transaction within a transaction."""
        inner = rpc.RequestOp(request_txn=rpc.TxnRequest(success=[operation]))
        self(KV + "Txn", rpc.TxnRequest(success=[inner]), rpc.TxnResponse)

    def nested_delete(self, key: bytes) -> None:
        delete = rpc.DeleteRangeRequest(key=key)
        self.nested(rpc.RequestOp(request_delete_range=delete))

    def compare(self, *keys: bytes) -> None:
        """A transaction that does nothing."""
        guards = [rpc.Compare(target=rpc.Compare.CREATE, key=key) for key in keys]
        self(KV + "Txn", rpc.TxnRequest(compare=guards), rpc.TxnResponse)

    def watch(self, key: bytes) -> None:
        create = rpc.WatchCreateRequest(key=key)
        reply = self.stream(
            "/etcdserverpb.Watch/Watch", rpc.WatchRequest(create_request=create), rpc.WatchResponse
        )
        if reply.canceled:
            raise PermissionError(reply.cancel_reason)

    def grant(self, lease: int) -> int:
        self(LEASE + "LeaseGrant", rpc.LeaseGrantRequest(ID=lease, TTL=60), rpc.LeaseGrantResponse)
        return lease

    def revoke(self, lease: int) -> None:
        self(LEASE + "LeaseRevoke", rpc.LeaseRevokeRequest(ID=lease), rpc.LeaseRevokeResponse)

    def keep_alive(self, lease: int) -> None:
        request = rpc.LeaseKeepAliveRequest(ID=lease)
        self.stream(LEASE + "LeaseKeepAlive", request, rpc.LeaseKeepAliveResponse)

    def time_to_live(self, lease: int, *, keys: bool = False) -> Any:
        request = rpc.LeaseTimeToLiveRequest(ID=lease, keys=keys)
        return self(LEASE + "LeaseTimeToLive", request, rpc.LeaseTimeToLiveResponse)

    def leases(self) -> None:
        self(LEASE + "LeaseLeases", b"")

    def alarm(self, action: str, member: int = 0) -> None:
        request = rpc.AlarmRequest(
            action=rpc.AlarmRequest.AlarmAction.Value(action),
            memberID=member,
            alarm=rpc.NOSPACE if action != "GET" else rpc.NONE,
        )
        self(MAINTENANCE + "Alarm", request, rpc.AlarmResponse)

    def lock_of_etcd(self, key: bytes, lease: int) -> None:
        """Takes the lock of etcd's own lock service."""
        request = b"\x0a" + bytes([len(key)]) + key + b"\x10" + bytes([lease])
        self("/v3lockpb.Lock/Lock", request)


@dataclass(frozen=True)
class Company:
    """Those who can reach an etcd."""

    root: Raw
    app: Raw
    guest: Raw  # a user without a role
    nobody: Raw  # no user at all


@pytest.fixture
def company(secured: Secured) -> Iterator[Company]:
    with grpc.insecure_channel(secured.endpoint) as channel:
        yield Company(
            Raw(channel, "root", ROOT_PASSWORD),
            Raw(channel, "app", APP_PASSWORD),
            Raw(channel, "guest", GUEST_PASSWORD),
            Raw(channel),
        )


def may(call: Callable[[], object]) -> bool:
    try:
        call()
    except PermissionError:
        return False
    except grpc.RpcError as error:
        if re.search(r"permission denied|user name is empty", error.details()):
            return False
        raise
    return True


def measured(root: Raw, who: Raw, number: Iterator[int]) -> dict[str, bool]:
    """What they can do to the locks of others, by the words of the table in docs/security.md."""

    def bare() -> int:
        return root.grant(next(number))

    def held() -> int:
        lease = bare()
        root.put(b"jobs/nightly/%x" % lease, b"node-a", lease)
        return lease

    def compact() -> None:
        root.put(b"other")
        revision = root.get(b"other").header.revision
        who(KV + "Compact", rpc.CompactionRequest(revision=revision), rpc.CompactionResponse)

    def alarm() -> None:
        who.alarm("ACTIVATE", 77)
        root.alarm("DEACTIVATE", 77)

    def snapshot() -> None:
        reading = who._channel.unary_stream(MAINTENANCE + "Snapshot")
        with (
            suppress(StopIteration),
            closing(_Cancelled(reading(b"", metadata=who._metadata))) as it,
        ):
            next(it.call)

    key = b"jobs/nightly/1"
    read = rpc.RequestOp(request_range=rpc.RangeRequest(key=key))
    calls: dict[str, list[Callable[[], object]]] = {
        "read, write, delete, watch or compare keys": [
            *(lambda: who.get(key), lambda: who.put(key), lambda: who.delete(key)),
            *(lambda: who.watch(key), lambda: who.compare(key)),
            lambda: who.put(key, lease=held()),
        ],
        "read, write or delete keys in a transaction within a transaction": [
            lambda: who.nested(read),
            lambda: who.nested(rpc.RequestOp(request_put=rpc.PutRequest(key=key))),
            lambda: who.nested_delete(key),
        ],
        "take or release locks by etcd's lock service": [
            lambda: who.lock_of_etcd(b"jobs/own", bare()),
            lambda: who("/v3lockpb.Lock/Unlock", b"\x0a" + bytes([len(key)]) + key),
        ],
        "revoke the lease of a hold": [lambda: who.revoke(held())],
        "keep the lease of a hold alive": [lambda: who.keep_alive(held())],
        "list leases": [who.leases],
        "list the keys of a lease": [lambda: who.time_to_live(held(), keys=True)],
        "raise and clear alarms": [alarm],
        "compact the history": [compact],
        "read all in a snapshot": [snapshot],
        "grant leases until memory is full": [lambda: who.grant(next(number))],
        "revoke, keep alive, see leases without keys": [
            *(lambda: who.revoke(bare()), lambda: who.keep_alive(bare())),
            lambda: who.time_to_live(bare()),
        ],
        "list members, versions, alarms": [
            lambda: who("/etcdserverpb.Cluster/MemberList", b""),
            lambda: who(MAINTENANCE + "Status", b""),
            lambda: who.alarm("GET"),
        ],
        "write an empty transaction": [who.compare],
    }
    verdicts = {name: {may(call) for call in each} for name, each in calls.items()}
    assert {name for name, each in verdicts.items() if len(each) != 1} == set()
    return {name: each == {True} for name, each in verdicts.items()}


@dataclass(frozen=True)
class _Cancelled:
    call: Any

    def close(self) -> None:
        self.call.cancel()


def test_what_others_can_do_is_what_the_page_says(secured: Secured, company: Company) -> None:
    rows = re.findall(r"^\| ([a-z].*?) \| (\w+) \| (\w+) \| (\w+) \| (\w+) \|$", PAGE, re.MULTILINE)
    documented = {
        name: cells[2:] if secured.patched else cells[:2]
        for names, *cells in rows
        for name in names.split("; ")
    }
    number = iter(range(1, 100))
    nobody = measured(company.root, company.nobody, number)
    guest = measured(company.root, company.guest, number)
    yes = {True: "yes", False: "no"}
    assert documented == {name: [yes[nobody[name]], yes[guest[name]]] for name in nobody}


@contextmanager
def held_by_the_app(secured: Secured, **options: Any) -> Iterator[Microlock]:
    with secured.app() as etcd:
        foo = Microlock(etcd, "jobs/nightly", "node-a", **{"ttl": 30, **options})
        foo.lock()
        yield foo
        foo.destroy()


def entry(secured: Secured) -> bytes:
    (name,) = entries(secured.ctl, "jobs/nightly")
    return name.encode()


def lease_of(foo: Microlock) -> int:
    assert foo.hold
    return foo.hold.lease_id


def test_a_lease_that_a_colleague_revokes_is_a_loss_told_at_once(
    secured: Secured, company: Company
) -> None:
    with held_by_the_app(secured, ttl=60) as foo:
        witness = Witness(foo, "lost", "unlocked")
        company.app.revoke(lease_of(foo))
        with at_most(AT_ONCE):
            assert foo.lost.wait(DEADLINE)
        assert not foo.held
        assert eventually(lambda: "lost" in witness.names)
        with pytest.raises(LockLostError):
            foo.check()


def test_nobody_ends_a_hold_by_its_lease(secured: Secured, company: Company) -> None:
    with held_by_the_app(secured, ttl=2, auto_renew=True) as foo:
        for who in (company.guest, company.nobody):
            assert not may(lambda who=who: who.revoke(lease_of(foo)))
        foo.renew()
        foo.unlock()


def test_an_idle_lease_that_a_stranger_revokes_hinders_no_later_lock(
    secured: Secured, company: Company
) -> None:
    with held_by_the_app(secured) as foo:
        lease = lease_of(foo)
        foo.unlock()
        company.guest.revoke(lease)  # every version lets it, once no key is left
        with at_most(AT_ONCE):
            foo.lock()
        assert lease_of(foo) != lease
        foo.unlock()


def test_an_entry_that_a_stranger_deletes_in_a_nested_transaction_is_a_loss_told_at_once(
    secured: Secured, company: Company
) -> None:
    with held_by_the_app(secured) as foo:
        foo.on("unlocked", lambda: None)
        deleted = may(lambda: company.nobody.nested_delete(entry(secured)))
        assert deleted is not secured.patched
        if deleted:
            with at_most(AT_ONCE):
                assert foo.lost.wait(DEADLINE)
            assert foo.lost_reason is microlock.LossReason.DELETED
        else:
            foo.renew()


def test_a_lease_that_a_stranger_keeps_alive_keeps_the_lock_of_a_dead_node(
    secured: Secured, company: Company
) -> None:
    with secured.app() as dead, secured.app() as etcd:
        gone = Microlock(dead, "jobs/nightly", "node-a", ttl=2)
        gone.lock()
        lease = lease_of(gone)
        bar = Microlock(etcd, "jobs/nightly", "node-b", ttl=30)
        waiting = begin(lambda: bar.lock(timeout=DEADLINE))
        assert queued(bar)
        kept = may(lambda: company.nobody.keep_alive(lease))
        assert kept is not secured.patched
        if kept:  # for longer than the ttl
            assert not eventually(lambda: company.nobody.keep_alive(lease) or waiting.done(), 3)
        assert waiting.result(DEADLINE)
        bar.destroy()


def test_an_alarm_that_a_stranger_raises_stops_new_locks_and_ends_no_hold(
    secured: Secured, company: Company
) -> None:
    with held_by_the_app(secured, ttl=2, auto_renew=True) as foo, secured.app() as etcd:
        raised = may(lambda: company.nobody.alarm("ACTIVATE", 77))
        assert raised is not secured.patched
        bar = Microlock(etcd, "jobs/other", "node-b")
        if raised:
            with at_most(AT_ONCE), pytest.raises(StoreNoSpaceError):
                bar.lock()
        else:
            bar.lock()
        assert len(Recorder(foo, "renewed").wait_for(4)) >= 4  # for longer than its ttl
        foo.unlock()
        assert entries(secured.ctl, "jobs/nightly") == []


def test_before_36_an_alarm_takes_the_permissions_away(secured: Secured, company: Company) -> None:
    company.root.put(b"other", b"theirs")
    company.root.alarm("ACTIVATE", 77)
    unguarded = secured.version < (3, 6)
    assert may(lambda: company.guest.delete(b"other")) is unguarded
    assert may(lambda: company.nobody(AUTH + "AuthDisable", b"")) is unguarded


# Odd values


@pytest.fixture
def raw(etcd_server: Etcd) -> Iterator[Raw]:
    with grpc.insecure_channel(etcd_server.endpoint) as channel:
        yield Raw(channel)


VALUES = {
    "lines": b"node\n2026-01-01 CRITICAL root: all is well\r\n",
    "escapes": b"node\x1b[2J\x1b]0;owned\x07\x00",
    "not UTF-8": b"\xff\xfenode\x80",
    "right to left": "node\u202etxt.exe\u2028\u0085".encode(),
    "huge": b"n" * 1_000_000,
}


@pytest.fixture(params=VALUES)
def hostile(request: pytest.FixtureRequest, raw: Raw, key: str) -> Iterator[bytes]:
    """What the holder of the lock has stored as its name."""
    lease = raw.grant(abs(hash(key)) % 2**40 + 2**41)
    raw.put(f"{key}/{lease:x}".encode(), VALUES[request.param], lease)
    yield VALUES[request.param]
    with suppress(grpc.RpcError):
        raw.revoke(lease)


def assert_readable(texts: Iterable[str]) -> None:
    for text in texts:
        assert text.isprintable(), ascii(text[:200])
        assert len(text) < 1000, len(text)


def test_a_holders_odd_name_is_read_as_it_is(etcd_server: Etcd, key: str, hostile: bytes) -> None:
    with connect(etcd_server.endpoint) as etcd:
        holder = Microlock(etcd, key, "node-a").holder()
    assert holder
    assert holder.node_id == hostile.decode(errors="backslashreplace")


def test_a_holders_odd_name_is_told_in_one_printable_line(
    etcd_server: Etcd, key: str, hostile: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    errors: list[MicrolockError] = []
    with connect(etcd_server.endpoint) as etcd:
        foo = Microlock(etcd, key, "node-a", ttl=5)
        witness = Witness(foo, "failed")
        manager = LockManager(etcd, "node-m")
        calls: Sequence[Callable[[], object]] = (
            *(foo.lock, lambda: foo.lock(timeout=0.2)),
            *(Microlock(etcd, key, "node-a").unlock, Microlock(etcd, key, "node-a").renew),
            lambda: manager.lock(key),
            lambda: manager.release(key, 1),
        )
        for call in calls:
            with pytest.raises(MicrolockError) as refused:
                call()
            errors.append(refused.value)
        assert manager.break_lock(key)
        assert eventually(lambda: len(witness.events) == 2)
        foo.destroy()
    assert "broke" in caplog.text
    assert_readable(map(str, errors))
    assert_readable(record.getMessage() for record in caplog.records)


def test_an_odd_name_of_our_own_is_logged_in_one_printable_line(
    etcd_server: Etcd, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    odd = "foo\n\x1b[2J\u202e"
    with connect(etcd_server.endpoint) as etcd:
        foo = Microlock(etcd, prefix + odd, odd, ttl=5)
        assert_works(foo)
        with foo, pytest.raises(AlreadyLockedError) as refused:
            Microlock(etcd, prefix + odd, "node-b").lock()
        foo.destroy()
    assert_readable([str(refused.value), *(each.getMessage() for each in caplog.records)])


def test_an_odd_name_of_a_lock_does_not_stop_a_managers_list(
    etcd_server: Etcd, prefix: str, raw: Raw
) -> None:
    lease = raw.grant(abs(hash(prefix)) % 2**40 + 2**42)
    for name in (b"\xff\xfe", b"a\nb", b"a//", b"/"):
        raw.put(prefix.encode() + name + b"/%x" % lease, b"node-b", lease)
    with connect(etcd_server.endpoint) as etcd:
        manager = LockManager(etcd, "node-m", prefix=prefix)
        held = manager.locks()
        assert {holder.node_id for each in held for holder in each.holders} == {"node-b"}
        assert {r"\xff\xfe", "a\nb"} < {each.name for each in held}
    raw.revoke(lease)


def test_many_huge_names_are_listed_within_the_time_of_a_call(
    etcd_server: Etcd, key: str, raw: Raw
) -> None:
    first = abs(hash(key)) % 2**40 + 2**43
    with ThreadPoolExecutor(4) as pool:
        leases = list(pool.map(raw.grant, range(first, first + 16)))
        for lease in leases:
            raw.put(f"{key}/{lease:x}".encode(), b"n" * 1_000_000, lease)
        with connect(etcd_server.endpoint) as etcd, at_most(5):
            foo = Microlock(etcd, key, "node-a")
            with pytest.raises(AlreadyLockedError):
                foo.lock()
            assert len(foo.waiters()) == 15
        list(pool.map(raw.revoke, leases))


# The page


def test_the_page_is_short() -> None:
    assert len(PAGE.splitlines()) < 120
