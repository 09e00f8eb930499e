"""How a socket to a member is made, on loopback and with a resolver of the test's."""

from __future__ import annotations

import errno
import gc
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from microlock.engine import clock
from microlock.engine.threads import Daemon
from microlock.etcd.wire import Address, dial
from microlock.etcd.wire.dial import Dialler

DEADLINE = 10.0
Made = Callable[..., socket.socket]


@pytest.fixture
def listening() -> Iterator[Made]:
    """Makes sockets that listen: `listening()` on 127.0.0.1, any port."""
    with ExitStack() as stack:

        def made(host: str = "127.0.0.1", port: int = 0, backlog: int = 8) -> socket.socket:
            each = stack.enter_context(socket.socket())
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            each.bind((host, port))
            each.listen(backlog)
            return each

        yield made


def port_of(sock: socket.socket) -> int:
    port: int = sock.getsockname()[1]
    return port


def silent(listening: Made, stack: ExitStack, host: str = "127.0.0.1", port: int = 0) -> int:
    """The port of one that lets new connections wait for ever: its backlog is full."""
    full = listening(host, port, backlog=0)
    for _ in range(3):
        filler = stack.enter_context(socket.socket())
        filler.setblocking(False)
        filler.connect_ex(full.getsockname())
    return port_of(full)


def refusing() -> int:
    """A port where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return port_of(sock)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What each name is looked up as: hosts, an exception, or an event that is waited for."""
    known: dict[str, Any] = {}
    real = socket.getaddrinfo

    def look_up(host: str, port: int, *args: Any, **options: Any) -> list[Any]:
        if host not in known:
            return real(host, port, *args, **options)
        if options.get("flags"):  # is it a number?
            raise socket.gaierror(socket.EAI_NONAME, "no number")
        found = known[host]
        if callable(found):
            found = found()
        if isinstance(found, Exception):
            raise found
        return [each for one in found for each in real(one, port, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known


def dialled(address: Address, timeout: float = DEADLINE) -> socket.socket:
    return Dialler(address).dial(clock.now() + timeout)[0]


def at(port: int, host: str = "127.0.0.1") -> Address:
    return Address(f"{host}:{port}", host, port)


def test_an_address_is_connected_to_and_the_socket_does_not_block(listening: Made) -> None:
    port = port_of(listening())
    with dialled(at(port)) as sock:
        assert sock.getpeername() == ("127.0.0.1", port)
        assert sock.gettimeout() == 0


def test_a_port_that_refuses_is_an_error_that_says_so() -> None:
    with pytest.raises(ConnectionRefusedError, match="refused"):
        dialled(at(refusing()))


def test_the_addresses_of_a_name_are_tried_in_turn(listening: Made, names: dict[str, Any]) -> None:
    port = port_of(listening("127.0.0.3"))
    names["etcd"] = "127.0.0.1", "127.0.0.2", "127.0.0.3"
    with dialled(at(port, "etcd")) as sock:
        assert sock.getpeername() == ("127.0.0.3", port)


def test_an_address_of_a_kind_that_the_system_lacks_does_not_hinder_the_others(
    listening: Made, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoIpv6(socket.socket):
        def __init__(self, family: int = -1, *args: Any, **options: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(family, *args, **options)

    port = port_of(listening())
    names["etcd"] = "::1", "127.0.0.1"
    monkeypatch.setattr(socket, "socket", NoIpv6)
    with dialled(at(port, "etcd")) as sock:
        assert sock.getpeername() == ("127.0.0.1", port)


def test_addresses_that_were_of_no_use_are_tried_last(
    listening: Made, names: dict[str, Any]
) -> None:
    hosts = "127.0.0.1", "127.0.0.2", "127.0.0.3"
    port = port_of(listening(hosts[0]))
    for host in hosts[1:]:
        listening(host, port)
    names["etcd"] = hosts
    dialler = Dialler(at(port, "etcd"))
    tried = []
    for _ in range(5):
        sock, where = dialler.dial(clock.now() + DEADLINE)
        sock.close()
        dialler.avoid(where)
        tried.append(where[0])
    assert tried == [*hosts, *hosts[:2]]


def test_all_that_refuse_are_an_error_at_once(names: dict[str, Any]) -> None:
    names["etcd"] = "127.0.0.1", "127.0.0.2", "127.0.0.3"
    began = clock.now()
    with pytest.raises(ConnectionRefusedError):
        dialled(at(refusing(), "etcd"))
    assert clock.now() - began < dial.NEXT_AFTER


def test_beside_one_that_is_silent_the_next_is_tried_after_a_quarter_of_a_second(
    listening: Made, names: dict[str, Any]
) -> None:
    with ExitStack() as stack:
        port = silent(listening, stack)
        listening("127.0.0.2", port)
        names["etcd"] = "127.0.0.1", "127.0.0.2"
        began = clock.now()
        with dialled(at(port, "etcd")) as sock:
            assert sock.getpeername() == ("127.0.0.2", port)
        assert clock.now() - began >= dial.NEXT_AFTER * 0.9


def test_beside_one_that_is_silent_all_that_refuse_do_not_end_the_wait(
    listening: Made, names: dict[str, Any]
) -> None:
    with ExitStack() as stack:
        port = silent(listening, stack)
        names["etcd"] = "127.0.0.1", "127.0.0.2", "127.0.0.3"
        with pytest.raises(TimeoutError):
            dialled(at(port, "etcd"), timeout=0.6)


def test_one_that_is_silent_ends_with_the_deadline(listening: Made) -> None:
    with ExitStack() as stack:
        port = silent(listening, stack)
        began = clock.now()
        with pytest.raises(TimeoutError):
            dialled(at(port), timeout=0.2)
        assert clock.now() - began < 2


def test_the_addresses_of_both_kinds_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    four, six = socket.AF_INET, socket.AF_INET6
    found = [
        (kind, 1, 6, "", (where, 1))
        for kind, where in zip((six, six, six, four), "abcd", strict=True)
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert [where[0] for _, where in dial.places("etcd", 1)] == ["a", "d", "b", "c"]


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_a_number_of_ipv6_is_connected_to() -> None:
    try:
        sock = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 on this machine")
    with sock, dialled(at(port_of(sock), "::1")) as made:
        assert made.getpeername()[0] == "::1"


# Sockets of Unix


def test_a_socket_of_unix_is_connected_to(tmp_path: Path) -> None:
    path = str(tmp_path / "etcd")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        with dialled(Address(f"unix:{path}", path=path)) as sock:
            assert sock.getpeername() == path


@pytest.mark.skipif(not os.path.exists("/proc/self"), reason="a feature of Linux")
def test_an_abstract_socket_is_connected_to() -> None:
    path = f"\0microlock-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        with dialled(Address("unix-abstract:x", path=path)) as sock:
            assert sock.getpeername() == path.encode()


@pytest.mark.parametrize("path", ["/nowhere/at/all", "x" * 200])
def test_a_path_where_nobody_listens_is_an_error(path: str) -> None:
    with pytest.raises(OSError, match=r"No such file|too long"):
        dialled(Address(f"unix:{path}", path=path))


# Names


def test_a_name_that_is_not_found_is_an_error_that_names_it(names: dict[str, Any]) -> None:
    names["etcd"] = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    with pytest.raises(OSError, match="etcd was not found: Name or service not known"):
        dialled(at(1, "etcd"))


@pytest.mark.parametrize("host", ["x" * 64, "a..b", "\udcff"])
def test_what_cannot_be_a_name_is_an_error(host: str) -> None:
    with pytest.raises(OSError, match="not a valid host name"):
        dialled(at(1, host))


def test_each_dial_looks_the_name_up_anew(listening: Made, names: dict[str, Any]) -> None:
    port = port_of(listening("127.0.0.1"))
    listening("127.0.0.2", port)
    found = iter([["127.0.0.1"], ["127.0.0.2"]])
    names["etcd"] = lambda: next(found)
    dialler = Dialler(at(port, "etcd"))
    for host in ("127.0.0.1", "127.0.0.2"):
        with dialler.dial(clock.now() + DEADLINE)[0] as sock:
            assert sock.getpeername() == (host, port)


def test_a_look_up_that_hangs_ends_with_the_deadline_and_no_second_one_begins(
    listening: Made, names: dict[str, Any]
) -> None:
    port = port_of(listening())
    begun: list[int] = []
    resolver_is_back = threading.Event()

    def hangs() -> list[str]:
        begun.append(1)
        assert resolver_is_back.wait(DEADLINE)
        return ["127.0.0.1"]

    names["etcd"] = hangs
    dialler = Dialler(at(port, "etcd"))
    for _ in range(3):
        with pytest.raises(TimeoutError, match="look-up of etcd"):
            dialler.dial(clock.now() + 0.02)
    assert len(begun) == 1
    resolver_is_back.set()
    with dialler.dial(clock.now() + DEADLINE)[0] as sock:
        assert sock.getpeername() == ("127.0.0.1", port)


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), KeyboardInterrupt()])
def test_a_look_up_whose_thread_did_not_start_is_not_waited_for_by_the_next_dial(
    listening: Made,
    names: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    port = port_of(listening())
    names["etcd"] = ["127.0.0.1"]
    dialler = Dialler(at(port, "etcd"))

    def fails(_: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(Daemon, "start", fails)
        kind = OSError if isinstance(error, Exception) else KeyboardInterrupt
        with pytest.raises(kind):
            dialler.dial(clock.now() + DEADLINE)
    with dialler.dial(clock.now() + 2)[0] as sock:
        assert sock.getpeername() == ("127.0.0.1", port)


def test_a_resolver_that_fails_in_a_strange_way_is_an_error(names: dict[str, Any]) -> None:
    names["etcd"] = ValueError("embedded null byte")
    with pytest.raises(OSError, match="etcd"):
        dialled(at(1, "etcd"))


# Nothing is left


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="counts them in /proc")
def test_dials_that_fail_leave_no_descriptor(listening: Made, names: dict[str, Any]) -> None:
    names["etcd"] = "127.0.0.1", "127.0.0.2"
    unknown = names["nobody"] = socket.gaierror(socket.EAI_NONAME, "unknown")
    assert unknown
    wrong: list[tuple[Address, float]] = [
        (at(refusing(), "etcd"), DEADLINE),
        (at(refusing()), DEADLINE),
        (Address("unix:/nowhere", path="/nowhere"), DEADLINE),
        (Address("unix:long", path="x" * 200), DEADLINE),
    ]
    with ExitStack() as stack:
        wrong.append((at(silent(listening, stack)), -1.0))
        gc.collect()  # what other tests have left
        before = descriptors()
        for address, timeout in wrong * 200:
            with pytest.raises(OSError, match=r"."):
                dialled(address, timeout)
        assert descriptors() == before


def test_what_connects_second_is_closed(listening: Made, names: dict[str, Any]) -> None:
    """Both addresses answer, the first one late."""
    with ExitStack() as stack:
        port = silent(listening, stack)
        other = listening("127.0.0.2", port)
        names["etcd"] = "127.0.0.1", "127.0.0.2"
        with dialled(at(port, "etcd")), closing(other.accept()[0]) as accepted:
            accepted.setblocking(False)
            with pytest.raises(BlockingIOError):
                accepted.recv(1)
