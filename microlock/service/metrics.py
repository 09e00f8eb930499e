"""The answer of /metrics: `microlock.telemetry` for the locks of a service, for Prometheus."""

from __future__ import annotations

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.view import DropAggregation, View
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from microlock.engine.client import Client
from microlock.service.app import Metrics
from microlock.telemetry import instrument


def prometheus(client: Client) -> Metrics:
    """The metrics of a client's locks, from now on."""
    registry = CollectorRegistry()
    reader = PrometheusMetricReader(
        registry=registry, scope_info_enabled=False, disable_target_info=True
    )
    # A service sees only the beginning of a hold: metrics of its end would stay 0.
    no_holds = View(instrument_name="microlock.hold.*", aggregation=DropAggregation())
    provider = MeterProvider([reader], shutdown_on_exit=False, views=[no_holds])
    instrument(client, meter_provider=provider)
    return lambda: (generate_latest(registry), CONTENT_TYPE_LATEST)
