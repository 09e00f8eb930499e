"""Long or endless responses: server-sent events, until the client or the service goes away.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from microlock.service.settings import PATIENCE

# Bytes that are passed to the connection at a time: the rest stays in memory that all share.
_CHUNK = 64 * 1024


class Stream(Response):
    """Sends what `pieces` yields, as fast as the client reads. Drops a client that does not read.

    Args:
        pieces: is closed when the response ends, for any reason.
    """

    def __init__(
        self, pieces: AsyncGenerator[bytes, None], media_type: str = "text/event-stream"
    ) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(headers=headers, media_type=media_type)
        del self.headers["content-length"]
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send(send))
        gone = asyncio.ensure_future(until_gone(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            if sending.cancelled():  # too slow: a close would wait until the client reads the rest
                scope["state"]["abort"]()
        finally:
            for each in (sending, gone):
                each.cancel()
            await asyncio.gather(sending, gone, return_exceptions=True)
            await self._pieces.aclose()

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task
        async for piece in self._pieces:
            for begin in range(0, len(piece), _CHUNK):
                chunk = piece[begin : begin + _CHUNK]
                body = {"type": "http.response.body", "body": chunk, "more_body": True}
                too_slow = loop.call_later(PATIENCE, task.cancel)
                await send(body)
                too_slow.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def until_gone(receive: Receive) -> None:
    """Returns when the client has closed the connection. Call it after the request was read."""
    while (await receive())["type"] != "http.disconnect":
        pass
