"""What /metrics answers: `microlock.telemetry` of the locks of a service, for Prometheus."""

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
    # Of a hold a service sees the beginning alone: a figure of its end would be 0 for ever.
    no_holds = View(instrument_name="microlock.hold.*", aggregation=DropAggregation())
    provider = MeterProvider([reader], shutdown_on_exit=False, views=[no_holds])
    instrument(client, meter_provider=provider)
    return lambda: (generate_latest(registry), CONTENT_TYPE_LATEST)
