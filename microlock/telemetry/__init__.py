"""Metrics and traces of locks by OpenTelemetry, from their events and nothing else.

    from microlock.telemetry import instrument

    instrument(etcd)

It needs `pip install 'microlock[telemetry]'`, and nothing is spent on it where it is not called.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

try:
    from opentelemetry import metrics, trace
except ImportError as error:
    raise ImportError(
        "microlock.telemetry needs OpenTelemetry: pip install 'microlock[telemetry]'"
    ) from error

from microlock.engine.observers import Observers
from microlock.errors import InvalidArgumentError
from microlock.etcd.lent import client_of
from microlock.face import Face
from microlock.manager_face import ManagerFace
from microlock.telemetry.instruments import changing, instruments_of
from microlock.telemetry.recording import Instrumentation, client_behind

__all__ = ["Instrumentation", "instrument"]


def instrument(
    what: object,
    *,
    meter_provider: metrics.MeterProvider | None = None,
    tracer_provider: trace.TracerProvider | None = None,
    group: Callable[[str], str] | None = None,
) -> Instrumentation:
    """Measures and traces locks from now on, of either face.

    What it records is in docs/telemetry.md. A lock is recorded once, by the first instrumentation
    that it belongs to. If a meter or a tracer fails or hangs, locks go on.

    Args:
        what: a client, for all its locks, those that are made later too; a lock; or a manager, for
            the locks of its node under its prefix.
        meter_provider, tracer_provider: None: the global ones.
        group: gives the attribute `microlock.group` of metrics for a key; for few different ones,
            such as `lambda key: key.split("/")[0]`. None: metrics don't tell keys apart.

    Returns:
        What `end()` ends, or a `with` block.

    Raises:
        InvalidArgumentError: an argument is wrong, or `what` is instrumented already.
        ClientRequiredError: `what` is none of these.
        DestroyedError, ForkedError: the client can't be used any more, or not here.
    """
    if group is not None and not callable(group):
        raise InvalidArgumentError(f"group must be a function of a key, not {group!r}")
    part = what if isinstance(what, Face | ManagerFace) else client_of(what)
    client = client_behind(part)
    client.check()
    observers = client.one(Observers)
    instruments = instruments_of(meter_provider)
    tracer = trace.get_tracer("microlock", version("microlock"), tracer_provider)
    with changing:
        if any(each.what is part for each in observers.all if isinstance(each, Instrumentation)):
            raise InvalidArgumentError(f"{part!r} is instrumented already: end() that before")
        made = Instrumentation(part, observers, instruments, tracer, group)
        observers.add(made)
        instruments.all.add(made)
    return made
