"""The situations of docs/errors.md, made to happen; each gives what is printed then.

PYTHONPATH=tests/integration python tests/integration/mishaps.py    # shows them all
"""

from __future__ import annotations

import http.server
import logging
import os
import re
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

from certificates import Pki, tls
from proxy import Proxy
from test_auth import Guarded
from watching import eventually

from microlock import LockManager, Microlock, MicrolockError, StoreUnavailableError, connect
from microlock.engine.client import Client
from microlock.server import EtcdServer
from microlock.testing import MemoryStore

SOON = 1.0  # seconds that a client tries, where nothing else ends it
# By the heading of the page, and the row of the table below it if several print the same.
MISHAPS: dict[tuple[str, str], Callable[[Scene], str]] = {}


class Scene:
    """The etcds in which it happens; each is started when it is first asked for."""

    def __init__(self, binary: Path | None = None) -> None:
        self._binary = binary
        self._stack = ExitStack()
        self.plain = self.etcd()
        self.key = ""  # another one each time, since some are left to their ttl
        self.known = {self.plain.endpoint: "etcd-1:2379"}

    def close(self) -> None:
        self._stack.close()

    def etcd(self, *flags: str) -> EtcdServer:
        made = EtcdServer(binary=self._binary, fast=True, flags=flags)
        return self._stack.enter_context(made)

    def connect(self, endpoint: str, **options: Any) -> Client:
        self.known[endpoint.partition("//")[2] or endpoint] = "etcd-1:2379"
        return self._stack.enter_context(connect(endpoint, **options))

    def lock(self, endpoint: str = "", *, node: str = "node-a", **options: Any) -> Microlock:
        etcd = self.connect(endpoint or self.plain.endpoint, **options)
        return Microlock(etcd, self.key, node, ttl=10)

    @cached_property
    def pki(self) -> Pki:
        return Pki.made_in(Path(self._stack.enter_context(tempfile.TemporaryDirectory())))

    @cached_property
    def with_tls(self) -> EtcdServer:
        return self.etcd(*tls(self.pki.server, client_ca=self.pki.ca))

    @cached_property
    def guarded(self) -> Guarded:
        return Guarded(self.etcd())

    @cached_property
    def memory(self) -> MemoryStore:
        return self._stack.enter_context(MemoryStore())

    @contextmanager
    def proxied(self) -> Iterator[tuple[Proxy, Microlock]]:
        with closing(Proxy(self.plain.endpoint)) as proxy:
            yield proxy, self.lock(proxy.endpoint, timeout=SOON)

    def shown(self, text: str) -> str:
        """As the page has it: other addresses and ids than those of this run."""
        for endpoint, name in self.known.items():
            text = text.replace(endpoint, name)
        text = text.replace(self.key, "jobs/report")
        text = re.sub(r"\b(token|lease) (?=\S*\d)[0-9a-f]+\b", r"\1 4711", text)
        text = re.sub(r"\b127\.0\.0\.1:\d+", "etcd-1:2379", text)
        return re.sub(r"in \d\.\d+ s", "in 1 s", text)


def mishap(
    title: str, case: str = ""
) -> Callable[[Callable[[Scene], Any]], Callable[[Scene], str]]:
    """Of this title; the function does what raises, or returns what is printed."""

    def named(run: Callable[[Scene], Any]) -> Callable[[Scene], str]:
        def printed(scene: Scene) -> str:
            scene.key = f"jobs/report-{uuid4().hex}"
            try:
                text = run(scene)
            except (MicrolockError, TypeError) as error:
                kind = type(error)
                where = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
                text = f"{where}{kind.__qualname__}: {error}"
            return scene.shown(text)

        MISHAPS[title, case] = printed
        return printed

    return named


# Connecting


@mishap("Nothing listens at the address")
def _(scene: Scene) -> None:
    scene.lock("localhost:1").lock()


@mishap("Another server answers at the address")
def _(scene: Scene) -> None:
    class Page(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            scene.lock(f"127.0.0.1:{server.server_port}").lock()
        finally:
            server.shutdown()
            thread.join()


def closes_each_connection(foo: Microlock) -> None:
    """Tries until the time is over between two connections, and not in the midst of one."""
    while True:
        try:
            foo.lock()
        except StoreUnavailableError as error:
            if "TLS" in str(error):
                raise


@mishap("Only one side uses TLS", "etcd has TLS")
def _(scene: Scene) -> None:
    closes_each_connection(scene.lock(scene.with_tls.endpoint, timeout=SOON))


@mishap("Only one side uses TLS", "the client has TLS")
def _(scene: Scene) -> None:
    closes_each_connection(scene.lock(ca_cert=scene.pki.ca, timeout=SOON))


@mishap("Another CA signed the certificate")
def _(scene: Scene) -> None:
    scene.lock(scene.with_tls.endpoint, ca_cert=scene.pki.other_ca).lock()


@mishap("The certificate is for another name")
def _(scene: Scene) -> None:
    scene.lock(scene.with_tls.endpoint, ca_cert=scene.pki.ca, server_name="etcd-1").lock()


@mishap("etcd needs a client certificate")
def _(scene: Scene) -> None:
    scene.lock(scene.with_tls.endpoint, ca_cert=scene.pki.ca).lock()


@mishap("The password is wrong")
def _(scene: Scene) -> None:
    scene.lock(scene.guarded.endpoint, user="worker", password="wrong").lock()


@mishap("etcd needs a user")
def _(scene: Scene) -> None:
    scene.lock(scene.guarded.endpoint).lock()


@mishap("The user has no permission for the key")
def _(scene: Scene) -> None:
    etcd = scene.guarded.client()
    scene.known[scene.guarded.endpoint] = "etcd-1:2379"
    with etcd:
        Microlock(etcd, scene.key, "node-a", ttl=10).lock()


@mishap("The database is full")
def _(scene: Scene) -> None:
    scene.lock(scene.etcd("--quota-backend-bytes=10000").endpoint).lock()


# etcd is gone


@mishap("No connection", "`lock()`")
def _(scene: Scene) -> None:
    with scene.proxied() as (proxy, foo):
        foo.holder()
        proxy.cut()
        foo.lock()


@mishap("No connection", "`renew()`, `extend()`")
def _(scene: Scene) -> None:
    with scene.proxied() as (proxy, foo):
        foo.lock()
        proxy.cut()
        foo.renew()


@mishap("The outcome is unknown", "`lock(timeout=...)`")
def _(scene: Scene) -> None:
    other = scene.lock(node="node-b")
    other.lock()
    with scene.proxied() as (proxy, foo):
        foo.on("waiting", proxy.cut)
        try:
            foo.lock(timeout=1)
        finally:
            other.destroy()


@mishap("The outcome is unknown", "`lock()`")
def _(scene: Scene) -> None:
    with scene.proxied() as (proxy, foo):
        foo.holder()
        proxy.withhold_replies_from(b"node-a")
        foo.lock()


@mishap("The outcome is unknown", "`unlock()`")
def _(scene: Scene) -> None:
    with scene.proxied() as (proxy, foo):
        foo.lock()
        proxy.withhold_replies_from(scene.key.encode())
        foo.unlock()


# Losses


@mishap("The hold was not renewed")
def _(scene: Scene) -> None:
    foo = Microlock(scene.memory.connect(), scene.key, "node-a", ttl=10)
    foo.lock()
    scene.memory.advance(10)
    foo.unlock()


@mishap("`auto_renew` could not renew")
def _(scene: Scene) -> None:
    foo = Microlock(scene.memory.connect(), scene.key, "node-a", ttl=10, auto_renew=True)
    foo.lock()
    with scene.memory.unavailable():
        scene.memory.advance(10)
    foo.unlock()


@mishap("Somebody deleted the entry, or broke the lock")
def _(scene: Scene) -> None:
    foo = scene.lock()
    foo.lock()
    LockManager(scene.connect(scene.plain.endpoint), "operator").break_lock(scene.key)
    foo.renew()


@mishap("Somebody revoked the lease")
def _(scene: Scene) -> None:
    foo = Microlock(scene.memory.connect(), scene.key, "node-a", ttl=10)
    scene.memory.revoke(foo.lock())
    foo.renew()


@mishap("The process has forked")
def _(scene: Scene) -> str:
    foo = scene.lock()
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there are threads: no matter here
        child = os.fork()
    if not child:
        with suppress(BaseException):
            try:
                foo.lock()
            except MicrolockError as error:
                os.write(write, f"microlock.errors.{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text


# Misuse


@mishap("Somebody else holds the lock")
def _(scene: Scene) -> None:
    etcd = scene.memory.connect()
    with Microlock(etcd, scene.key, "node-b", ttl=10):
        Microlock(etcd, scene.key, "node-a", ttl=10).lock()


@mishap("The same thread locks again")
def _(scene: Scene) -> None:
    with Microlock(scene.memory.connect(), scene.key, "node-a", ttl=10) as foo:
        foo.lock(timeout=30)


@mishap("Another object of the same node holds the lock")
def _(scene: Scene) -> None:
    etcd = scene.memory.connect()
    with Microlock(etcd, scene.key, "node-a", ttl=10):
        Microlock(etcd, scene.key, "node-a", ttl=10).lock()


@mishap("`unlock()` without a hold")
def _(scene: Scene) -> None:
    etcd = scene.memory.connect()
    with Microlock(etcd, scene.key, "node-b", ttl=10):
        Microlock(etcd, scene.key, "node-a", ttl=10).unlock()


@mishap("An argument is wrong")
def _(scene: Scene) -> None:
    Microlock(scene.memory.connect(), scene.key, "node-a", ttl=0)


@mishap("An event name is wrong")
def _(scene: Scene) -> None:
    Microlock(scene.memory.connect(), scene.key, "node-a").on("unlock", print)


@mishap("The object was destroyed")
def _(scene: Scene) -> None:
    foo = Microlock(scene.memory.connect(), scene.key, "node-a")
    foo.destroy()
    foo.lock()


# What is logged


@mishap("A renewal fails, then the lock is lost")
def _(scene: Scene) -> str:
    lines: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(  # type: ignore[method-assign]
        f"{record.levelname} {record.name}: {record.getMessage()}"
    )
    log = logging.getLogger("microlock")
    log.addHandler(handler)
    try:
        with closing(Proxy(scene.plain.endpoint)) as proxy:
            etcd = scene.connect(proxy.endpoint, timeout=0.5)
            foo = Microlock(etcd, scene.key, "node-a", ttl=2, auto_renew=True)
            foo.lock()
            proxy.cut()
            eventually(lambda: any(" lost" in line for line in lines))
    finally:
        log.removeHandler(handler)
    return "\n".join(line for line in lines if scene.key in line)


if __name__ == "__main__":
    with closing(Scene()) as all_of_them:
        for (title, case), run in MISHAPS.items():
            print(f"### {title} {case}\n\n{run(all_of_them)}\n")
