"""Every field of OpenAI's response objects, with its type and whether it may be null: the judges are the types of the
official package.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from miner.core.llms.llm_llamacpp import LlamaCppService
from tests.gateway.apis.openai.client import USER, WEATHER
from tests.gateway.serving import config, post, serving, vllm
from tests.servers.openai_stub import StubServer
from tests.servers.payloads import delta, finish, openai_chunk, usage, usage_chunk

NEVER = {
    "moderation",
    "metadata",
    "obfuscation",
    "audio",
    "function_call",
    "text_tokens",
    "image_tokens",
    "cache_write_tokens",
}
"""Fields of what no engine here has, and those that a newer package has added for OpenAI's own tools."""
SOMETIMES = {"tool_calls", "cached_tokens", "reasoning_tokens", "usage", "refusal", "content", "role"}
"""Fields that are left out where there is nothing to say; in a chunk all of its delta."""
OWN = {"reasoning_content"}


def checked(kind: type[BaseModel], body: dict[str, Any]) -> None:
    """Fail where a body is not what the type says, or lacks a field of it."""
    kind.model_validate_json(json.dumps(body), strict=True)
    compare(kind.model_validate_json(json.dumps(body)), body, kind.__name__)


def compare(parsed: BaseModel, body: dict[str, Any], where: str) -> None:
    fields = type(parsed).model_fields
    later = {"id", "type", "name"} if ".delta.tool_calls" in where else set()  # the first piece of a call has them
    assert fields.keys() - body.keys() <= NEVER | SOMETIMES | later, where
    assert body.keys() - fields.keys() <= OWN, where
    for name in fields.keys() & body.keys():
        value = getattr(parsed, name)
        for one, raw in zip(value, body[name], strict=True) if isinstance(value, list) else [(value, body[name])]:
            if isinstance(one, BaseModel):
                compare(one, raw, f"{where}.{name}")


async def events(served: Any, body: dict[str, Any], path: str = "/v1/chat/completions") -> list[dict[str, Any]]:
    async with post(served, {**body, "stream": True}, path) as answer:
        text = await answer.text()
        assert answer.status == 200, text
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


async def whole(served: Any, body: dict[str, Any], path: str = "/v1/chat/completions") -> dict[str, Any]:
    async with post(served, body, path) as answer:
        text = await answer.text()
        assert answer.status == 200, text
    told: dict[str, Any] = json.loads(text)
    return told


CHAT: list[dict[str, Any]] = [
    {},
    {"logprobs": True, "top_logprobs": 2},
    {"n": 2},
    {"tools": [WEATHER], "tool_choice": "required", "max_tokens": 60},
    {"stop": ["e"]},
]


@pytest.mark.engine
async def test_chat_on_a_real_engine():
    service = LlamaCppService(config(default_model="demo"))
    async with serving(service) as served:
        for more in CHAT:
            body = {"model": "demo", "messages": USER, "max_tokens": 6, **more}
            told = await whole(served, body)
            checked(ChatCompletion, told)
            message = told["choices"][0]["message"]
            assert (message["annotations"], message["refusal"]) == ([], None)
            assert told["choices"][0]["logprobs"] is None or "logprobs" in more
            assert told["service_tier"] == "default"
            assert told["usage"]["prompt_tokens_details"]["cached_tokens"] >= 0
            assert told["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0
            for chunk in (streamed := await events(served, {**body, "stream_options": {"include_usage": True}})):
                checked(ChatCompletionChunk, chunk)
            assert streamed[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
            assert (streamed[-1]["choices"], streamed[-1]["usage"].keys()) == ([], told["usage"].keys())
            for chunk in streamed[:-1]:
                assert chunk["usage"] is None
                for choice in chunk["choices"]:
                    assert choice["finish_reason"] is None or choice["delta"] == {}
            assert not any("usage" in chunk for chunk in await events(served, body))


@pytest.mark.engine
async def test_completions_on_a_real_engine():
    service = LlamaCppService(config(default_model="demo"))
    async with serving(service) as served:
        for more in ({}, {"logprobs": 0}, {"logprobs": 2}, {"n": 2}, {"prompt": ["a", "b"]}):
            body = {"model": "demo", "prompt": "Once upon", "max_tokens": 6, **more}
            told = await whole(served, body, "/v1/completions")
            checked(Completion, told)
            streamed = await events(served, {**body, "stream_options": {"include_usage": True}}, "/v1/completions")
            for chunk in streamed:
                assert chunk["object"] == "text_completion"
                assert all(choice["finish_reason"] is None or choice["text"] == "" for choice in chunk["choices"])
            if more.get("logprobs") is not None:
                logprobs = told["choices"][0]["logprobs"]
                assert len({len(logprobs[name]) for name in logprobs}) == 1
                assert logprobs["text_offset"][0] == 0
                assert all(len(top) == more["logprobs"] for top in logprobs["top_logprobs"])


async def test_what_an_engine_does_not_count_is_left_out():
    told = [delta(reasoning="Hm."), delta(content="Yes."), finish(), usage_chunk()]
    async with StubServer(reply=told) as engine, serving(vllm(engine)) as served:
        body = {"model": "m", "messages": USER}
        counts = [
            (await whole(served, body))["usage"],
            (await events(served, {**body, "stream_options": {"include_usage": True}}))[-1]["usage"],
        ]
    for usage_of in counts:
        assert "cached_tokens" not in usage_of["prompt_tokens_details"]
        assert "reasoning_tokens" not in usage_of["completion_tokens_details"]


async def test_the_reason_of_the_end_has_a_chunk_of_its_own():
    async with (
        StubServer(reply=[delta(content="Yes"), delta(content=".", finish_reason="stop"), usage_chunk()]) as engine,
        serving(vllm(engine)) as served,
    ):
        streamed = await events(served, {"model": "m", "messages": USER})
    choices = [chunk["choices"][0] for chunk in streamed]
    assert [(one["delta"].get("content"), one["finish_reason"]) for one in choices] == [
        ("", None), ("Yes", None), (".", None), (None, "stop"),
    ]  # fmt: skip


async def test_usage_in_every_chunk():
    def counting(body: dict[str, Any]) -> list[dict[str, Any]]:
        assert body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
        texts = [
            openai_chunk([{"index": 0, "delta": {"content": text}, "finish_reason": None}], usage=usage(7, place))
            for place, text in enumerate("abc", 1)
        ]
        return [*texts, finish() | {"usage": usage(7, 3)}, usage_chunk(7, 3)]

    asked = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    async with StubServer(reply=counting) as engine, serving(vllm(engine)) as served:
        streamed = await events(served, {"model": "m", "messages": USER, **asked})
    assert [chunk["usage"]["completion_tokens"] for chunk in streamed] == [1, 1, 2, 3, 3, 3]
    assert {chunk["usage"]["prompt_tokens"] for chunk in streamed} == {7}


@pytest.mark.engine
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_usage_in_every_chunk_of_a_real_engine(path: str):
    service = LlamaCppService(config(default_model="demo"))
    asked = {"stream_options": {"continuous_usage_stats": True}, "max_tokens": 5, "stop": ["zzzzzz"]}
    prompt = {"messages": USER} if "chat" in path else {"prompt": "Once upon a"}
    async with serving(service) as served:
        streamed = await events(served, {"model": "demo", **prompt, **asked}, path)
        told = await whole(served, {"model": "demo", **prompt, "max_tokens": 5}, path)
    counts = [chunk["usage"]["completion_tokens"] for chunk in streamed]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (1, 5)
    assert {chunk["usage"]["prompt_tokens"] for chunk in streamed} == {told["usage"]["prompt_tokens"]}


async def test_embeddings():
    async with StubServer() as engine, serving(vllm(engine)) as served:
        for encoding in ("float", "base64"):
            body = {"model": "m", "input": ["one", "two"], "encoding_format": encoding}
            told = await whole(served, body, "/v1/embeddings")
            if encoding == "float":
                checked(CreateEmbeddingResponse, told)
            else:
                assert all(isinstance(item["embedding"], str) for item in told["data"])
