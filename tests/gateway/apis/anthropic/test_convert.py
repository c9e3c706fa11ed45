"""Tools, reasoning and images, there and back."""

from __future__ import annotations

import anthropic
import pytest

from miner.core.llms.llm_ollama import OllamaService
from tests.gateway.apis.anthropic.client import CALLS, SCHEMA, USER, WEATHER, client
from tests.gateway.serving import config, serving, vllm
from tests.servers.openai_stub import StubServer
from tests.servers.payloads import delta, finish, openai_reply, usage_chunk

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
THOUGHTS = [
    delta(role="assistant", content=""), delta(reasoning="Light "), delta(reasoning="scatters."),
    delta(content="Be"), delta(content="cause."), finish(), usage_chunk(),
]  # fmt: skip


async def test_tools_streamed_or_not_and_sent_back():
    async with StubServer(reply=CALLS) as engine, serving(vllm(engine)) as served, client(served) as api:
        asked = {"model": "m", "max_tokens": 50, "messages": USER, "tools": [WEATHER]}
        async with api.messages.stream(**asked) as stream:
            streamed = await stream.get_final_message()
        whole = await api.messages.create(**asked, tool_choice={"type": "auto", "disable_parallel_tool_use": True})
        first = engine.bodies[-1]
        engine.reply = "Sunny."
        last = await api.messages.create(
            **{**asked, "messages": [
                *USER,
                {"role": "assistant", "content": streamed.content},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "call_a", "content": "sun"},
                    {"type": "tool_result", "tool_use_id": "call_b", "is_error": True,
                     "content": [{"type": "text", "text": "no such city"}]},
                    {"type": "text", "text": "And now?"},
                ]},
            ]}
        )  # fmt: skip
        sent = engine.bodies[-1]["messages"]
    assert [block.type for block in streamed.content] == ["text", "tool_use", "tool_use"]
    assert [(b.id, b.name, b.input) for b in streamed.content[1:]] == [
        ("call_a", "weather", {"city": "Rome"}), ("call_b", "weather", {"city": "Oslo"}),
    ]  # fmt: skip
    assert streamed.stop_reason == whole.stop_reason == "tool_use"
    assert [block.type for block in whole.content] == ["text", "tool_use"]
    assert first["parallel_tool_calls"] is False
    assert first["tools"][0]["function"]["parameters"] == SCHEMA
    assert last.content[0].text == "Sunny."
    assert [turn["role"] for turn in sent] == ["user", "assistant", "tool", "tool", "user"]
    assert [call["id"] for call in sent[1]["tool_calls"]] == ["call_a", "call_b"]
    assert sent[1]["content"] == "Let me look."
    assert [turn["content"] for turn in sent[2:]] == ["sun", "The tool failed:\nno such city", "And now?"]


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ({"type": "any"}, "required"),
        ({"type": "tool", "name": "weather"}, {"type": "function", "function": {"name": "weather"}}),
        ({"type": "none"}, None),
    ],
)
async def test_tool_choice(choice, sent):
    reply = CALLS if choice["type"] != "none" else "Hello."
    async with StubServer(reply=reply) as engine, serving(vllm(engine)) as served, client(served) as api:
        await api.messages.create(model="m", max_tokens=9, messages=USER, tools=[WEATHER], tool_choice=choice)
        assert engine.bodies[-1].get("tool_choice") == sent
        assert ("tools" in engine.bodies[-1]) == (sent is not None)


async def test_a_call_that_is_cut_short():
    cut = [*CALLS[:3], finish("length"), usage_chunk()]
    async with StubServer(reply=cut) as engine, serving(vllm(engine)) as served, client(served) as api:
        asked = {"model": "m", "max_tokens": 8, "messages": USER, "tools": [WEATHER]}
        whole = await api.messages.create(**asked)
        async with api.messages.stream(**asked) as stream:
            streamed = await stream.get_final_message()
    assert whole.stop_reason == streamed.stop_reason == "max_tokens"
    assert [block.type for block in whole.content] == [block.type for block in streamed.content] == ["text", "tool_use"]
    assert whole.content[1].input == streamed.content[1].input == {}


async def test_thinking_streamed_or_not_and_sent_back():
    async with StubServer(reply=THOUGHTS) as engine, serving(vllm(engine)) as served, client(served) as api:
        thinking = {"type": "enabled", "budget_tokens": 1024}
        asked = {"model": "m", "max_tokens": 2000, "messages": USER, "thinking": thinking}
        async with api.messages.stream(**asked) as stream:
            streamed = await stream.get_final_message()
        first = engine.bodies[-1]
        engine.reply = openai_reply("Because.", "m", reasoning="Light scatters.")
        told = await api.messages.with_raw_response.create(**asked)
        whole = await told.parse()
        engine.reply = "Yes."
        turn = {"role": "assistant", "content": whole.content}
        await api.messages.create(model="m", max_tokens=9, messages=[*USER, turn, *USER], thinking={"type": "disabled"})
        last = engine.bodies[-1]
    for message in (streamed, whole):
        assert [block.type for block in message.content] == ["thinking", "text"]
        assert message.content[0].thinking == "Light scatters."
        assert message.content[1].text == "Because."
    assert told.headers["x-miner-ignored-params"] == "thinking.budget_tokens"
    assert first["reasoning_effort"] == "medium"
    assert last["reasoning_effort"] == "none"
    assert last["messages"][1]["reasoning"] == "Light scatters."


async def test_images():
    source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    asked = [{"role": "user", "content": [{"type": "text", "text": "What?"}, {"type": "image", "source": source}]}]
    capabilities = ("completion", "vision")
    async with StubServer(capabilities=capabilities, side={"/api/show": SHOWN}) as engine:
        service = OllamaService(config(ollama_base_url=engine.url, max_retries=0))
        async with serving(service) as served, client(served) as api:
            await api.messages.create(model="m", max_tokens=9, messages=asked)
            sent = engine.bodies[-1]["messages"][0]
            remote = {"type": "image", "source": {"type": "url", "url": "https://example.invalid/a.png"}}
            with pytest.raises(anthropic.BadRequestError, match="remote image"):
                await api.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": [remote]}])
    assert sent["content"] == "What?"
    assert sent["images"] == [PIXEL]


SHOWN = {
    "details": {}, "capabilities": ["completion", "vision"],
    "model_info": {"general.architecture": "llama", "llama.context_length": 2048},
}  # fmt: skip
