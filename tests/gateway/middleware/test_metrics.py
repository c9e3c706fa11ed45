"""/metrics, read as Prometheus reads it."""

from __future__ import annotations

import asyncio
import sys

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from miner.gateway.middleware.metrics import Metrics
from miner.gateway.middleware.series import Histogram, ModelNames
from tests.gateway.middleware.test_rate_limit import Gated, ask, limiter_of, until
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
    chat = {"route": "/v1/chat/completions", "method": "POST"}
    assert value(told, "miner_requests_total", status="200", **chat) == 2
    assert value(told, "miner_requests_total", status="400", **chat) == 1
    assert value(told, "miner_requests_total", route="unmatched", method="other", status="404") == 2
    assert value(told, "miner_request_seconds_count", route="/v1/chat/completions") == 3
    assert value(told, "miner_queue_seconds_count") == 2
    model = {"backend": "parrot", "model": "m"}
    assert value(told, "miner_time_to_first_token_seconds_count", **model) == 1
    assert value(told, "miner_time_to_first_token_seconds_bucket", le="+Inf", **model) == 1
    assert value(told, "miner_completion_tokens_total", **model) >= 1
    assert value(told, "miner_requests_running") == 0
    assert value(told, "miner_backend_up") == 1
    assert value(told, "process_resident_memory_bytes") > 1e6


async def test_who_runs_waits_and_leaves():
    service = Gated(config())
    async with serving(service, serve_max_running=1) as served:
        asking = [asyncio.create_task(ask(served)) for _ in range(2)]
        await until(lambda: service.running == 1 and limiter_of(served).queue.permits.waiting == 1)
        told = await scrape(served)
        assert value(told, "miner_requests_running") == 1
        assert value(told, "miner_requests_queued") == 1
        assert value(told, "miner_turns") == 1
        for one in asking:
            one.cancel()
        await asyncio.wait(asking)
        await until(lambda: service.running == 0 and not served.gateway.present)
        told = await scrape(served)
    assert value(told, "miner_hangups_total") == 2
    assert value(told, "miner_cancelled_total", backend=service.name, model="other") == 2
    chat = {"route": "/v1/chat/completions", "method": "POST"}
    assert value(told, "miner_requests_total", status="499", **chat) == 2


async def test_openmetrics_where_the_scraper_prefers_it():
    async with serving(Parrot(config())) as served, aiohttp.ClientSession() as session:
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        async with session.get(f"{served.url}/metrics", headers=accept) as answer:
            assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
            assert (await answer.text()).endswith("# EOF\n")


async def test_a_client_cannot_make_labels():
    async with serving(Parrot(config())) as served:
        counted = next(middleware for middleware in served.gateway.middleware.all if isinstance(middleware, Metrics))
        for number in range(130):
            async with post(served, {**CHAT, "model": f"model-{number}"}) as answer:
                assert answer.status == 200
        assert len(counted.models) == 101
        assert "other" in counted.models


def test_only_names_that_answered_are_labels():
    names = ModelNames(2)
    assert names.asked("a") == "other"
    assert names.proved("a") == "a"
    assert names.asked("a") == "a"
    assert [names.proved(name) for name in ("b", "c", "a")] == ["b", "other", "a"]
    assert names.proved("x" * 1000) == "other"


def test_a_histogram_counts_below_its_bounds():
    histogram = Histogram((1.0, 2.0))
    for seconds, times in [(0.5, 1), (1.0, 2), (1.5, 1), (9.0, 1)]:
        histogram.observe(seconds, times)
    assert histogram.buckets() == [("1.0", 3), ("2.0", 4), ("+Inf", 5)]
    assert histogram.total == 13.0


async def test_without_the_package_the_log_says_what_to_install(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "miner.gateway.endpoints.exposition", raising=False)
    async with serving(Parrot(config())) as served, aiohttp.ClientSession() as session:
        async with session.get(f"{served.url}/metrics") as answer:
            assert answer.status == 501
            assert "cannot write metrics" in await answer.text()
        assert "llm-service-backends[serve]" in caplog.text
        assert (await ask(served)).status == 200
