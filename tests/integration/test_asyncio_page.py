"""The page on asyncio: its examples run one after another, and its two services leave nothing."""

from __future__ import annotations

import ast
import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import CodeType
from typing import Any

import aiohttp
import pytest
import uvicorn
from aiohttp import web
from conftest import Etcd

import microlock
from microlock import Holder, connect
from microlock.asyncio import LockManager, Microlock

PAGE = (Path(__file__).parents[2] / "docs/asyncio.md").read_text()
DEADLINE = 10.0

Call = Callable[..., Any]


def sections() -> dict[str, list[str]]:
    """The examples, by the heading that they stand under."""
    found = {}
    for section in re.split(r"\n## ", PAGE):
        if blocks := re.findall(r"```python\n(.*?)```", section, re.DOTALL):
            found[section.partition("\n")[0]] = blocks
    return found


def compiled(block: str) -> CodeType:
    return compile(block, "docs/asyncio.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


async def execute(blocks: list[str], names: dict[str, Any]) -> None:
    for block in blocks:
        if (running := eval(compiled(block), names)) is not None:
            await running


async def nothing(*_: object, fence: int = 0) -> None: ...


def test_the_examples_of_the_page_run_one_after_another(
    etcd_server: Etcd, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        async with connect(etcd_server.endpoint) as etcd:
            manager = LockManager(etcd, "an operator")
            names = vars(microlock) | {"asyncio": asyncio, "etcd": etcd, "node_id": "node-a"}
            names |= {"work": nothing, "endpoint": etcd_server.endpoint, "render": nothing}
            names["foo_of_another_node"] = Microlock(etcd, "nightly-report", "node-b", ttl=5)
            names["operator_breaks_the_lock"] = lambda: manager.break_lock("nightly-report")
            for heading, blocks in sections().items():
                if heading not in ("FastAPI", "aiohttp"):
                    await execute(blocks, names)
            await names["foo_of_another_node"].destroy()

    asyncio.run(main())
    assert "stopped: the entry is gone from etcd" in capsys.readouterr().out


class Reports:
    """What the services make, and how a test holds it up."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.go_on = asyncio.Event()

    async def render(self, name: str, *, fence: int) -> str:
        self.begun.append(name)
        await self.go_on.wait()
        return f"{name} by {fence}"


@asynccontextmanager
async def served(framework: str, endpoint: str, reports: Reports) -> AsyncIterator[str]:
    """The URL of the page's service."""
    names = vars(microlock) | {"asyncio": asyncio, "node_id": "node-a", "Microlock": Microlock}
    names |= {"endpoint": endpoint, "render": reports.render}
    await execute(sections()[framework], names)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        if framework == "aiohttp":
            runner = web.AppRunner(names["web_app"], handler_cancellation=True)
            await runner.setup()
            await web.SockSite(runner, listening).start()
            yield url
            await runner.cleanup()
        else:
            server = uvicorn.Server(uvicorn.Config(names["app"], log_level="warning"))
            serving = asyncio.create_task(server.serve([listening]))
            yield url
            server.should_exit = True
            await serving


async def until(done: Call) -> None:
    async def look() -> None:
        while not await done():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(look(), DEADLINE)


@pytest.mark.parametrize("framework", ["FastAPI", "aiohttp"])
@pytest.mark.parametrize("gone", ["while it waits", "while it works"])
def test_a_request_whose_client_is_gone_leaves_nothing(
    etcd_server: Etcd, prefix: str, framework: str, gone: str
) -> None:
    name = prefix.strip("/")

    async def main() -> None:
        reports = Reports()
        async with (
            connect(etcd_server.endpoint) as etcd,
            served(framework, etcd_server.endpoint, reports) as url,
            aiohttp.ClientSession() as session,
        ):
            other = Microlock(etcd, f"reports/{name}", "node-b", ttl=60)

            async def ask() -> str:
                async with session.post(f"{url}/reports/{name}") as response:
                    assert response.status == 200
                    said: str = await response.json()
                    return said

            if gone == "while it waits":
                await other.lock()
            asking = asyncio.create_task(ask())
            if gone == "while it waits":
                await until(other.waiters)
            else:
                await until(lambda: _true(reports.begun))
            asking.cancel()
            await asyncio.wait({asking})
            await other.unlock() if gone == "while it waits" else None
            await until(lambda: _free(other))
            assert await other.waiters() == []
            reports.go_on.set()
            assert (await ask()).startswith(f"{name} by ")
            await other.destroy()

    asyncio.run(main())


@pytest.mark.parametrize("framework", ["FastAPI", "aiohttp"])
def test_a_request_is_answered_503_while_etcd_is_away(framework: str) -> None:
    async def main() -> None:
        async with (
            served(framework, "localhost:1", Reports()) as url,
            aiohttp.ClientSession() as session,
            session.post(f"{url}/reports/nightly") as response,
        ):
            assert response.status == 503
            assert "'reports/nightly': no connection to localhost:1" in await response.text()

    asyncio.run(main())


async def _true(value: object) -> bool:
    return bool(value)


async def _free(lock: Microlock) -> bool:
    holder: Holder | None = await lock.holder()
    return holder is None
