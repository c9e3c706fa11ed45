"""The pool over real llama.cpp engines: each model with its own options, under one budget."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal

import pytest

from miner.errors import BackendOverloadedError, UnsupportedFeatureError
from tests.core.llms.pool.files import pool_of
from tests.tiny_model import write_tiny_model

pytestmark = pytest.mark.engine

TWO = """
[defaults]
threads = 1
[models.one]
file = "one.gguf"
context = 512
slots = 1
sampling = { temperature = 0 }
[models.same]
file = "one.gguf"
context = 512
slots = 1
system = "x"
[models.two]
file = "two.gguf"
context = 1024
slots = 2
"""


@pytest.fixture
def models(tmp_path):
    for name in ("one", "two"):
        write_tiny_model(tmp_path / f"{name}.gguf")
    return tmp_path


async def test_each_model_has_its_options_and_equal_ones_share_an_engine(models):
    async with pool_of(models, TWO) as service:
        for name in ("one", "same", "two"):
            response = await service.chat_completion([{"role": "user", "content": "hi"}], model=name, max_tokens=4)
            assert (response.model, response.backend) == (name, "llamacpp")
        health = await service.health()
        assert [(engine.model, engine.slots) for engine in health.engines] == [("one", 1), ("two", 2)]
        infos = {info.id: info for info in await service.list_models()}
        assert {name: info.context_length for name, info in infos.items()} == {"one": 512, "same": 512, "two": 1024}
        states = {state.name: state for state in await service.model_states()}
        assert [states[name].state for name in ("one", "same", "two")] == ["ready"] * 3
        assert states["same"].engine == "one"
        assert await service.unload_model("same")
        assert {state.name: state.state for state in await service.model_states()} == {
            "one": "unloaded", "same": "unloaded", "two": "ready",
        }  # fmt: skip


async def test_one_budget_for_all_models(models):
    async with pool_of(models, f"{TWO}\n[limits]\nmax_loaded = 1\n") as service:
        for name in ("one", "two", "one"):
            await service.generate("hi", model=name, max_tokens=2)
            ready = [engine.model for engine in (await service.health()).engines if engine.state == "ready"]
            assert ready == [name]


async def test_an_engine_that_is_killed_takes_no_other_with_it(models):
    async with pool_of(models, TWO, max_retries=2) as service:
        await service.generate("hi", model="one", max_tokens=1)
        stream = service.stream("hi", model="two", max_tokens=400)
        async with stream:
            await anext(stream)
            pid = next(engine.pid for engine in (await service.health()).engines if engine.model == "one")
            os.kill(pid, signal.SIGKILL)
            assert "length" in [chunk.finish_reason async for chunk in stream]
        assert await service.generate("hi", model="one", max_tokens=1)


async def test_closed_it_can_be_used_again(models):
    async with pool_of(models, TWO) as service:
        await service.generate("hi", model="one", max_tokens=1)
        pid = (await service.health()).engines[0].pid
        await service.aclose()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert await service.generate("hi", model="one", max_tokens=1)


async def test_the_log_names_the_keys_of_the_file(models, caplog):
    caplog.set_level(logging.INFO, "miner")
    text = TWO.replace("slots = 2", "").replace('system = "x"', "")
    async with pool_of(models, text) as service:
        await service.list_models()
    lines = [record.getMessage() for record in caplog.records if " tokens (" in record.getMessage()]
    assert any("(context and slots)" in line for line in lines)
    assert any("(context)" in line for line in lines)
    assert "LLAMACPP_" not in "".join(lines)


async def test_errors_name_the_model_and_not_one_that_shares_its_engine(models):
    async with pool_of(models, TWO, max_queue=0) as service:
        with pytest.raises(UnsupportedFeatureError, match="'same'"):
            await service.embed(["hi"], model="same")
        with pytest.raises(BackendOverloadedError, match="'same'"):
            await asyncio.gather(*(service.generate("hi", model="same", max_tokens=64) for _ in range(3)))


async def test_responses_in_the_engines_own_form_name_the_model(models):
    async with pool_of(models, TWO) as service:
        for name in ("one", "same"):
            props = json.loads(await service.native("/props", model=name))
            assert props["model_alias"] == name
            body = {"prompt": '"model":"one"', "n_predict": 2, "temperature": 0}
            batches = [batch async for batch in service.native_stream("/completion", body, name)]
            last = json.loads(batches[-1].events[-1])
            assert last["model"] == name
            assert last["prompt"].endswith('"model":"one"')


async def test_a_count_has_the_models_system_prompt(models):
    hi, system = {"role": "user", "content": "hi"}, {"role": "system", "content": "x"}
    async with pool_of(models, TWO) as service:
        response = await service.chat_completion([hi], model="same", max_tokens=2)
        assert await service.count_tokens(messages=[hi], model="same") == response.usage.prompt_tokens
        assert await service.count_tokens("hi", model="same") == response.usage.prompt_tokens
        assert await service.count_tokens(messages=[system, hi], model="one") == response.usage.prompt_tokens
        assert await service.count_tokens(messages=[hi], model="one") < response.usage.prompt_tokens
        raw = [await service.count_tokens("hi", raw=True, model=name) for name in ("one", "same")]
        assert raw[0] == raw[1]
