"""Metrics: counts requests as they go by; `endpoints/metrics.py` shows the counters."""

from __future__ import annotations

import asyncio

from miner.core._typing import override
from miner.core.wire import LLMChunk
from miner.gateway.context import RequestContext
from miner.gateway.counters import Counters
from miner.gateway.errors import failure_of
from miner.gateway.middleware.base import Middleware
from miner.gateway.state import Gateway
from miner.gateway.telemetry import conventions as names


class Metrics(Middleware):
    """Fills the counters of the gateway."""

    def __init__(self) -> None:
        self.counters = Counters()

    @override
    async def on_startup(self, gateway: Gateway) -> None:
        gateway.counters = self.counters

    @override
    def on_chunks(self, context: RequestContext, chunks: list[LLMChunk]) -> None:
        now, counters = context.last_token_at, context.model_counters
        assert now is not None
        if counters is None or context.previous_token_at is None:
            label = self.counters.labels.served(_model_of(context))
            counters = context.model_counters = self.counters.models[operation_of(context), label]
            counters.time_to_first_token.observe(now - context.started_at)
            return
        count = len(chunks)
        counters.time_per_output_token.observe((now - context.previous_token_at) / count, count)

    @override
    def on_finish(self, context: RequestContext) -> None:
        counters, route = self.counters, context.route
        seconds = asyncio.get_running_loop().time() - context.started_at
        # A client can invent paths and methods; those of the table are known.
        path, method = ("unmatched", "other") if route.is_fallback else (route.path, route.method)
        counters.requests[path, method, context.status or 200].observe(seconds)
        if context.queue_seconds is not None:
            counters.queue_time.observe(context.queue_seconds)
        counters.disconnects += context.disconnected
        call = context.call
        if call is not None and (call.arguments or call.items):  # else it only loads a model or counts tokens
            self._count_call(context, seconds)

    def _count_call(self, context: RequestContext, seconds: float) -> None:
        name, labels, usage = _model_of(context), self.counters.labels, context.reported_usage
        served = context.first_token_at is not None or context.status == 200
        label = labels.served(name) if served else labels.requested(name)
        counters = self.counters.models[operation_of(context), label]
        counters.duration[error_type(context)].observe(seconds)
        if context.cost:
            self.counters.cost[label] += context.cost
        if usage is not None:
            counters.input_tokens.observe(usage.prompt_tokens)
            counters.output_tokens.observe(usage.completion_tokens)
        elif context.chunks:
            counters.output_tokens.observe(context.chunks)  # it broke off, or the backend does not count


_OPERATIONS = {
    "/v1/embeddings": names.EMBEDDINGS, "/api/embed": names.EMBEDDINGS, "/api/embeddings": names.EMBEDDINGS,
    "/v1/completions": names.TEXT_COMPLETION, "/api/generate": names.TEXT_COMPLETION, "/v1/rerank": names.RERANK,
}  # fmt: skip
"""Route -> operation; all others are `chat`."""


def operation_of(context: RequestContext) -> str:
    """What a request wants of a model, in the conventions' words."""
    return _OPERATIONS.get(context.route.canonical or context.route.path, names.CHAT)


def error_type(context: RequestContext) -> str:
    """Why a request failed, in the conventions' sense: an error code, or "cancelled"; "": it did not."""
    if context.disconnected:
        return names.CANCELLED
    return failure_of(context.error).code if context.error is not None else ""


def _model_of(context: RequestContext) -> str:
    """The name under which a request is counted: the model's own where the operator has named the models."""
    if context.rules.names and context.rules.name is not None:
        return context.served or context.rules.name
    name = context.call.model if context.call is not None else None
    return name or context.gateway.service.rules_of(None).name or "default"
