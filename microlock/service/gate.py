"""Checks each request before the application sees it: the sender, the type and size of the body."""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from microlock.service.settings import MAX_BODY_BYTES, PATIENCE, Settings

# POST requests that change nothing.
_READS = frozenset({"/check"})

# Names that no other site can have: addresses, names without a dot, and those that nobody can
# register.
_UNLIKE_A_SITE = re.compile(
    r"\d{1,3}(\.\d{1,3}){3} | \[[0-9a-f:.]+\] | [^.]+ | .+\.(internal|local|localhost|svc)", re.X
)


class RefusedError(Exception):
    """The request is refused.

    Attributes:
        status: the status of the answer.
        headers: more headers of the answer.
    """

    def __init__(self, status: int, why: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(why)
        self.status = status
        self.headers = headers


class Gate:
    """ASGI middleware that checks requests."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        token = settings.auth_token
        self._token = None if token is None else token.encode()
        self._names = {name.lower() for name in (settings.host, *settings.allowed_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            headers = Headers(scope=scope)
            self._check_host(headers)
            if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
                if scope["path"] not in _READS:
                    self._check_token(headers)
                if scope["method"] == "POST":  # others are not allowed, whatever their body
                    _check_body(headers)
                    receive = await _read(receive)
        except RefusedError as refused:
            answer = JSONResponse({"error": str(refused)}, refused.status, refused.headers)
            # The rest of the body is not read, so the connection can't be used again.
            answer.headers["connection"] = "close"
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check_host(self, headers: Headers) -> None:
        """Stops DNS rebinding: a page of another site, whose name points here, must not read or
        change anything. (By the right name it can't: see `_check_token`.)"""
        name = re.sub(r":\d*$", "", headers.get("host", "localhost")).lower()
        if name not in self._names and not _UNLIKE_A_SITE.fullmatch(name):
            raise RefusedError(
                421,
                f"host: {name!r} is unknown: if it is a name of this service, add it to "
                "--allowed-hosts",
            )

    def _check_token(self, headers: Headers) -> None:
        """The sender must not be a page of another site, and must have the token."""
        origin = headers.get("origin")
        if origin and origin.lower().partition("://")[2] != headers.get("host", "").lower():
            raise RefusedError(403, f"origin: {origin!r} is another site")
        if self._token is None:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode("latin-1", "replace"), self._token)
        if scheme.lower() != "bearer" or not right:
            why = "is wrong" if given else "is missing"
            raise RefusedError(
                401, f"authorization: the bearer token {why}", {"WWW-Authenticate": "Bearer"}
            )


def _check_body(headers: Headers) -> None:
    # Browsers send JSON to other sites only after a preflight request, which is refused here.
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RefusedError(415, f"content-type: {kind!r} is not application/json")
    length = headers.get("content-length")
    if length and length.isdecimal() and int(length[:20]) > MAX_BODY_BYTES:
        raise _too_large(length[:20])


def _too_large(length: object) -> RefusedError:
    return RefusedError(413, f"body: {length} bytes are more than {MAX_BODY_BYTES}")


async def _read(receive: Receive) -> Receive:
    """Reads the body. Returns a `receive` that gives it to the application."""
    body, more = bytearray(), True
    with _Deadline(PATIENCE):
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return _then(message, receive)
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > MAX_BODY_BYTES:
                raise _too_large(f"{len(body)} or more")
    return _then({"type": "http.request", "body": bytes(body), "more_body": False}, receive)


class _Deadline:
    """Refuses a request whose body takes longer. (`wait_for` would make a task for each piece, and
    `asyncio.timeout` needs Python 3.11.)"""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._late = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task
        self._task = task
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._cancel)

    def _cancel(self) -> None:
        self._late = self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        self._timer.cancel()
        if self._late and kind is asyncio.CancelledError:
            if hasattr(self._task, "uncancel"):
                self._task.uncancel()
            raise RefusedError(408, f"body: not received within {self._seconds:g} s") from None


def _then(first: Message, receive: Receive) -> Receive:
    """A `receive` that returns this message first."""
    given = [first]

    async def one() -> Message:
        return given.pop() if given else await receive()

    return one
