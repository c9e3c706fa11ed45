"""Chats and generations with the official `ollama` package."""

from __future__ import annotations

import asyncio
import json

import ollama

from tests.gateway.apis.ollama.client import CALLS, USER, WEATHER, Loader, send
from tests.gateway.serving import Parrot, config, serving, vllm
from tests.servers.openai_stub import StubServer
from tests.servers.payloads import finish, usage_chunk
from tests.servers.replay import ReplayServer


async def test_chat_over_a_recorded_engine():
    async with ReplayServer("vllm") as engine, serving(vllm(engine)) as served:
        api = ollama.AsyncClient(served.url)
        async with api:
            whole = await api.chat("smollm2", USER, options={"num_predict": 12})
            streamed = [part async for part in await api.chat("smollm2", USER, stream=True)]
    assert whole.message.role == "assistant"
    assert whole.message.content
    assert whole.done
    assert whole.done_reason in ("stop", "length")
    assert whole.model == "smollm2"
    assert whole.prompt_eval_count > 0
    assert whole.eval_count > 0
    assert whole.total_duration > 0
    assert "".join(part.message.content for part in streamed)
    assert [part.done for part in streamed] == [False] * (len(streamed) - 1) + [True]
    assert streamed[-1].eval_count > 0
    assert streamed[-1].message.content == ""


async def test_the_sync_client_over_a_generate_only_backend():
    def use(url):
        with ollama.Client(url) as api:
            return (
                api.chat("any", USER).message.content,
                "".join(part.message.content for part in api.chat("any", USER, stream=True)),
                api.generate("any", "Hello").response,
                "".join(part.response for part in api.generate("any", "Hello", stream=True)),
                api.show("parrot").capabilities,
                [model.model for model in api.list().models],
            )

    async with serving(Parrot(config(default_model="parrot"))) as served:
        told = await asyncio.to_thread(use, served.url)
    assert told == (
        "You said: Why is the sky blue?", "You said: Why is the sky blue?", "You said: Hello", "You said: Hello",
        ["completion"], ["parrot"],
    )  # fmt: skip


async def test_parallel_tools_streamed_and_sent_back():
    async with StubServer(reply=CALLS) as engine, serving(vllm(engine)) as served:
        api = ollama.AsyncClient(served.url)
        async with api:
            parts = [part async for part in await api.chat("m", USER, tools=[WEATHER], stream=True)]
            whole = await api.chat("m", USER, tools=[WEATHER])
            engine.reply = "Sunny."
            last = await api.chat(
                "m",
                [
                    *USER,
                    whole.message,
                    {"role": "tool", "tool_name": "weather", "content": "sun"},
                    {"role": "tool", "tool_name": "weather", "content": "snow"},
                ],
                tools=[WEATHER],
            )
            sent = engine.bodies[-1]["messages"]
    calls = [call for part in parts for call in part.message.tool_calls or ()]
    assert [(call.function.name, call.function.arguments) for call in calls] == [
        ("weather", {"city": "Rome"}), ("weather", {}),
    ]  # fmt: skip
    assert parts[-1].done_reason == "stop"
    assert [call.function.arguments for call in whole.message.tool_calls] == [{"city": "Rome"}, {}]
    assert last.message.content == "Sunny."
    made = [call["id"] for call in sent[1]["tool_calls"]]
    assert len(set(made)) == 2
    assert [turn["tool_call_id"] for turn in sent[2:]] == made
    assert json.loads(sent[1]["tool_calls"][0]["function"]["arguments"]) == {"city": "Rome"}


async def test_calls_that_are_cut_short_end_with_length():
    cut = [*CALLS[:3], finish("length"), usage_chunk()]
    async with StubServer(reply=cut) as engine, serving(vllm(engine)) as served:
        body = {"model": "m", "messages": USER, "tools": [WEATHER]}
        streamed = await send(served, "/api/chat", body)
        whole = await send(served, "/api/chat", {**body, "stream": False})
    for status, _, lines in (streamed, whole):
        assert status == 200
        assert lines[-1]["done_reason"] == "length"
        assert not any(line["message"].get("tool_calls") for line in lines)


async def test_reasoning_logprobs_and_raw():
    service = Loader()
    async with serving(service) as served:
        api = ollama.AsyncClient(served.url)
        async with api:
            whole = await api.chat("small", USER, think=True, logprobs=True, top_logprobs=1)
            parts = [p async for p in await api.generate("small", "x", raw=True, logprobs=True, stream=True)]
    assert whole.message.thinking == "hm"
    assert whole.logprobs[0].token == "blue"
    assert whole.logprobs[0].top_logprobs[0].token == "red"
    assert (parts[0].response, parts[0].thinking, parts[0].logprobs[0].logprob) == ("blue", "hm", -0.5)
    assert service.requests[0].reasoning is True
    assert service.requests[1].raw
    assert service.requests[1].prompt == "x"
