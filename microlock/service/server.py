"""uvicorn, ended in good order: what waits is answered first."""

from __future__ import annotations

import socket
from typing import Any

import uvicorn
from fastapi import FastAPI

# Seconds that answers have to get out at the end.
GRACE = 10


class Server(uvicorn.Server):
    """Has the application end what would never end by itself, and then waits for the answers."""

    def __init__(self, app: FastAPI, **options: Any) -> None:
        config = uvicorn.Config(
            app,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=GRACE,
            lifespan="on",
            ws="none",
            **options,
        )
        super().__init__(config)
        self._stop = app.state.stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stop()
        await super().shutdown(sockets)
