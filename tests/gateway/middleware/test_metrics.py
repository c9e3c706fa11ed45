"""/metrics, read as Prometheus reads it."""

from __future__ import annotations

import asyncio
import gzip
import sys
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from miner.gateway.counters import Histogram, ModelLabels
from miner.gateway.endpoints.gzipped import gzipped
from miner.gateway.endpoints.metrics import METRICS
from miner.gateway.endpoints.prometheus import encode
from tests.gateway.middleware.test_rate_limit import Gated, ask, until
from tests.gateway.serving import Parrot, config, post, serving

CHAT = {"messages": [{"role": "user", "content": "Hi"}], "model": "m"}


async def scrape(served, **headers):
    async with aiohttp.ClientSession() as session, session.get(f"{served.url}/metrics", headers=headers) as answer:
        assert answer.status == 200
        text = await answer.text()
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(told, name, **labels):
    return told[(name, *sorted(labels.items()))]


def http(status, route="/v1/chat/completions", method="POST"):
    return {"http_route": route, "http_request_method": method, "http_response_status_code": str(status)}


async def test_requests_tokens_and_times():
    async with serving(Parrot(config())) as served:
        for stream in (False, True):
            assert (await ask(served, stream=stream)).status == 200
        assert (await ask(served, temperature="hot")).status == 400
        async with aiohttp.ClientSession() as session:
            for path in ("/nowhere/1", "/nowhere/2"):
                async with session.request("PATCH", served.url + path) as answer:
                    assert answer.status == 404
        told = await scrape(served)
    for status, count in (200, 2), (400, 1):
        assert value(told, "http_server_request_duration_seconds_count", **http(status)) == count
    unmatched = http(404, "unmatched", "other")
    assert value(told, "http_server_request_duration_seconds_count", **unmatched) == 2
    assert value(told, "miner_request_queue_time_seconds_count") == 2
    model = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "parrot", "gen_ai_request_model": "m"}
    assert value(told, "gen_ai_server_request_duration_seconds_count", error_type="", **model) == 2
    assert value(told, "gen_ai_server_time_to_first_token_seconds_count", **model) == 1
    assert value(told, "gen_ai_server_time_to_first_token_seconds_bucket", le="+Inf", **model) == 1
    assert value(told, "gen_ai_client_token_usage_count", gen_ai_token_type="output", **model) == 1
    assert value(told, "gen_ai_client_token_usage_sum", gen_ai_token_type="output", **model) >= 1
    assert value(told, "miner_requests_running") == 0
    assert value(told, "miner_backend_up") == 1
    assert value(told, "process_resident_memory_bytes") > 1e6


async def test_who_runs_waits_and_leaves():
    service = Gated(config())
    async with serving(service, serve_max_running=1) as served:
        asking = [asyncio.create_task(ask(served)) for _ in range(2)]
        await until(lambda: service.running == 1 and served.gateway.queue.permits.waiting == 1)
        told = await scrape(served)
        assert value(told, "miner_requests_running") == 1
        assert value(told, "miner_requests_queued") == 1
        assert value(told, "miner_request_slots") == 1
        for one in asking:
            one.cancel()
        await asyncio.wait(asking)
        await until(lambda: service.running == 0 and not served.gateway.requests)
        told = await scrape(served)
    assert value(told, "miner_client_disconnects_total") == 2
    model = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": service.name, "gen_ai_request_model": "other"}
    assert value(told, "gen_ai_server_request_duration_seconds_count", error_type="cancelled", **model) == 2
    assert value(told, "http_server_request_duration_seconds_count", **http(499)) == 2


async def test_the_table_is_what_is_served_and_what_the_docs_list():
    async with serving(Parrot(config())) as served:
        assert (await ask(served, stream=True)).status == 200
        async with aiohttp.ClientSession() as session, session.get(f"{served.url}/metrics") as answer:
            families = {family.name: family for family in text_string_to_metric_families(await answer.text())}
    documented = (Path(__file__).parents[3] / "docs" / "gateway.md").read_text()
    for name, spec in METRICS.items():
        family = families.pop(name)
        assert (family.type, family.documentation) == (spec.type, spec.help)
        assert all({*sample.labels} - {"le"} == {*spec.labels} for sample in family.samples)
        shown = f"{name}_total" if spec.type == "counter" else name
        labels = ", ".join(f"`{label}`" for label in spec.labels)
        assert f"| `{shown}` | {spec.type} |{f' {labels}' if labels else ''} | {spec.help} |" in documented
    assert all(name.startswith(("process_", "python_")) for name in families)


async def test_openmetrics_where_the_scraper_prefers_it():
    async with serving(Parrot(config())) as served, aiohttp.ClientSession() as session:
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        async with session.get(f"{served.url}/metrics", headers=accept) as answer:
            assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
            assert (await answer.text()).endswith("# EOF\n")


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text; version=1.0.0", "*/*"])
async def test_each_format_is_read_with_the_same_numbers(accept):
    parse = openmetrics_families if "openmetrics" in accept else text_string_to_metric_families
    async with serving(Parrot(config())) as served:
        assert (await ask(served, stream=True)).status == 200
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{served.url}/metrics", headers={"Accept": accept}) as answer,
        ):
            families = {family.name: family for family in parse(await answer.text())}
    assert {*METRICS} <= {*families}
    spec = families["gen_ai_server_request_duration_seconds"]
    [count] = [sample for sample in spec.samples if sample.name.endswith("_count")]
    assert count.labels["gen_ai_request_model"] == "m"
    assert count.value == 1
    [everything] = [sample for sample in spec.samples if sample.labels.get("le") == "+Inf"]
    assert everything.value == 1
    assert [sample.name for sample in families["miner_client_disconnects"].samples] == [
        "miner_client_disconnects_total"
    ]


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text; version=1.0.0"])
def test_labels_with_special_characters_are_read_as_they_are(accept):
    name = 'a "model" \\ of\nmine {x}, le="1"'
    parse = openmetrics_families if "openmetrics" in accept else text_string_to_metric_families
    _, page = encode({"miner_cost": [((name,), 0.5)]}, accept)
    [cost] = [family for family in parse(page.decode()) if family.name == "miner_cost"]
    assert [(sample.name, sample.labels, sample.value) for sample in cost.samples] == [
        ("miner_cost_total", {"model": name}, 0.5)
    ]


async def test_a_client_cannot_make_labels():
    async with serving(Parrot(config())) as served:
        for number in range(130):
            async with post(served, {**CHAT, "model": f"model-{number}"}) as answer:
                assert answer.status == 200
        assert len(served.gateway.counters.models) == 101
        assert ("chat", "other") in served.gateway.counters.models


def test_only_names_that_answered_are_labels():
    labels = ModelLabels(2)
    assert labels.requested("a") == "other"
    assert labels.served("a") == "a"
    assert labels.requested("a") == "a"
    assert [labels.served(name) for name in ("b", "c", "a")] == ["b", "other", "a"]
    assert labels.served("x" * 1000) == "other"


def test_a_histogram_counts_below_its_bounds():
    histogram = Histogram((1.0, 2.0))
    for seconds, times in [(0.5, 1), (1.0, 2), (1.5, 1), (9.0, 1)]:
        histogram.observe(seconds, times)
    assert histogram.buckets() == [("1.0", 3), ("2.0", 4), ("+Inf", 5)]
    assert histogram.total == 13.0


async def test_without_the_package_the_log_says_what_to_install(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "miner.gateway.endpoints.prometheus", raising=False)
    async with serving(Parrot(config())) as served, aiohttp.ClientSession() as session:
        async with session.get(f"{served.url}/metrics") as answer:
            assert answer.status == 501
            assert "does not provide metrics" in await answer.text()
        assert "llm-service-backends[serve]" in caplog.text
        assert (await ask(served)).status == 200


@pytest.mark.parametrize(
    ("accepted", "compressed"),
    [
        ("gzip", True), ("deflate, GZIP;q=0.5, *;q=0", True), ("gzip;q=1.0", True), ("identity", False), ("", False),
        ("gzip;q=0, identity", False), ("gzip; q=0.00", False), ("br", False),
    ],
)  # fmt: skip
async def test_a_scrape_is_compressed_for_those_who_accept_that(accepted, compressed):
    async with serving(Parrot(config()), serve_cors_origins="http://a.test", serve_metrics="open") as served:
        assert (await ask(served)).status == 200
        headers = {"Accept-Encoding": accepted, "Origin": "http://a.test"}
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.get(f"{served.url}/metrics", headers=headers) as answer,
        ):
            body = await answer.read()
    assert answer.headers.get("Content-Encoding") == ("gzip" if compressed else None)
    assert answer.headers["Vary"] == "Origin, Accept, Accept-Encoding"
    assert int(answer.headers["Content-Length"]) == len(body)
    text = (gzip.decompress(body) if compressed else body).decode()
    assert "http_server_request_duration_seconds_count" in text
    assert len(body) < len(text) / 4 or not compressed


async def test_only_a_page_that_is_worth_it_is_compressed():
    assert gzipped(b"x" * 1024, "gzip") is None
    assert gzip.decompress(gzipped(b"x" * 1025, "gzip")) == b"x" * 1025


@pytest.mark.parametrize("stream", [True, False])
async def test_responses_of_models_are_never_compressed(stream):
    async with serving(Parrot(config())) as served, aiohttp.ClientSession(auto_decompress=False) as session:
        body = CHAT | {"stream": stream, "messages": [{"role": "user", "content": "Hi " * 2000}]}
        url, headers = f"{served.url}/v1/chat/completions", {"Accept-Encoding": "gzip, deflate, br, zstd"}
        async with session.post(url, json=body, headers=headers) as answer:
            assert answer.status == 200
            assert "Content-Encoding" not in answer.headers
            assert b'"choices"' in await answer.read()
