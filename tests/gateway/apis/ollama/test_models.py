"""What Ollama's API says of models here: their files, and their engines."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.core.llms.llm_ollama import OllamaService
from tests.gateway.apis.ollama.client import USER, Loader, send
from tests.gateway.serving import Parrot, config, serving, vllm
from tests.servers.openai_stub import StubServer
from tests.servers.replay import ReplayServer

OPTIONS = {"temperature": 0, "num_predict": 2}


def demo(tmp_path, **settings):
    return LlamaCppService(
        config(default_model="demo", models_dir=str(tmp_path / "models"), llamacpp_threads=1, llamacpp_parallel=1,
               llamacpp_ctx_size=1024, **settings)
    )  # fmt: skip


def moment(text):
    return datetime.fromisoformat(text).timestamp()


async def test_a_model_is_shown_with_all_that_its_file_says(tmp_path):
    async with serving(demo(tmp_path)) as served:
        status, _, [shown] = await send(served, "/api/show", {"model": "demo"})
        [whole] = (await send(served, "/api/show", {"model": "demo", "verbose": True}))[2]
        [listed] = (await send(served, "/api/tags", method="GET"))[2]
    assert status == 200
    info = shown["model_info"]
    assert info["llama.context_length"] == 8192  # that it was trained for
    assert (info["llama.attention.layer_norm_rms_epsilon"], info["llama.rope.freq_base"]) == (0.00001, 100000)
    assert info["general.parameter_count"] == 134_515_008
    assert "tokenizer.chat_template" not in info
    assert info["tokenizer.ggml.tokens"] is None
    assert len(whole["model_info"]["tokenizer.ggml.tokens"]) == info["llama.vocab_size"]
    assert "<|im_start|>" in shown["template"]
    assert "FROM demo\n" in shown["modelfile"]
    assert "TEMPLATE " in shown["modelfile"]
    assert (shown["license"], shown["parameters"], shown["system"]) == ("apache-2.0", "", "")
    assert shown["tensors"][0] == {"name": "token_embd.weight", "type": "Q8_0", "shape": [576, 49152]}
    [model] = listed["models"]
    assert model["details"]["context_length"] == 8192
    assert model["modified_at"] == shown["modified_at"]
    assert moment(model["modified_at"]) > datetime(2020, 1, 1, tzinfo=UTC).timestamp()


@pytest.mark.engine
async def test_a_loaded_model_has_its_memory_its_context_and_the_end_of_its_time(tmp_path):
    chat = {"model": "demo", "messages": USER, "stream": False, "options": OPTIONS}
    async with serving(demo(tmp_path)) as served:
        [before] = (await send(served, "/api/ps", method="GET"))[2]
        await send(served, "/api/chat", {**chat, "keep_alive": "10m"})
        [ten] = (await send(served, "/api/ps", method="GET"))[2]
        await send(served, "/api/chat", {**chat, "keep_alive": -1})
        [ever] = (await send(served, "/api/ps", method="GET"))[2]
        await send(served, "/api/generate", {"model": "demo:latest", "keep_alive": 0})
        [after] = (await send(served, "/api/ps", method="GET"))[2]
    assert before == after == {"models": []}
    [model] = ten["models"]
    assert model["context_length"] == 1024
    assert model["size"] > 98_362_432  # more than its file
    assert model["size_vram"] == 0
    assert 500 < moment(model["expires_at"]) - time.time() < 620
    assert ever["models"][0]["expires_at"].startswith("2318")


@pytest.mark.engine
async def test_all_durations_of_a_final_object_are_above_zero(tmp_path):
    names = {"total_duration", "load_duration", "prompt_eval_duration", "eval_duration"}
    chat = {"model": "demo", "messages": USER, "options": OPTIONS}
    async with serving(demo(tmp_path)) as served:
        replies = [
            (await send(served, path, {**chat, **body}))[2][-1]
            for path, body in (
                ("/api/chat", {}),
                ("/api/chat", {"stream": False}),
                ("/api/chat", {"stream": False, "format": "json"}),  # cut short: no JSON yet
                ("/api/chat", {"format": "json"}),
            )
        ]
        generate = {"model": "demo", "prompt": "Hi", "options": OPTIONS}
        replies += [(await send(served, "/api/generate", {**generate, **body}))[2][-1] for body in ({}, {"raw": True})]
    for reply in replies:
        assert reply["done"]
        assert all(isinstance(reply[name], int) and reply[name] > 0 for name in names), reply
        assert reply["total_duration"] >= reply["load_duration"]


async def test_backends_that_know_less_of_their_models_say_what_they_know():
    async with serving(Parrot(config(default_model="parrot"))) as served:
        status, _, [shown] = await send(served, "/api/show", {"model": "parrot"})
        [final] = (await send(served, "/api/generate", {"model": "parrot", "prompt": "Hi", "stream": False}))[2]
    assert status == 200
    assert {"license", "modelfile", "parameters", "template", "system", "model_info", "modified_at"} <= shown.keys()
    assert final["total_duration"] >= final["load_duration"] > 0
    async with StubServer() as engine, serving(vllm(engine, default_model="m")) as served:
        [shown] = (await send(served, "/api/show", {"model": "m"}))[2]
        [running] = (await send(served, "/api/ps", method="GET"))[2]
        streamed = (await send(served, "/api/chat", {"model": "m", "messages": USER}))[2][-1]
        [whole] = (await send(served, "/api/chat", {"model": "m", "messages": USER, "stream": False}))[2]
    assert shown["model_info"]["unknown.context_length"] == 2048
    assert [model["name"] for model in running["models"]] == ["m"]
    for reply in (streamed, whole):
        assert min(reply["load_duration"], reply["prompt_eval_duration"], reply["eval_duration"]) > 0


async def test_an_embedding_loads_its_model_and_keeps_it():
    loader = Loader(config(default_model="default"))
    async with serving(loader) as served:
        [made] = (await send(served, "/api/embed", {"model": "small", "input": "x", "keep_alive": "5m"}))[2]
        assert loader.up
        await send(served, "/api/embed", {"model": "small", "input": "x", "keep_alive": 0})
        assert not loader.up
    assert made["total_duration"] >= made["load_duration"] > 0


async def test_bodies_are_read_as_leniently_as_ollama_reads_them():
    nulls = {"name": None, "system": None, "template": None, "verbose": None, "options": None}
    async with serving(Loader(config(default_model="default"))) as served:
        shown = await send(served, "/api/show", {"model": "small", **nulls, "license": True, "template": "x"})
        loaded = await send(served, "/api/generate", {"model": "small", "foo": 1, "stream": None, "options": None})
        pulled = await send(served, "/api/pull", {"model": "small", "insecure": True, "stream": None, "foo": 1})
    assert shown[0] == loaded[0] == 200
    assert shown[1]["X-Miner-Ignored-Params"] == "template, license"
    assert loaded[1]["X-Miner-Ignored-Params"] == "foo"
    assert pulled[0] == 501


async def test_words_of_a_model_that_only_embeds():
    async with (
        ReplayServer() as server,
        serving(OllamaService(config(ollama_base_url=server.url, max_retries=0))) as served,
    ):
        answers = [
            await send(served, "/api/chat", {"model": "smollm2-embed", "messages": USER}),
            await send(served, "/api/generate", {"model": "smollm2-embed", "prompt": "x", "stream": False}),
        ]
    assert [answer[0] for answer in answers] == [400, 400]
    assert answers[0][2][0]["error"].startswith('"smollm2-embed" does not support chat')
    assert answers[1][2][0]["error"].startswith('"smollm2-embed" does not support generate')
