"""`/metrics`, for Prometheus: the metrics of `telemetry/metric_table.py`, and those of the process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from miner.gateway.context import RequestContext
from miner.gateway.counters import Histogram, Samples
from miner.gateway.endpoints.gzipped import gzipped
from miner.gateway.errors import RefusedError
from miner.gateway.telemetry.metric_table import METRICS

__all__ = ["METRICS", "metrics"]


async def metrics(context: RequestContext) -> web.StreamResponse:
    """The counters, in the format that the scraper prefers, compressed where it accepts that.

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
    accept, accept_encoding = (context.request.headers.get(name) for name in ("Accept", "Accept-Encoding"))
    content_type, body, compressed = await asyncio.to_thread(_page, encode, samples, accept, accept_encoding)
    context.status = 200
    headers = context.headers(content_type)
    headers["Vary"] = ", ".join(filter(None, (headers.get("Vary"), "Accept, Accept-Encoding")))
    if compressed is None:
        return web.Response(body=body, headers=headers)
    return web.Response(body=compressed, headers=headers | {"Content-Encoding": "gzip"})


def _page(
    encode: Callable[[Samples, str | None], tuple[str, bytes]], samples: Samples, accept: str | None,
    accept_encoding: str | None,
) -> tuple[str, bytes, bytes | None]:  # fmt: skip
    """Content type, body, and the body compressed if it is."""
    content_type, body = encode(samples, accept)
    return content_type, body, gzipped(body, accept_encoding)
