"""Metrics at a collector: the numbers of `/metrics`, and what becomes of a collector that does not take them."""

from __future__ import annotations

import logging
import time

import aiohttp
import pytest

from miner.errors import ConfigError
from miner.gateway.middleware.metrics_export import make_metrics_export
from miner.gateway.telemetry.metric_table import METRICS, SPECS
from tests.gateway.middleware.test_metrics import scrape
from tests.gateway.middleware.test_rate_limit import ask, until
from tests.gateway.middleware.test_tracing import counted, quiet
from tests.gateway.serving import Parrot, config, post, serving, vllm
from tests.servers.collector import Collector, attributes_of
from tests.servers.openai_stub import StubServer
from tests.servers.ports import closed_port


@pytest.fixture
def exporting(monkeypatch):
    """Sets the variables for a collector at this address."""

    def enable(url, **more):
        variables = {
            "OTEL_METRICS_EXPORTER": "otlp", "OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_METRIC_EXPORT_INTERVAL": "50", **more,
        }  # fmt: skip
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return enable


def in_prometheus(metrics):
    """What OTLP has, as Prometheus would name it: (name, labels) -> value."""
    found = {}
    for name, metric in metrics.items():
        spec = SPECS[name]
        kind = metric.WhichOneof("data")
        for point in getattr(metric, kind).data_points:
            told = attributes_of(point)
            told.pop("url.scheme", None)
            if spec.name.startswith("http."):
                told.pop("error.type", None)
                told.setdefault("http.route", "unmatched")
                told["http.request.method"] = told["http.request.method"].replace("_OTHER", "other")
            labels = tuple(sorted((label, str(told.get(each, ""))) for each, label in
                                  zip(spec.attributes, spec.labels, strict=True)))  # fmt: skip
            where = spec.prometheus_name
            if kind == "histogram":
                assert sum(point.bucket_counts) == point.count
                found[f"{where}_count", *labels], found[f"{where}_sum", *labels] = point.count, point.sum
                below = 0
                for bound, count in zip((*map(str, point.explicit_bounds), "+Inf"), point.bucket_counts, strict=True):
                    below += count
                    found[f"{where}_bucket", *sorted([*labels, ("le", bound)])] = below
            else:
                value = point.as_int if point.WhichOneof("value") == "as_int" else point.as_double
                found[where + ("_total" if spec.type == "counter" else ""), *labels] = value
    return found


async def test_both_ways_out_have_the_same_numbers(exporting):
    vectors = {"data": [{"index": 0, "embedding": [0.5, 0.5]}], "usage": {"prompt_tokens": 3, "total_tokens": 3}}
    async with Collector() as collector, StubServer(["m"], reply=counted, side={"/v1/embeddings": vectors}) as engine:
        exporting(collector.url, OTEL_SERVICE_NAME="node-1")
        async with serving(vllm(engine), middleware=quiet()) as served:
            for stream in (False, True):
                assert (await ask(served, stream=stream)).status == 200
            assert (await ask(served, temperature="hot")).status == 400
            assert (await ask(served, model="nowhere")).status == 404
            async with post(served, {"model": "m", "input": "Hi"}, "/v1/embeddings") as answer:
                assert answer.status == 200
            async with aiohttp.ClientSession() as session, session.patch(f"{served.url}/nowhere") as answer:
                assert answer.status == 404
            told = await scrape(served)
            exports = collector.tries
            await until(lambda: collector.tries >= exports + 2)
            exported = collector.metrics()
        [resource, *_] = collector.resources()
    assert resource["service.name"] == "node-1"
    shown = in_prometheus(exported)
    own = {name: value for name, value in told.items() if not name[0].startswith(("process_", "python_"))}
    only = [name for name, spec in METRICS.items() if spec.name is None]
    expected = {name: value for name, value in own.items() if not name[0].startswith(tuple(only))
                and not name[0].endswith("_created")}  # fmt: skip
    scrapes = [name for name in shown if ("http_route", "/metrics") in name]  # the scrape came after itself
    assert {name: value for name, value in shown.items() if name not in scrapes} == pytest.approx(expected)
    model = (
        ("gen_ai_operation_name", "chat"),
        ("gen_ai_provider_name", "vllm"),
        ("gen_ai_request_model", "m"),
    )
    text = ("gen_ai_token_modality", "unknown")
    for name, tokens in ("input", 14), ("output", 6), ("cache_read_input", 8), ("reasoning_output", 4):
        assert shown[f"gen_ai_client_inference_usage_{name}_tokens_total", *model, text] == tokens


@pytest.mark.parametrize("state", ["down", "hangs", 401, 500])
async def test_a_collector_that_does_not_take_them_costs_nothing_and_is_named_once(exporting, caplog, state):
    caplog.set_level(logging.DEBUG)
    async with Collector(state if isinstance(state, int) else 200, hangs=state == "hangs") as collector:
        url = collector.url
        if state == "down":
            url = f"http://127.0.0.1:{closed_port()}"
        exporting(url, OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20the-key", OTEL_EXPORTER_OTLP_TIMEOUT="1")
        async with serving(Parrot(config()), middleware=quiet()) as served:
            await until(lambda: "takes no metrics" in caplog.text)
            for _ in range(3):
                began = time.monotonic()
                assert (await ask(served)).status == 200
                assert time.monotonic() - began < 10
            ending = time.monotonic()
        assert time.monotonic() - ending < 20
    assert caplog.text.count("takes no metrics") == 1
    assert "the-key" not in caplog.text


async def test_the_last_numbers_are_sent_when_the_server_ends(exporting):
    async with Collector() as collector:
        exporting(collector.url, OTEL_METRIC_EXPORT_INTERVAL="60000")
        async with serving(Parrot(config()), middleware=quiet()) as served:
            assert (await ask(served)).status == 200
        [point] = collector.metrics()["gen_ai.server.request.duration"].histogram.data_points
    assert point.count == 1
    assert point.start_time_unix_nano < point.time_unix_nano


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"OTEL_METRICS_EXPORTER": "statsd"}, "OTEL_METRICS_EXPORTER=statsd"),
        ({"OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL=grpc"),
        ({"OTEL_METRIC_EXPORT_INTERVAL": "1m"}, "OTEL_METRIC_EXPORT_INTERVAL=1m"),
        ({"OTEL_METRIC_EXPORT_INTERVAL": "0"}, "OTEL_METRIC_EXPORT_INTERVAL=0"),
        ({"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"}, "PREFERENCE=delta"),
        (
            {
                "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "base2_exponential_bucket_histogram",
            },
            "AGGREGATION=base2_exponential_bucket_histogram",
        ),
    ],
)
def test_what_cannot_be_used_is_named(variables, named):
    with pytest.raises(ConfigError, match=named):
        make_metrics_export({"OTEL_METRICS_EXPORTER": "otlp", **variables})


@pytest.mark.parametrize("value", ["", "none", "prometheus"])
def test_only_where_it_is_asked_for(value):
    assert make_metrics_export({"OTEL_METRICS_EXPORTER": value, "OTEL_SERVICE_NAME": "x"}) is None
    assert make_metrics_export({"OTEL_METRICS_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}) is None
