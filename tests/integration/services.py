"""HTTP services for tests: on a thread of this process, and what a client of one does."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any

import httpx

from microlock import Client, connect
from microlock.service.app import create_app
from microlock.service.server import Server
from microlock.service.settings import Settings

DEADLINE = 30.0


class Service:
    """A service that listens on loopback, and a client of it.

    Args:
        address: of its store, as `connect()` takes it.
        timeout: seconds that the store has for an answer.
        settings: as for `Settings`.
    """

    def __init__(self, address: str, *, timeout: float = 5.0, **settings: Any) -> None:
        self.client: Client = connect(address, timeout=timeout)
        self.app = create_app(self.client, Settings(**settings))
        listening = self.listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        self.port: int = listening.getsockname()[1]
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=DEADLINE)
        self.server = Server(self.app, log_level="warning")
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listening]})
        self.thread.start()
        until(lambda: self.server.started)

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.http.post(path, json=body)

    def lock(self, uid: str, keys: str | list[str], **how: Any) -> list[dict[str, Any]]:
        """Takes locks, and returns the tokens."""
        answer = self.post("/lock", uid=uid, keys=keys, **how)
        assert answer.status_code == 200, answer.text
        tokens: list[dict[str, Any]] = answer.json()["tokens"]
        return tokens

    def unlock(self, uid: str, tokens: list[dict[str, Any]]) -> list[str]:
        answer = self.post("/unlock", uid=uid, tokens=tokens)
        assert answer.status_code == 200, answer.text
        unlocked: list[str] = answer.json()["unlocked"]
        return unlocked

    def locked(self, *keys: str) -> bool:
        locked: bool = self.post("/check", keys=[*keys]).json()["locked"]
        return locked

    def queue(self, key: str) -> dict[str, Any]:
        """Who holds a lock and who waits for it."""
        found = [each for each in self.http.get("/locks").json()["locks"] if each["key"] == key]
        return found[0] if found else {"holders": [], "waiters": []}

    @contextmanager
    def events(self) -> Iterator[Iterator[tuple[str, Any]]]:
        """What /events tells: each event by its name, with its data."""
        with self.http.stream("GET", "/events") as response:
            assert response.status_code == 200, response.read()
            yield told(response.iter_lines())

    def stop(self) -> None:
        """Ends it in good order."""
        self.server.should_exit = True
        self.thread.join(DEADLINE)
        assert not self.thread.is_alive()

    def close(self) -> None:
        self.stop()
        self.http.close()
        self.client.close()


def told(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """Server-sent events, from their lines."""
    event = ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "event":
            event = value
        elif name == "data":
            yield event, json.loads(value)


def until(condition: Callable[[], Any], what: str = "") -> Any:
    """Waits for this to be true, and returns it."""
    end = monotonic() + DEADLINE
    while not (found := condition()):
        assert monotonic() < end, what or "it did not come to be"
        sleep(0.01)
    return found
