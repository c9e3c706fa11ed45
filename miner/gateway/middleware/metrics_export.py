"""MetricsExport: sends all metrics to a collector at intervals, with the numbers that `/metrics` shows."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from miner.core._typing import override
from miner.gateway.middleware.base import Middleware
from miner.gateway.state import Gateway
from miner.gateway.telemetry.setup import end_within, make_metrics_sender

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricsData
    from opentelemetry.sdk.resources import Resource

logger = logging.getLogger("miner.gateway")

_FLUSH_SECONDS = 3.0


def make_metrics_export(environment: Mapping[str, str] | None = None) -> MetricsExport | None:
    """The middleware, if the environment asks for it (`OTEL_METRICS_EXPORTER`) and the packages are installed.

    Raises:
        ConfigError: one of the variables cannot be used.
    """
    made = make_metrics_sender(os.environ if environment is None else environment)
    return None if made is None else MetricsExport(made.send, made.resource, made.interval)


class MetricsExport(Middleware):
    """Sends the metrics.

    Args:
        send: blocks for as long as the exporter's timeout.
        resource: who sends them.
        interval: seconds between two exports.
    """

    def __init__(self, send: Callable[[MetricsData], object], resource: Resource, interval: float) -> None:
        self._send, self._resource, self._interval = send, resource, interval
        self._started_at = 0
        self._sending: threading.Thread | None = None

    @override
    async def on_startup(self, gateway: Gateway) -> None:
        self._started_at = time.time_ns()
        gateway.background.start("export of metrics", lambda: self._run(gateway))

    async def _run(self, gateway: Gateway) -> None:
        while True:
            await asyncio.sleep(self._interval)
            if self._sending is not None and self._sending.is_alive():
                continue  # the collector is slow: the next export has all that this one would have
            data = await self._data(gateway)
            if data is not None:
                # A daemon: what it cannot send must not keep the process.
                self._sending = threading.Thread(target=self._send, args=(data,), name="metrics export", daemon=True)
                self._sending.start()

    async def _data(self, gateway: Gateway) -> MetricsData | None:
        from miner.gateway.telemetry.points import metrics_data

        if gateway.collector is None:
            return None
        return metrics_data(await gateway.collector.collect(), self._resource, self._started_at)

    @override
    async def on_cleanup(self, gateway: Gateway) -> None:
        if self._sending is not None and self._sending.is_alive():
            logger.warning("The last metrics are not sent: the collector has not answered the ones before.")
            return
        data = await self._data(gateway)
        if data is not None:
            await end_within(lambda: self._send(data), "metrics", _FLUSH_SECONDS)
