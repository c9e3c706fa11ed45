"""What can never fit is refused at once, whatever engine would have to count it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from miner.config.config import MinerConfig
from miner.core.llms.contract.resolution import check_length
from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.errors import ContextLengthError
from tests.gateway.serving import post, serving
from tests.tiny_model import CONTEXT, write_tiny_model

HUGE = "é " * 300_000  # 900,000 bytes


@asynccontextmanager
async def tiny(tmp_path, **settings):
    path = write_tiny_model(tmp_path / "tiny.gguf")
    service = LlamaCppService(MinerConfig(_env_file=None, model_path=str(path), llamacpp_threads=1, **settings))
    try:
        yield service
    finally:
        await service.aclose()


async def test_all_verbs_refuse_it_before_an_engine_is_started(tmp_path):
    async with tiny(tmp_path, llamacpp_pooling="mean") as service:
        turns = [{"role": "user", "content": HUGE}]
        for ask in (
            service.generate(HUGE), service.generate(HUGE, raw=True), service.chat_completion(turns),
            service.count_tokens(HUGE), service.embed(["a", HUGE]),
        ):  # fmt: skip
            with pytest.raises(ContextLengthError, match=f"at least 3516 tokens .* the context {CONTEXT}") as caught:
                await ask
            assert caught.value.prompt_tokens == 3516
            assert caught.value.context_length == CONTEXT
        assert (await service.health()).engines == []


async def test_over_the_gateway_nobody_waits_for_it(tmp_path):
    async with tiny(tmp_path) as service, serving(service) as served:
        body = {"messages": [{"role": "user", "content": "x " * 300_000}], "max_tokens": 1}
        async with asyncio.timeout(60), post(served, body, headers={"content-type": "application/json"}) as answer:
            told = (await answer.json())["error"]
            assert (answer.status, told["code"]) == (400, "context_length_exceeded")
        assert (await service.health()).engines == []


def test_the_bound():
    check_length(["x" * 2560], 10, "m", "prompt")
    check_length(["x" * 10_000_000], None, "m", "prompt")
    for texts in (["x" * 2561], ["x" * 2000, "é" * 281]):
        with pytest.raises(ContextLengthError, match="at least 11 tokens"):
            check_length(texts, 10, "m", "prompt")
