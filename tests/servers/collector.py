"""A collector of OpenTelemetry on a free port: takes spans and metrics over HTTP, and keeps them.

::

    async with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        ...
        assert [span.name for span in collector.spans()] == ["chat m"]
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

__all__ = ["Collector", "attributes_of"]


def attributes_of(item: Any) -> dict[str, Any]:
    """The attributes of a span, a point or a resource."""
    return {each.key: _value(each.value) for each in item.attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind) if kind else None


class Collector:
    """Keeps what is exported; `status` is its answer, and while `hangs` it gives none."""

    def __init__(self, status: int = 200, *, hangs: bool = False) -> None:
        self.status, self.hangs = status, hangs
        self.bodies: dict[str, list[bytes]] = {"/v1/traces": [], "/v1/metrics": []}
        self.headers: list[dict[str, str]] = []
        self.tries = 0

    async def __aenter__(self) -> Collector:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        for path in self.bodies:
            app.router.add_post(path, self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()  # unpacked
        self.tries += 1
        if self.hangs:
            await asyncio.sleep(60)
        if self.status == 200:
            self.bodies[request.path].append(body)
            self.headers.append(dict(request.headers))
        return web.Response(status=self.status)

    def spans(self) -> list[Any]:
        """All spans, in the order in which they came."""
        return [
            span
            for body in self.bodies["/v1/traces"]
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def resources(self) -> list[dict[str, Any]]:
        """The attributes of who has sent the spans and metrics."""
        traces = [ExportTraceServiceRequest.FromString(body).resource_spans for body in self.bodies["/v1/traces"]]
        metrics = [ExportMetricsServiceRequest.FromString(body).resource_metrics for body in self.bodies["/v1/metrics"]]
        return [attributes_of(each.resource) for group in (*traces, *metrics) for each in group]

    def metrics(self) -> dict[str, Any]:
        """The metrics of the last export, by name."""
        [resource] = ExportMetricsServiceRequest.FromString(self.bodies["/v1/metrics"][-1]).resource_metrics
        return {metric.name: metric for scope in resource.scope_metrics for metric in scope.metrics}
