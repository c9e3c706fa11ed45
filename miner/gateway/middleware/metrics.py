"""Metrics: what `/metrics` tells, counted as requests go by."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from aiohttp import web

from miner.config.config import config_of
from miner.core._typing import override
from miner.gateway.context import RequestContext
from miner.gateway.errors import RefusedError
from miner.gateway.middleware.base import Middleware
from miner.gateway.middleware.buckets import told_usage
from miner.gateway.middleware.rate_limit import Limiter
from miner.gateway.middleware.series import Histogram, ModelNames, ModelSeries

if TYPE_CHECKING:
    from miner.core.wire import EngineStatus, LLMChunk

__all__ = ["Metrics", "metrics"]

_MOST_MODELS = 100
_HEALTH_SECONDS = 2.0


class Metrics(Middleware):
    """Counts. Labels are bounded: routes of the table, methods HTTP has, models that have answered, at most 100."""

    def __init__(self, limiter: Limiter | None = None) -> None:
        self.limiter = limiter
        self.requests: Counter[tuple[str, str, int]] = Counter()
        """By route, method and status."""
        self.seconds: defaultdict[str, Histogram] = defaultdict(Histogram)
        """How long they took, by route."""
        self.queue = Histogram()
        """How long they waited for a turn, in seconds."""
        self.cancelled = 0
        """Clients that hung up."""
        self.models: defaultdict[str, ModelSeries] = defaultdict(ModelSeries)
        self.loads: Counter[str] = Counter()
        """Engine processes seen, by model."""
        self.names = ModelNames(_MOST_MODELS)
        self._engines_seen: dict[str, tuple[int | None, int]] = {}

    @override
    def batch(self, context: RequestContext, batch: list[LLMChunk]) -> None:
        now = context.last_token_at
        assert now is not None
        note = context.notes.get("metrics")
        if type(note) is not list:
            series = self.models[self.names.proved(_model_of(context))]
            series.first.observe(now - context.began)
            context.notes["metrics"] = [series, now]
            return
        count = len(batch)
        note[0].between.observe((now - note[1]) / count, count)
        note[1] = now

    @override
    def leave(self, context: RequestContext) -> None:
        route = context.route
        path = "unmatched" if route.method == "*" else route.path
        # A client can invent methods; those of the table are known.
        method = "other" if route.method == "*" else route.method
        self.requests[path, method, context.status or 200] += 1
        self.seconds[path].observe(asyncio.get_running_loop().time() - context.began)
        waited = context.notes.get("waited")
        if isinstance(waited, float):
            self.queue.observe(waited)
        self.cancelled += context.hung_up
        if context.call is not None:
            self._count_model(context)

    def _count_model(self, context: RequestContext) -> None:
        name = _model_of(context)
        usage = told_usage(context)
        answered = context.first_token_at is not None or context.status == 200
        series = self.models[self.names.proved(name) if answered else self.names.asked(name)]
        series.cancelled += context.hung_up
        if usage is not None:
            series.tokens_in += usage.prompt_tokens
            series.tokens_out += usage.completion_tokens
        else:
            series.tokens_out += context.chunks  # it broke off, or the backend does not count: what was sent

    def see_engines(self, engines: list[EngineStatus]) -> None:
        """Count the processes that are new since the last look."""
        for engine in engines:
            mark = (engine.pid, engine.restarts)
            if engine.pid is not None and self._engines_seen.get(engine.model) != mark:
                self.loads[engine.model] += 1
                self._engines_seen[engine.model] = mark


def _model_of(context: RequestContext) -> str:
    call = context.call
    name = call.model if call is not None else None
    return name or config_of(context.gateway.service.config).default_model or "default"


async def metrics(context: RequestContext) -> web.StreamResponse:
    """What was counted, in the form that the scraper prefers.

    Raises:
        RefusedError: 501 without `prometheus_client` or where nothing is counted.
    """
    counted = next(
        (middleware for middleware in context.gateway.middleware.all if isinstance(middleware, Metrics)), None
    )
    try:
        from miner.gateway.endpoints.exposition import exposed
    except ImportError:
        counted = None
    if counted is None:
        raise RefusedError(
            501, "no_metrics", "This server cannot write metrics.",
            hint='Its operator can add them with `pip install "llm-service-backends[serve]"`.',
        )  # fmt: skip
    engines: list[EngineStatus] | None = None
    try:
        async with asyncio.timeout(_HEALTH_SECONDS):
            health = await context.gateway.health.current()
        engines = health.engines
        up = bool(health)
    except TimeoutError:
        up = False
    counted.see_engines(engines or [])
    gateway, accept = context.gateway, context.request.headers.get("Accept")
    content_type, body = await exposed(gateway, counted, engines or [], up, accept)
    context.status = 200
    return web.Response(body=body, headers=context.headers(content_type))
