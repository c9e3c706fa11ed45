"""Exposition: what was counted, in Prometheus' forms. Imported when it is first asked for: it needs an extra."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from miner.core._typing import override

if TYPE_CHECKING:
    from miner.core.wire import EngineStatus
    from miner.gateway.middleware.metrics import Metrics
    from miner.gateway.state import Gateway

__all__ = ["exposed"]


async def exposed(
    gateway: Gateway, counted: Metrics, engines: list[EngineStatus], up: bool, accept: str | None
) -> tuple[str, bytes]:
    """Content type and body of an answer to a scraper that accepts this."""
    # Counters change on the event loop, so they are read there; what the system knows of the process are files.
    families = [
        *_requests(gateway, counted), *_models(gateway, counted), *_engines(counted, engines),
        _gauge("miner_backend_up", "Whether the backend can serve.", float(up)),
    ]  # fmt: skip
    return await asyncio.to_thread(_written, families, accept)


def _written(families: list[Metric], accept: str | None) -> tuple[str, bytes]:
    registry = CollectorRegistry()
    registry.register(_Collected(families))
    ProcessCollector(registry=registry)
    encode, content_type = choose_encoder(accept or "")
    return content_type, encode(registry)


class _Collected(Collector):
    def __init__(self, found: list[Metric]) -> None:
        self._found = found

    @override
    def collect(self) -> Iterable[Metric]:
        return self._found


def _gauge(name: str, text: str, value: float) -> Metric:
    family = GaugeMetricFamily(name, text)
    family.add_metric([], value)
    return family


def _requests(gateway: Gateway, counted: Metrics) -> Iterator[Metric]:
    requests = CounterMetricFamily("miner_requests", "Requests answered.", labels=["route", "method", "status"])
    for (route, method, status), count in counted.requests.items():
        requests.add_metric([route, method, str(status)], count)
    yield requests
    seconds = HistogramMetricFamily("miner_request_seconds", "From the head of a request to its end.", labels=["route"])
    for route, histogram in counted.seconds.items():
        seconds.add_metric([route], histogram.buckets(), histogram.total)
    yield seconds
    queue = HistogramMetricFamily("miner_queue_seconds", "Time that requests waited for a slot at the backend.")
    queue.add_metric([], counted.queue.buckets(), counted.queue.total)
    yield queue
    hung_up = CounterMetricFamily("miner_hangups", "Clients that left before their answer was out.")
    hung_up.add_metric([], counted.cancelled)
    yield hung_up
    backend = counted.limiter.queue if counted.limiter is not None else None
    at_backend = backend.waiting_at_backend if backend else 0
    waiting, limit = (at_backend + backend.waiting, backend.permits.limit) if backend else (0, 0)
    yield _gauge("miner_requests_running", "Requests that the backend works on.", len(gateway.running) - at_backend)
    yield _gauge("miner_requests_queued", "Requests that wait for a slot at the backend.", waiting)
    yield _gauge("miner_turns", "Requests that the backend may work on at once.", limit)


def _models(gateway: Gateway, counted: Metrics) -> Iterator[Metric]:
    labels, backend = ["backend", "model"], gateway.service.name
    first = HistogramMetricFamily(
        "miner_time_to_first_token_seconds", "From the head of a streamed request to its first token.", labels=labels
    )
    between = HistogramMetricFamily(
        "miner_time_between_tokens_seconds", "Between tokens of a stream as they came from the backend.", labels=labels
    )
    tokens_in = CounterMetricFamily("miner_prompt_tokens", "Tokens of prompts.", labels=labels)
    tokens_out = CounterMetricFamily("miner_completion_tokens", "Tokens of replies.", labels=labels)
    cancelled = CounterMetricFamily("miner_cancelled", "Generations whose client left.", labels=labels)
    for model, series in counted.models.items():
        names = [backend, model]
        first.add_metric(names, series.first.buckets(), series.first.total)
        between.add_metric(names, series.between.buckets(), series.between.total)
        tokens_in.add_metric(names, series.tokens_in)
        tokens_out.add_metric(names, series.tokens_out)
        cancelled.add_metric(names, series.cancelled)
    yield from (first, between, tokens_in, tokens_out, cancelled)


def _engines(counted: Metrics, engines: list[EngineStatus]) -> Iterator[Metric]:
    loads = CounterMetricFamily("miner_model_loads", "Engines of ours seen to start, by model.", labels=["model"])
    for model, count in counted.loads.items():
        loads.add_metric([model], count)
    yield loads
    states = GaugeMetricFamily("miner_engines", "Engines of ours by state.", labels=["model", "state"])
    memory = GaugeMetricFamily("miner_engine_memory_bytes", "Resident memory of an engine.", labels=["model"])
    busy = GaugeMetricFamily("miner_engine_slots_busy", "Requests that an engine works on.", labels=["model"])
    restarts = CounterMetricFamily("miner_engine_restarts", "Engines that had to be started again.", labels=["model"])
    for engine in engines:
        states.add_metric([engine.model, engine.state], 1)
        memory.add_metric([engine.model], engine.memory or 0)
        busy.add_metric([engine.model], engine.slots_busy)
        restarts.add_metric([engine.model], engine.restarts)
    yield from (states, memory, busy, restarts)
