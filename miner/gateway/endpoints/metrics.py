"""`/metrics`, for Prometheus: the table of all metrics, and their values.

Names follow OpenTelemetry's semantic conventions for generative AI and HTTP, in Prometheus' spelling, where there is
one; the others begin with `miner_`.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from aiohttp import web

from miner.core.wire import EngineStatus
from miner.gateway.context import RequestContext
from miner.gateway.counters import Counters, Histogram
from miner.gateway.errors import RefusedError
from miner.gateway.state import Gateway

_HEALTH_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric."""

    type: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


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
    "miner_cost": MetricSpec(
        "counter", "What the tokens of models with a price cost, in the currency of miner.toml.", ("model",)
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


async def metrics(context: RequestContext) -> web.StreamResponse:
    """The counters, in the format that the scraper prefers.

    Raises:
        RefusedError: 501 without `prometheus_client` or where nothing is counted.
    """
    gateway, counters = context.gateway, context.gateway.counters
    try:
        from miner.gateway.endpoints.prometheus import encode, metric_of
    except ImportError:
        counters = None
    if counters is None:
        raise RefusedError(
            501, "no_metrics", "This server does not provide metrics.",
            operator_hint='`pip install "llm-service-backends[serve]"` adds them.',
        )  # fmt: skip
    engines: list[EngineStatus] = []
    up = False
    try:
        async with asyncio.timeout(_HEALTH_SECONDS):
            health = await gateway.health.current()
        engines, up = health.engines or [], bool(health)
    except TimeoutError:
        pass
    counters.count_engines(engines)
    samples: defaultdict[str, list[tuple[Sequence[str], float | Histogram]]] = defaultdict(list)
    for name, *labels, value in _samples(gateway, counters, engines, up):
        samples[name].append((labels, value))
    families = [metric_of(name, spec.type, spec.help, spec.labels, samples[name]) for name, spec in METRICS.items()]
    content_type, body = await asyncio.to_thread(encode, families, context.request.headers.get("Accept"))
    context.status = 200
    return web.Response(body=body, headers=context.headers(content_type))


def _samples(
    gateway: Gateway, counters: Counters, engines: Sequence[EngineStatus], up: bool
) -> Iterator[tuple[str, *tuple[str, ...], float | Histogram]]:
    """Names, labels and values."""
    for (route, method, status), duration in counters.requests.items():
        yield "http_server_request_duration_seconds", route, method, str(status), duration
    for (operation, model), counted in counters.models.items():
        labels = operation, gateway.service.backend_of(model).name, model
        for error_type, duration in counted.duration.items():
            yield "gen_ai_server_request_duration_seconds", *labels, error_type, duration
        yield "gen_ai_server_time_to_first_token_seconds", *labels, counted.time_to_first_token
        yield "gen_ai_server_time_per_output_token_seconds", *labels, counted.time_per_output_token
        yield "gen_ai_client_token_usage", *labels, "input", counted.input_tokens
        yield "gen_ai_client_token_usage", *labels, "output", counted.output_tokens
    for model, cost in counters.cost.items():
        yield "miner_cost", model, cost
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
