"""Two gateways for the client programs."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from miner.core.llms.llm_llamacpp import LlamaCppService
from tests.gateway.serving import config, serving, vllm
from tests.live.clients.running import Gateways
from tests.live.clients.scripted import scripted
from tests.servers.openai_stub import StubServer


@pytest.fixture
async def gateways() -> AsyncIterator[Gateways]:
    """One over the demo model, one over an engine that calls tools."""
    service = LlamaCppService(config(default_model="demo", llamacpp_ctx_size=2048, llamacpp_parallel=2))
    async with (
        StubServer(reply=scripted, max_model_len=100_000) as engine,
        serving(service) as real,
        serving(vllm(engine)) as fake,
    ):
        yield Gateways(real.url, fake.url)
