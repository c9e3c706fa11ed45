"""Spans, as an exporter gets them, and as a collector does: OTLP over HTTP, from the exporter of the `otel` extra."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import sys
import threading
import time

import aiohttp
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from miner.core.http.trace_context import trace_lines
from miner.errors import ConfigError
from miner.gateway.app import default_middleware
from miner.gateway.middleware.tracing import Tracing, make_tracing
from miner.gateway.settings import GatewaySettings
from miner.gateway.telemetry.check import check_otlp
from tests.gateway.middleware.test_rate_limit import Gated, ask, until
from tests.gateway.serving import Parrot, config, post, serving, vllm
from tests.servers.collector import Collector, attributes_of
from tests.servers.openai_stub import StubServer

SECRET = "the secret of the prompt"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def counted(body):
    """A reply with all that an engine may count."""
    usage = {
        "prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 2},
    }  # fmt: skip
    if not body.get("stream"):
        message = {"role": "assistant", "content": "{}"}
        return {"model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}
    return [
        {"model": "m", "choices": [{"index": 0, "delta": {"content": "{}"}, "finish_reason": "stop"}]},
        {"model": "m", "choices": [], "usage": usage},
    ]


@pytest.fixture
def traced():
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    middleware = [Tracing(provider), *quiet()]
    yield exporter, middleware
    provider.shutdown()


def quiet():
    return default_middleware(GatewaySettings(_env_file=None, serve_log="off"))


def pairs(exporter):
    """The spans of each request: what the client has sent, and the call of the model."""
    spans = exporter.get_finished_spans()
    requests = {span.context.span_id: span for span in spans if span.kind is SpanKind.SERVER}
    return [(requests[span.parent.span_id], span) for span in spans if span.kind is SpanKind.CLIENT]


async def test_the_spans_say_what_was_asked_and_used_and_whose_children_they_are(traced):
    exporter, middleware = traced
    async with StubServer(["m"], reply=counted) as engine, serving(vllm(engine), middleware=middleware) as served:
        answer = await ask(
            served, {"traceparent": PARENT, "x-request-id": "mine"}, temperature=1, max_completion_tokens=9, seed=5,
            stop=["END"], response_format={"type": "json_object"}, messages=[{"role": "user", "content": SECRET}],
        )  # fmt: skip
        assert answer.status == 200
        engine_host, engine_port = engine.v1.split("/")[2].split(":")
        port = int(served.url.rpartition(":")[2])
    [(request, call)] = pairs(exporter)
    assert (request.name, call.name) == ("POST /v1/chat/completions", "chat m")
    assert f"{request.parent.span_id:016x}" == "b7ad6b7169203331"
    assert {f"{span.context.trace_id:032x}" for span in (request, call)} == {"0af7651916cd43dd8448eb211c80319c"}
    told = dict(call.attributes)
    assert 0 <= told.pop("miner.queue.seconds") < 60
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{32}", told.pop("gen_ai.response.id"))
    assert told == {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "vllm", "gen_ai.request.model": "m",
        "gen_ai.request.temperature": 1.0, "gen_ai.request.max_tokens": 9, "gen_ai.request.seed": 5,
        "gen_ai.request.stop_sequences": ("END",), "gen_ai.output.type": "json", "gen_ai.response.model": "m",
        "gen_ai.response.finish_reasons": ("stop",), "gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 4, "gen_ai.usage.reasoning.output_tokens": 2,
        "server.address": engine_host, "server.port": int(engine_port), "miner.request.id": "mine",
        "miner.key": "anybody",
    }  # fmt: skip
    assert isinstance(told["gen_ai.request.temperature"], float)
    assert dict(request.attributes) == {
        "http.request.method": "POST", "http.route": "/v1/chat/completions", "http.response.status_code": 200,
        "url.path": "/v1/chat/completions", "url.scheme": "http", "client.address": "127.0.0.1",
        "server.address": "127.0.0.1", "server.port": port, "miner.request.id": "mine", "miner.key": "anybody",
    }  # fmt: skip
    assert request.start_time <= call.start_time < call.end_time <= request.end_time
    assert {span.status.status_code for span in (request, call)} == {StatusCode.UNSET}
    assert not any(SECRET in span.to_json() for span in (request, call))


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
    (request, streamed), (left, cancelled) = pairs(exporter)
    assert streamed.attributes["gen_ai.request.stream"] is True
    seconds = (streamed.end_time - streamed.start_time) / 1e9
    assert 0 <= streamed.attributes["gen_ai.response.time_to_first_chunk"] <= seconds
    assert streamed.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert request.status.status_code is StatusCode.UNSET
    for span in left, cancelled:
        assert span.attributes["error.type"] == "cancelled"
        assert span.status.status_code is StatusCode.ERROR
    assert "http.response.status_code" not in left.attributes  # none was sent
    assert "gen_ai.request.stream" not in cancelled.attributes


async def test_a_choice_that_broke_off_and_a_refusal_have_a_reason(traced):
    exporter, middleware = traced
    async with StubServer(["m"]) as engine, serving(vllm(engine), middleware=middleware) as served:
        engine.reply = [{"choices": [{"index": 0, "delta": {"content": "Hel"}}]}, {"error": {"message": "broken"}}]
        assert (await ask(served, stream=True)).status == 200
        assert (await ask(served, model="nowhere")).status == 404
    (request, broken), (refused_request, refused) = pairs(exporter)
    assert broken.attributes["gen_ai.response.finish_reasons"] == ("error",)
    assert request.attributes["error.type"] == broken.attributes["error.type"] != ""
    assert refused.attributes["error.type"] == "model_not_found"
    assert refused.status.status_code is StatusCode.ERROR
    assert "error.type" not in refused_request.attributes  # it was the client's mistake
    assert refused_request.status.status_code is StatusCode.UNSET
    assert refused_request.attributes["http.response.status_code"] == 404


@pytest.mark.parametrize("stream", [False, True])
async def test_the_server_behind_is_told_whose_child_its_span_is(traced, stream):
    exporter, middleware = traced
    async with StubServer(["m"]) as engine, serving(vllm(engine), middleware=middleware) as served:
        assert (await ask(served, {"traceparent": PARENT, "tracestate": "a=1"}, stream=stream, n=2)).status == 200
        async with aiohttp.ClientSession() as session, session.get(f"{served.v1}/models") as answer:
            assert answer.status == 200
        host, port = engine.v1.split("/")[2].split(":")
        looked = [request for request in engine.requests if request.method == "GET"]
    [(_, call)] = pairs(exporter)
    assert len(engine.generations) == 2
    for sent in engine.generations:
        assert sent.headers["traceparent"] == f"00-0af7651916cd43dd8448eb211c80319c-{call.context.span_id:016x}-01"
        assert sent.headers["tracestate"] == "a=1"
    assert looked
    assert not any("traceparent" in request.headers for request in looked)
    assert (call.attributes["server.address"], call.attributes["server.port"]) == (host, int(port))
    assert call.attributes["gen_ai.request.choice.count"] == 2
    assert call.attributes["gen_ai.response.finish_reasons"] == ("stop", "stop")


async def test_without_traces_no_server_is_told_anything():
    async with StubServer(["m"]) as engine, serving(vllm(engine), middleware=quiet()) as served:
        assert (await ask(served, {"traceparent": PARENT})).status == 200
        assert "traceparent" not in engine.generations[0].headers
    assert trace_lines.get() == b""


async def test_a_request_of_no_trace_begins_one_also_on_the_connection_of_another(traced):
    exporter, middleware = traced
    async with StubServer(["m"]) as engine, serving(vllm(engine), middleware=middleware) as served:
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
        async with aiohttp.ClientSession() as session:
            for headers in ({"traceparent": PARENT}, {"traceparent": "00-nonsense"}, {}):
                async with session.post(f"{served.v1}/chat/completions", json=body, headers=headers) as answer:
                    assert answer.status == 200
                    await answer.read()
    traces = [request.headers["traceparent"].split("-")[1] for request in engine.generations]
    assert len({*traces}) == 3
    assert [f"{call.context.trace_id:032x}" for _, call in pairs(exporter)] == traces


async def test_what_is_not_sampled_is_not_recorded_and_the_server_knows_it():
    exporter, provider = InMemorySpanExporter(), TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    async with (
        StubServer(["m"]) as engine,
        serving(vllm(engine), middleware=[Tracing(provider), *quiet()]) as served,
    ):
        assert (await ask(served, {"traceparent": PARENT})).status == 200
    assert engine.generations[0].headers["traceparent"].endswith("-00")
    assert exporter.get_finished_spans() == ()


async def test_embeddings_name_no_output(traced):
    exporter, middleware = traced
    vectors = {"data": [{"index": 0, "embedding": [0.5, 0.5]}], "usage": {"prompt_tokens": 3, "total_tokens": 3}}
    side = {"/v1/embeddings": vectors}
    async with (
        StubServer(["m"], side=side) as engine,
        serving(vllm(engine), middleware=middleware) as served,
        post(served, {"model": "m", "input": "Hi"}, "/v1/embeddings") as answer,
    ):
        assert answer.status == 200
    [(_, call)] = pairs(exporter)
    assert call.name == "embeddings m"
    assert call.attributes["gen_ai.usage.input_tokens"] == 3
    assert not {"gen_ai.usage.output_tokens", "gen_ai.response.finish_reasons"} & {*call.attributes}


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


@pytest.mark.parametrize(
    ("name", "value", "way_out"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", "http/protobuf"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "otlp, console or none"),
    ],
)
def test_what_cannot_be_used_is_named(name, value, way_out):
    with pytest.raises(ConfigError) as caught:
        make_tracing({name: value})
    assert f"{name}={value}" in str(caught.value)
    assert way_out in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENDPOINT", "collector:4318"), ("ENDPOINT", "http://me:the-key@"), ("ENDPOINT", "http://[the-key:1"),
        ("HEADERS", "Bearer the-key"), ("HEADERS", "a=b,the-key"), ("TRACES_HEADERS", "authorization: the-key"),
        ("HEADERS", "x=the-key\r\ny=z"), ("TIMEOUT", "10s"), ("TIMEOUT", "0"), ("COMPRESSION", "zip"),
        ("CERTIFICATE", "/no/such.pem"),
    ],
)  # fmt: skip
def test_what_the_sdk_would_pass_over_is_an_error_without_the_key(name, value):
    with pytest.raises(ConfigError) as caught:
        make_tracing({f"OTEL_EXPORTER_OTLP_{name}": value})
    assert f"OTEL_EXPORTER_OTLP_{name}" in str(caught.value)
    assert "the-key" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("value", ["a=b", "a=b, c=d,", "authorization=Bearer%20k", "authorization=Bearer k==", "a="])
def test_headers_that_the_sdk_reads_are_taken(value):
    check_otlp("traces", {"OTEL_EXPORTER_OTLP_HEADERS": value})


def test_prompts_are_never_captured_and_the_log_says_so(caplog, monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    switch = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
    made = make_tracing({switch: "SPAN_ONLY"})
    assert made is not None
    made._provider.shutdown()
    assert f"{switch} has no effect" in caplog.text


async def test_spans_reach_a_collector(monkeypatch):
    async with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "my-gateway")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=lab")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a-key")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        async with serving(Parrot(config()), middleware=quiet()) as served:
            for stream in (False, True):
                assert (await ask(served, stream=stream, messages=[{"role": "user", "content": SECRET}])).status == 200
        spans = collector.spans()  # the server has stopped: nothing is held back
        data = b"".join(collector.bodies["/v1/traces"])
    assert sorted(span.name for span in spans) == ["POST /v1/chat/completions"] * 2 + ["chat m"] * 2
    assert {attributes_of(span).get("gen_ai.operation.name") for span in spans} == {"chat", None}
    [resource] = collector.resources()
    assert resource["service.name"] == "my-gateway"
    assert resource["deployment.environment.name"] == "lab"
    assert resource["service.version"]
    assert {headers["x-key"] for headers in collector.headers} == {"a-key"}
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


async def test_a_collector_that_refuses_is_named_once_and_no_key_is_logged(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    async with Collector(status=401) as collector:
        url = collector.url.replace("http://", "http://me:the-password@")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20the-key")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        async with serving(Parrot(config()), middleware=quiet()) as served:
            for tries in (1, 2, 3):
                assert (await ask(served)).status == 200
                await until(lambda tries=tries: collector.tries >= tries)
            collector.status = 200
            assert (await ask(served)).status == 200
            await until(lambda: "takes traces again" in caplog.text)
    said = [record.getMessage() for record in caplog.records if "takes no traces" in record.getMessage()]
    assert len(said) == 1
    assert "401" in said[0]
    assert f"{collector.url}/v1/traces" in said[0]
    assert "the-key" not in caplog.text
    assert "the-password" not in caplog.text
