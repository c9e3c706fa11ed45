"""The counters in Prometheus' formats. Imported when first needed: it needs an extra."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from miner.core._typing import override
from miner.gateway.counters import Histogram


def encode(metrics: list[Metric], accept: str | None) -> tuple[str, bytes]:
    """Content type and body of the response to a scraper that accepts this, with the metrics of the process: those are
    read from files.
    """
    registry = CollectorRegistry()
    registry.register(_Collected(metrics))
    ProcessCollector(registry=registry)
    to_text, content_type = choose_encoder(accept or "")
    return content_type, to_text(registry)


def metric_of(
    name: str, kind: Literal["counter", "gauge", "histogram"], text: str, labels: tuple[str, ...],
    samples: Iterable[tuple[Sequence[str], float | Histogram]],
) -> Metric:  # fmt: skip
    """Read the counters of a metric: on the event loop, where they change."""
    if kind == "histogram":
        histogram = HistogramMetricFamily(name, text, labels=labels)
        for values, value in samples:
            assert isinstance(value, Histogram)
            histogram.add_metric(values, value.buckets(), value.total)
        return histogram
    metric = (CounterMetricFamily if kind == "counter" else GaugeMetricFamily)(name, text, labels=labels)
    for values, value in samples:
        assert not isinstance(value, Histogram)
        metric.add_metric(values, value)
    return metric


class _Collected(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    @override
    def collect(self) -> Iterable[Metric]:
        return self._metrics
