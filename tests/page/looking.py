"""A service in this process, and its page as somebody sees it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any

from microlock import Client, connect
from microlock.service.app import create_app
from microlock.service.server import Server
from microlock.service.settings import Settings

DEADLINE = 30.0


def until(condition: Callable[[], Any]) -> Any:
    """Waits until this is so, and returns it."""
    end = monotonic() + DEADLINE
    while not (found := condition()):
        assert monotonic() < end, f"not within {DEADLINE:g} s"
        sleep(0.05)
    return found


class Service:
    """`microlock serve`, on a store in memory that outlives it."""

    def __init__(self, endpoint: str = "memory://", auth_token: str | None = None) -> None:
        self.client: Client = connect(endpoint)
        self._settings = Settings(auth_token=auth_token)
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/"

    def start(self) -> None:
        app = create_app(self.client, self._settings)
        self._server = Server(app, host="127.0.0.1", port=self._port, log_level="warning")
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        until(lambda: self._server.started)
        (sockets,) = (each.sockets for each in self._server.servers)
        self._port = sockets[0].getsockname()[1]

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()

    def close(self) -> None:
        self.stop()
        self.client.close()


class Page:
    """The page, as somebody sees it."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def look(self, width: int = 1100, height: int = 800, *, dark: bool = False) -> None:
        """From now on by a screen of this size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def open(self, service: Service, state: str = "live") -> None:
        self.driver.get("about:blank")
        self.driver.get(service.url)
        until(lambda: self.state == state)

    def run(self, script: str, *args: object) -> Any:
        return self.driver.execute_script(script, *args)

    @property
    def state(self) -> str:
        return str(self.run("return document.body.dataset.state"))

    @property
    def locks(self) -> dict[str, dict[str, Any]]:
        """What the rows say, by the lock."""
        rows = self.run(
            """
            const text = (group, what) => [...group.querySelectorAll(what)].map(e => e.textContent);
            return [...document.querySelectorAll("tbody[data-key]")].map(group => ({
                lock: text(group, "th")[0], kind: text(group, ".kind")[0],
                who: text(group, ".who"), token: text(group, ".token"), left: text(group, ".left"),
                queue: text(group, "summary")[0] ?? "", waiters: text(group, "li .name")}));
            """
        )
        return {row.pop("lock"): row for row in rows}

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).innerText", selector))

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def click(self, selector: str) -> None:
        self.find(selector).click()

    def break_of(self, lock: str, button: str = ".act button") -> None:
        """Presses the button of a lock."""
        self.click(f'tbody[data-key="{lock}"] {button}')
        until(lambda: self.run("return document.querySelector('dialog').open"))

    def complaints(self) -> list[str]:
        """What the console has of errors, but those of a service that is away."""
        away = ("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED", " 401 ", " 503 ")
        return [
            each["message"]
            for each in self.driver.get_log("browser")
            if each["level"] == "SEVERE" and not any(why in each["message"] for why in away)
        ]
