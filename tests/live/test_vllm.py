"""VLLMService on a real vLLM server (`-m vllm`): what only the engine itself can prove."""

from __future__ import annotations

import asyncio
import os
import re

import pytest

from miner.config.config import MinerConfig
from miner.core.llms import get_backend
from miner.core.llms.contract.join import join
from miner.errors import (
    BackendTimeoutError,
    ContextLengthError,
    InvalidRequestError,
    ModelNotFoundError,
    UnsupportedFeatureError,
)

pytestmark = pytest.mark.vllm

LONG = "Tell me a very long story about a lighthouse and the sea."
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture
async def service():
    async with get_backend("vllm", MinerConfig()) as opened:
        yield opened


async def running(service):
    """Requests that the engine itself counts as running or waiting."""
    reply = await service._http().request("GET", "/metrics", total=20, root=True)
    found = re.findall(rb"^vllm:num_requests_(?:running|waiting)\{.*\} ([0-9.]+)$", reply.body, re.MULTILINE)
    return sum(float(number) for number in found)


async def until_idle(service, seconds=30.0):
    async with asyncio.timeout(seconds):
        while await running(service):  # noqa: ASYNC110  (the engine is polled: it has no event to wait for)
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("how", ["break", "aclose", "cancel", "timeout"])
async def test_what_is_stopped_stops(service, how):
    """By the engine's own counters: nothing runs any more, and the next request comes through."""
    if how in ("break", "aclose"):
        stream = service.stream(LONG, max_tokens=1500, temperature=0.9)
        async for chunk in stream:
            if chunk.content:
                assert await running(service) >= 1
                if how == "aclose":
                    await stream.aclose()
                break
    elif how == "cancel":
        task = asyncio.create_task(service.generate(LONG, max_tokens=1500, temperature=0.9))
        async with asyncio.timeout(30):
            while not await running(service):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        with pytest.raises(BackendTimeoutError):
            await service.generate(LONG, max_tokens=1500, temperature=0.9, timeout=1.0)
    await until_idle(service)
    assert await service.generate("Hi", max_tokens=1)


async def test_several_that_are_cancelled_at_once_all_stop(service):
    tasks = [asyncio.create_task(service.generate(LONG, max_tokens=1500, temperature=0.9)) for _ in range(6)]
    await asyncio.sleep(1)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await until_idle(service)


async def test_a_tool_call_goes_there_and_back(service):
    turns = [{"role": "user", "content": "What is the weather in Paris?"}]
    for choice in ("required", "get_weather"):
        reply = await service.chat_completion(turns, tools=[WEATHER], tool_choice=choice, max_tokens=96, temperature=0)
        assert reply.finish_reason == "tool_calls"
        assert reply.tool_calls[0]["function"]["name"] == "get_weather"
    turns += [
        {"role": "assistant", "content": None, "tool_calls": reply.tool_calls},
        {"role": "tool", "tool_call_id": reply.tool_calls[0]["id"], "content": "18 degrees"},
    ]
    assert (await service.chat_completion(turns, max_tokens=8, temperature=0)).content


async def test_a_prompt_that_is_too_long_is_refused_with_both_numbers(service):
    with pytest.raises(ContextLengthError) as caught:
        await service.generate("hello " * 3000)
    assert caught.value.context_length == 2048
    assert caught.value.prompt_tokens > 2048


async def test_a_truncation_by_the_context_is_reported(service):
    reply = await service.chat_completion(
        [{"role": "user", "content": "word " * 1900}], max_tokens=1000, temperature=0.9, seed=1
    )
    assert reply.finish_reason == "length"
    assert reply.context_exhausted


async def test_an_unknown_model_lists_those_there_are(service):
    with pytest.raises(ModelNotFoundError) as caught:
        await service.generate("Hi", model="no-such-model")
    assert caught.value.available == ["smollm2"]


async def test_more_stop_texts_than_the_server_takes_are_refused(service):
    with pytest.raises((InvalidRequestError, UnsupportedFeatureError), match="stop"):
        await service.generate("Hi", stop=list("abcdefgh"), max_tokens=4)


async def test_a_final_assistant_message_is_continued(service):
    turns = [{"role": "user", "content": "What is the capital of France?"},
             {"role": "assistant", "content": "The capital of France is"}]  # fmt: skip
    reply = await service.chat_completion(turns, max_tokens=4, temperature=0)
    assert reply.content.startswith(" Paris")


async def test_cached_tokens_are_reported(service):
    prompt = "The sea is wide and the ships are many. " * 40
    await service.chat_completion([{"role": "user", "content": prompt}], max_tokens=2)
    again = await service.chat_completion([{"role": "user", "content": prompt}], max_tokens=2)
    assert again.usage.cached_tokens > 100
    chunks = [chunk async for chunk in service.stream(prompt, max_tokens=2)]
    assert join([chunks]).usage.cached_tokens > 100


async def test_embeddings_come_from_a_server_for_them():
    base = os.environ.get("MINER_VLLM_POOLING_BASE")
    if base is None:
        pytest.fail("MINER_VLLM_POOLING_BASE is not set: run scripts/vllm_cpu.py with --pooling")
    async with get_backend("vllm", MinerConfig(vllm_api_base=base)) as service:
        reply = await service.embed(["The cat sits.", "A cat is sitting."])
        assert reply.dimensions == 576
        assert reply.usage.prompt_tokens > 4
        with pytest.raises(UnsupportedFeatureError):
            await service.generate("Hi")


async def test_a_server_that_embeds_ranks_too(service):
    base = os.environ.get("MINER_VLLM_POOLING_BASE")
    if base is None:
        pytest.fail("MINER_VLLM_POOLING_BASE is not set: run scripts/vllm_cpu.py with --pooling")
    documents = ["Bananas are yellow.", "Paris is the capital of France.", "Cats sleep all day."]
    async with get_backend("vllm", MinerConfig(vllm_api_base=base)) as pooling:
        [model] = await pooling.list_models()
        assert model.capabilities >= {"rerank", "embeddings"}
        ranked = await pooling.rerank("What is the capital of France?", documents)
        assert ranked.results[0].index == 1
        assert sorted(one.index for one in ranked.results) == [0, 1, 2]
        assert ranked.usage.prompt_tokens > 10
        best = await pooling.rerank("What is the capital of France?", documents, top_n=1)
        assert [one.document for one in best.results] == [documents[1]]
        with pytest.raises(ContextLengthError):
            await pooling.rerank("hello", ["word " * 3000])
    with pytest.raises(UnsupportedFeatureError, match="does not support rerank"):
        await service.rerank("hello", documents)  # a server that generates


async def test_a_model_is_loaded_while_its_server_runs(service):
    assert (await service.load_model()).id == "smollm2"
    with pytest.raises(UnsupportedFeatureError, match="stay loaded"):
        await service.unload_model("smollm2")


@pytest.mark.parametrize("raw", [False, True], ids=["chat", "completions"])
async def test_unlimited_ends_with_the_context_on_both_routes(service, raw):
    prompt = "word " * 1900
    response = await service.stream(prompt, raw=raw, max_tokens=-1, temperature=0, extra={"ignore_eos": True}).collect()
    assert (response.finish_reason, response.context_exhausted) == ("length", True)
    assert response.usage.total_tokens == (await service.resolve_model()).context_length


async def test_the_server_says_its_load(service):
    """Under the names of its metrics as this release writes them."""
    await until_idle(service)
    model = (await service.list_models())[0].id
    async with service.stream(LONG, max_tokens=400) as stream:
        await anext(aiter(stream))
        [load] = await service.server_loads()
    assert (load.model, load.running, load.waiting) == (model, 1, 0)
    assert load.kv_cache_usage is not None
    assert 0 < load.kv_cache_usage <= 1
    assert int(load.block_size or 0) > 0
    assert int(load.num_blocks or 0) > 0
