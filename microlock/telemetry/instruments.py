"""The instruments of a meter. A meter has each of them once, for all instrumentations."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Protocol
from weakref import WeakKeyDictionary, WeakSet, ref

from opentelemetry import metrics

Said = tuple[tuple[str, str], ...]  # attributes, as a key

# Seconds. Waits and holds take from a millisecond to hours.
_BOUNDARIES = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400),
)


class Counts(Protocol):
    """Counts holds and waits by their attributes. Any thread may ask."""

    def holds(self) -> Mapping[Said, int]:
        """The number of holds."""

    def waits(self) -> Mapping[Said, int]:
        """The number of locks that wait in a queue."""


class Instruments:
    """The instruments of one meter.

    Attributes:
        all: the instrumentations whose holds and waits are added up.
    """

    def __init__(self, provider: metrics.MeterProvider | None) -> None:
        self.all: WeakSet[Counts] = WeakSet()
        meter = metrics.get_meter("microlock", version("microlock"), provider)
        self.waited = meter.create_histogram(
            "microlock.wait.duration",
            unit="s",
            description="Time from lock() until the lock was obtained or the call gave up",
            explicit_bucket_boundaries_advisory=_BOUNDARIES,
        )
        self.held = meter.create_histogram(
            "microlock.hold.duration",
            unit="s",
            description="Time that a lock was held",
            explicit_bucket_boundaries_advisory=_BOUNDARIES,
        )
        self.losses = meter.create_counter(
            "microlock.hold.losses",
            unit="{loss}",
            description="Holds that ended without unlock()",
        )
        self.renewals = meter.create_counter(
            "microlock.hold.renewals", unit="{renewal}", description="Renewals of holds"
        )
        self.suspensions = meter.create_counter(
            "microlock.hold.suspensions",
            unit="{suspension}",
            description="Holds that became suspended: a renewal got no answer",
        )
        meter.create_observable_up_down_counter(
            "microlock.hold.count",
            [lambda _: self._sum(lambda each: each.holds())],
            unit="{hold}",
            description="Locks held now",
        )
        meter.create_observable_up_down_counter(
            "microlock.wait.count",
            [lambda _: self._sum(lambda each: each.waits())],
            unit="{wait}",
            description="Locks waiting in a queue now",
        )

    def _sum(self, count: Callable[[Counts], Mapping[Said, int]]) -> list[metrics.Observation]:
        with changing:
            present = list(self.all)
        found: Counter[Said] = Counter()
        for each in present:
            found.update(count(each))
        return [metrics.Observation(number, dict(said)) for said, number in found.items()]


# Guards the lists of instrumentations and instruments.
changing = threading.RLock()
_made: WeakKeyDictionary[object, ref[Instruments]] = WeakKeyDictionary()


def instruments_of(provider: metrics.MeterProvider | None) -> Instruments:
    """The instruments of a provider. Its meter keeps them alive, since it calls them."""
    # The global provider may be a proxy for one that is set later.
    given = provider is not None and provider is not metrics.get_meter_provider()
    key = provider if given else metrics.get_meter_provider
    with changing:
        made = _made.get(key)
        instruments = made() if made else None
        if instruments is None:
            instruments = Instruments(provider if given else None)
            _made[key] = ref(instruments)
        return instruments
