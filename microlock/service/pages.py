"""Serves the files of the page that shows the locks, with headers that limit what they may do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

_FILES = Path(__file__).parent / "page"

_HEADERS = {
    # The page may load its own files, and nothing from elsewhere.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # The browser asks again each time, and mostly gets "not modified".
    "Cache-Control": "no-cache",
}


class _Files(StaticFiles):
    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(_HEADERS)
        return response


def serve_page(app: FastAPI) -> None:
    """Serves the page at `/`, and its files at `/page/…`."""
    app.mount("/page", _Files(directory=_FILES, check_dir=False))

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(_FILES / "index.html", headers=_HEADERS)
