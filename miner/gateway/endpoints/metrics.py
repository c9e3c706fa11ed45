"""`/metrics`, for Prometheus."""

from __future__ import annotations

import asyncio

from aiohttp import web

from miner.core.wire import EngineStatus
from miner.gateway.context import RequestContext
from miner.gateway.errors import RefusedError

_HEALTH_SECONDS = 2.0


async def metrics(context: RequestContext) -> web.StreamResponse:
    """The counters, in the format that the scraper prefers.

    Raises:
        RefusedError: 501 without `prometheus_client` or where nothing is counted.
    """
    gateway, counters = context.gateway, context.gateway.counters
    try:
        from miner.gateway.endpoints.prometheus import exposition
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
    content_type, body = await exposition(gateway, counters, engines, up, context.request.headers.get("Accept"))
    context.status = 200
    return web.Response(body=body, headers=context.headers(content_type))
