"""The files of the page, and the figures of the service."""

from __future__ import annotations

import asyncio
import re
from itertools import count
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any

import httpx
import pytest

import microlock.service
from microlock import Microlock, connect
from microlock.core.port import Get
from microlock.core.retry import Budget
from microlock.errors import StoreUnavailableError
from microlock.service.app import create_app
from microlock.service.live import Live
from microlock.service.metrics import prometheus
from microlock.service.overall import AllLocks
from microlock.service.settings import Settings
from microlock.testing import MemoryStore

PAGE = Path(microlock.service.__file__).parent / "page"
FILES = sorted(each.name for each in PAGE.iterdir())


async def answers(*requests: tuple[str, str, Any]) -> list[httpx.Response]:
    with connect("memory://") as client:
        app = create_app(client, Settings(), metrics=prometheus(client))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            return [await http.request(how, path, json=body) for how, path, body in requests]


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_the_page_needs_nothing_from_elsewhere(name: str) -> None:
    text = (PAGE / name).read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|(src|href)=\"/|url\(|@import|//cdn", text)


def test_the_page_has_no_script_or_style_in_it() -> None:
    text = (PAGE / "index.html").read_text()
    assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", text)


def test_no_text_of_others_becomes_markup() -> None:
    for name in FILES:
        text = (PAGE / name).read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", text)


def test_all_files_of_the_page_are_served_under_its_policy() -> None:
    found = asyncio.run(answers(("GET", "/", None), *(("GET", f"/page/{n}", None) for n in FILES)))
    for each in found:
        assert each.status_code == 200
        assert "script-src 'self'" in each.headers["content-security-policy"]
        assert "unsafe" not in each.headers["content-security-policy"]
    kinds = {
        name: each.headers["content-type"] for name, each in zip(FILES, found[1:], strict=True)
    }
    assert kinds["page.js"].startswith("text/javascript")
    assert kinds["page.css"].startswith("text/css")
    assert kinds["icon.svg"] == "image/svg+xml"


def test_a_method_that_a_path_does_not_have_is_405_without_a_body_too() -> None:
    (answer,) = asyncio.run(answers(("DELETE", "/lock", None)))
    assert (answer.status_code, answer.json()) == (405, {"error": "Method Not Allowed"})


def test_prometheus_gets_how_long_clients_of_the_service_waited_and_nothing_of_holds() -> None:
    wanted = {
        f'microlock_wait_duration_seconds_count{{microlock_kind="multi",'
        f'microlock_wait_outcome="{outcome}"}} 1.0'
        for outcome in ("acquired", "refused")
    }

    async def main() -> None:
        with connect("memory://") as client:
            app = create_app(client, Settings(), metrics=prometheus(client))
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
                body = {"uid": "node", "keys": ["foo"]}
                taken = [(await http.post("/lock", json=body)).status_code for _ in range(2)]
                assert taken == [200, 409]
                end = monotonic() + 30
                while True:  # it is recorded on a thread
                    answer = await http.get("/metrics")
                    if wanted <= {*answer.text.splitlines()}:
                        break
                    assert monotonic() < end, answer.text
                    await asyncio.sleep(0.01)
                assert answer.headers["content-type"].startswith("text/plain")
                assert "microlock_hold" not in answer.text

    asyncio.run(main())


def test_all_locks_of_a_store_that_is_away_are_an_error_within_the_clients_timeout() -> None:
    with MemoryStore() as store:
        client = store.connect(timeout=5)
        client.perform(Get(b"health"), Budget.of(client.clock.now(), 5))  # it has answered before
        began = store.clock.now()
        with store.unavailable(), pytest.raises(StoreUnavailableError):
            AllLocks(client, "")._text()
        assert store.clock.now() - began <= 5


def test_who_asks_for_all_locks_while_a_read_fails_gets_its_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go = Event()

    def fail(locks: AllLocks) -> bytes:
        assert go.wait(30)
        raise StoreUnavailableError(f"{next(reads)}")

    reads = count(1)
    monkeypatch.setattr(AllLocks, "_text", fail)

    async def main() -> None:
        with connect("memory://") as client:
            locks = AllLocks(client, "")
            asked = [asyncio.ensure_future(locks.read())]
            while not locks._reading:
                await asyncio.sleep(0)
            asked.append(asyncio.ensure_future(locks.read()))
            while not locks._next:
                await asyncio.sleep(0)
            go.set()
            for each in asked:
                with pytest.raises(StoreUnavailableError, match=r"^1$"):
                    await each

    asyncio.run(main())


def test_the_first_snapshot_without_locks_has_the_revision_of_the_store() -> None:
    async def main() -> list[bytes]:
        with connect("memory://") as client:
            foo = Microlock(client, "foo", "me", 60)
            foo.lock()
            foo.unlock()
            now = client.perform(Get(b"health"), Budget.of(client.clock.now(), 5)).revision
            assert now > 1
            view = Live(client, "")
            pieces = view.listen()
            try:
                while not (piece := await anext(pieces)).startswith(b"event: snapshot"):
                    pass
            finally:
                view.stop()
            return [f"{now}".encode(), piece.splitlines()[1].removeprefix(b"id: ")]

    revision, shown = asyncio.run(main())
    assert shown == revision
