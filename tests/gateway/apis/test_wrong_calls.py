"""Tool calls that a model wrote wrongly: they reach the client as they are, and the history takes them back, so that
the model can correct them.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from miner.core.llms.llm_ollama import OllamaService
from tests.core.services import WEATHER, settings
from tests.gateway.serving import Served, post, serving, vllm
from tests.gateway.test_field_names import ANTHROPIC, post_json
from tests.servers.openai_stub import StubServer
from tests.servers.payloads import delta, finish, usage_chunk

FUNCTION = WEATHER["function"]
USER = {"role": "user", "content": "Weather?"}
WRONG = [("get_weather", '{"city": '), ("get_weather", "[1]"), ("get_weather", "Paris"), ("get_time", '{"a": 1}')]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [USER], "tools": [WEATHER]},
    "/v1/responses": {"input": [USER], "tools": [{"type": "function", "strict": None, **FUNCTION}]},
    "/v1/messages": {
        "messages": [USER], "max_tokens": 9,
        "tools": [{"name": "get_weather", "input_schema": FUNCTION["parameters"]}],
    },
    "/api/chat": {"messages": [USER], "tools": [WEATHER]},
}  # fmt: skip


def reply(name: str, arguments: str, reason: str = "tool_calls") -> list[Any]:
    call = {"index": 0, "id": "c0", "type": "function", "function": {"name": name, "arguments": ""}}
    piece = {"index": 0, "function": {"arguments": arguments}}
    return [delta(tool_calls=[call]), delta(tool_calls=[piece]), finish(reason), usage_chunk(3, 9)]


async def calls_of(served: Served, path: str, *, stream: bool) -> tuple[list[tuple[str, Any]], str]:
    """Name and arguments of each call, and why the reply ended, as each dialect says so."""
    body = {"model": "m", **BODIES[path], "stream": stream}
    async with post(served, body, path, headers=ANTHROPIC) as answer:
        text = await answer.text()
        assert answer.status == 200, text
    if not stream:
        return _whole(path, json.loads(text))
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    return _streamed(path, events or [json.loads(line) for line in text.splitlines()])


def _whole(path: str, told: dict[str, Any]) -> tuple[list[tuple[str, Any]], str]:
    if path == "/v1/chat/completions":
        (choice,) = told["choices"]
        functions = [call["function"] for call in choice["message"]["tool_calls"]]
        return [(f["name"], f["arguments"]) for f in functions], choice["finish_reason"]
    if path == "/v1/responses":
        reason = (told["incomplete_details"] or {}).get("reason", told["status"])
        return [(item["name"], item["arguments"]) for item in told["output"]], reason
    if path == "/v1/messages":
        return [(block["name"], block["input"]) for block in told["content"]], told["stop_reason"]
    functions = [call["function"] for call in told["message"].get("tool_calls", ())]
    return [(f["name"], f["arguments"]) for f in functions], told["done_reason"]


def _streamed(path: str, events: list[Any]) -> tuple[list[tuple[str, Any]], str]:
    if path == "/api/chat":
        calls = [call["function"] for event in events for call in event["message"].get("tool_calls", ())]
        return [(f["name"], f["arguments"]) for f in calls], events[-1]["done_reason"]
    if path == "/v1/responses":
        return _whole(path, events[-1]["response"])
    if path == "/v1/messages":
        (name,) = [e["content_block"]["name"] for e in events if e["type"] == "content_block_start"]
        pieces = [e["delta"]["partial_json"] for e in events if e["type"] == "content_block_delta"]
        (reason,) = [e["delta"]["stop_reason"] for e in events if e["type"] == "message_delta"]
        return [(name, "".join(pieces))], reason
    choices = [choice for event in events for choice in event["choices"]]
    functions = [call["function"] for choice in choices for call in choice["delta"].get("tool_calls", ())]
    name = "".join(f.get("name", "") for f in functions)
    reason = choices[-1]["finish_reason"]
    return [(name, "".join(f.get("arguments", "") for f in functions))], reason


def shown(path: str, arguments: str, *, stream: bool) -> Any:
    """The arguments as the dialect shows them."""
    if path in ("/v1/chat/completions", "/v1/responses") or (path == "/v1/messages" and stream):
        return arguments
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"INVALID_JSON": arguments}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_client_gets_the_call_as_the_model_wrote_it(path: str, stream: bool):
    async with StubServer() as engine, serving(vllm(engine)) as served:
        for name, arguments in WRONG:
            engine.reply = reply(name, arguments)
            calls, reason = await calls_of(served, path, stream=stream)
            assert calls == [(name, shown(path, arguments, stream=stream))]
            assert reason in ("tool_calls", "completed", "tool_use", "stop")


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_truncated_call_is_a_partial_one(path: str, stream: bool):
    async with StubServer(reply=reply(*WRONG[0], "length")) as engine, serving(vllm(engine)) as served:
        calls, reason = await calls_of(served, path, stream=stream)
    if path == "/api/chat":  # Ollama's own server delivers whole calls alone
        assert (calls, reason) == ([], "length")
        return
    object_only = path == "/v1/messages" and not stream  # it has what is complete
    assert calls == [("get_weather", {} if object_only else '{"city": ')]
    assert reason in ("length", "max_output_tokens", "max_tokens")


async def test_one_of_several_choices_may_be_wrong():
    replies = iter([reply(*WRONG[0]), ["Fine."], reply(*WRONG[0]), ["Fine."]])

    def one(body: dict[str, Any]) -> Any:
        told = next(replies)
        return told if len(told) > 1 else told[0]

    async with StubServer(reply=one) as engine, serving(vllm(engine)) as served:
        body = {"model": "m", **BODIES["/v1/chat/completions"], "n": 2}
        status, text, _ = await post_json(served, "/v1/chat/completions", body)
        assert status == 200, text
        assert [c["finish_reason"] for c in json.loads(text)["choices"]] == ["tool_calls", "stop"]
        status, text, _ = await post_json(served, "/v1/chat/completions", {**body, "stream": True})
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    reasons = {c["index"]: c["finish_reason"] for e in events for c in e["choices"] if c["finish_reason"]}
    assert reasons == {0: "tool_calls", 1: "stop"}


@pytest.mark.parametrize("engine_name", ["vllm", "ollama"])
@pytest.mark.parametrize("arguments", [text for _, text in WRONG] + ["", '{"a":' * 5000])
async def test_the_history_takes_it_back_and_nothing_is_lost(engine_name: str, arguments: str):
    call = {"id": "c0", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    history = [
        USER, {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c0", "content": "No."}, USER,
    ]  # fmt: skip
    async with StubServer() as engine:
        service = vllm(engine) if engine_name == "vllm" else OllamaService(settings(ollama_base_url=engine.url))
        async with serving(service) as served:
            status, text, _ = await post_json(served, "/v1/chat/completions", {"model": "m", "messages": history})
        assert status == 200, text
        sent = engine.bodies[-1]["messages"][1]["tool_calls"][0]["function"]["arguments"]
    sent = json.loads(sent) if isinstance(sent, str) else sent
    assert sent == ({} if not arguments else shown("/api/chat", arguments, stream=False))
