"""The values of all metrics as OpenTelemetry's data points: the same numbers that `/metrics` shows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import Histogram as HistogramData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from miner import __version__
from miner.gateway.counters import Histogram, Samples
from miner.gateway.telemetry import conventions as names
from miner.gateway.telemetry.metric_table import SPECS, MetricSpec

_UNMATCHED, _OTHER = "unmatched", "other"
"""How `/metrics` names the route and the method of a request that no route has."""


def metrics_data(samples: Samples, resource: Resource, started_at: int) -> MetricsData:
    """All samples as one export.

    Args:
        resource: who sends it.
        started_at: since when is counted, in nanoseconds since 1970.
    """
    now = time.time_ns()
    metrics = [
        Metric(name, spec.help, spec.unit, _data(spec, samples[spec.prometheus_name], started_at, now))
        for name, spec in SPECS.items()
        if spec.prometheus_name in samples
    ]
    scope = ScopeMetrics(InstrumentationScope("miner.gateway", __version__), metrics, "")
    return MetricsData([ResourceMetrics(resource, [scope], "")])


def _data(
    spec: MetricSpec, samples: Sequence[tuple[Sequence[str], float | Histogram]], started_at: int, now: int
) -> Gauge | Sum | HistogramData:
    total = AggregationTemporality.CUMULATIVE
    if spec.type == "histogram":
        return HistogramData(list(_histograms(spec, samples, started_at, now)), total)
    points = [
        NumberDataPoint(_attributes(spec, labels), started_at, now, value)
        for labels, value in samples
        if not isinstance(value, Histogram)
    ]
    return Gauge(points) if spec.type == "gauge" else Sum(points, total, True)


def _histograms(
    spec: MetricSpec, samples: Sequence[tuple[Sequence[str], float | Histogram]], started_at: int, now: int
) -> Iterator[HistogramDataPoint]:
    for labels, value in samples:
        if isinstance(value, Histogram):
            # Smallest and largest are not counted: a histogram may leave them out.
            yield HistogramDataPoint(
                _attributes(spec, labels), started_at, now, value.count, value.total, list(value.counts),
                value.bounds, None, None,  # type: ignore[arg-type]
            )  # fmt: skip


def _attributes(spec: MetricSpec, labels: Sequence[str]) -> dict[str, Any]:
    """The labels as the conventions want them; an empty one is none."""
    attributes: dict[str, Any] = {name: label for name, label in zip(spec.attributes, labels, strict=True) if label}
    if spec.name != names.HTTP_REQUEST_DURATION:
        return attributes
    attributes[names.URL_SCHEME] = "http"  # what is in front of the gateway may speak TLS; it does not
    status = attributes[names.HTTP_STATUS] = int(attributes[names.HTTP_STATUS])
    if status >= 500:
        attributes[names.ERROR_TYPE] = str(status)
    if attributes[names.HTTP_ROUTE] == _UNMATCHED:
        del attributes[names.HTTP_ROUTE]
    if attributes[names.HTTP_METHOD] == _OTHER:
        attributes[names.HTTP_METHOD] = names.HTTP_OTHER_METHOD
    return attributes
