"""`/api/generate` remembers a conversation as token ids."""

from __future__ import annotations

import pytest

from tests.gateway.apis.ollama.client import send
from tests.gateway.apis.ollama.test_models import demo
from tests.gateway.serving import Parrot, config, serving

GREEDY = {"temperature": 0, "num_predict": 8}


@pytest.mark.engine
async def test_a_conversation_goes_on_from_its_token_ids(tmp_path):
    body = {"model": "demo", "prompt": "My name is Tom.", "options": GREEDY, "stream": False}
    async with serving(demo(tmp_path)) as served:
        [first] = (await send(served, "/api/generate", body))[2]
        more = {**body, "prompt": "What is my name?", "context": first["context"]}
        [second] = (await send(served, "/api/generate", more))[2]
        streamed = (await send(served, "/api/generate", {**more, "stream": True}))[2]
        [formatted] = (await send(served, "/api/generate", {**more, "format": "json"}))[2]
        [raw] = (await send(served, "/api/generate", {**body, "raw": True}))[2]
        [tokens] = (await send(served, "/detokenize", {"tokens": second["context"]}))[2]
    assert len(first["context"]) == first["prompt_eval_count"] + first["eval_count"]
    assert second["context"][: len(first["context"])] == first["context"]
    assert second["prompt_eval_count"] > len(first["context"])
    assert len(second["context"]) == second["prompt_eval_count"] + second["eval_count"]
    assert "".join(line["response"] for line in streamed) == second["response"]
    assert streamed[-1]["context"] == second["context"]
    assert not any("context" in line for line in streamed[:-1])
    assert formatted["response"].lstrip()[:1] in ("{", "")
    assert "context" not in raw
    assert "My name is Tom." in tokens["content"]
    assert second["response"] in tokens["content"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"context": [1], "raw": True}, "raw mode does not support template, system, or context"),
        ({"context": [-1]}, "context must be a list of token ids"),
        ({"context": [1], "suffix": "x"}, "suffix takes no context"),
    ],
)
async def test_what_does_not_go_with_a_context_is_refused(tmp_path, fields, words):
    async with serving(demo(tmp_path)) as served:
        status, _, [told] = await send(served, "/api/generate", {"model": "demo", "prompt": "x", **fields})
    assert status == 400
    assert words in told["error"]


async def test_a_backend_without_token_ids():
    body = {"model": "parrot", "prompt": "Hi", "stream": False}
    async with serving(Parrot(config(default_model="parrot"))) as served:
        status, _, [told] = await send(served, "/api/generate", body)
        refused = await send(served, "/api/generate", {**body, "context": [1, 2]})
    assert status == 200
    assert "context" not in told
    assert refused[0] == 400
    assert "context" in refused[2][0]["error"]
