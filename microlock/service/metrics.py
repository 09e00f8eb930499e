"""What /metrics answers: `microlock.telemetry` of the locks of a service, for Prometheus."""

from __future__ import annotations

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
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
    instrument(client, meter_provider=MeterProvider([reader], shutdown_on_exit=False))
    return lambda: (generate_latest(registry), CONTENT_TYPE_LATEST)
