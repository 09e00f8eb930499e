"""Turns errors into answers: JSON that names the argument and its value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from microlock.core.jsonable import place_object
from microlock.errors import (
    AlreadyLockedError,
    InvalidArgumentError,
    LockCancelledError,
    MicrolockError,
    StoreError,
    StoreUnavailableError,
)
from microlock.service import bodies
from microlock.service.holds import BusyError

_SOON = {"Retry-After": "1"}

_OF_ALL = {
    422: "an argument is wrong",
    502: "the store refuses the request",
    503: "the store does not answer, or the service is busy or stopping: try again",
}
_OF_BODIES = {
    400: "the body is not JSON",
    401: "the bearer token is missing or wrong",
    403: "the request comes from a page of another site",
    408: "the body did not arrive in time",
    413: "the body is too large",
    415: "the body is not application/json",
}
_OF_NAMES = {421: "the host name is not one of this service: it may be another site's"}


STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}},
    503: {"model": bodies.Problem, "description": "too many listeners, or the service is stopping"},
}
FIGURES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {}}},
    404: {"model": bodies.Problem, "description": "this service has no metrics"},
}


class GoneError(Exception):
    """The client has disconnected: nobody reads the answer."""


def answers(
    answer: type[BaseModel], others: dict[int, type[BaseModel]] | None = None, *, body: bool = True
) -> dict[int | str, dict[str, Any]]:
    """The possible answers of a path, for OpenAPI.

    Args:
        answer: the body with status 200.
        others: the bodies with other statuses.
        body: whether the request has a body.
    """
    problems = {**_OF_ALL, **(_OF_BODIES if body else {}), **_OF_NAMES}
    shown: dict[int | str, dict[str, Any]] = {
        status: {"model": bodies.Problem, "description": why} for status, why in problems.items()
    }
    for status, model in {200: answer, **(others or {})}.items():
        shown[status] = {**shown.get(status, {}), "model": model}
    return shown


def answer_errors(app: FastAPI) -> None:
    """Makes the application answer errors as above."""

    @app.exception_handler(RequestValidationError)
    async def wrong(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            why = first.get("ctx", {}).get("error", first["msg"])
            return JSONResponse({"error": f"body: {why}"}, 400)
        return JSONResponse({"error": _all_told(error.errors())}, 422)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        # The path does not exist, or has no such method.
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(MicrolockError)
    async def failed(_: Request, error: MicrolockError) -> Response:
        match error:
            case AlreadyLockedError():
                shown = {"error": str(error), "holder": place_object(error.holder)}
                return JSONResponse(shown, 409)
            case InvalidArgumentError():
                return JSONResponse({"error": str(error)}, 422)
            case LockCancelledError():
                return JSONResponse({"error": "the service is stopping"}, 503, _SOON)
            case StoreError() if not isinstance(error, StoreUnavailableError):
                return JSONResponse({"error": str(error)}, 502)
        return JSONResponse({"error": str(error)}, 503, _SOON)

    @app.exception_handler(BusyError)
    async def busy(_: Request, error: BusyError) -> Response:
        return JSONResponse({"error": str(error)}, 503, _SOON)

    @app.exception_handler(GoneError)
    async def gone(_: Request, error: GoneError) -> Response:
        return Response(status_code=499)  # nobody reads it

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": f"{type(error).__name__}: see the log of the service"}, 500)


def _all_told(errors: Sequence[dict[str, Any]]) -> str:
    # `keys` may be a string or a list. For a list, "not a string" does not help.
    others = [
        each
        for each in errors
        if each["type"] != "string_type" or not isinstance(each["input"], list)
    ]
    return "; ".join(map(_told, (others or errors)[:3]))


def _told(error: dict[str, Any]) -> str:
    """Text for one error of a validation: where, what, and the value."""
    # The error of a union contains the names of its parts, which are no arguments.
    where = [str(each) for each in error["loc"][1:] if not _is_part(each)]
    why = str(error["msg"]).removeprefix("Value error, ").partition(" after validation")[0]
    shown = "" if error["type"] == "missing" else f", not {error['input']!a:.80}"
    return f"{'.'.join(where) or 'body'}: {why}{shown}"


def _is_part(each: object) -> bool:
    return isinstance(each, str) and ("[" in each or each == "str")
