"""Slots and context of real engines, where the settings do not set them."""

from __future__ import annotations

import logging

import pytest

from miner.core.llms.llamacpp.catalog import LocalModels
from miner.core.llms.llamacpp.memory import EngineMemory
from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.errors import ContextLengthError
from tests.core.services import settings

MIB = 1 << 20


async def spec_for(reserved: int = 0, **given):
    models = LocalModels(settings(llamacpp_threads=1, **given), lambda: EngineMemory(reserved))
    listed = (await models.infos(set()))[0].context_length
    _, spec = await models.find(None)
    again = (await models.infos(set()))[0].context_length
    assert listed == again == spec.ctx_size
    return spec.parallel, spec.ctx_size


async def test_the_budget_for_engines_decides():
    assert await spec_for(llamacpp_memory_budget=8 << 30) == (8, 8192)
    slots, tokens = await spec_for(llamacpp_memory_budget=1 << 30)
    assert 1 < slots < 8
    assert tokens == 8192
    slots, tokens = await spec_for(llamacpp_memory_budget=300 * MIB)
    assert slots == 1
    assert 256 < tokens < 8192


async def test_settings_override():
    budget = {"llamacpp_memory_budget": 1 << 30}
    assert await spec_for(llamacpp_ctx_size=2048, **budget) == (8, 2048)
    assert await spec_for(llamacpp_ctx_size=100_000, llamacpp_parallel=3, **budget) == (3, 8192)
    slots, tokens = await spec_for(llamacpp_parallel=8, **budget)
    assert slots == 8
    assert 2048 < tokens < 8192


async def test_a_model_leaves_the_loaded_ones_alone_unless_it_would_be_of_little_use():
    budget = {"llamacpp_memory_budget": 1 << 30}
    alone = await spec_for(**budget)
    beside = await spec_for(reserved=500 * MIB, **budget)
    assert beside[0] < alone[0]
    assert beside[1] == 8192
    assert await spec_for(reserved=1000 * MIB, **budget) == alone


async def test_an_engine_that_embeds_takes_no_batch_of_its_whole_context():
    models = LocalModels(settings(llamacpp_pooling="mean", llamacpp_memory_budget=64 << 30))
    _, spec = await models.find(None)
    assert spec.ctx_size == spec.batch_size <= 8192


@pytest.mark.engine
async def test_the_engine_runs_so_and_the_log_says_why(caplog):
    caplog.set_level(logging.INFO, "miner.llamacpp")
    async with LlamaCppService(settings(llamacpp_threads=1, llamacpp_parallel=1)) as service:
        info = await service.load_model()
        with pytest.raises(ContextLengthError) as refused:
            await service.generate("word " * 8300)
        [engine] = (await service.health()).engines
    assert info.context_length == 8192
    assert refused.value.context_length == 8192
    [line] = [record.getMessage() for record in caplog.records if record.name == "miner.llamacpp"]
    assert line.startswith("demo: 1 slot of 8192 tokens (as long as it was trained for); takes ")
    assert engine.slots == 1


async def test_models_that_should_fit_together_divide_the_memory():
    """A table's models: each has its part of the budget, whichever was looked up or loaded first."""
    given = {"model_path": "demo", "llamacpp_memory_budget": 3 << 30}
    needs = []
    for models in (
        LocalModels(settings(**given)),
        LocalModels(settings(**given), sharers=lambda: 3),
        LocalModels(settings(**given), lambda: EngineMemory(1 << 30), sharers=lambda: 3),
    ):
        _, spec = await models.find(None)
        needs.append(models.need(spec).ram)
    alone, first, later = needs
    assert first == later <= (3 << 30) * 0.95 / 3
    assert alone > first
