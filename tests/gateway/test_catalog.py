"""A model's name on every route: exact, an alias, or a 404 of the dialect's own that lists what is there."""

from __future__ import annotations

import shutil

import aiohttp
import pytest

from miner.core.llms.llm_llamacpp import LlamaCppService
from miner.core.llms.llm_ollama import OllamaService
from miner.core.llms.llm_vllm import VLLMService
from tests.core.models.conftest import make_gguf
from tests.gateway.serving import Parrot, config, post, serving
from tests.servers.llama_runner import demo_model
from tests.servers.openai_stub import StubServer
from tests.servers.payloads import models

CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
ROUTES = [
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", {**CHAT, "stream": True}),
    ("/v1/completions", {"prompt": "Hi", "max_tokens": 1}),
    ("/v1/responses", {"input": "Hi", "max_output_tokens": 16}),
    ("/v1/messages", CHAT),
    ("/v1/messages/count_tokens", {"messages": CHAT["messages"]}),
    ("/v1/embeddings", {"input": "Hi"}),
    ("/v1/rerank", {"query": "Hi", "documents": ["Ho"]}),
    ("/api/chat", {"messages": CHAT["messages"], "stream": False}),
    ("/api/chat", {}),
    ("/api/generate", {"prompt": "Hi", "stream": False}),
    ("/api/generate", {}),
    ("/api/embed", {"input": "Hi"}),
    ("/api/embeddings", {"prompt": "Hi"}),
    ("/api/show", {}),
]


def llamacpp(**settings):
    own = {"llamacpp_threads": 1, "llamacpp_parallel": 1, "llamacpp_ctx_size": 512, "llamacpp_pooling": "mean"}
    return LlamaCppService(config(**own, **settings))


@pytest.fixture
def directory(tmp_path):
    """Two models, one of them of the real engine."""
    shutil.copy(demo_model(), tmp_path / "mine.gguf")
    (tmp_path / "owner" / "repo").mkdir(parents=True)
    (tmp_path / "owner" / "repo" / "yours-Q4_0.gguf").write_bytes(make_gguf())
    return str(tmp_path)


@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_an_unknown_name_is_a_404_that_lists_the_models(directory, path, body):
    async with serving(llamacpp(models_dir=directory)) as served:
        for name in ("min", "mine2", "m", "owner/repo/yours", "gpt-4o", "yours", "mine:7b"):
            async with post(served, {**body, "model": name}, path) as response:
                text = await response.text()
                assert (name, response.status) == (name, 404), text
                assert "mine" in text
                assert "owner/repo/yours-Q4_0" in text
        async with aiohttp.ClientSession() as session, session.get(f"{served.v1}/models/min") as response:
            assert response.status == 404
        assert (await served.gateway.service.health()).engines == []


@pytest.mark.engine
async def test_names_and_aliases_are_served_everywhere(directory):
    async with serving(llamacpp(models_dir=directory)) as served:
        for name in ("mine", "MINE", "mine:latest", "mine.gguf", "Mine:Latest"):
            for path, body in (
                *[route for route in ROUTES if route[0] != "/v1/rerank"],
                ("/v1/chat/completions", {**CHAT, "stream": False}),
            ):
                async with post(served, {**body, "model": name}, path) as response:
                    assert (path, name, response.status) == (path, name, 200), await response.text()
        async with aiohttp.ClientSession() as session:
            for name in ("mine", "MINE:latest", "owner/repo", "owner/repo:q4_0", "yours-q4_0"):
                async with session.get(f"{served.v1}/models/{name}") as response:
                    assert response.status == 200, name
                    assert (await response.json())["id"] in ("mine", "owner/repo/yours-Q4_0")
            async with session.get(f"{served.v1}/models") as response:
                listed = [model["id"] for model in (await response.json())["data"]]
        assert listed == ["mine", "owner/repo/yours-Q4_0", "demo", "yours-Q4_0", "SmolLM2-135M-Instruct.Q4_1"]


@pytest.mark.parametrize(("allowed", "status"), [(False, 404), (True, 200)])
@pytest.mark.engine
async def test_other_names_with_a_model_path(directory, allowed, status):
    """The library's default is yes; a gateway is asked by strangers, and refuses unless it is told otherwise."""
    service = llamacpp(model_path=f"{directory}/mine.gguf")
    async with serving(service, serve_any_model_name=allowed) as served:
        for path, body in (ROUTES[0], ROUTES[4], ROUTES[8], ROUTES[14]):
            async with post(served, {**body, "model": "mistralai/Mistral-7B-v0.1"}, path) as response:
                assert (path, response.status) == (path, status), await response.text()
        async with post(served, {**CHAT, "model": "mine:latest"}) as response:
            assert response.status == 200


async def test_other_backends_take_the_tag_too_and_no_beginnings():
    async with (
        StubServer(models=["org/model-7b"]) as engine,
        serving(VLLMService(config(vllm_api_base=engine.v1))) as served,
    ):
        for name, status in (
            ("org/model-7b", 200),
            ("org/model-7b:latest", 200),
            ("org/model", 404),
            ("model-7b", 404),
        ):
            for path, body in (ROUTES[0], ROUTES[8], ROUTES[14]):
                async with post(served, {**body, "model": name}, path) as response:
                    assert (name, path, response.status) == (name, path, status), await response.text()


async def test_every_model_has_a_real_date_that_stays():
    """Clients that are typed refuse a list without one, and take 0 for 1970."""
    async with StubServer(models=["m"]) as engine:
        services = (
            LlamaCppService(config(llamacpp_threads=1)),
            VLLMService(config(vllm_api_base=engine.v1)),
            OllamaService(config(ollama_base_url=engine.url)),
            Parrot(config(default_model="parrot")),
        )
        for service in services:
            async with serving(service) as served, aiohttp.ClientSession() as session:
                dates = []
                for _ in range(2):
                    async with session.get(f"{served.v1}/models") as response:
                        dates += [model["created"] for model in (await response.json())["data"]]
                    # Such servers say the time of the request.
                    later = {**models(["m"])["data"][0], "created": dates[0] + 60}
                    engine.side["/v1/models"] = {"object": "list", "data": [later]}
                async with session.get(f"{served.url}/api/tags") as response:
                    tags = (await response.json())["models"]
            assert len(set(dates)) == 1
            assert dates[0] > 1_600_000_000, service.name
            assert tags[0]["modified_at"] > "2020", service.name
