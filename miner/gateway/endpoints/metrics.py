"""`/metrics`, for Prometheus: the metrics of `telemetry/metric_table.py`, and those of the process."""

from __future__ import annotations

import asyncio

from aiohttp import web

from miner.gateway.context import RequestContext
from miner.gateway.counters import Histogram
from miner.gateway.errors import RefusedError
from miner.gateway.telemetry.metric_table import METRICS

__all__ = ["METRICS", "metrics"]


async def metrics(context: RequestContext) -> web.StreamResponse:
    """The counters, in the format that the scraper prefers.

    Raises:
        RefusedError: 501 without `prometheus_client` or where nothing is counted.
    """
    collector = context.gateway.collector
    try:
        from miner.gateway.endpoints.prometheus import encode
    except ImportError:
        collector = None
    if collector is None:
        raise RefusedError(
            501, "no_metrics", "This server does not provide metrics.",
            operator_hint='`pip install "llm-service-backends[serve]"` adds them.',
        )  # fmt: skip
    samples = {
        name: [(labels, value.copy() if isinstance(value, Histogram) else value) for labels, value in found]
        for name, found in (await collector.collect()).items()
    }  # requests go on counting while it is written
    content_type, body = await asyncio.to_thread(encode, samples, context.request.headers.get("Accept"))
    context.status = 200
    return web.Response(body=body, headers=context.headers(content_type))
