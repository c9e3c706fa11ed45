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


@pytest.mark.parametrize("prompt", ["Once", ["Once", "Twice"]])
@pytest.mark.parametrize("n", [1, 2])
async def test_the_prompt_is_echoed_before_each_completion(prompt: Any, n: int):
    texts = [prompt] if isinstance(prompt, str) else prompt
    expected = [f"{text}Hello there." for text in texts for _ in range(n)]
    async with StubServer() as engine, serving(vllm(engine)) as served, client(served) as api:
        reply = await api.completions.create(model="m", prompt=prompt, echo=True, n=n)
        assert [choice.text for choice in reply.choices] == expected
        assert "echo" not in engine.bodies[-1]
        stream = await api.completions.create(model="m", prompt=prompt, echo=True, n=n, stream=True)
        streamed = [""] * len(expected)
        async for chunk in stream:
            for choice in chunk.choices:
                streamed[choice.index] += choice.text
    assert streamed == expected


async def test_an_echo_that_takes_the_engine_is_the_engines_or_refused():
    scored = {
        "id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m",
        "choices": [{
            "index": 0, "text": "a b!", "finish_reason": "length",
            "logprobs": {
                "tokens": ["a", " b", "!"], "token_logprobs": [None, -0.5, -1.0], "text_offset": [0, 1, 3],
                "top_logprobs": [None, {" b": -0.5}, {"!": -1.0}],
            },
        }],
        "usage": {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3},
    }  # fmt: skip
    body = {"model": "m", "prompt": [[5, 6]], "max_tokens": 1, "logprobs": 1, "echo": True, "temperature": 0}
    async with StubServer(reply=scored) as engine, serving(vllm(engine)) as served, client(served) as api:
        reply = await api.completions.create(**body)
        assert (engine.bodies[-1]["echo"], engine.bodies[-1]["logprobs"]) == (True, 1)
    told = reply.choices[0]
    assert (told.text, told.logprobs.tokens) == ("a b!", ["a", " b", "!"])
    assert told.logprobs.token_logprobs == [None, -0.5, -1.0]
    assert told.logprobs.top_logprobs == [None, {" b": -0.5}, {"!": -1.0}]
    assert told.logprobs.text_offset == [0, 1, 3]
    async with StubServer() as engine, serving(OllamaService(settings(ollama_base_url=engine.url))) as served:
        status, text, _ = await post_json(served, "/v1/completions", {**body, "prompt": "a"})
        assert (status, engine.bodies) == (400, [])
        assert "does not support echo" in text


async def test_best_of_is_refused_where_it_would_choose():
    async with StubServer() as engine, serving(vllm(engine)) as served:
        for best_of, n, expected in ((1, 1, 200), (2, 2, 200), (3, 1, 400)):
            body = {"model": "m", "prompt": "a", "best_of": best_of, "n": n}
            status, text, _ = await post_json(served, "/v1/completions", body)
            assert status == expected, text
