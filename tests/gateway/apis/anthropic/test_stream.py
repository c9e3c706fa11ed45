"""The order of events, and how a broken stream ends."""

from __future__ import annotations

import json

import anthropic
import pytest

from tests.gateway.apis.anthropic.client import CALLS, USER, WEATHER, client
from tests.gateway.serving import post, serving, vllm
from tests.servers import faults
from tests.servers.openai_stub import StubServer


async def test_events_come_in_anthropics_order():
    async with StubServer(reply=CALLS) as engine, serving(vllm(engine)) as served:
        body = {"model": "m", "max_tokens": 9, "messages": USER, "tools": [WEATHER], "stream": True}
        async with post(served, body, "/v1/messages") as response:
            lines = (await response.text()).splitlines()
            kind = response.headers["Content-Type"]
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    assert kind.startswith("text/event-stream")
    assert [event["type"] for event in events] == names
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    assert names == [
        "message_start", *block, block[0], block[1], block[1], block[2], *block, "message_delta", "message_stop",
    ]  # fmt: skip
    assert [event["index"] for event in events if event["type"] == "content_block_start"] == [0, 1, 2]
    assert (events[-2]["delta"]["stop_reason"], events[-2]["delta"]["stop_sequence"]) == ("tool_use", None)
    assert (events[-2]["usage"]["input_tokens"], events[-2]["usage"]["output_tokens"]) == (21, 8)


async def test_a_stream_that_breaks_ends_with_an_error_event():
    reply = faults.error_in_stream(texts=["Hel"])
    async with StubServer(reply=reply) as engine, serving(vllm(engine)) as served, client(served) as api:
        events = []
        stream = await api.messages.create(model="m", max_tokens=9, messages=USER, stream=True)
        with pytest.raises(anthropic.APIStatusError) as caught:
            [events.append(event) async for event in stream]
    assert [event.type for event in events] == ["message_start", "content_block_start", "content_block_delta"]
    assert events[-1].delta.text == "Hel"
    assert caught.value.type == "api_error"
