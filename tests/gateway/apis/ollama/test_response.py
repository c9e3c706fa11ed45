"""Responses have the shapes of Ollama's OpenAPI file and of recorded ones."""

from __future__ import annotations

import json
from functools import cache

import yaml
from jsonschema import Draft202012Validator

from miner.core.llms.llm_ollama import OllamaService
from tests.gateway.apis.ollama.client import USER, Loader, send
from tests.gateway.serving import config, post, serving
from tests.servers.captures import DATA
from tests.servers.replay import ReplayServer


@cache
def schema(name):
    schemas = yaml.safe_load((DATA / "ollama-openapi.yaml").read_text(encoding="utf-8"))["components"]["schemas"]
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}})


def fits(name, value):
    """The value, which has the shape that Ollama's OpenAPI file gives to this answer, and all of its main fields."""
    errors = [error.message for error in schema(name).iter_errors(value)]
    assert not errors
    return value


async def test_responses_have_the_shapes_of_the_openapi_file():
    chat = {"model": "small", "messages": USER, "logprobs": True}
    async with serving(Loader(config(default_model="default"))) as served:
        lines = (await send(served, "/api/chat", chat))[2]
        fits("ChatResponse", (await send(served, "/api/chat", {**chat, "stream": False}))[2][0])
        pieces = (await send(served, "/api/generate", {"model": "small", "prompt": "x"}))[2]
        whole = (await send(served, "/api/generate", {"model": "small", "prompt": "x", "stream": False}))[2][0]
        fits("EmbedResponse", (await send(served, "/api/embed", {"model": "small", "input": "x"}))[2][0])
        tags = fits("ListResponse", (await send(served, "/api/tags", method="GET"))[2][0])
        ps = fits("PsResponse", (await send(served, "/api/ps", method="GET"))[2][0])
        show = fits("ShowResponse", (await send(served, "/api/show", {"name": "small"}))[2][0])
        version = fits("VersionResponse", (await send(served, "/api/version", method="GET"))[2][0])
    for line in lines:
        fits("ChatStreamEvent", line)
    for line in pieces:
        fits("GenerateStreamEvent", line)
    assert list(fits("GenerateResponse", whole))[:3] == ["model", "created_at", "response"]
    assert all(isinstance(whole[name], int) for name in ("total_duration", "prompt_eval_count", "eval_count"))
    assert whole["load_duration"] > 0
    assert [model["name"] for model in tags["models"]] == ["default", "small"]
    assert tags["models"][1]["details"]["parameter_size"] == "134.52M"
    assert all(len(model["digest"]) == 64 for model in tags["models"])
    assert [model["name"] for model in ps["models"]] == ["small"]
    assert show["model_info"]["general.architecture"] == "llama"
    assert show["model_info"]["llama.context_length"] == 512
    assert show["capabilities"] == ["completion", "tools", "thinking", "vision", "embedding"]
    assert version["version"].split(".")[0] == "0"


async def test_lines_look_like_recorded_ones():
    async with ReplayServer("ollama") as engine:
        service = OllamaService(config(ollama_base_url=engine.url, max_retries=0))
        async with serving(service) as served:
            body = {"model": "smollm2", "messages": [{"role": "user", "content": "Hi"}]}
            async with post(served, body, "/api/chat") as answer:
                ours = [json.loads(line) for line in (await answer.text()).splitlines()]
                kind = answer.headers["Content-Type"]
        theirs = [json.loads(line) for line in engine.answered[-1].body.splitlines()]
    assert kind == "application/x-ndjson"
    assert [list(line) for line in ours] == [list(line) for line in theirs]
    assert [line["message"] for line in ours] == [line["message"] for line in theirs]
    assert ours[-1]["eval_count"] == theirs[-1]["eval_count"]
    assert abs(ours[-1]["eval_duration"] - theirs[-1]["eval_duration"]) <= 1
