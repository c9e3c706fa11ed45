"""What the gateway sends to a collector, against OpenTelemetry's conventions as tests/data/semconv has them.

The rules are those of the conventions' own checker: names, types, levels, well-known values, span names, kinds and
status, units, buckets; attributes of our own only in a namespace of ours.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import yaml
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from miner.gateway.telemetry import conventions
from tests.gateway.middleware.test_rate_limit import ask, until
from tests.gateway.middleware.test_tracing import PARENT, counted, quiet
from tests.gateway.serving import post, serving, vllm
from tests.servers.collector import Collector, attributes_of
from tests.servers.openai_stub import StubServer

FILE = Path(__file__).parents[2] / "data" / "semconv" / f"genai-{conventions.GEN_AI_VERSION}.yaml"
MODEL = yaml.safe_load(FILE.read_text())
TYPES = {"string": str, "int": int, "double": float, "boolean": bool}
KINDS = {"client": Span.SPAN_KIND_CLIENT, "server": Span.SPAN_KIND_SERVER}
OWN = ("miner.", "model", "state")
NO_SPAN_OF_THEIRS = ("rerank",)


def wrong_attributes(told):
    """What is wrong with names, types and values."""
    for name, value in told.items():
        spec = MODEL["attributes"].get(name)
        if spec is None:
            if not name.startswith(OWN):
                yield f"{name} is not in the conventions"
            continue
        kind = spec["type"]
        right = (
            isinstance(value, list) and all(isinstance(each, str) for each in value)
            if kind == "string[]"
            else type(value) is TYPES[kind]
        )
        if not right:
            yield f"{name} is {value!r}, no {kind}"
        values = [*spec.get("values", ()), *MODEL["own_values"].get(name, ())]
        if values and value not in values:
            yield f"{name} is {value!r}"


def span_type(told):
    """The conventions' type of a span with these attributes."""
    operation = told.get("gen_ai.operation.name")
    if operation is None:
        return "http.server"
    [name] = [name for name, spec in MODEL["spans"].items() if operation in spec["operations"]]
    return name


def wrong_span(span, *, failed=False):
    """What is wrong with a span."""
    told = attributes_of(span)
    yield from wrong_attributes(told)
    if told.get("gen_ai.operation.name") in NO_SPAN_OF_THEIRS:
        return
    spec = MODEL["spans"][span_type(told)]
    if span.kind != KINDS[spec["kind"]]:
        yield f"its kind is {span.kind}"
    expected = " ".join(str(told[part]) for part in spec["name"] if part in told)
    if span.name != expected:
        yield f"its name is {span.name!r}, not {expected!r}"
    status = span.status.code
    wanted = spec["required"] if "error.type" in told or failed else [*spec["required"], *spec["recommended"]]
    yield from (f"{name} is missing" for name in wanted if name not in told)
    known = {*spec["required"], *spec["recommended"], *spec["optional"]}
    yield from (f"{name} does not belong there" for name in told if name not in known and not name.startswith(OWN))
    if status == Status.STATUS_CODE_OK:
        yield "an instrumentation leaves the status unset"
    if ("error.type" in told) != (status == Status.STATUS_CODE_ERROR):
        yield "error.type and the status disagree"
    if "server.address" in told and "server.port" not in told:
        yield "server.address without server.port"
    if told.get("gen_ai.request.stream") and "error.type" not in told:
        yield from () if "gen_ai.response.time_to_first_chunk" in told else ["a stream without its first chunk"]


def wrong_metric(metric):
    """What is wrong with a metric of the conventions' namespaces."""
    spec = MODEL["metrics"].get(metric.name)
    if spec is None:
        if not metric.name.startswith("miner."):
            yield "it is not in the conventions"
        return
    kind = metric.WhichOneof("data")
    data = getattr(metric, kind)
    if (kind, metric.unit) != (spec["type"], spec["unit"]):
        yield f"it is a {kind} of {metric.unit}"
    if kind == "sum" and not (data.is_monotonic and data.aggregation_temporality):
        yield "it is no counter"
    for point in data.data_points:
        told = attributes_of(point)
        yield from wrong_attributes(told)
        yield from (f"{name} is missing" for name in spec["required"] if name not in told)
        yield from (f"{name} does not belong there" for name in told if name not in spec["required"] + spec["optional"])
        if kind == "histogram" and list(point.explicit_bounds) != spec["buckets"]:
            yield f"its buckets are {list(point.explicit_bounds)}"


async def traffic(served, engine):
    """Requests of each kind, in each API."""
    messages = [{"role": "user", "content": "Hi"}]
    sampling = {"temperature": 1, "top_p": 1, "presence_penalty": 0, "frequency_penalty": 1, "seed": 1, "top_k": 5}
    for stream in (False, True):
        assert (await ask(served, {"traceparent": PARENT}, stream=stream, n=2, **sampling)).status == 200
        for path, body in (
            ("/v1/chat/completions", {"messages": messages, "stop": "x", "response_format": {"type": "json_object"}}),
            ("/v1/completions", {"prompt": "Hi", "max_tokens": 5}),
            ("/v1/responses", {"input": "Hi"}),
            ("/v1/messages", {"messages": messages, "max_tokens": 5}),
        ):
            async with post(served, {"model": "m", "stream": stream, **body}, path) as answer:
                assert answer.status == 200, await answer.text()
                await answer.read()
    async with post(served, {"model": "m", "input": "Hi"}, "/v1/embeddings") as answer:
        assert answer.status == 200
    async with post(served, {"model": "m", "query": "a", "documents": ["b"]}, "/v1/rerank") as answer:
        await answer.read()
    assert (await ask(served, model="nowhere")).status == 404
    assert (await ask(served, temperature="hot")).status == 400
    waiting, reply = asyncio.Event(), engine.reply

    async def never(_):
        waiting.set()
        await asyncio.sleep(60)

    engine.reply = never
    leaving = asyncio.create_task(ask(served, stream=True))
    await waiting.wait()
    leaving.cancel()
    await asyncio.wait([leaving])
    await until(lambda: not served.gateway.requests)
    engine.reply = (500, {"error": {"message": "broken"}})
    assert (await ask(served)).status >= 500
    engine.reply = reply


@pytest.fixture
async def sent(monkeypatch):
    """A collector that has what the gateway has sent after such traffic."""
    vectors = {"data": [{"index": 0, "embedding": [0.5, 0.5]}], "usage": {"prompt_tokens": 3, "total_tokens": 3}}

    def reply(body):
        if "prompt" not in body:
            return counted(body)
        events = counted(body)
        if isinstance(events, dict):
            return {**events, "choices": [{"index": 0, "text": "{}", "finish_reason": "stop"}]}
        return [{"model": "m", "choices": [{"index": 0, "text": "{}", "finish_reason": "stop"}]}, events[1]]

    async with (
        Collector() as collector,
        StubServer(["m"], reply=reply, side={"/v1/embeddings": {**vectors, "model": "m"}}) as engine,
    ):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_METRICS_EXPORTER", "otlp")
        async with serving(vllm(engine), middleware=quiet()) as served:
            await traffic(served, engine)
        yield collector


async def test_what_is_sent_violates_nothing(sent):
    spans, metrics = sent.spans(), sent.metrics()
    types = {
        span_type(told) for span in spans if (told := attributes_of(span)).get("gen_ai.operation.name") != "rerank"
    }
    assert types == {*MODEL["spans"]}
    wrong = {(span.name, problem) for span in spans for problem in wrong_span(span)}
    assert wrong == set()
    assert {*MODEL["metrics"]} <= {*metrics}
    assert {(name, problem) for name, metric in metrics.items() for problem in wrong_metric(metric)} == set()
    failed = {attributes_of(span).get("error.type") for span in spans}
    assert {"cancelled", "model_not_found"} < failed - {None}


def test_the_check_finds_what_is_wrong():
    span = Span(name="chat", kind=Span.SPAN_KIND_SERVER)
    for key, value in {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.system": "x"}.items():
        span.attributes.add(key=key).value.string_value = value
    span.attributes.add(key="gen_ai.request.temperature").value.int_value = 1
    found = " ".join(wrong_span(span))
    for part in ("gen_ai.system is not in", "no double", "its kind", "its name", "gen_ai.provider.name is missing"):
        assert part in found
