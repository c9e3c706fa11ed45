"""A DEFAULT_MODEL that does not exist: health reports it, and one warning does."""

from __future__ import annotations

import logging

import pytest

from miner.config.config import MinerConfig
from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.core.llms.llm_ollama import OllamaService
from miner.core.llms.llm_vllm import VLLMService
from miner.core.llms.LLMService import LLMService
from miner.errors import ModelNotFoundError
from tests.servers.openai_stub import StubServer
from tests.servers.replay import ReplayServer


class Own(LLMService):
    async def generate(self, prompt, model, max_tokens, temperature, top_p):
        return prompt

    async def _get_model(self, model_name):
        raise ModelNotFoundError(f"own has no model {model_name!r}.", model=model_name)


def settings(**more):
    return MinerConfig(_env_file=None, default_model="no/such-model", **more)


async def check(service, caplog):
    caplog.set_level(logging.INFO)
    async with service:
        for _ in range(3):
            assert await service.health_check() is False
        health = await service.health()
    assert "no/such-model" in health.reason
    assert "DEFAULT_MODEL" in health.reason
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "DEFAULT_MODEL" in warnings[0]
    assert "no/such-model" in warnings[0]


async def test_vllm(caplog):
    async with StubServer(models=["a", "b"]) as server:
        await check(VLLMService(settings(vllm_api_base=server.v1)), caplog)


async def test_ollama(caplog):
    async with ReplayServer("ollama") as server:
        await check(OllamaService(settings(ollama_base_url=server.url)), caplog)


async def test_a_llama_cpp_server_that_runs_by_itself(caplog):
    async with StubServer(models=["a"]) as server:
        await check(LlamaCppService(settings(llamacpp_api_base=server.url)), caplog)


async def test_llama_cpp(caplog, tmp_path):
    await check(LlamaCppService(settings(models_dir=str(tmp_path))), caplog)


async def test_a_backend_of_somebody_else(caplog):
    await check(Own(settings()), caplog)


@pytest.mark.parametrize("again", [False, True])
async def test_it_is_told_again_after_it_was_there(again, caplog):
    async with StubServer(models=["a"]) as server:
        service = VLLMService(settings(vllm_api_base=server.v1))
        async with service:
            assert not await service.health_check()
            if again:
                server.models = ["no/such-model"]
                assert await service.health_check()
                server.models = ["a"]
            assert not await service.health_check()
    assert len(caplog.records) == 1 + again
