"""Custom tools of chat completions: functions with one string for the model, texts for the client."""

from __future__ import annotations

import json
from typing import Any

import pytest

from miner.core.llms.llm_llamacpp import LlamaCppService
from tests.gateway.apis.openai.client import USER, WEATHER
from tests.gateway.serving import config, serving, vllm
from tests.gateway.test_field_names import post_json
from tests.servers.openai_stub import StubServer
from tests.servers.payloads import delta, finish, openai_reply, usage_chunk

CHAT = "/v1/chat/completions"
CUSTOM = {
    "type": "custom",
    "custom": {
        "name": "run", "description": "Run it.",
        "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: /.+/"}},
    },
}  # fmt: skip


def called(arguments: str, name: str = "run") -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize("arguments", ['{"input": "a \\"b\\"\\n\\u00e9"}', '{"code": "a \\"b\\"\\n\\u00e9"}'])
async def test_a_call_comes_back_with_its_text(arguments: str):
    body = {"model": "m", "messages": USER, "tools": [WEATHER, CUSTOM]}
    pieces = [arguments[:11], arguments[11:14], arguments[14:]]
    events = [
        delta(tool_calls=[{"index": 0, **called(pieces[0])}]),
        *(delta(tool_calls=[{"index": 0, "function": {"arguments": piece}}]) for piece in pieces[1:]),
        delta(tool_calls=[{"index": 1, **called('{"city": "X"}', "weather")}]),
        finish("tool_calls"), usage_chunk(),
    ]  # fmt: skip
    reply = openai_reply("", finish_reason="tool_calls", tool_calls=[called(arguments)])
    async with StubServer(reply=reply) as engine, serving(vllm(engine)) as served:
        status, text, headers = await post_json(served, CHAT, body)
        assert (status, headers["x-miner-ignored-params"]) == (200, "tools.custom.format"), text
        function = engine.bodies[-1]["tools"][1]["function"]
        engine.reply = events
        _, streamed, _ = await post_json(served, CHAT, {**body, "stream": True})
    assert function["parameters"]["required"] == ["input"]
    assert "start: /.+/" in function["description"]
    calls = json.loads(text)["choices"][0]["message"]["tool_calls"]
    assert calls == [{"id": "c1", "type": "custom", "custom": {"name": "run", "input": 'a "b"\né'}}]
    deltas = [
        call
        for line in streamed.splitlines()
        if line.startswith("data: {") and (choices := json.loads(line[6:])["choices"])
        for call in choices[0]["delta"].get("tool_calls", ())
    ]
    first = [call for call in deltas if call["index"] == 0]
    assert (first[0]["id"], first[0]["type"], first[0]["custom"]["name"]) == ("c1", "custom", "run")
    assert "".join(call["custom"]["input"] for call in first) == 'a "b"\né'
    assert [call["function"]["name"] for call in deltas if call["index"] == 1] == ["weather"]


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "custom", "custom": {"name": "run"}},
        {"type": "allowed_tools", "allowed_tools": {
            "mode": "required", "tools": [{"type": "custom", "custom": {"name": "run"}}]}},
    ],
)  # fmt: skip
async def test_it_can_be_chosen_and_be_in_the_history(choice: dict[str, Any]):
    history = [
        *USER,
        {"role": "assistant", "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "run", "input": "ls"}}]},
        {"role": "tool", "tool_call_id": "c", "content": "x"},
    ]
    body = {"model": "m", "messages": history, "tools": [WEATHER, CUSTOM], "tool_choice": choice}
    reply = openai_reply("", finish_reason="tool_calls", tool_calls=[called('{"input": "ls"}')])
    async with StubServer(reply=reply) as engine, serving(vllm(engine)) as served:
        status, text, _ = await post_json(served, CHAT, body)
        assert status == 200, text
        sent = engine.bodies[-1]
    assert sent["messages"][1]["tool_calls"][0]["function"] == {"name": "run", "arguments": '{"input": "ls"}'}
    assert sent["tool_choice"] in ("required", {"type": "function", "function": {"name": "run"}})


async def test_tools_of_openais_servers_are_left_out_and_the_places_of_the_others_stay():
    body = {"model": "m", "messages": USER, "tools": [{"type": "web_search"}, WEATHER]}
    async with StubServer() as engine, serving(vllm(engine)) as served:
        status, text, headers = await post_json(served, CHAT, body)
        assert (status, headers["x-miner-ignored-params"]) == (200, "tools.type"), text
        assert [tool["function"]["name"] for tool in engine.bodies[-1]["tools"]] == ["weather"]
        wrong = {**body, "tools": [{"type": "web_search"}, {"type": "function", "function": {"name": 3}}]}
        _, text, _ = await post_json(served, CHAT, wrong)
        assert json.loads(text)["error"]["param"].startswith("tools[1]")
        _, text, _ = await post_json(served, CHAT, body, **{"X-Miner-Unsupported": "refuse"})
        assert json.loads(text)["error"]["param"] == "tools[0].type"


@pytest.mark.engine
async def test_a_real_model_calls_it():
    async with serving(LlamaCppService(config(default_model="demo"))) as served:
        body = {
            "model": "demo", "messages": USER, "tools": [CUSTOM], "tool_choice": "required", "max_tokens": 80,
            "temperature": 0,
        }  # fmt: skip
        status, text, _ = await post_json(served, CHAT, body)
        assert status == 200, text
        call = json.loads(text)["choices"][0]["message"]["tool_calls"][0]
        assert (call["type"], call["custom"]["name"]) == ("custom", "run")
        assert isinstance(call["custom"]["input"], str)
