"""Metrics: counts requests as they go by; `endpoints/metrics.py` shows the counters."""

from __future__ import annotations

import asyncio

from miner.core._typing import override
from miner.core.wire import LLMChunk
from miner.gateway.context import RequestContext
from miner.gateway.counters import Counters
from miner.gateway.middleware.base import Middleware
from miner.gateway.state import Gateway
from miner.gateway.telemetry.collect import Collector
from miner.gateway.telemetry.labels import error_type, model_of, operation_of


class Metrics(Middleware):
    """Fills the counters of the gateway."""

    def __init__(self) -> None:
        self.counters = Counters()

    @override
    async def on_startup(self, gateway: Gateway) -> None:
        gateway.counters = self.counters
        gateway.collector = Collector(gateway, self.counters)

    @override
    async def on_cleanup(self, gateway: Gateway) -> None:
        if gateway.collector is not None:
            await gateway.collector.close()

    @override
    def on_chunks(self, context: RequestContext, chunks: list[LLMChunk]) -> None:
        now, counters = context.last_token_at, context.model_counters
        assert now is not None
        if counters is None or context.previous_token_at is None:
            label = self.counters.labels.served(model_of(context))
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
        name, labels, usage = model_of(context), self.counters.labels, context.reported_usage
        served = context.first_token_at is not None or context.status == 200
        label = labels.served(name) if served else labels.requested(name)
        counters = self.counters.models[operation_of(context), label]
        counters.duration[error_type(context)].observe(seconds)
        if context.cost:
            self.counters.cost[label] += context.cost
        if usage is not None:
            counters.input_tokens.observe(usage.prompt_tokens)
            counters.output_tokens.observe(usage.completion_tokens)
            counters.cached_tokens += usage.cached_tokens or 0
            counters.reasoning_tokens += usage.reasoning_tokens or 0
        elif context.chunks:
            counters.output_tokens.observe(context.chunks)  # it broke off, or the backend does not count
