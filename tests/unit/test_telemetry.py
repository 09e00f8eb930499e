"""What OpenTelemetry gets of the locks of a client, of either face."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from prometheus_client import CollectorRegistry, generate_latest

import microlock
import microlock.asyncio
from microlock import (
    AlreadyLockedError,
    DestroyedError,
    InvalidArgumentError,
    LockCancelledError,
    LockManager,
    LockUncertainError,
    Microlock,
    StoreError,
)
from microlock.telemetry import instrument
from microlock.testing import MemoryStore

DOCS = Path(__file__).parents[2] / "docs"


class Sdk:
    """OpenTelemetry, and what it got."""

    def __init__(self) -> None:
        self.spans = InMemorySpanExporter()
        self.metrics = InMemoryMetricReader()
        self.meters = MeterProvider([self.metrics], shutdown_on_exit=False)
        self.traces = TracerProvider(shutdown_on_exit=False)
        self.traces.add_span_processor(SimpleSpanProcessor(self.spans))

    @property
    def providers(self) -> dict[str, Any]:
        return {"meter_provider": self.meters, "tracer_provider": self.traces}

    def points(self, name: str) -> list[Any]:
        data = self.metrics.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == f"microlock.{name}"
            for point in metric.data.data_points
        ]

    def values(self, name: str, by: str = "kind") -> dict[Any, float]:
        """Values by an attribute, without those that are 0; of a histogram the sums of seconds."""
        return {
            point.attributes.get(f"microlock.{by}"): getattr(point, "value", None) or point.sum
            for point in self.points(name)
            if getattr(point, "value", 1)
        }

    def span(self, name: str) -> ReadableSpan:
        (found,) = (
            each for each in self.spans.get_finished_spans() if each.name == f"microlock.{name}"
        )
        return found


def seconds(span: ReadableSpan) -> float:
    assert span.end_time
    assert span.start_time
    return (span.end_time - span.start_time) / 1e9


@pytest.fixture
def sdk() -> Sdk:
    return Sdk()


@pytest.fixture
def store() -> Iterator[MemoryStore]:
    with MemoryStore() as store:
        yield store


def test_a_wait_and_a_hold_are_measured_by_the_clock_of_the_client(store, sdk):
    one, two = store.connect(), store.connect()
    other = Microlock(one, "foo", "other", ttl=30)
    other.lock()
    instrument(two, **sdk.providers)
    foo = Microlock(two, "foo", "node", ttl=60)
    began = store.clock.now()
    foo.lock(timeout=60)
    waited = store.clock.now() - began
    store.advance(7)
    foo.unlock()
    store.advance(0)
    assert sdk.values("wait.duration") == {"mutex": pytest.approx(waited)}
    assert sdk.values("wait.duration", "wait.outcome").keys() == {"acquired"}
    assert sdk.values("hold.duration") == {"mutex": 7}
    wait, hold = sdk.span("wait"), sdk.span("hold")
    assert seconds(wait) == pytest.approx(waited, abs=1e-6)
    assert seconds(hold) == pytest.approx(7, abs=1e-6)
    assert wait.attributes
    assert dict(wait.attributes) == {
        "microlock.key": "foo",
        "microlock.node_id": "node",
        "microlock.kind": "mutex",
        "microlock.token": foo._status.hold.token,
        "microlock.attempts": 1,
        "microlock.wait.outcome": "acquired",
    }
    assert not sdk.values("hold.losses")


def test_what_rises_later_is_there_with_0_from_the_first_hold_on(store, sdk):
    client = store.connect()
    instrument(client, **sdk.providers)
    foo = Microlock(client, "foo", "node", ttl=9)
    foo.lock()
    store.advance(0)
    assert [each.value for each in sdk.points("hold.losses")] == [0, 0, 0, 0]
    assert [each.value for each in sdk.points("hold.suspensions")] == [0]
    foo.unlock()
    store.advance(0)
    assert [each.value for each in sdk.points("hold.count")] == [0]


def test_holds_and_waits_are_counted_as_they_are_now(store, sdk):
    client = store.connect()
    instrument(client, **sdk.providers)
    foo = Microlock(client, "foo", "node", ttl=9, auto_renew=True)
    assert sdk.values("hold.count") == {}
    foo.lock()
    store.advance(0)
    assert sdk.values("hold.count", "hold.state") == {"held": 1}
    with store.unavailable():
        store.advance(6)
        assert sdk.values("hold.count", "hold.state") == {"suspended": 1}
        assert sdk.values("hold.suspensions") == {"mutex": 1}
        store.advance(3)
        assert sdk.values("hold.count") == {}
    assert sdk.values("hold.losses", "loss.reason") == {"expired": 1}
    hold = sdk.span("hold")
    assert hold.status.status_code is StatusCode.ERROR
    assert [each.name for each in hold.events] == ["microlock.suspended"]


def test_a_task_that_waits_is_counted_until_it_is_cancelled_and_then_has_given_up(store, sdk):
    async def main() -> None:
        client = store.connect()
        instrument(client, **sdk.providers)
        one, two = (microlock.asyncio.Microlock(client, "foo", name, ttl=9) for name in "ab")
        await one.lock()
        waiter = asyncio.create_task(two.lock(timeout=None))
        await store.advance_async(1)
        assert sdk.values("wait.count") == {"mutex": 1}
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await store.until(waiter)
        assert sdk.values("wait.count") == {}
        assert sdk.values("wait.duration", "wait.outcome")["given_up"] > 0
        await one.unlock()
        await store.advance_async(0)
        assert sdk.values("hold.duration") == {"mutex": 1}

    asyncio.run(main())


def test_each_outcome_of_a_wait_is_told_apart(store, sdk):
    client = store.connect(timeout=2)
    instrument(client, **sdk.providers)
    held, foo = (Microlock(client, "foo", name, ttl=60) for name in "ab")
    held.lock()
    with pytest.raises(AlreadyLockedError):
        foo.lock()
    with pytest.raises(AlreadyLockedError):
        foo.lock(timeout=10)
    foo.on("waiting", foo.cancel)
    with pytest.raises(LockCancelledError):
        foo.lock(timeout=10)
    with store.unavailable(), pytest.raises(StoreError):
        foo.lock()
    store.advance(0)
    counts = {
        (each.attributes["microlock.wait.outcome"], each.attributes.get("error.type")): each.count
        for each in sdk.points("wait.duration")
    }
    assert counts == {
        ("acquired", None): 1,
        ("refused", None): 1,
        ("given_up", None): 2,
        ("failed", "StoreUnavailableError"): 1,
    }
    failed = [
        each
        for each in sdk.spans.get_finished_spans()
        if each.status.status_code is StatusCode.ERROR
    ]
    assert [each.attributes and each.attributes["error.type"] for each in failed] == [
        "StoreUnavailableError"
    ]


def test_renewals_are_counted(store, sdk):
    client = store.connect()
    instrument(client, **sdk.providers)
    foo = Microlock(client, "foo", "node", ttl=9)
    foo.lock()
    foo.renew()
    foo.extend(20)
    store.advance(0)
    assert sdk.values("hold.renewals") == {"mutex": 2}


def test_every_kind_of_either_face_has_its_name(store, sdk):
    client = store.connect()
    instrument(client, **sdk.providers)

    def of(face: Any) -> list[Any]:
        manager = face.LockManager(client, "node", prefix=face.__name__, ttl=60)
        return [
            *(manager.create("a"), manager.semaphore("b", 2), manager.read("c")),
            *(manager.write("d"), manager.many(["e", "f"]), manager.election("g")),
        ]

    async def main() -> None:
        for lock in here:
            await lock.lock()

    plain, here = of(microlock), of(microlock.asyncio)
    for lock in plain:
        lock.lock()
    asyncio.run(main())
    store.advance(0)
    kinds = "mutex", "semaphore", "read", "write", "multi", "election"
    assert sdk.values("hold.count") == dict.fromkeys(kinds, 2)


def test_spans_are_children_of_what_the_caller_does(store, sdk):
    client = store.connect()
    instrument(client, **sdk.providers)
    tracer = sdk.traces.get_tracer("test")

    async def task() -> int:
        bar = microlock.asyncio.Microlock(client, "bar", "node", ttl=9)
        with tracer.start_as_current_span("task") as span:
            async with bar:
                pass
        return span.get_span_context().span_id

    with tracer.start_as_current_span("request") as request:
        foo = Microlock(client, "foo", "node", ttl=9)
        foo.lock()
    foo.unlock()
    of_task = asyncio.run(task())
    store.advance(0)
    parents = {
        (each.name, each.attributes["microlock.key"]): each.parent and each.parent.span_id
        for each in sdk.spans.get_finished_spans()
        if each.attributes
    }
    of_request = request.get_span_context().span_id
    assert parents == {
        ("microlock.wait", "foo"): of_request,
        ("microlock.hold", "foo"): of_request,
        ("microlock.wait", "bar"): of_task,
        ("microlock.hold", "bar"): of_task,
    }


def test_the_key_is_no_attribute_of_a_metric_unless_it_is_grouped(store, sdk):
    client = store.connect()
    instrument(client, group=lambda key: key.partition("/")[0], **sdk.providers)
    plain, grouped = Sdk(), sdk
    other = store.connect()
    instrument(other, **plain.providers)
    for each in (client, other):
        for number in range(3):
            Microlock(each, f"user/{number}-{id(each)}", "node", ttl=9).lock()
    store.advance(0)
    assert {frozenset(each.attributes) for each in plain.points("wait.duration")} == {
        frozenset({"microlock.kind", "microlock.wait.outcome"})
    }
    (point,) = grouped.points("wait.duration")
    assert (point.attributes["microlock.group"], point.count) == ("user", 3)


def test_a_lock_alone_or_those_of_a_manager_are_recorded_once(store, sdk):
    client = store.connect()
    foo, bar = (Microlock(client, key, "node", ttl=9) for key in ("foo", "bar"))
    of_foo, of_jobs, of_all = sdk, Sdk(), Sdk()
    instrument(foo, **of_foo.providers)
    manager = LockManager(client, "node", prefix="jobs/", ttl=9)
    instrument(manager, **of_jobs.providers)
    instrument(client, **of_all.providers)
    theirs = Microlock(client, "jobs/d", "another node", ttl=9)
    for lock in (foo, bar, manager.create("a"), manager.many(["b", "c"]), theirs):
        with lock:
            pass
    store.advance(0)
    keys = [
        [
            each.attributes["microlock.key"]
            for each in of.spans.get_finished_spans()
            if each.attributes and each.name == "microlock.hold"
        ]
        for of in (of_foo, of_jobs, of_all)
    ]
    assert keys == [["foo"], ["jobs/a", "jobs/b, jobs/c"], ["bar", "jobs/d"]]


def test_instrumenting_twice_is_refused_until_the_first_has_ended(store, sdk):
    client = store.connect()
    first = instrument(client, **sdk.providers)
    with pytest.raises(InvalidArgumentError, match="is instrumented already"):
        instrument(client)
    foo = Microlock(client, "foo", "node", ttl=9)
    foo.lock()
    first.end()
    assert len(sdk.spans.get_finished_spans()) == 2  # the hold as far as it went
    assert sdk.values("hold.count") == {}
    assert client.observers is None
    with instrument(client, **sdk.providers):
        foo.renew()
        store.advance(0)
        assert sdk.values("hold.count") == {"mutex": 1}
    first.end()


@pytest.mark.parametrize("what", [None, "localhost:2379", object()])
def test_what_has_no_locks_is_refused(what):
    with pytest.raises(InvalidArgumentError, match="etcd must be"):
        instrument(what)


def test_a_wrong_group_and_a_closed_client_are_refused(store):
    client = store.connect()
    with pytest.raises(InvalidArgumentError, match="group must be a function of a key, not 'a'"):
        instrument(client, group="a")  # type: ignore[arg-type]
    client.close()
    with pytest.raises(DestroyedError):
        instrument(client)


def test_a_meter_that_fails_harms_no_lock_and_is_logged_once(store, sdk, caplog):
    def fails(key: str) -> str:
        raise SystemExit(f"no group of {key}")

    client = store.connect()
    instrument(client, group=fails, **sdk.providers)
    foo = Microlock(client, "foo", "node", ttl=9)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            foo.lock()
            foo.unlock()
        store.advance(0)
    assert [each.getMessage() for each in caplog.records if each.name == "microlock"] == [
        f"<Instrumentation of {client!r}> can't record the event 'acquired' of the lock 'foo'"
    ]


def test_a_tracer_that_hangs_holds_up_no_lock_and_no_handler(sdk):
    class Hangs(SimpleSpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            hung.set()
            goes_on.wait(60)

    hung, goes_on, told = threading.Event(), threading.Event(), threading.Event()
    sdk.traces.add_span_processor(Hangs(sdk.spans))
    with microlock.connect("memory://") as client:
        instrument(client, **sdk.providers)
        foo = Microlock(client, "foo", "node", ttl=60)
        foo.on("released", told.set)
        with foo:
            assert hung.wait(60)
        assert told.wait(60)
        goes_on.set()


def test_a_hold_whose_end_is_in_doubt_is_not_counted(store, sdk):
    client = store.connect()
    instrument(client, **sdk.providers)
    foo = Microlock(client, "foo", "node", ttl=9)
    foo.lock()
    with store.lose_reply(times=None), pytest.raises(LockUncertainError):
        foo.unlock()
    assert sdk.values("hold.count") == {}
    store.advance(9)
    foo.lock()
    store.advance(0)
    assert sdk.span("hold")  # ended by the next
    assert sdk.values("hold.count") == {"mutex": 1}


def test_a_lock_that_is_dropped_is_forgotten(store, sdk):
    client = store.connect()
    instrument(client, **sdk.providers)
    foo = Microlock(client, "foo", "node", ttl=9)
    foo.lock()
    store.advance(0)
    del foo
    gc.collect()
    assert sdk.values("hold.count") == {}
    Microlock(client, "bar", "node", ttl=9).lock()
    store.advance(0)
    assert {each.name for each in sdk.spans.get_finished_spans() if _of(each, "foo")} == {
        "microlock.wait",
        "microlock.hold",
    }


def _of(span: ReadableSpan, key: str) -> bool:
    return bool(span.attributes) and span.attributes["microlock.key"] == key


def test_what_happened_before_the_client_is_closed_is_recorded(sdk):
    def slowly(key: str) -> str:
        time.sleep(0.05)
        return key

    with microlock.connect("memory://") as client:
        instrument(client, group=slowly, **sdk.providers)
        with Microlock(client, "foo", "node", ttl=60):
            pass
    assert sdk.points("hold.duration")
    assert client.observers is None


def test_users_who_remove_their_listeners_do_not_end_it(store, sdk):
    client = store.connect()
    instrument(client, **sdk.providers)
    foo = Microlock(client, "foo", "node", ttl=9)
    foo.remove_all_listeners()
    with foo:
        pass
    foo.destroy()
    store.advance(0)
    assert sdk.values("hold.duration") == {"mutex": 0}


# What docs/ says.


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """All that Prometheus gets: names of series, with their labels."""
    registry = CollectorRegistry()
    reader = PrometheusMetricReader(registry=registry, scope_info_enabled=False)
    meters = MeterProvider([reader], shutdown_on_exit=False)
    with MemoryStore() as store:
        client = store.connect()
        instrument(client, meter_provider=meters, group=lambda key: key)
        foo, bar = (Microlock(client, "foo", name, ttl=9, auto_renew=True) for name in "ab")
        foo.lock()
        foo.renew()
        bar.on("waiting", lambda: texts.append(generate_latest(registry).decode()))
        texts: list[str] = []
        with pytest.raises(AlreadyLockedError):
            bar.lock(timeout=1)
        with store.unavailable():
            with pytest.raises(StoreError):
                bar.lock()
            store.advance(10)
        texts.append(generate_latest(registry).decode())
    series: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? ", "\n".join(texts), re.MULTILINE):
        series.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return series


def used(expression: str) -> tuple[set[str], set[str]]:
    """The names of series, and of labels, in an expression of PromQL."""
    names = set(re.findall(r"\bmicrolock_\w+(?=[\[{)\s]|$)", expression))
    labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression))
    for by in re.findall(r"\bby\s*\(([^)]*)\)", expression):
        labels |= set(re.findall(r"\w+", by))
    return names - labels, labels


def expressions() -> list[Any]:
    dashboard = json.loads((DOCS / "dashboards/microlock.json").read_text())
    alerts = yaml.safe_load((DOCS / "dashboards/alerts.yml").read_text())
    found = [
        *((each["title"], of["expr"]) for each in dashboard["panels"] for of in each["targets"]),
        *((each["alert"], each["expr"]) for group in alerts["groups"] for each in group["rules"]),
    ]
    return [pytest.param(expression, id=name) for name, expression in found]


@pytest.mark.parametrize("expression", expressions())
def test_what_dashboard_and_alerts_ask_for_is_exported(exported, expression):
    names, labels = used(expression)
    assert names
    assert names <= set(exported)
    of_targets = {"instance", "job", "le"}
    assert labels - of_targets <= set().union(*(exported[each] for each in names))


def test_the_page_has_all_metrics_with_their_names_in_prometheus(exported):
    page = (DOCS / "telemetry.md").read_text()
    rows = re.findall(r"^\| `(microlock\.[\w.]+)` \| `(microlock_\w+)` \|", page, re.MULTILINE)
    series = {re.sub("_(bucket|sum|count|created)$", "", each) for each in exported}
    said = {re.sub("_(count)$", "", name) for _, name in rows}
    assert said == {each for each in series if each.startswith("microlock_")}


def test_the_example_of_the_page_runs():
    (block,) = re.findall(r"```python\n(.*?)```", (DOCS / "telemetry.md").read_text(), re.DOTALL)
    written = io.StringIO()
    exec(block.replace("Exporter()", "Exporter(out=written)"), {"written": written})
    assert "microlock.hold.duration" in written.getvalue()
