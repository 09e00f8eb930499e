"""uvicorn with an orderly shutdown: waiting requests are answered first."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.auto import AutoHTTPProtocol

# Seconds for sending the last answers at shutdown.
GRACE = 10


class _Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """A connection that the application can end at once, by `scope["state"]["abort"]`."""

    app_state: dict[str, Any]

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.app_state = {**self.app_state, "abort": transport.abort}


class Server(uvicorn.Server):
    """At shutdown, ends the waits and streams of the application, and waits for the answers."""

    def __init__(self, app: FastAPI, **options: Any) -> None:
        config = uvicorn.Config(
            app,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=GRACE,
            lifespan="on",
            ws="none",
            http=_Connection,
            **options,
        )
        super().__init__(config)
        self._stop = app.state.stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stop()
        await super().shutdown(sockets)
