"""The table of all metrics, and the counters in Prometheus' formats. Imported when first needed: it needs an extra.

Names follow OpenTelemetry's semantic conventions for generative AI and HTTP, in Prometheus' spelling, where there is
one; the others begin with `miner_`.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from miner.core._typing import override
from miner.core.wire import EngineStatus
from miner.gateway.counters import Counters, Histogram
from miner.gateway.state import Gateway


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric."""

    type: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


_Sample = tuple[Sequence[str], float | Histogram]
_GEN_AI = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
METRICS = {
    "http_server_request_duration_seconds": MetricSpec(
        "histogram", "Duration of HTTP requests.",
        ("http_route", "http_request_method", "http_response_status_code"),
    ),
    "gen_ai_server_request_duration_seconds": MetricSpec(
        "histogram", "Duration of requests to a model, from the headers of the request to the end of the "
        "response. error_type is empty for those that succeeded.", (*_GEN_AI, "error_type"),
    ),
    "gen_ai_server_time_to_first_token_seconds": MetricSpec(
        "histogram", "From the headers of a streamed request to its first token.", _GEN_AI
    ),
    "gen_ai_server_time_per_output_token_seconds": MetricSpec(
        "histogram", "Between tokens of a stream after the first, as the backend sends them.",
        _GEN_AI,
    ),
    "gen_ai_client_token_usage": MetricSpec(
        "histogram", "Tokens per request, input or output.", (*_GEN_AI, "gen_ai_token_type")
    ),
    "miner_request_queue_time_seconds": MetricSpec("histogram", "Time that requests waited for a slot at the backend."),
    "miner_requests_running": MetricSpec("gauge", "Requests that the backend works on."),
    "miner_requests_queued": MetricSpec("gauge", "Requests that wait for a slot at the backend."),
    "miner_request_slots": MetricSpec("gauge", "Requests that the backend may work on at once."),
    "miner_client_disconnects": MetricSpec(
        "counter", "Clients that disconnected before their response was complete."
    ),
    "miner_backend_up": MetricSpec("gauge", "Whether the backend can serve."),
    "miner_engine_starts": MetricSpec("counter", "Engine processes seen to start.", ("model",)),
    "miner_engine_state": MetricSpec("gauge", "1 for the state of an engine.", ("model", "state")),
    "miner_engine_resident_memory_bytes": MetricSpec(
        "gauge", "Resident memory of an engine process.", ("model",)
    ),
    "miner_engine_slots_busy": MetricSpec("gauge", "Requests that an engine works on.", ("model",)),
    "miner_engine_restarts": MetricSpec("counter", "Restarts of an engine after a failure.", ("model",)),
}  # fmt: skip
"""All metrics by name, besides those of the process (`process_*`). Prometheus adds `_total` to names of counters."""


async def exposition(
    gateway: Gateway, counters: Counters, engines: Sequence[EngineStatus], up: bool, accept: str | None
) -> tuple[str, bytes]:
    """Content type and body of the response to a scraper that accepts this."""
    # Counters change on the event loop, so they are read there; the metrics of the process are files.
    samples: defaultdict[str, list[_Sample]] = defaultdict(list)
    for name, *labels, value in _samples(gateway, counters, engines, up):
        samples[name].append((labels, value))
    families = [_family(name, spec, samples[name]) for name, spec in METRICS.items()]
    return await asyncio.to_thread(_encode, families, accept)


def _samples(
    gateway: Gateway, counters: Counters, engines: Sequence[EngineStatus], up: bool
) -> Iterator[tuple[str, *tuple[str, ...], float | Histogram]]:
    """Names, labels and values."""
    for (route, method, status), duration in counters.requests.items():
        yield "http_server_request_duration_seconds", route, method, str(status), duration
    provider = gateway.service.name
    for (operation, model), counted in counters.models.items():
        labels = operation, provider, model
        for error_type, duration in counted.duration.items():
            yield "gen_ai_server_request_duration_seconds", *labels, error_type, duration
        yield "gen_ai_server_time_to_first_token_seconds", *labels, counted.time_to_first_token
        yield "gen_ai_server_time_per_output_token_seconds", *labels, counted.time_per_output_token
        yield "gen_ai_client_token_usage", *labels, "input", counted.input_tokens
        yield "gen_ai_client_token_usage", *labels, "output", counted.output_tokens
    queue = gateway.queue
    queued_at_backend = queue.waiting_at_backend
    yield "miner_request_queue_time_seconds", counters.queue_time
    yield "miner_requests_running", len(gateway.running) - queued_at_backend
    yield "miner_requests_queued", queue.waiting + queued_at_backend
    yield "miner_request_slots", queue.permits.limit
    yield "miner_client_disconnects", counters.disconnects
    yield "miner_backend_up", float(up)
    for model, starts in counters.engine_starts.items():
        yield "miner_engine_starts", model, starts
    for engine in engines:
        yield "miner_engine_state", engine.model, engine.state, 1
        yield "miner_engine_resident_memory_bytes", engine.model, engine.memory or 0
        yield "miner_engine_slots_busy", engine.model, engine.slots_busy
        yield "miner_engine_restarts", engine.model, engine.restarts


def _family(name: str, spec: MetricSpec, samples: Iterable[_Sample]) -> Metric:
    if spec.type == "histogram":
        histogram = HistogramMetricFamily(name, spec.help, labels=spec.labels)
        for labels, value in samples:
            assert isinstance(value, Histogram)
            histogram.add_metric(labels, value.buckets(), value.total)
        return histogram
    family = (CounterMetricFamily if spec.type == "counter" else GaugeMetricFamily)(name, spec.help, labels=spec.labels)
    for labels, value in samples:
        assert not isinstance(value, Histogram)
        family.add_metric(labels, value)
    return family


class _Collected(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    @override
    def collect(self) -> Iterable[Metric]:
        return self._families


def _encode(families: list[Metric], accept: str | None) -> tuple[str, bytes]:
    registry = CollectorRegistry()
    registry.register(_Collected(families))
    ProcessCollector(registry=registry)
    encode, content_type = choose_encoder(accept or "")
    return content_type, encode(registry)
