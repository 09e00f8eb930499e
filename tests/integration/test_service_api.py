"""The service answers any request as its OpenAPI document says, and none with a 500."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from microlock import connect
from microlock.service.app import create_app
from microlock.service.settings import Settings

# A server of one test that answers without a network; no request waits for a lock.
APP = create_app(connect("memory://"), Settings(default_expiry=50))
API = schemathesis.openapi.from_asgi("/openapi.json", APP)

BODIES = ["/lock", "/unlock", "/renew", "/check", "/break"]
EXAMPLES = settings(
    max_examples=8,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        *((path, mode) for path in [*BODIES, "/leases"] for mode in GenerationMode),
        *((path, GenerationMode.POSITIVE) for path in ("/locks", "/healthz", "/metrics")),
    ],
)
def test_any_request_is_answered_as_the_document_says(path: str, mode: GenerationMode) -> None:
    operation = API[path]["POST" if path in BODIES else "GET"]

    @EXAMPLES
    @given(st.data())
    def answered(data: Any) -> None:
        case = data.draw(operation.as_strategy(generation_mode=mode))
        if mode is GenerationMode.POSITIVE and path == "/lock":
            case.body["wait"] = min(case.body.get("wait", 0), 1)
        case.call_and_validate()

    answered()
