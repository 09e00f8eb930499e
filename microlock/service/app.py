"""The application: its paths, and what each does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from microlock.core.jsonable import place_object
from microlock.core.port import Get
from microlock.core.retry import Budget
from microlock.engine.client import Client
from microlock.engine.loop_client import Loops
from microlock.errors import MicrolockError, StorePermissionError
from microlock.service import bodies
from microlock.service.answers import FIGURES, STREAM, GoneError, answer_errors, answers
from microlock.service.gate import Gate
from microlock.service.holds import Holds, Token
from microlock.service.leases import Leases
from microlock.service.live import Live
from microlock.service.overall import AllLocks
from microlock.service.pages import serve_page
from microlock.service.settings import MAX_LEASES, Settings
from microlock.service.stream import Stream, until_gone

# Returns the body of /metrics, and its content type.
Metrics = Callable[[], tuple[bytes, str]]

# The store is healthy if it answers within so many seconds.
HEALTHY = 2.0

log = logging.getLogger("microlock")


def create_app(client: Client, settings: Settings, *, metrics: Metrics | None = None) -> FastAPI:
    """The service as an ASGI application.

    Args:
        client: the client of the store; the application does not close it.
        metrics: makes the answer of /metrics; None: there are no metrics.
    """
    holds, live = Holds(client, settings), Live(client, settings.prefix)
    lives, overall = Leases(client), AllLocks(client, settings.prefix)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        stop()
        await holds.close()

    def stop() -> None:
        holds.stop()
        live.stop()

    app = FastAPI(
        title="microlock",
        summary="Distributed locks on etcd",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(Gate, settings=settings)
    app.state.stop = stop
    answer_errors(app)

    @app.post("/lock", responses=answers(bodies.Locked, {409: bodies.Refused}))
    async def lock(request: Request, body: bodies.Lock) -> Response:
        """Locks all of these keys, or none of them."""
        locking = holds.lock(body.uid, _several(body.keys), body.exp, body.wait)
        tokens, there = await _while_there(request, locking)
        if not there:
            await holds.unlock(body.uid, tokens)
            raise GoneError
        return JSONResponse({"tokens": [{"key": key, "version": token} for key, token in tokens]})

    @app.post("/unlock", responses=answers(bodies.Unlocked))
    async def unlock(body: bodies.Unlock) -> Response:
        """Gives back those of these locks that `uid` holds with these tokens."""
        return JSONResponse({"unlocked": await holds.unlock(body.uid, _tokens(body.tokens))})

    @app.post("/renew", responses=answers(bodies.Renewed, {409: bodies.NotRenewed}))
    async def renew(body: bodies.Renew) -> Response:
        """Gives a new expiry to those of these locks that `uid` holds with these tokens."""
        tokens = _tokens(body.tokens)
        renewed = await holds.renew(body.uid, tokens, body.exp)
        if lost := [key for key, _ in tokens if key not in renewed]:
            why = f"{', '.join(map(repr, lost))}: not held by {body.uid} with this version"
            return JSONResponse({"error": why, "renewed": renewed}, 409)
        return JSONResponse({"renewed": renewed})

    @app.post("/check", responses=answers(bodies.Checked))
    async def check(body: bodies.Check) -> Response:
        """Whether at least one of these keys is locked."""
        return JSONResponse({"locked": await holds.locked(_several(body.keys))})

    @app.post("/break", responses=answers(bodies.Broken))
    async def break_(body: bodies.Break) -> Response:
        """For operators: ends the hold with this token, or removes the waiter, of any node."""
        broken = await holds.break_place(body.key, body.token)
        if broken:
            log.warning(
                "%r: /break removed the entry of %s, token %s", body.key, broken, body.token
            )
        return JSONResponse({"broken": broken and place_object(broken)})

    @app.get("/locks", responses=answers(bodies.Locks, body=False))
    async def locks() -> Response:
        """All locks with their holders and waiters, read from the store now."""
        return Stream(_once(await overall.read()), "application/json")

    @app.get("/leases", responses=answers(bodies.Leases, body=False))
    async def leases(
        id: Annotated[
            list[Annotated[str, Query(pattern="^([0-7][0-9a-f]{15}|[0-9a-f]{1,15})$")]],
            Query(min_length=1, max_length=MAX_LEASES),
        ],
    ) -> Response:
        """The seconds left of these leases."""
        return JSONResponse({"leases": await lives.left(id)})

    @app.get("/events", response_class=Response, responses=STREAM)
    async def events() -> Response:
        """All locks, and then their changes, as server-sent events."""
        pieces = live.listen()
        await anext(pieces)  # raises BusyError if there are too many listeners
        return Stream(pieces)

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", responses=answers(bodies.Health, {503: bodies.Ill}, body=False))
    async def healthz() -> Response:
        """Whether the store answers."""
        try:
            await _ask(client, Get(b"health"), HEALTHY)
        except StorePermissionError:  # that is an answer too
            pass
        except MicrolockError as error:
            return JSONResponse({"status": "unavailable", "error": str(error)}, 503)
        return JSONResponse({"status": "ok"})

    @app.get("/metrics", response_class=Response, responses=FIGURES)
    async def metrics_() -> Response:
        """Metrics of this service, for Prometheus."""
        if metrics is None:
            raise HTTPException(404, "this service has no metrics")
        body, kind = metrics()
        return Response(body, media_type=kind)

    serve_page(app)
    return app


def _several(keys: str | list[str]) -> list[str]:
    return [keys] if isinstance(keys, str) else keys


def _tokens(tokens: list[bodies.Token]) -> list[Token]:
    return [(each.key, each.version) for each in tokens]


async def _while_there(
    request: Request, work: Coroutine[Any, Any, list[Token]]
) -> tuple[list[Token], bool]:
    """Returns the result of the work, and whether the client is still connected.

    If the client disconnects first, the work is cancelled. Raises GoneError if that has undone it.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(until_gone(request.receive))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            working.cancel()
            await asyncio.wait({working})
            if working.cancelled():
                raise GoneError
        return working.result(), not gone.done()
    finally:
        working.cancel()
        gone.cancel()
        await asyncio.wait({working, gone})


async def _once(text: bytes) -> AsyncGenerator[bytes, None]:
    yield text


async def _ask(client: Client, request: Any, timeout: float | None = None) -> Any:
    budget = Budget.of(client.clock.now(), timeout or client.timeout)
    return await client.one(Loops).here().perform(request, budget)
