"""Loading and unloading, as Ollama's command line requests it."""

from __future__ import annotations

import asyncio

import ollama
import pytest

from miner.core.llms.llm_llamacpp import LlamaCppService
from tests.gateway.apis.ollama.client import USER, Loader, send
from tests.gateway.serving import config, serving, vllm
from tests.servers.openai_stub import StubServer


async def test_run_as_the_command_line_does():
    service = Loader()
    empty = {"system": "", "template": "", "verbose": False, "options": None}
    common = {"format": "", "options": {}, "_debug_render_only": False}
    async with serving(service) as served:
        assert (await send(served, "/", method="HEAD"))[0] == 200
        assert (await send(served, "/", method="GET"))[2] == ["Ollama is running"]
        shown = await send(served, "/api/show", {"model": "small", "name": "", **empty})
        assert shown[0] == 200
        assert (await send(served, "/api/ps", method="GET"))[2][0]["models"] == []
        load = {"model": "small", "prompt": "", "suffix": "", "system": "", "template": "", **common}
        loaded = await send(served, "/api/generate", load)
        running = await send(served, "/api/ps", method="GET")
        chat = await send(served, "/api/chat", {"model": "small", "messages": USER, **common})
        stopped = await send(served, "/api/generate", {**load, "keep_alive": "0s"})
        again = await send(served, "/api/chat", {"model": "small", "messages": [], "keep_alive": 0})
    assert (loaded[2][0]["done_reason"], loaded[2][0]["response"]) == ("load", "")
    assert [model["name"] for model in running[2][0]["models"]] == ["small"]
    assert chat[2][-1]["done_reason"] == "stop"
    assert stopped[2][0]["done_reason"] == "unload"
    assert not service.up
    assert again[2][0] == {
        **again[2][0], "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "unload",
    }  # fmt: skip
    assert [request.max_tokens for request in service.requests] == [-1]  # loading asks for no token


@pytest.mark.engine
async def test_a_real_engine_is_loaded_used_and_unloaded():
    service = LlamaCppService(config(llamacpp_threads=1, llamacpp_parallel=1))
    async with serving(service) as served:
        api = ollama.AsyncClient(served.url)
        async with api:
            name = (await api.list()).models[0].model
            before = (await api.ps()).models
            loaded = await api.generate(name, "")
            running = [model.model for model in (await api.ps()).models]
            said = await api.chat(f"{name}:latest", USER, options={"num_predict": 3, "temperature": 0})
            with pytest.raises(ollama.ResponseError, match="exceeds the context length"):
                await api.chat(name, [{"role": "user", "content": "word " * 20_000}])
            unloaded = await api.generate(name, "", keep_alive=0)
            for _ in range(300):
                left = (await api.ps()).models
                if not left:
                    break
                await asyncio.sleep(0.2)
    assert before == []
    assert loaded.done_reason == "load"
    assert running == [name]
    assert said.message.content
    assert (said.done_reason, said.eval_count) == ("length", 3)
    assert unloaded.done_reason == "unload"
    assert left == []


async def test_loading_where_models_stay_loaded():
    async with StubServer() as engine, serving(vllm(engine)) as served:
        loaded = await send(served, "/api/generate", {"model": "m", "keep_alive": "5m"})
        unknown = await send(served, "/api/generate", {"model": "no"})
        stopped = await send(served, "/api/generate", {"model": "m", "keep_alive": 0})
        assert engine.generations == []
    assert loaded[2][0]["done_reason"] == "load"
    assert loaded[1]["X-Miner-Ignored-Params"] == "keep_alive"
    assert unknown[0] == 404
    assert stopped[0] == 400
    assert "keep_alive" in stopped[2][0]["error"]
