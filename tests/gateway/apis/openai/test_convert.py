"""Tools and the choice among them, with the official `openai` package."""

from __future__ import annotations

import json

from tests.gateway.apis.openai.client import USER, WEATHER, client
from tests.gateway.serving import serving, vllm
from tests.gateway.test_field_names import chat, post_json, responses
from tests.servers.openai_stub import StubServer
from tests.servers.payloads import delta, finish, openai_reply, usage_chunk

CALLS = [
    delta(role="assistant", content=None),
    delta(
        tool_calls=[{"index": 0, "id": "call_a", "type": "function", "function": {"name": "weather", "arguments": ""}}]
    ),
    delta(tool_calls=[{"index": 0, "function": {"arguments": '{"city": '}}]),
    delta(tool_calls=[{"index": 0, "function": {"arguments": '"Rome"}'}}]),
    delta(
        tool_calls=[
            {
                "index": 1,
                "id": "call_b",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city":"Oslo"}'},
            }
        ]
    ),
    finish("tool_calls"),
    usage_chunk(),
]


def either(calls):
    """The same calls, streamed or whole, as the engine is asked."""

    def reply(body):
        if not body.get("stream"):
            return openai_reply("", "m", "tool_calls", tool_calls=calls)
        pieces = [{"index": index, **call} for index, call in enumerate(calls)]
        return [delta(tool_calls=pieces), finish("tool_calls"), usage_chunk()]

    return reply


async def test_parallel_tools_streamed_or_not_and_sent_back():
    async with StubServer(reply=CALLS) as engine, serving(vllm(engine)) as served, client(served) as api:
        async with api.chat.completions.stream(model="m", messages=USER, tools=[WEATHER]) as stream:
            final = await stream.get_final_completion()
        calls = final.choices[0].message.tool_calls
        whole = [
            {"id": call.id, "type": "function", "function": {"name": "weather", "arguments": call.function.arguments}}
            for call in calls
        ]
        engine.reply = either(whole)
        reply = await api.chat.completions.create(
            model="m", messages=USER, tools=[WEATHER], tool_choice="auto", parallel_tool_calls=True
        )
        engine.reply = "Sunny."
        last = await api.chat.completions.create(
            model="m",
            messages=[
                *USER,
                reply.choices[0].message,
                {"role": "tool", "tool_call_id": "call_a", "content": "sun"},
                {"role": "tool", "tool_call_id": "call_b", "content": "snow"},
            ],
            tools=[WEATHER],
        )
        sent = engine.bodies[-1]["messages"]
    assert [(c.id, json.loads(c.function.arguments)["city"]) for c in calls] == [("call_a", "Rome"), ("call_b", "Oslo")]
    assert final.choices[0].finish_reason == "tool_calls"
    assert reply.choices[0].finish_reason == "tool_calls"
    assert reply.choices[0].message.content is None
    assert [call.id for call in reply.choices[0].message.tool_calls] == ["call_a", "call_b"]
    assert last.choices[0].message.content == "Sunny."
    assert [turn["role"] for turn in sent] == ["user", "assistant", "tool", "tool"]
    assert sent[1]["tool_calls"][0]["id"] == "call_a"


async def test_one_named_tool():
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}}
    async with StubServer(reply=either([call])) as engine, serving(vllm(engine)) as served, client(served) as api:
        await api.chat.completions.create(
            model="m", messages=USER, tools=[WEATHER], tool_choice={"type": "function", "function": {"name": "weather"}}
        )
        sent = engine.bodies[-1]
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "weather"}}


async def test_allowed_tools_restrict_the_choice():
    tools = [{"type": "function", "function": {"name": name}} for name in ("a", "b", "c")]
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "c"}}]}
    async with StubServer() as engine, serving(vllm(engine)) as served:
        path, body = chat(tools=tools, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
        await post_json(served, path, body)
        assert [tool["function"]["name"] for tool in engine.bodies[-1]["tools"]] == ["c"]
        assert engine.bodies[-1]["tool_choice"] == "required"
        tools[2]["function"]["parameters"] = 5  # type: ignore[assignment]
        _, text, _ = await post_json(served, path, body)
        assert json.loads(text)["error"]["message"].startswith("tools[2].function.parameters must be")
        flat = [{"type": "function", "name": name} for name in ("a", "b")]
        path, body = responses(tools=flat, tool_choice={"type": "allowed_tools", "mode": "auto", "tools": flat[1:]})
        await post_json(served, path, body)
        assert [tool["function"]["name"] for tool in engine.bodies[-1]["tools"]] == ["b"]


async def test_the_finish_reason_is_in_an_event_of_its_own():
    def last(reason, **piece):
        return {"choices": [{"index": 0, "delta": piece, "finish_reason": reason}]}

    ends = [
        [delta(content="Hi"), last("length", content=" you")],
        [*CALLS[:3], last("tool_calls", tool_calls=[{"index": 0, "function": {"arguments": '"x"}'}}])],
        [delta(tool_calls=[{"index": 0, "id": "a", "function": {"name": "weather"}}]), finish("tool_calls")],
    ]
    async with StubServer() as engine, serving(vllm(engine)) as served, client(served) as api:
        for events in ends:
            engine.reply = [*events, usage_chunk()]
            stream = await api.chat.completions.create(model="m", messages=USER, tools=[WEATHER], stream=True)
            choices = [chunk.choices[0] async for chunk in stream if chunk.choices]
            assert choices[-1].finish_reason in ("length", "tool_calls")
            assert choices[-1].delta.model_dump(exclude_none=True) == {}
            assert all(choice.finish_reason is None for choice in choices[:-1])
