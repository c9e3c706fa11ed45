"""Completions of prompts past the chat template."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from miner.core.llms.llm_ollama import OllamaService
from tests.core.services import settings
from tests.gateway.apis.openai.client import client
from tests.gateway.serving import serving, vllm
from tests.gateway.test_field_names import post_json
from tests.servers.openai_stub import StubServer


async def test_completions_go_verbatim():
    async with StubServer() as engine, serving(vllm(engine)) as served, client(served) as api:
        reply = await api.completions.create(model="m", prompt=["Once", "Twice"], max_tokens=5)
        paths = [request.path for request in engine.generations]
        stream = await api.completions.create(
            model="m", prompt="Once", stream=True, stream_options={"include_usage": True}
        )
        pieces = [piece async for piece in stream]
        with pytest.raises(openai.BadRequestError) as caught:
            await api.completions.create(model="m", prompt=[1, "2", 3])
        await api.completions.create(model="m", prompt="a", suffix="b")
        assert (engine.bodies[-1]["prompt"], engine.bodies[-1]["suffix"]) == ("a", "b")
    assert [choice.text for choice in reply.choices] == ["Hello there.", "Hello there."]
    assert reply.usage.prompt_tokens == 42
    assert paths == ["/v1/completions", "/v1/completions"]
    assert "".join(piece.choices[0].text for piece in pieces if piece.choices) == "Hello there."
    assert pieces[-1].usage.completion_tokens == 8
    assert caught.value.param == "prompt"


@pytest.mark.parametrize("prompt", [[504, 1124], [[504, 1124], [3]]])
async def test_prompts_of_token_ids_go_to_engines_that_take_them(prompt: list[Any]):
    body = {"model": "m", "prompt": prompt, "max_tokens": 2}
    async with StubServer() as engine, serving(vllm(engine)) as served:
        status, text, _ = await post_json(served, "/v1/completions", body)
        assert status == 200, text
        sent = [one["prompt"] for one in engine.bodies]
    assert sent == ([prompt] if isinstance(prompt[0], int) else prompt)
    async with StubServer() as engine, serving(OllamaService(settings(ollama_base_url=engine.url))) as served:
        status, text, _ = await post_json(served, "/v1/completions", body)
        assert (status, engine.bodies) == (400, [])
        assert "does not support prompt (prompt_tokens)" in text
