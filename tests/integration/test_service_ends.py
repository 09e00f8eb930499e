"""The lock service when things end: the store, the service, a client; and what it refuses."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import click
import httpx
import pytest
from certificates import Authority
from conftest import Etcd
from services import DEADLINE, Service, told, until

from microlock import connect
from microlock.asyncio import Microlock, MultiLock
from microlock.cli.program import program
from microlock.core.port import Found
from microlock.engine.reader import Reader
from microlock.errors import StorePermissionError, StoreUnavailableError
from microlock.server import free_ports
from microlock.service import command, gate, holds, live, stream
from microlock.service.app import create_app
from microlock.service.holds import BusyError, Holds
from microlock.service.leases import Leases
from microlock.service.live import Live
from microlock.service.overall import AllLocks
from microlock.service.settings import MAX_BODY_BYTES, Settings

LONG = 60_000


@pytest.fixture
def own() -> Iterator[Callable[..., Service]]:
    """Starts a service for one test, in memory if it does not say otherwise."""
    with ExitStack() as stack:
        yield lambda address="memory://", **how: stack.enter_context(
            closing(Service(address, **how))
        )


# The store.


def test_without_etcd_it_says_so_and_goes_on_when_etcd_does(
    own: Callable[..., Service], own_etcd: Callable[..., Etcd], key: str
) -> None:
    etcd = own_etcd()
    service = own(etcd.endpoint, timeout=0.5)
    tokens = service.lock("a", key, exp=LONG)
    with service.events() as events:
        assert [next(events)[0], next(events)[0]] == ["status", "snapshot"]
        etcd.kill()
        name, status = next(events)
        assert (name, status["connected"]) == ("status", False)
        for path, body in {
            "/lock": {"uid": "b", "keys": key},
            "/check": {"keys": key},
        }.items():
            answer = service.post(path, **body)
            assert answer.status_code == 503
            assert etcd.endpoint in answer.json()["error"]
            assert answer.headers["retry-after"]
        assert service.http.get("/healthz").json()["status"] == "unavailable"
        etcd.start()
        while name != "status" or not status["connected"]:
            name, status = next(events)
    assert service.http.get("/healthz").json() == {"status": "ok"}
    assert service.unlock("a", tokens) == [key]


def test_a_listener_is_told_after_an_interruption_what_it_missed() -> None:
    async def main() -> None:
        address = f"memory://{uuid4()}"
        async with connect(address) as client, connect(address) as another:
            view = Live(client, "")
            events = told_of(view)
            assert await anext(events) == ("status", {"connected": True, "error": None})
            assert await anext(events) == ("snapshot", {"revision": 1, "locks": []})
            client.store.break_watches(StoreUnavailableError("away"))  # type: ignore[attr-defined]
            lock = Microlock(another, "foo", "a", ttl=60)
            await lock.lock()
            heard: dict[str, Any] = {}
            while "change" not in heard or not heard["status"]["connected"]:
                name, heard[name] = await anext(events)
            assert heard["change"]["locks"][0]["holders"][0]["node_id"] == "a"
            await lock.destroy()
            view.stop()

    asyncio.run(main())


# Clients.


async def told_of(view: Live) -> Any:
    """What a listener of the view is told."""
    text = ""
    async for piece in view.listen():
        text += piece.decode()
        if text.endswith("\n\n"):
            for event in told(iter(text.splitlines())):
                yield event
            text = ""


def test_a_slow_listener_is_told_the_last_state_and_none_in_between() -> None:
    async def main() -> None:
        async with connect("memory://") as client:
            view = Live(client, "")
            slow = told_of(view)
            assert [(await anext(slow))[0] for _ in range(2)] == ["status", "snapshot"]
            for number in range(50):
                lock = Microlock(client, f"foo-{number % 2}", f"node-{number}", ttl=60)
                await lock.lock()
                await lock.destroy()
            lock = Microlock(client, "foo-0", "last", ttl=60)
            token = (await lock.lock()).token
            while view._revision < token:
                await asyncio.sleep(0.01)
            name, change = await anext(slow)
            assert name == "change"
            held = {each["key"]: each["holders"] for each in change["locks"]}
            assert held.keys() == {"foo-0", "foo-1"}
            assert (held["foo-0"][0]["node_id"], held["foo-1"]) == ("last", [])
            await lock.destroy()
            view.stop()

    asyncio.run(main())


@pytest.mark.parametrize("path", ["/events", "/locks"])
def test_the_connection_of_who_takes_nothing_is_ended(
    own: Callable[..., Service], monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(stream, "PATIENCE", 0.05)
    service = own()
    service.listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    for number in range(3):  # 500 KB
        service.lock("a", [f"{number}-{n}-" + "x" * 4000 for n in range(42)], exp=LONG)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", service.port))
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        client.settimeout(DEADLINE)
        assert client.recv(1, socket.MSG_PEEK)
        mine = client.getsockname()
        until(lambda: mine not in {each.client for each in service.server.server_state.connections})
    assert service.http.get("/healthz").status_code == 200


def test_a_burst_of_listeners_is_admitted_up_to_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "MAX_LISTENERS", 3)

    async def main() -> None:
        async with connect("memory://") as client:
            view = Live(client, "")
            asked = [view.listen() for _ in range(9)]
            admitted = await asyncio.gather(*map(anext, asked), return_exceptions=True)
            assert [each for each in admitted if each == b""] == [b""] * 3
            assert [type(each) for each in admitted if each != b""] == [BusyError] * 6
            for each in asked:
                await each.aclose()
            assert (await anext(view.listen())) == b""
            view.stop()

    asyncio.run(main())


def test_what_is_told_at_first_is_shared_and_lets_the_loop_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "BLOCK", 2)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def main() -> None:
        async with connect("memory://") as client:
            lock = MultiLock(client, [f"foo-{number:02}" for number in range(42)], "a", ttl=60)
            await lock.lock()
            view = Live(client, "")
            first = told_of(view)
            await anext(first)
            counting = asyncio.ensure_future(count())
            while not view._all:
                before = turns
                encoded = len(view._encoded)
                snapshot = asyncio.ensure_future(anext(first))
                while not snapshot.done():
                    await asyncio.sleep(0)
                assert turns - before >= (42 - encoded) / 2 + 42 / 2
            kept = view._all
            locks = (await snapshot)[1]["locks"]
            assert [each["key"] for each in locks] == [*lock.keys]
            other = Microlock(client, "zoo", "a", ttl=60)
            token = (await other.lock()).token
            while view._revision < token:
                await asyncio.sleep(0.01)
            name, data = "", {}
            second = told_of(view)
            while name != "snapshot":
                name, data = await anext(second)
            assert len(data["locks"]) == 43
            shared = {id(each) for each in kept[1]} & {id(each) for each in view._all[1]}
            assert len(shared) == 42
            counting.cancel()
            await lock.destroy()
            await other.destroy()
            view.stop()

    asyncio.run(main())


def test_a_listener_is_told_all_again_by_the_watch_that_comes_after_a_refused_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "REFUSED", 0.01)

    async def main() -> None:
        async with connect("memory://") as client:
            view = Live(client, "")
            events = told_of(view)
            assert [(await anext(events))[0] for _ in range(2)] == ["status", "snapshot"]
            assert view._feed
            view._failed(view._feed, StorePermissionError("no"), final=True)
            name = ""
            while name != "snapshot":
                name, _ = await anext(events)
            view.stop()

    asyncio.run(asyncio.wait_for(main(), DEADLINE))


def test_all_who_ask_for_all_locks_at_once_share_a_read_that_began_after_they_asked(
    own: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = own(timeout=0.1)
    reads: list[int] = []
    begun, go = threading.Semaphore(0), threading.Event()
    text = AllLocks._text

    def slow(locks: AllLocks) -> bytes:
        reads.append(1)
        begun.release()
        assert go.wait(DEADLINE)
        return text(locks)

    monkeypatch.setattr(AllLocks, "_text", slow)
    asked: list[int] = []
    read = AllLocks.read

    def counted(locks: AllLocks) -> Any:
        asked.append(1)
        return read(locks)

    monkeypatch.setattr(AllLocks, "read", counted)
    with ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(service.http.get, "/locks")]
        assert begun.acquire(timeout=DEADLINE)
        answers += [pool.submit(service.http.get, "/locks") for _ in range(11)]
        until(lambda: len(asked) == 12)
        go.set()
        assert {each.result(DEADLINE).status_code for each in answers} == {200}
    assert len(reads) == 2


def test_the_read_of_all_locks_has_a_longer_time_than_other_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = connect("memory://", timeout=0.1)
    given = []

    def attempt(member: str, request: Any, *, timeout: float, repeated: bool) -> Any:
        given.append(timeout)
        return Found(7, ())

    monkeypatch.setattr(client.store, "attempt", attempt)
    assert asyncio.run(AllLocks(client, "").read()) == b'{"revision": 7, "locks": []}'
    assert given[-1] > 10


def test_the_watch_ends_some_time_after_the_last_listener(
    own: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "LINGER", 0.01)
    service = own()
    reader = service.client.one(Reader)
    assert not reader.names
    with service.events() as events:
        next(events)
        assert reader.names
    until(lambda: not reader.names)
    with service.events() as events:
        assert [next(events)[0], next(events)[0]] == ["status", "snapshot"]


@pytest.mark.parametrize("what", ["waits", "listeners"])
def test_there_is_an_end_to_how_many_are_served_at_once(
    own: Callable[..., Service], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(holds, "MAX_WAITS", 1)
    monkeypatch.setattr(live, "MAX_LISTENERS", 1)
    service = own()
    service.lock("a", "foo", exp=LONG)
    with ThreadPoolExecutor() as pool, service.events() as events:
        next(events)
        if what == "waits":
            waiting = pool.submit(service.post, "/lock", uid="b", keys="foo", wait=LONG)
            until(lambda: service.queue("foo")["waiters"])
            refused = service.post("/lock", uid="c", keys="foo", wait=LONG)
            service.app.state.stop()
            assert waiting.result(DEADLINE).status_code == 503
        else:
            refused = service.http.get("/events")
        assert refused.status_code == 503
        assert "already" in refused.json()["error"]
        assert refused.headers["retry-after"]


def test_a_client_that_goes_just_when_the_lock_is_there_leaves_nothing() -> None:
    async def main() -> None:
        async with connect("memory://") as client:
            app = create_app(client, Settings())
            body = b'{"uid": "a", "keys": ["foo"], "exp": 60000}'
            told: list[Any] = [{"type": "http.request", "body": body, "more_body": False}]
            lock, states = Holds.lock, client.store.state  # type: ignore[attr-defined]
            there = asyncio.Event()

            async def locked(*args: Any) -> Any:
                tokens = await lock(*args)
                there.set()  # and in the same turn of the loop both are done
                return tokens

            async def receive() -> Any:
                if told:
                    return told.pop()
                await there.wait()
                return {"type": "http.disconnect"}

            sent: list[Any] = []

            async def send(message: Any) -> None:
                sent.append(message)

            scope = {
                "type": "http",
                "method": "POST",
                "path": "/lock",
                "raw_path": b"/lock",
                "query_string": b"",
                "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
            }
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(Holds, "lock", locked)
                await app(scope, receive, send)
            assert there.is_set()
            assert not states.keys
            assert sent[0]["status"] == 499

    asyncio.run(main())


def test_a_client_that_goes_at_the_very_moment_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    destroy, calls = MultiLock.destroy, []

    async def cancelled(lock: MultiLock) -> None:
        calls.append(lock)
        if len(calls) == 1:
            raise asyncio.CancelledError
        await destroy(lock)

    async def main() -> None:
        async with connect("memory://") as client:
            taking = Holds(client, Settings())
            monkeypatch.setattr(MultiLock, "destroy", cancelled)
            with pytest.raises(asyncio.CancelledError):
                await taking.lock("a", ["foo", "bar"], LONG, 0)
            await taking.expiry.ended()
            assert not client.store.state.leases  # type: ignore[attr-defined]

    asyncio.run(main())


# What is refused.


@pytest.mark.parametrize(
    ("headers", "body", "status", "named"),
    [
        ({"Content-Type": "text/plain"}, b"{}", 415, "content-type: 'text/plain'"),
        ({"Content-Length": str(MAX_BODY_BYTES + 1)}, b"", 413, f"{MAX_BODY_BYTES + 1} bytes"),
        ({}, [b"x" * MAX_BODY_BYTES, b"x"], 413, f"{MAX_BODY_BYTES + 1} or more bytes"),
        ({}, b"{", 400, "body: "),
        ({}, b"[]", 422, "body: "),
        ({}, b'{"uid": "a"}', 422, "keys: Field required"),
        ({}, b'{"uid": "a", "keys": []}', 422, "keys: List should have at least 1 item, not []"),
        ({}, b'{"uid": "a", "keys": "\\u0000"}', 422, "keys: key must not contain NUL: '\\x00'"),
        ({}, b'{"uid": "a", "keys": "x", "exp": -1}', 422, "exp: Input should be greater than 0"),
        ({}, b'{"uid": "a", "keys": "x", "exp": "1"}', 422, "exp: Input should be a valid number"),
        ({}, b'{"uid": "a", "keys": "x", "exp": NaN}', 422, "exp: "),
        ({}, b'{"uid": "a", "keys": "x", "why": 1}', 422, "why: Extra inputs"),
        ({"Host": "evil.example"}, b"{}", 421, "'evil.example'"),
        ({"Origin": "http://evil.example"}, b"{}", 403, "'http://evil.example'"),
        ({"Origin": "http://["}, b"{}", 403, "'http://['"),
    ],
)
def test_what_is_wrong_is_named(
    headers: dict[str, str], body: Any, status: int, named: str
) -> None:
    async def main() -> httpx.Response:
        app = create_app(connect("memory://"), Settings(host="lock.example"))

        async def pieces() -> Any:
            for piece in body:
                yield piece

        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://lock.example") as client:
            return await client.post(
                "/lock",
                content=pieces() if isinstance(body, list) else body,
                headers={"Content-Type": "application/json", **headers},
            )

    answer = asyncio.run(main())
    assert answer.status_code == status, answer.text
    assert named in answer.json()["error"]


def test_a_body_that_does_not_come_is_not_waited_for(
    own: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "PATIENCE", 0.05)
    service = own()
    with socket.create_connection(("127.0.0.1", service.port), timeout=DEADLINE) as client:
        head = b"POST /lock HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
        client.sendall(head + b"Content-Type: application/json\r\n\r\n{")
        answer = b"".join(iter(lambda: client.recv(4096), b"")).decode()
    assert answer.startswith("HTTP/1.1 408")
    assert "body: not received within 0.05 s" in answer


@pytest.mark.parametrize("path", ["/lock", "/unlock", "/renew", "/break"])
def test_a_change_needs_the_token_and_a_look_does_not(
    own: Callable[..., Service], path: str
) -> None:
    service = own(auth_token="secret-token")
    for given in ({}, {"Authorization": "Bearer secret"}, {"Authorization": "secret-token"}):
        answer = service.http.post(path, json={}, headers=given)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "bearer token" in answer.json()["error"]
        assert "secret" not in answer.text
    right = {"Authorization": "bearer secret-token"}
    assert service.http.post(path, json={}, headers=right).status_code == 422
    assert service.http.get("/locks").status_code == 200
    assert service.post("/check", keys="foo").status_code == 200


@pytest.mark.parametrize("token", [None, "secret"])
def test_it_answers_to_its_own_names_and_no_other(
    own: Callable[..., Service], token: str | None
) -> None:
    service = own(host="lock.example", allowed_hosts=("Proxy.example",), auth_token=token)
    for name, status in {
        "lock.example": 200,
        "proxy.example:443": 200,
        "10.0.0.7:3000": 200,
        "evil.example": 421,
    }.items():
        answer = service.http.get("/locks", headers={"Host": name})
        assert (name, answer.status_code) == (name, status)


def test_leases_are_told_though_another_request_forgets_them_meanwhile() -> None:
    async def main() -> None:
        async with connect("memory://") as client:
            lock = Microlock(client, "foo", "a", ttl=60)
            lease = format((await lock.lock()).lease_id, "x")
            lives = Leases(client)
            assert (await lives.left([lease]))[lease] > 50
            asking = asyncio.ensure_future(lives.left([lease, "1"]))
            await asyncio.sleep(0)
            lives._known.clear()
            assert (await asking).keys() == {lease}
            await lock.destroy()

    asyncio.run(main())


# The service.


def test_a_stop_answers_those_who_wait_and_ends_the_streams(own: Callable[..., Service]) -> None:
    service = own()
    tokens = service.lock("a", "foo", exp=LONG)
    with ThreadPoolExecutor() as pool, service.events() as events:
        assert [next(events)[0], next(events)[0]] == ["status", "snapshot"]
        waiting = pool.submit(service.post, "/lock", uid="b", keys="foo", wait=LONG)
        until(lambda: service.queue("foo")["waiters"])
        service.stop()
        answer = waiting.result(DEADLINE)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json() == {"error": "the service is stopping"}
        assert {name for name, _ in events} <= {"change"}  # and then it ends
    (entry,) = service.client.store.state.keys.values()  # type: ignore[attr-defined]
    assert entry.create_revision == tokens[0]["version"]


def serve(*options: str, cwd: Path, **variables: str) -> subprocess.Popen[str]:
    """Starts `microlock serve`."""
    code = "from microlock.service.command import serve; serve.main(prog_name='microlock serve')"
    clean = {name: value for name, value in os.environ.items() if "MICROLOCK" not in name}
    return subprocess.Popen(
        [sys.executable, "-c", code, *options],
        cwd=cwd,
        env={**clean, **variables},
        stderr=subprocess.PIPE,
        text=True,
    )


def served(process: subprocess.Popen[str]) -> str:
    """What it has said by the time that it listens."""
    assert process.stderr
    said = ""
    for line in process.stderr:
        said += line
        if "running on" in line:
            break
    return said


def test_a_service_that_was_killed_goes_on_where_it_was(
    etcd_server: Etcd, tmp_path: Path, key: str
) -> None:
    (port,) = free_ports(1)
    (tmp_path / ".env").write_text(f"PORT={port}\nDEFAULT_EXPIRY=60000\nHOST=127.0.0.1\nUSER=x\n")
    tokens = None
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE) as client:
        for signum in (signal.SIGKILL, signal.SIGTERM):
            with serve("--etcd", etcd_server.endpoint, cwd=tmp_path) as process:
                try:
                    assert f"http://127.0.0.1:{port}" in served(process)
                    if tokens is None:
                        answer = client.post("/lock", json={"uid": "a", "keys": key})
                        tokens = answer.json()["tokens"]
                        locks = client.get("/locks").json()["locks"]
                        (own,) = (each for each in locks if each["key"] == key)
                        lease = own["holders"][0]["lease"]
                        left = client.get("/leases", params={"id": lease}).json()["leases"]
                        assert left[lease] > 50  # the expiry of the file
                    else:
                        answer = client.post("/unlock", json={"uid": "a", "tokens": tokens})
                        assert answer.json() == {"unlocked": [key]}
                finally:
                    process.send_signal(signum)
                    assert process.wait(DEADLINE) == -signum


def test_it_warns_of_an_open_address_and_serves_https(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    server = authority.issue("server", "localhost")
    (port,) = free_ports(1)
    options = ["-N", "-H", "0.0.0.0", "-p", str(port), "-E", "60000"]
    tls = ["--tls-cert", server.cert, "--tls-key", server.key]
    with serve(*options, *tls, cwd=tmp_path, MICROLOCK_DEFAULT_EXPIRY="1") as process:
        try:
            said = served(process)
            assert "any client that reaches 0.0.0.0 can take and break locks" in said
            base = f"https://localhost:{port}"
            trusted = ssl.create_default_context(cafile=authority.cert)
            with httpx.Client(base_url=base, verify=trusted, timeout=DEADLINE) as client:
                answer = client.post("/lock", json={"uid": "a", "keys": "foo"})
                assert answer.status_code == 200
                assert client.post("/check", json={"keys": "foo"}).json() == {"locked": True}
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(DEADLINE)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--tls-cert", "/dev/null"], "--tls-key"),
        (["-E", "0"], "default-expiry"),
        (["-p", "70000"], "port"),
        (["--auth-token-file", "empty"], "auth token"),
    ],
)
def test_a_wrong_option_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(click.UsageError) as wrong:
        command.serve.main(["-N", *options], standalone_mode=False)
    assert named in wrong.value.format_message()


@pytest.mark.parametrize("where", ["variable", "file"])
def test_blanks_around_the_token_are_no_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    (tmp_path / "token").write_text(" secret \n")
    given = (" secret ", None) if where == "variable" else (None, str(tmp_path / "token"))
    assert command._token(*given) == "secret"


def test_it_says_at_its_start_where_its_locks_are_and_warns_without_etcd(tmp_path: Path) -> None:
    port, nobody = free_ports(2)
    options = ["-p", str(port), "--etcd", f"127.0.0.1:{nobody}", "--prefix", "jobs/"]
    with serve(*options, cwd=tmp_path, MICROLOCK_AUTH_TOKEN="secret") as process:
        try:
            said = served(process)
        finally:
            process.kill()
    assert f"127.0.0.1:{nobody}>, under the prefix 'jobs/'; changes need the auth token" in said
    assert "requests fail until etcd answers" in said
    assert "secret" not in said


def test_options_come_from_the_file_of_the_command_line_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "options").write_text("[microlock]\netcd = foo:1\n[serve]\nport = 70000\n")
    (tmp_path / ".env").write_text("PORT=0\n")
    with pytest.raises(SystemExit, match="2"):
        program.main(["serve", "--config", "options"])
    assert "70000 is not in the range" in capsys.readouterr().err
