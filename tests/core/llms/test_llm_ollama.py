"""OllamaService on the wire: models, health, embeddings, errors."""

from __future__ import annotations

from typing import Any

import pytest

from miner.errors import (
    BackendProtocolError,
    ContextLengthError,
    InvalidRequestError,
    ModelNotFoundError,
    UnsupportedFeatureError,
)
from tests.core.llms.contract.test_failures import MODES, Faulty
from tests.core.services import ask, speaking_to
from tests.servers import faults
from tests.servers.openai_stub import StubServer
from tests.servers.replay import ReplayServer


def ollama(server: Any, **given: Any) -> Any:
    return speaking_to("ollama", server, **given)


async def test_models_and_what_each_can():
    async with ReplayServer("ollama") as server, ollama(server) as service:
        models = await service.list_models()
        assert {model.id for model in models} >= {"smollm2:latest", "smollm2-tools:latest"}
        assert all(model.size and model.digest for model in models)
        assert all(model.created and model.created > 1_700_000_000 for model in models)
        assert ("smollm2" in models[0].aliases) or models[0].aliases
        can = {name: (await service._get_model(name)).capabilities for name in
               ("smollm2", "smollm2-tools", "smollm2-think", "smollm2-embed")}  # fmt: skip
        assert ["tools" in can[name] for name in can] == [False, True, False, False]
        assert ["reasoning" in can[name] for name in can] == [False, False, True, False]
        assert ["embeddings" in can[name] for name in can] == [False, False, False, True]
        assert "chat" not in can["smollm2-embed"]
        info = await service._get_model("smollm2")
        assert (info.context_length, info.dimensions, info.quantization) == (8192, 576, "Q4_1")
        assert (info.architecture, info.parameters) == ("llama", 134515008)
        with pytest.raises(UnsupportedFeatureError, match="'smollm2-embed'"):
            await service.generate("hi", model="smollm2-embed")


async def test_a_model_that_is_not_pulled_says_how_to_get_it():
    async with ReplayServer("ollama") as server, ollama(server) as service:
        for mode in MODES:
            with pytest.raises(ModelNotFoundError) as caught:
                await ask(service, mode, model="no-such-model")
            assert caught.value.model == "no-such-model"
            assert "smollm2:latest" in caught.value.available
            assert "`ollama pull no-such-model`" in str(caught.value)
            assert "smollm2:latest" in str(caught.value)
            assert server.url in str(caught.value)
        with pytest.raises(ModelNotFoundError, match="several models and none was named"):
            await service.generate("hi")


async def test_no_model_at_all():
    async with StubServer(side={"/api/tags": {"models": []}}) as server, ollama(server) as service:
        with pytest.raises(ModelNotFoundError, match=r"no model and none was named\. Pull one with `ollama pull NAME`"):
            await service.generate("hi")
        health = await service.health()
        assert (health.state, health.reason) == ("unavailable", "ollama serves no model.")


CLOUD = {"name": "big:cloud", "model": "big:cloud", "remote_host": "https://ollama.example", "remote_model": "big"}


async def test_a_model_that_runs_elsewhere_is_refused():
    """Cloud names look local; a prompt must not leave the machine."""
    show = {"details": {}, "model_info": {}, "capabilities": ["completion"], "remote_host": "https://ollama.example"}
    side = {"/api/show": show, "/api/tags": {"models": [CLOUD]}}
    async with StubServer(side=side) as server, ollama(server) as service:
        for mode in MODES:
            with pytest.raises(UnsupportedFeatureError, match=r"runs on https://ollama\.example, not on this"):
                await ask(service, mode, model="big:cloud")
        assert await service.list_models() == []
        assert not await service.health_check()
        assert server.bodies == []


async def test_a_prompt_that_does_not_fit_is_an_error_with_both_numbers():
    async with ReplayServer("ollama") as server, ollama(server, default_model="smollm2") as service:
        for name, mode in (("overflow_chat_truncate_shift_false", "call"),
                           ("overflow_chat_truncate_shift_false_stream", "stream"),
                           ("overflow_generate_truncate_shift_false", "call")):  # fmt: skip
            server.respond_with(name)
            with pytest.raises(ContextLengthError) as caught:
                await ask(service, mode, raw="generate" in name)
            assert (caught.value.prompt_tokens, caught.value.context_length) == (9010, 4096)


async def test_embeddings():
    async with ReplayServer("ollama") as server, ollama(server) as service:
        server.respond_with("embed")
        vectors = await service.embed(["hello", "good morning"], model="smollm2-embed")
        assert (len(vectors.data), vectors.dimensions, vectors.usage.prompt_tokens) == (2, 576, 3)
        assert server.sent("/api/embed")[0].json == {
            "model": "smollm2-embed", "input": ["hello", "good morning"], "truncate": False,
        }  # fmt: skip
        with pytest.raises(UnsupportedFeatureError, match="'smollm2' does not support embeddings"):
            await service.embed("hello", model="smollm2")
        server.respond_with("embed_truncate_false")
        with pytest.raises(ContextLengthError, match="exceeds the context length"):
            await service.embed("word", model="smollm2-embed")
        server.respond_with("embed_empty_string")
        with pytest.raises(BackendProtocolError, match="sent 0 embeddings for 1 texts"):
            await service.embed("x", model="smollm2-embed")
        for wrong in ("", [], ["a", ""], 5):
            with pytest.raises(InvalidRequestError, match="texts must be"):
                await service.embed(wrong, model="smollm2-embed")


async def test_health(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("miner.core.llms.http_backend._HEALTH_SECONDS", 0.4)
    async with ReplayServer("ollama") as server:
        for default, healthy in ((None, True), ("smollm2", True), ("smollm2:latest", True), ("other", False)):
            async with ollama(server, default_model=default) as service:
                health = await service.health()
                assert bool(health) is healthy
                assert "smollm2:latest" in health.models
                if not healthy:
                    assert "`ollama pull other`" in (health.hint or "")
        assert {request.path for request in server.requests} == {"/api/tags"}  # it loads nothing
    for behaviour in (faults.silent(), faults.status(503, everywhere=True), faults.not_json(everywhere=True),
                      faults.html_page(404, everywhere=True)):  # fmt: skip
        async with Faulty(behaviour) as broken, ollama(broken) as service:
            assert not await service.health_check()
            health = await service.health()
            assert (health.state, bool(health.reason), bool(health.hint)) == ("unavailable", True, True)
            assert "300 s" not in str(health)
