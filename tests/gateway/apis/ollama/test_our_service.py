"""Our own OllamaService with the gateway as its Ollama."""

from __future__ import annotations

import json

import pytest

from miner.core.llms.llm_ollama import OllamaService
from miner.core.wire import LLMChunk, TokenUsage
from miner.errors import (
    BackendError,
    ContextLengthError,
    ModelNotFoundError,
    StreamInterruptedError,
    UnsupportedFeatureError,
)
from tests.gateway.apis.ollama.client import CALLS, USER, WEATHER, Loader
from tests.gateway.serving import Parrot, config, serving, vllm
from tests.servers import faults
from tests.servers.openai_stub import StubServer


def behind(served, **settings):
    """Our own OllamaService with the gateway as its Ollama."""
    return OllamaService(config(ollama_base_url=served.url, max_retries=0, **settings))


async def test_our_service_text_stream_usage_and_models():
    async with (
        StubServer() as engine,
        serving(vllm(engine)) as served,
        behind(served, default_model="m") as service,
    ):
        whole = await service.chat_completion(USER)
        chunks = [chunk async for chunk in service.stream("Why?")]
        text = await service.generate("Why?", seed=5, stop=["x"])
        raw = await service.generate("Why?", raw=True)
        models = await service.list_models()
        healthy = await service.health_check()
    assert (whole.content, whole.finish_reason) == ("Hello there.", "stop")
    assert whole.usage == TokenUsage(21, 8, 29)
    assert "".join(chunk.content or "" for chunk in chunks) == text == raw == "Hello there."
    assert chunks[-1].usage == TokenUsage(21, 8, 29)
    assert isinstance(chunks[-1], LLMChunk)
    assert [(model.id, model.context_length) for model in models] == [("m", 2048)]
    assert healthy


async def test_our_service_tools_streamed_or_not():
    async with (
        StubServer(reply=CALLS) as engine,
        serving(vllm(engine)) as served,
        behind(served, default_model="m") as service,
    ):
        whole = await service.chat_completion(USER, tools=[WEATHER])
        streamed = await service.stream(messages=USER, tools=[WEATHER]).collect()
    for response in (whole, streamed):
        assert response.finish_reason == "tool_calls"
        assert [json.loads(call["function"]["arguments"]) for call in response.tool_calls] == [{"city": "Rome"}, {}]
        assert [call["id"] for call in response.tool_calls] == ["call_a", "call_b"]


async def test_our_service_embeds():
    async with serving(Loader()) as served, behind(served) as service:
        made = await service.embed(["one", "three"], "small")
    assert made.embeddings == [[1.0, 2.0, 3.0], [1.0, 2.0, 5.0]]
    assert made.usage.prompt_tokens == 5


async def test_our_service_meets_typed_errors():
    long = {"message": "maximum context length is 2048 tokens. However, your prompt has 3000", "code": 400}
    async with (
        StubServer() as engine,
        serving(vllm(engine)) as served,
        behind(served, default_model="m") as service,
    ):
        with pytest.raises(ModelNotFoundError):
            await service.generate("Why?", model="no")
        engine.reply = (400, {"error": long})
        with pytest.raises(ContextLengthError):
            await service.generate("Why?")
        engine.reply = faults.truncated(["Hel", "lo"])
        with pytest.raises(StreamInterruptedError) as caught:
            await service.stream("Why?").collect()
        assert caught.value.partial.content.startswith("Hel")
        engine.reply = faults.status(500)
        with pytest.raises(BackendError):
            await service.generate("Why?")
    async with serving(Parrot(config(default_model="parrot"))) as served, behind(served) as service:
        with pytest.raises(UnsupportedFeatureError):
            await service.generate("Why?", model="parrot", seed=3)
        with pytest.raises(UnsupportedFeatureError):
            await service.chat_completion(USER, model="parrot", tools=[WEATHER])
        with pytest.raises(UnsupportedFeatureError):
            await service.embed("x", "parrot")
