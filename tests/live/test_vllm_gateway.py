"""The gateway over a real vLLM server (`-m vllm`): what OpenAI's clients and load tools ask of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from miner.core.llms.llm_vllm import VLLMService
from tests.gateway.serving import config, post, serving

pytestmark = pytest.mark.vllm

USER = [{"role": "user", "content": "Name a colour."}]


async def reply(served: Any, path: str, **body: Any) -> dict[str, Any]:
    async with post(served, {"temperature": 0, **body}, path) as answer:
        text = await answer.text()
        assert answer.status == 200, text
        assert "x-miner-ignored-params" not in answer.headers
    told: dict[str, Any] = json.loads(text)
    return told


async def test_prompts_are_scored_as_evaluations_do_it():
    """What lm-eval sends for a task of multiple choice: token ids, `echo` and one log probability."""
    async with serving(VLLMService(config())) as served:
        asked = {"prompt": [[504, 1124, 282], [504, 1124]], "max_tokens": 1, "logprobs": 1, "echo": True, "seed": 1234}
        told = await reply(served, "/v1/completions", **asked)
        text = await reply(served, "/v1/completions", **{**asked, "prompt": "The capital of France is Paris"})
    for choice, length in zip(told["choices"], (3, 2), strict=True):
        logprobs = choice["logprobs"]
        assert {len(values) for values in logprobs.values()} == {length + 1}
        assert (logprobs["token_logprobs"][0], logprobs["top_logprobs"][0]) == (None, None)
        assert all(value < 0 for value in logprobs["token_logprobs"][1:])
        assert all(max(top.values()) <= 0 for top in logprobs["top_logprobs"][1:])
    assert text["choices"][0]["text"].startswith("The capital of France is Paris")


async def test_its_own_fields_and_guided_output():
    async with serving(VLLMService(config())) as served:
        chat = "/v1/chat/completions"
        told = await reply(served, chat, messages=USER, max_tokens=40, min_tokens=40, ignore_eos=True)
        assert told["usage"]["completion_tokens"] == 40
        for fields in ({"guided_choice": ["red", "green"]}, {"structured_outputs": {"choice": ["red", "green"]}}):
            told = await reply(served, chat, messages=USER, max_tokens=9, **fields)
            assert told["choices"][0]["message"]["content"] in ("red", "green")
        told = await reply(served, "/v1/completions", prompt="A number:", max_tokens=9, guided_regex="[0-9]{3}")
        assert told["choices"][0]["text"].isdigit()


async def test_usage_in_every_chunk():
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"messages": USER, "max_tokens": 6, "ignore_eos": True, "stream": True, "stream_options": options}
    async with serving(VLLMService(config())) as served, post(served, body) as answer:
        lines = [line[6:] for line in (await answer.text()).splitlines() if line.startswith("data: {")]
    counts = [json.loads(line)["usage"]["completion_tokens"] for line in lines]
    assert (counts, counts[-1]) == (sorted(counts), 6)


async def test_audio_is_refused_by_a_server_of_text():
    async with serving(VLLMService(config())) as served, post(served, {"input": "Hi"}, "/v1/audio/speech") as answer:
        assert answer.status == 501
