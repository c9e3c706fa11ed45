"""A reply may be sent back as it came, with all of its fields, in every dialect."""

from __future__ import annotations

import json
from typing import Any

import pytest

from miner.core.llms.llm_ollama import OllamaService
from tests.core.services import WEATHER, settings
from tests.gateway.serving import serving, vllm
from tests.gateway.test_field_names import ANTHROPIC, post_json
from tests.servers.openai_stub import StubServer
from tests.servers.payloads import delta, finish, usage_chunk

USER = {"role": "user", "content": "hi"}
CALLED = [
    delta(reasoning="hm"),
    delta(content="I look."),
    delta(tool_calls=[{"index": 0, "id": "c0", "function": {"name": "get_weather", "arguments": ""}}]),
    finish("tool_calls"),
    usage_chunk(3, 9),
]
FUNCTION = WEATHER["function"]
OPENAIS_OWN = {
    "role": "assistant", "content": None, "refusal": None, "annotations": [], "audio": None, "function_call": None,
    "tool_calls": [{"id": "c0", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}],
}  # fmt: skip


def chat(reply: dict[str, Any]) -> list[Any]:
    message = reply["choices"][0]["message"]
    return [message, {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": None}]


def responses(reply: dict[str, Any]) -> list[Any]:
    call = reply["output"][-1]
    return [*reply["output"], {"type": "function_call_output", "call_id": call["call_id"], "output": ""}]


def anthropic(reply: dict[str, Any]) -> list[Any]:
    result = {"type": "tool_result", "tool_use_id": reply["content"][-1]["id"], "content": []}
    return [{"role": reply["role"], "content": reply["content"]}, {"role": "user", "content": [result]}]


def ollama(reply: dict[str, Any]) -> list[Any]:
    return [reply["message"], {"role": "tool", "tool_name": "get_weather", "content": ""}]


@pytest.mark.parametrize(
    ("path", "field", "body", "sent_back"),
    [
        ("/v1/chat/completions", "messages", {"tools": [WEATHER]}, chat),
        ("/v1/responses", "input", {"tools": [{"type": "function", "strict": None, **FUNCTION}]}, responses),
        ("/v1/messages", "messages",
         {"max_tokens": 9, "tools": [{"name": "get_weather", "input_schema": FUNCTION["parameters"]}]}, anthropic),
        ("/api/chat", "messages", {"stream": False, "tools": [WEATHER]}, ollama),
    ],
)  # fmt: skip
async def test_our_own_response(path: str, field: str, body: dict[str, Any], sent_back: Any):
    async with StubServer(reply=CALLED) as engine, serving(vllm(engine)) as served:
        status, text, _ = await post_json(served, path, {"model": "m", field: [USER], **body}, **ANTHROPIC)
        assert status == 200, text
        again = {"model": "m", field: [USER, *sent_back(json.loads(text)), USER], **body}
        status, text, _ = await post_json(served, path, again, **ANTHROPIC)
        assert status == 200, text
        turns = engine.bodies[-1]["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "tool", "user"]
    assert turns[1]["content"] == "I look."
    assert turns[1]["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": "{}"}
    assert turns[2]["tool_call_id"] == turns[1]["tool_calls"][0]["id"]


@pytest.mark.parametrize("engine_name", ["vllm", "ollama"])
async def test_openais_own_response(engine_name: str):
    result = {"role": "tool", "tool_call_id": "c0", "content": "18"}
    body = {"model": "m", "messages": [USER, OPENAIS_OWN, result]}
    async with StubServer() as engine:
        service = vllm(engine) if engine_name == "vllm" else OllamaService(settings(ollama_base_url=engine.url))
        async with serving(service) as served:
            status, text, headers = await post_json(served, "/v1/chat/completions", body)
    assert status == 200, text
    assert "x-miner-ignored-params" not in headers
