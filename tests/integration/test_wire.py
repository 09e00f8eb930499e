"""The wire of our own, on a real etcd: what a network, a machine and a program may do to it."""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from time import monotonic
from typing import Any

import pytest
from certificates import Authority, Certificate, Pki, tls
from conftest import Etcd
from proxy import Proxy
from watching import DEADLINE, Recorder, eventually
from witness import AT_ONCE, assert_works, at_most

from microlock import (
    InvalidArgumentError,
    Microlock,
    MicrolockError,
    StoreError,
    StoreTlsError,
    StoreUnavailableError,
    connect,
)
from microlock.etcd import rpc_pb2 as pb
from microlock.etcd.messages import GRANT
from microlock.etcd.watching import WATCH
from microlock.etcd.wire import Address
from microlock.etcd.wire.sockets import SocketWire
from microlock.server import EtcdServer, free_ports

OwnEtcd = Callable[..., Etcd]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki.made_in(tmp_path_factory.mktemp("pki"))


def address_of(endpoint: str) -> Address:
    host, _, port = endpoint.rpartition(":")
    return Address(endpoint, host, int(port))


def grant(wire: SocketWire, timeout: float = 5) -> pb.LeaseGrantResponse:
    request = pb.LeaseGrantRequest(TTL=60)
    return wire.call(GRANT, request, pb.LeaseGrantResponse, timeout=timeout, metadata=())


def watch(wire: SocketWire) -> SimpleQueue[Any]:
    """What a watch of a key that nobody changes is told; it has begun."""
    seen: SimpleQueue[Any] = SimpleQueue()
    stream = wire.stream(WATCH, pb.WatchResponse, seen.put, timeout=None, metadata=())
    create = pb.WatchCreateRequest(key=b"nobody changes this")
    stream.send(pb.WatchRequest(create_request=create))
    assert seen.get(timeout=DEADLINE).created
    return seen


# An etcd that stops, dies and comes back


@pytest.mark.parametrize("fault", ["pause", "kill", "stop"])
def test_8_threads_and_a_watch_go_on_when_etcd_is_back(own_etcd: OwnEtcd, fault: str) -> None:
    server = own_etcd()
    done = [0] * 8
    ended = threading.Event()

    def work(number: int) -> None:
        foo = Microlock(etcd, f"key-{number}", "node-a", ttl=60)
        while not ended.is_set():
            with suppress(MicrolockError), at_most(etcd.timeout + AT_ONCE), foo:
                done[number] += 1

    def cycles(more: int) -> bool:
        before = list(done)
        return eventually(lambda: all(b >= a + more for a, b in zip(before, done, strict=True)))

    with connect(server.endpoint, timeout=2) as etcd, ThreadPoolExecutor(8) as pool:
        watched = Microlock(etcd, "watched", "node-a")
        seen = Recorder(watched, "locked")
        working = [pool.submit(work, number) for number in range(8)]
        try:
            assert cycles(2)
            getattr(server, fault)()
            still = [-1] * 8
            assert eventually(lambda: still == done or still.__setitem__(slice(8), done))
            if fault == "pause":
                server.resume()
            else:
                server.start()
            assert cycles(2)
        finally:
            ended.set()
        for each in working:
            each.result(DEADLINE)
        with connect(server.endpoint) as another:
            token = Microlock(another, "watched", "node-b").lock().token
        assert eventually(lambda: token in [event.token for event in seen.events])
        watched.destroy()


@pytest.mark.usefixtures("soon_silent")
def test_a_peer_that_falls_silent_is_given_up(etcd_server: Etcd) -> None:
    """Not before its time: of 9 s, which tests/unit holds, it has 3 s here."""
    with (
        closing(Proxy(etcd_server.endpoint)) as proxy,
        closing(SocketWire(address_of(proxy.endpoint))) as wire,
        ThreadPoolExecutor() as pool,
    ):
        seen = watch(wire)
        pool.submit(grant, wire).result(DEADLINE)
        proxy.swallow()
        began = monotonic()
        calls = [pool.submit(grant, wire, 60) for _ in range(3)]  # two of them on one connection
        for call in calls:
            error = call.exception(DEADLINE)
            assert isinstance(error, StoreUnavailableError)
            assert error.may_have_happened
        assert isinstance(seen.get(timeout=DEADLINE), StoreUnavailableError)
        assert 2 < monotonic() - began < 8
        proxy.let_through()
        assert grant(wire).ID


def test_an_idle_connection_outlives_etcds_pings_or_is_made_anew(own_etcd: OwnEtcd) -> None:
    flags = ["--grpc-keepalive-interval=1s", "--grpc-keepalive-timeout=1s"]
    server = own_etcd(flags=flags)
    with (
        closing(Proxy(server.endpoint)) as proxy,
        closing(SocketWire(address_of(proxy.endpoint))) as wire,
    ):
        seen = watch(wire)  # somebody reads for it
        grant(wire)  # nobody reads
        assert proxy.accepted == 2
        (link,) = wire._free_on_main
        assert link
        assert eventually(lambda: has_ended(link.sock))
        assert grant(wire).ID
        assert proxy.accepted == 3
        assert seen.empty()


def has_ended(sock: socket.socket) -> bool:
    """Whether the peer has closed it, of whom nobody has read what it sent before."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))


# Programs that fork, and greenlets

FORKING = """
import os, signal, sys, threading, time, warnings
from microlock import Microlock, connect
warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork")
endpoint, ca = sys.argv[1], sys.argv[2] or None
stop = threading.Event()
failed = []


def call():
    with connect(endpoint, ca_cert=ca, timeout=15) as etcd:
        foo = Microlock(etcd, f"calls-{threading.get_ident()}", "parent")
        while not stop.is_set():
            with foo:
                pass


def dial():
    while not stop.is_set():
        with connect(endpoint, ca_cert=ca, timeout=15) as etcd:
            with Microlock(etcd, f"dials-{threading.get_ident()}", "parent"):
                pass


def noting(run):
    try:
        run()
    except BaseException as error:
        failed.append(repr(error))


threads = [threading.Thread(target=noting, args=[each]) for each in (call, call, dial, dial)]
for each in threads:
    each.start()
children = {}
for number in range(20):
    time.sleep(0.01)
    child = os.fork()
    if not child:
        signal.alarm(20)
        status = 1
        try:
            with connect(endpoint, ca_cert=ca, timeout=15) as etcd, \\
                    Microlock(etcd, f"child-{number}", "child"):
                status = 0
        finally:
            os._exit(status)
    children[child] = None
for child in children:
    children[child] = os.waitpid(child, 0)[1]
stop.set()
for each in threads:
    each.join()
print(sorted(children.values()), failed)
"""


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
def test_each_child_of_a_fork_connects_and_locks_while_other_threads_call_and_dial(
    etcd_server: Etcd, own_etcd: OwnEtcd, pki: Pki, secure: bool
) -> None:
    server = own_etcd(flags=tls(pki.server)) if secure else etcd_server
    assert run(FORKING, server.endpoint, pki.ca if secure else "") == f"{[0] * 20} []"


def run(script: str, *args: str) -> str:
    """What it prints; on stderr it must not print anything."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *args],
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


GREEN = """
import sys, time
{patch}
from microlock import LockManager, Microlock, connect
endpoint, ca, key = sys.argv[1], sys.argv[2] or None, sys.argv[3]
gaps, stop = [], []


def tick():
    last = time.monotonic()
    while not stop:
        sleep(0.01)
        now = time.monotonic()
        gaps.append(now - last)
        last = now


ticking = spawn(tick)
done = []


def work(number, cycles=10):
    foo = Microlock(etcd, f"{{key}}/{{number}}", "node", ttl=10)
    for _ in range(cycles):
        with foo:
            pass
    done.append(number)


def hold():
    with Microlock(etcd, f"{{key}}/held", "holds", ttl=10):
        sleep(1)


def wait():
    with Microlock(etcd, f"{{key}}/held", "waits", ttl=10, timeout=10):
        done.append("waited")


with connect(endpoint, ca_cert=ca, timeout=10) as etcd:
    jobs = [spawn(work, number) for number in range(8)] + [spawn(hold)]
    sleep(0.5)
    jobs.append(spawn(wait))
    for each in jobs:
        join(each)
    killed = spawn(work, 99, 100_000)
    sleep(0.01)
    kill(killed)
    work(100)
stop.append(1)
join(ticking)
print(len(done), "gap", sorted(gaps)[-3] < 0.4)
"""
PATCHES = {
    "gevent": """
from gevent import monkey
monkey.patch_all()
import gevent
from gevent import sleep, spawn
join = lambda each: each.join()
kill = lambda each: each.kill()
""",
    "eventlet": """
import warnings
warnings.simplefilter("ignore")
import eventlet
eventlet.monkey_patch()
from eventlet import sleep, spawn
join = lambda each: each.wait()
kill = lambda each: each.kill()
""",
}


@pytest.mark.parametrize("library", PATCHES)
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
def test_other_greenlets_go_on_during_calls_and_waits(
    etcd_server: Etcd, own_etcd: OwnEtcd, pki: Pki, prefix: str, library: str, secure: bool
) -> None:
    if not find_spec(library):
        pytest.skip(f"{library} is not installed")
    server = own_etcd(flags=tls(pki.server)) if secure else etcd_server
    script = GREEN.format(patch=PATCHES[library])
    done = subprocess.run(
        [sys.executable, "-c", script, server.endpoint, pki.ca if secure else "", prefix],
        capture_output=True,
        text=True,
        timeout=3 * DEADLINE,
    )
    assert (done.stdout, done.stderr) == ("10 gap True\n", "")


# TLS


def replace(path: str, source: str) -> None:
    """As a tool that renews certificates does: in one step."""
    shutil.copy(source, f"{path}.new")
    os.replace(f"{path}.new", path)


def test_certificates_that_are_replaced_are_used_by_the_next_connection(
    own_etcd: OwnEtcd, tmp_path: Path
) -> None:
    old, new = (Authority(tmp_path, name) for name in ("old", "new"))
    current = Certificate(str(tmp_path / "server.crt"), str(tmp_path / "server.key"))
    ca = str(tmp_path / "ca.crt")

    def put(authority: Authority, name: str) -> None:
        issued = authority.issue(name, "127.0.0.1")
        replace(current.key, issued.key)
        replace(current.cert, issued.cert)
        replace(ca, authority.cert)

    put(old, "first")
    server = own_etcd(flags=tls(current))
    with (
        closing(Proxy(server.endpoint)) as proxy,
        connect(proxy.endpoint, ca_cert=ca, timeout=5) as etcd,
    ):
        foo = Microlock(etcd, "foo", "node-a")
        foo.lock()
        put(new, "second")
        foo.unlock()  # on the connection that is there
        proxy.reset()
        with foo:
            assert proxy.accepted > 1


def test_a_server_whose_key_and_certificate_do_not_belong_together_yet_is_waited_for(
    own_etcd: OwnEtcd, tmp_path: Path
) -> None:
    authority = Authority(tmp_path, "ca")
    issued = [authority.issue(name, "127.0.0.1") for name in ("first", "second")]
    current = Certificate(str(tmp_path / "server.crt"), str(tmp_path / "server.key"))
    replace(current.key, issued[0].key)
    replace(current.cert, issued[0].cert)
    server = own_etcd(flags=tls(current))
    with (
        closing(Proxy(server.endpoint)) as proxy,
        connect(proxy.endpoint, ca_cert=authority.cert, timeout=DEADLINE) as etcd,
        ThreadPoolExecutor(1) as pool,
    ):
        foo = Microlock(etcd, "foo", "node-a", ttl=60)
        foo.lock()
        replace(current.key, issued[1].key)
        before = proxy.accepted
        proxy.reset()
        renewing = pool.submit(foo.renew)
        assert eventually(lambda: proxy.accepted > before + 2)
        replace(current.cert, issued[1].cert)
        assert renewing.result(DEADLINE) > 0


def test_a_clients_certificate_that_is_replaced_is_used_by_the_next_connection(
    own_etcd: OwnEtcd, pki: Pki, tmp_path: Path
) -> None:
    server = own_etcd(flags=tls(pki.server, client_ca=pki.ca))
    mine = Certificate(str(tmp_path / "my.crt"), str(tmp_path / "my.key"))
    for each in ("cert", "key"):
        replace(getattr(mine, each), getattr(pki.client, each))
    with (
        closing(Proxy(server.endpoint)) as proxy,
        connect(
            proxy.endpoint, ca_cert=pki.ca, cert_cert=mine.cert, cert_key=mine.key, timeout=5
        ) as etcd,
    ):
        foo = Microlock(etcd, "foo", "node-a")
        with foo:
            pass
        for each in ("cert", "key"):
            replace(getattr(mine, each), getattr(pki.stranger, each))
        proxy.reset()
        with pytest.raises(StoreTlsError):
            foo.holder()


def test_a_name_for_tls_may_be_given(own_etcd: OwnEtcd, pki: Pki) -> None:
    server = own_etcd(flags=tls(pki.server_elsewhere))
    with connect(server.endpoint, ca_cert=pki.ca, server_name="etcd.example") as etcd:
        assert_works(Microlock(etcd, "foo", "node-a", ttl=5))


def test_a_name_that_the_certificate_is_not_for_is_refused(own_etcd: OwnEtcd, pki: Pki) -> None:
    server = own_etcd(flags=tls(pki.server))
    with (
        connect(server.endpoint, ca_cert=pki.ca, server_name="etcd.example") as etcd,
        pytest.raises(StoreTlsError, match=r"etcd\.example"),
    ):
        Microlock(etcd, "foo", "node-a").lock()


def test_an_intermediate_ca_is_trusted_if_it_is_given(own_etcd: OwnEtcd, tmp_path: Path) -> None:
    root = Authority(tmp_path, "root")
    between = Authority(tmp_path, "between", above=root)
    issued = between.issue("server", "127.0.0.1")
    server = own_etcd(flags=tls(issued))
    with connect(server.endpoint, ca_cert=between.cert) as etcd, Microlock(etcd, "foo", "node-a"):
        pass
    with (
        connect(server.endpoint, ca_cert=root.cert) as etcd,
        pytest.raises(StoreTlsError, match="issuer"),
    ):
        Microlock(etcd, "foo", "node-a").lock()


def test_an_encrypted_key_is_refused_and_not_asked_for_on_the_terminal(tmp_path: Path) -> None:
    issued = Authority(tmp_path, "ca").issue("client", password=b"secret")
    with at_most(AT_ONCE), pytest.raises(InvalidArgumentError):
        connect("https://etcd", cert_cert=issued.cert, cert_key=issued.key)
    code = f"import microlock; microlock.connect('https://etcd', cert_cert={issued.cert!r}, "
    code += f"cert_key={issued.key!r})"
    # With a terminal of its own, from a process without threads.
    spawn = f"import pty, sys; sys.exit(pty.spawn([sys.executable, '-c', {code!r}]) >> 8)"
    done = subprocess.run(
        [sys.executable, "-c", spawn],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert "InvalidArgumentError" in done.stdout
    assert "pass phrase" not in done.stdout


# Where etcd is


def test_a_socket_of_unix_leads_to_etcd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    monkeypatch.chdir(tmp_path)  # where etcd makes it, with the name of its URL
    urls = f"http://127.0.0.1:{port},unix://etcd:1"
    with EtcdServer(port=port, fast=True, flags=[f"--listen-client-urls={urls}"]) as server:
        assert server.endpoint.endswith(f":{port}")
        with connect(f"unix:{tmp_path}/etcd:1") as etcd:
            assert_works(Microlock(etcd, "foo", "node-a", ttl=5))


def test_ipv6_leads_to_etcd() -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("no IPv6 on this machine")
    (port,) = free_ports(1)
    urls = f"http://127.0.0.1:{port},http://[::1]:{port}"
    with (
        EtcdServer(port=port, fast=True, flags=[f"--listen-client-urls={urls}"]),
        connect(f"[::1]:{port}") as etcd,
    ):
        assert_works(Microlock(etcd, "foo", "node-a", ttl=5))


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Where each name leads to: endpoints, whose ports count and not that of the name."""
    known: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def look_up(host: Any, port: Any, *args: Any, **options: Any) -> list[Any]:
        if host not in known:
            return real(host, port, *args, **options)
        if options.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "no number")
        found = [address_of(each) for each in known[host]]
        return [each for one in found for each in real(one.host, one.port, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known


def test_a_member_that_comes_back_under_another_address_of_its_name_is_found_at_once(
    etcd_server: Etcd, names: dict[str, list[str]], key: str
) -> None:
    with (
        closing(Proxy(etcd_server.endpoint)) as before,
        closing(Proxy(etcd_server.endpoint)) as after,
    ):
        names["etcd"] = [before.endpoint]
        with connect("etcd:1", timeout=2) as etcd:
            foo = Microlock(etcd, key, "node-a", ttl=3, auto_renew=True)
            seen = Recorder(foo, "lost")
            foo.lock()
            before.cut()
            with pytest.raises(StoreError):
                Microlock(etcd, f"{key}-2", "node-a").lock()
            names["etcd"] = [after.endpoint]
            with at_most(AT_ONCE):
                Microlock(etcd, f"{key}-2", "node-a").holder()
            remaining = foo.remaining
            assert eventually(lambda: foo.remaining > remaining)  # it was renewed
            assert foo.held
            assert not seen.events
            foo.destroy()


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that answers no attempt to connect: its queue is full."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        yield f"127.0.0.1:{full.getsockname()[1]}"


def test_of_three_addresses_one_may_be_silent_and_one_refuse(
    etcd_server: Etcd, names: dict[str, list[str]], silent: str, key: str
) -> None:
    with socket.socket() as refuses:
        refuses.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{refuses.getsockname()[1]}"
        names["etcd"] = [silent, nobody, etcd_server.endpoint]
        with connect("etcd:1", timeout=5) as etcd, at_most(AT_ONCE):
            assert_works(Microlock(etcd, key, "node-a", ttl=5))


# What is imported


def test_neither_grpc_nor_the_frames_are_imported_before_they_are_needed(
    etcd_server: Etcd, key: str
) -> None:
    script = """
import sys
import microlock
print([each for each in ("grpc", "ngh2", "asyncio", "etcd3", "requests") if each in sys.modules])
with microlock.connect(sys.argv[1]) as etcd, microlock.Microlock(etcd, sys.argv[2], "node-a"):
    print([each for each in ("grpc", "ngh2", "asyncio", "etcd3") if each in sys.modules])
"""
    assert run(script, etcd_server.endpoint, key) == "[]\n['ngh2']"


def test_without_ngh2_the_wire_is_grpcio_and_the_log_says_so(etcd_server: Etcd, key: str) -> None:
    script = """
import logging, sys
sys.modules["ngh2"] = None
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(name)s: %(message)s")
from microlock import Microlock, connect
with connect(sys.argv[1]) as etcd, Microlock(etcd, sys.argv[2], "node-a") as hold:
    print("grpc" in sys.modules, hold is not None)
"""
    said, held = run(script, etcd_server.endpoint, key).splitlines()
    assert said.startswith("microlock: ")
    assert "grpcio" in said
    assert "ngh2" in said
    assert held == "True True"
