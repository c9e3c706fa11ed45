"""Spans, as an exporter gets them, and as a collector does: OTLP over HTTP, from the exporter of the `otel` extra."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from miner.core.wire import LLMResponse, TokenUsage
from miner.gateway.app import default_middleware
from miner.gateway.middleware.tracing import Tracing, make_tracing
from miner.gateway.settings import GatewaySettings
from tests.gateway.middleware.test_rate_limit import Gated, ask, until
from tests.gateway.serving import Parrot, config, serving

SECRET = "the secret of the prompt"


class Counting(Parrot):
    async def chat_completion(self, *_, **__):
        return LLMResponse(content="x", model="m", finish_reason="stop", usage=TokenUsage(7, 3, 10))


@pytest.fixture
def traced():
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    middleware = [Tracing(provider), *default_middleware(GatewaySettings(_env_file=None, serve_log="off"))]
    yield exporter, middleware
    provider.shutdown()


async def test_a_span_tells_what_was_asked_and_used_and_whose_child_it_is(traced):
    exporter, middleware = traced
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with serving(Counting(config()), middleware=middleware) as served:
        await ask(
            served, {"traceparent": parent, "x-request-id": "mine"}, temperature=0.5, max_completion_tokens=9,
            messages=[{"role": "user", "content": SECRET}],
        )  # fmt: skip
    [span] = exporter.get_finished_spans()
    assert span.name == "chat m"
    assert f"{span.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
    told = dict(span.attributes)
    assert 0 <= told.pop("miner.queue.seconds") < 60
    assert told == {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "parrot", "gen_ai.request.model": "m",
        "gen_ai.request.temperature": 0.5, "gen_ai.request.max_tokens": 9, "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3, "http.request.method": "POST", "http.route": "/v1/chat/completions",
        "http.response.status_code": 200, "client.address": "127.0.0.1", "miner.request.id": "mine",
        "miner.key": "anybody", "miner.stream": False,
    }  # fmt: skip
    assert span.end_time > span.start_time
    assert span.status.status_code is StatusCode.UNSET
    assert SECRET not in span.to_json()


async def test_streams_and_hang_ups(traced):
    exporter, middleware = traced
    service = Gated(config())
    async with serving(service, middleware=middleware) as served:
        service.go.release()
        assert (await ask(served, stream=True)).status == 200
        asking = asyncio.create_task(ask(served))
        await until(lambda: service.running == 1)
        asking.cancel()
        await asyncio.wait([asking])
        await until(lambda: not served.gateway.requests)
    streamed, cancelled = exporter.get_finished_spans()
    assert [event.name for event in streamed.events] == ["gen_ai.first_token"]
    assert streamed.start_time <= streamed.events[0].timestamp <= streamed.end_time
    assert cancelled.attributes["error.type"] == "cancelled"
    assert cancelled.status.status_code is StatusCode.ERROR


async def test_a_collector_that_does_not_answer_does_not_keep_the_server(caplog, monkeypatch):
    monkeypatch.setattr("miner.gateway.middleware.tracing._FLUSH_SECONDS", 0.1)
    answered = threading.Event()

    class Silent(TracerProvider):
        def shutdown(self):
            answered.wait(60)

    try:
        async with serving(Parrot(config()), middleware=[Tracing(Silent(shutdown_on_exit=False), owned=True)]):
            began = time.monotonic()
        assert time.monotonic() - began < 30
    finally:
        answered.set()
    assert "could not be sent" in caplog.text


async def test_what_is_no_generation_has_no_span(traced):
    exporter, middleware = traced
    async with serving(Parrot(config()), middleware=middleware) as served:
        assert (await ask(served, messages="nonsense")).status == 400
    assert exporter.get_finished_spans() == ()


def test_only_where_it_is_asked_for_and_installed(monkeypatch, caplog):
    assert make_tracing({}) is None
    assert make_tracing({"OTEL_SDK_DISABLED": "true", "OTEL_SERVICE_NAME": "x"}) is None
    assert make_tracing({"OTEL_TRACES_EXPORTER": "none"}) is None
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    assert make_tracing({"OTEL_SERVICE_NAME": "x"}) is None
    assert "llm-service-backends[otel]" in caplog.text


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
async def test_a_silent_collector_delays_no_request(monkeypatch, silent):
    with socket.create_server(("127.0.0.1", 0)) as collector:  # it takes connections and never answers
        port = collector.getsockname()[1]
        if not silent:
            collector.close()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        async with asyncio.timeout(60):  # the exporter itself would try for longer
            async with serving(Parrot(config()), middleware=quiet()) as served:
                assert (await ask(served)).status == 200
