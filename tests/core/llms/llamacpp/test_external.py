"""A real llama.cpp server at LLAMACPP_API_BASE."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.errors import UnsupportedFeatureError
from tests.core.services import settings
from tests.servers.captures import DATA
from tests.servers.llama_runner import LlamaRunner, RunnerConfig, demo_model

pytestmark = pytest.mark.engine


async def external(**given: Any) -> LlamaRunner:
    return await LlamaRunner.start(RunnerConfig(path=str(demo_model()), num_ctx=512, **given))


def address_of(runner: LlamaRunner) -> str:
    return str(runner._session._base_url).rstrip("/")


async def test_a_server_of_somebody_else_says_what_its_model_can():
    runner = await external(parallel=2)
    try:
        async with LlamaCppService(settings(llamacpp_api_base=address_of(runner))) as service:
            [model] = await service.list_models()
            assert model.capabilities == service.capabilities
            assert not {"reasoning", "images", "embeddings", "rerank", "keep_alive"} & service.capabilities
            assert {"chat", "json_schema", "logprobs", "count_tokens"} <= service.capabilities
            for refused in (
                service.embed("hi"), service.rerank("q", ["a"]), service.generate("hi", reasoning=True),
            ):  # fmt: skip
                with pytest.raises(UnsupportedFeatureError):
                    await refused
    finally:
        await runner.stop()


async def test_a_server_of_somebody_else_that_was_restarted():
    runner = await external(parallel=1)
    address = address_of(runner)
    try:
        async with LlamaCppService(settings(llamacpp_api_base=address)) as service:
            assert await service.generate("What is the capital of France?", max_tokens=5)
            assert "reasoning" not in service.capabilities
            with pytest.raises(UnsupportedFeatureError):
                await service.embed("hi")
            assert "embeddings" not in service.capabilities
            await runner.stop()
            runner = await external(
                parallel=3, embedding=True, port=int(address.rpartition(":")[2]),
                template=(DATA / "templates" / "think.jinja").read_text(),
            )  # fmt: skip
            async with asyncio.timeout(60):
                while not {"embeddings", "reasoning"} <= service.capabilities:
                    await asyncio.sleep(0.2)
                    await service.list_models()
            assert (await service.embed("hi")).dimensions > 100
            assert "rerank" not in service.capabilities
            await asyncio.gather(*(service.generate("Hi", max_tokens=3) for _ in range(4)))
            assert service._external._limiter is not None
            assert service._external._limiter[1]._permits.limit == 3
    finally:
        await runner.stop()
