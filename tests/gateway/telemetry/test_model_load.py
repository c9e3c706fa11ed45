"""The load of each model, under the names that inference gateways on Kubernetes read."""

from __future__ import annotations

import asyncio
import time

import pytest

from miner.core.llms.contract.server_load import read_loads
from miner.core.llms.llm_llamacpp import LlamaCppService
from tests.gateway.middleware.test_metrics import scrape, value
from tests.gateway.middleware.test_rate_limit import Gated, ask, until
from tests.gateway.serving import config, serving, vllm
from tests.servers.openai_stub import StubServer

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 4.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 4.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 7.5e-01
vllm:lora_requests_info{max_lora="4",running_lora_adapters="old",waiting_lora_adapters=""} 1.7e+09
vllm:lora_requests_info{max_lora="4",running_lora_adapters="a,b",waiting_lora_adapters="c"} 1.8e+09
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="2048",num_cpu_blocks="None"} 1.0
vllm:prompt_tokens_total{engine="0",model_name="m"} 1.0e+06
"""


def test_what_vllm_says_is_read():
    [load] = read_loads(VLLM.encode())
    assert (load.model, load.running, load.waiting, load.kv_cache_usage) == ("m", 5, 4, 0.5)
    assert (load.block_size, load.num_blocks) == ("16", "2048")
    assert load.lora is not None
    assert (load.lora.max_adapters, load.lora.running, load.lora.waiting) == ("4", "a,b", "c")


def test_what_llamacpp_says_is_read():
    text = "# TYPE llamacpp:requests_processing gauge\nllamacpp:requests_processing 2\nllamacpp:requests_deferred 5\n"
    [load] = read_loads(text.encode())
    assert (load.model, load.running, load.waiting, load.kv_cache_usage) == (None, 2, 5, None)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"\xff\xfe", b"vllm:num_requests_running", b"vllm:num_requests_running{model_name= 3", b"<html></html>",
        b'vllm:num_requests_running{model_name="m"} NaN', b'vllm:num_requests_running{model_name="m"} +Inf',
        b'vllm:num_requests_running{model_name="m"} many', b"vllm:" * 1000,
    ],
)  # fmt: skip
def test_what_is_no_metric_of_theirs_is_nothing(text):
    assert read_loads(text) == []


def test_names_with_quotes_are_read():
    [load] = read_loads(rb'vllm:num_requests_running{model_name="a \"b\" \\ {c}"} 1' + b"\n")
    assert load.model == 'a "b" \\ {c}'


async def test_a_vllm_server_behind_says_its_load():
    async with StubServer(["m"], side={"/metrics": VLLM}) as engine, serving(vllm(engine)) as served:
        told = await scrape(served)
    one = {"model_name": "m"}
    assert value(told, "vllm:num_requests_running", **one) == 5
    assert value(told, "vllm:num_requests_waiting", **one) == 4
    assert value(told, "vllm:kv_cache_usage_perc", **one) == 0.5
    assert value(told, "vllm:cache_config_info", block_size="16", num_gpu_blocks="2048", **one) == 1
    lora = {"max_lora": "4", "running_lora_adapters": "a,b", "waiting_lora_adapters": "c"}
    assert value(told, "vllm:lora_requests_info", **lora, **one) == 1.8e9


async def test_a_server_that_hangs_delays_no_scrape_and_ours_are_counted():
    async with StubServer(["m"]) as engine:
        hanging = asyncio.Event()
        handle, engine.reply = engine.handle, "Hello."

        async def slow(writer):
            if writer.request.path in ("/metrics", "/v1/models") and hanging.is_set():
                await writer.hold()
            await handle(writer)

        engine.handle = slow
        async with serving(vllm(engine)) as served:
            assert (await ask(served)).status == 200
            await scrape(served)
            hanging.set()
            began = time.monotonic()
            for _ in range(10):
                told = await scrape(served)
            assert time.monotonic() - began < 10  # each would wait 1.5 s for the health check
            assert value(told, "vllm:num_requests_running", model_name="m") == 0


async def test_requests_at_a_backend_that_says_nothing_are_counted_here():
    service = Gated(config())
    async with serving(service, serve_max_running=2) as served:
        service.go.release()
        assert (await ask(served)).status == 200  # its name is known from now on
        asking = [asyncio.create_task(ask(served)) for _ in range(5)]
        await until(lambda: service.running == 2 and served.gateway.queue.permits.waiting == 3)
        told = await scrape(served)
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)
        await until(lambda: not served.gateway.requests)
        idle = await scrape(served)
    assert value(told, "vllm:num_requests_running", model_name="m") == 2
    assert value(told, "vllm:num_requests_waiting", model_name="m") == 3
    assert value(idle, "vllm:num_requests_running", model_name="m") == 0
    assert value(idle, "vllm:num_requests_waiting", model_name="m") == 0
    assert not [name for name in told if name[0].startswith("llamacpp:")]


async def test_the_busiest_model_comes_first():
    """An endpoint picker that asks for no label reads the first series."""
    service = Gated(config())
    async with serving(service) as served:
        for model in ("a", "b"):
            service.go.release()
            assert (await ask(served, model=model)).status == 200
        asking = asyncio.create_task(ask(served, model="b"))
        await until(lambda: service.running == 1)
        told = await scrape(served)
        service.go.release()
        await asking
    names = [dict(labels)["model_name"] for name, *labels in told if name == "vllm:num_requests_running"]
    assert names == ["b", "a"]


@pytest.mark.engine
async def test_an_engine_of_ours_says_its_slots():
    service = LlamaCppService(config(llamacpp_threads=1, llamacpp_parallel=2, llamacpp_ctx_size=512))
    async with serving(service) as served:
        assert (await ask(served, model=None, max_tokens=2)).status == 200
        told = await scrape(served)
    [model] = {dict(labels)["model_name"] for name, *labels in told if name == "vllm:num_requests_running"}
    one = {"model_name": model}
    for name in ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
                 "llamacpp:requests_processing", "llamacpp:requests_deferred"):  # fmt: skip
        assert value(told, name, **one) == 0
    assert value(told, "miner_model_slots", **one) == 2
