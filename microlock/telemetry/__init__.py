"""OpenTelemetry metrics and traces of locks, made from their events alone.

    from microlock.telemetry import instrument

    instrument(etcd)

It needs `pip install 'microlock[telemetry]'`. It costs nothing unless it is called.
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
    """Measures and traces locks of either face from now on.

    docs/telemetry.md lists what it records. If several instrumentations cover a lock, only the
    first records it. If a meter or a tracer fails or hangs, locks still work.

    Args:
        what: a client, for all its locks, also those made later; a lock; or a manager, for the
            locks of its node under its prefix.
        meter_provider, tracer_provider: None: the global ones.
        group: a function that returns the metric attribute `microlock.group` for a key. It should
            return few different values: `lambda key: key.split("/")[0]`. None: no such attribute.

    Returns:
        The instrumentation, for `end()` or a `with` block.

    Raises:
        InvalidArgumentError: an argument is wrong, or `what` is instrumented already.
        ClientRequiredError: `what` is not a client, a lock or a manager.
        DestroyedError, ForkedError: the client can't be used any more, or not in this process.
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
            raise InvalidArgumentError(
                f"{part!r} is instrumented already: call end() of that first"
            )
        made = Instrumentation(part, observers, instruments, tracer, group)
        observers.add(made)
        instruments.all.add(made)
    return made
