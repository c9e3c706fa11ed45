"""Spans as a collector gets them: OTLP over HTTP, from the exporter of the `otel` extra."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from miner.gateway.app import default_middleware
from miner.gateway.settings import GatewaySettings
from tests.gateway.middleware.test_rate_limit import ask
from tests.gateway.serving import Parrot, config, serving

SECRET = "the secret of the prompt"


def quiet():
    return default_middleware(GatewaySettings(_env_file=None, serve_log="off"))


class Collector:
    """Takes what is exported."""

    def __init__(self):
        self.bodies = []

    async def __aenter__(self):
        app = web.Application()
        app.router.add_post("/v1/traces", self.take)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_):
        await self.runner.cleanup()

    async def take(self, request):
        self.bodies.append(await request.read())  # unpacked
        return web.Response()

    def spans(self):
        found = []
        for body in self.bodies:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                names = {item.key: item.value.string_value for item in resource.resource.attributes}
                found += [(names["service.name"], span) for scope in resource.scope_spans for span in scope.spans]
        return found


async def test_spans_reach_a_collector(monkeypatch):
    async with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "my-gateway")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        async with serving(Parrot(config()), middleware=quiet()) as served:
            for stream in (False, True):
                assert (await ask(served, stream=stream, messages=[{"role": "user", "content": SECRET}])).status == 200
        spans = collector.spans()  # the server has stopped: nothing is held back
        data = b"".join(collector.bodies)
    assert [(name, span.name) for name, span in spans] == [("my-gateway", "chat m")] * 2
    assert SECRET.encode() not in data


@pytest.mark.parametrize("silent", [False, True], ids=["nobody", "silent"])
async def test_a_collector_that_does_not_answer_holds_nobody_up(monkeypatch, silent):
    with socket.create_server(("127.0.0.1", 0)) as collector:  # it takes connections and never answers
        port = collector.getsockname()[1]
        if not silent:
            collector.close()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        async with asyncio.timeout(60):  # the exporter itself would try for longer
            async with serving(Parrot(config()), middleware=quiet()) as served:
                assert (await ask(served)).status == 200
