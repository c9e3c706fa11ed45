"""Calls that an engine left in the text of its reply."""

from __future__ import annotations

import json

import pytest

from miner.core.llms.contract.join import join
from miner.core.llms.contract.request import build_request
from miner.core.llms.contract.text_calls import MARKERS, calls_of_text, may_call
from miner.core.wire import LLMChunk
from tests.core.services import MESSAGES, WEATHER, read, speaking_to
from tests.servers.openai_stub import StubServer
from tests.servers.payloads import delta, finish, usage_chunk

ARGUMENTS = '{"city": "Paris"}'
CALLS = {
    "Hermes": f'<tool_call>\n{{"name": "get_weather", "arguments": {ARGUMENTS}}}\n</tool_call>',
    "Qwen3-Coder": "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>",
    "Llama 3": f'{{"name": "get_weather", "parameters": {ARGUMENTS}}}',
    "Llama 3, OpenAI's form": f'{{"function": "get_weather", "parameters": {ARGUMENTS}}}',
    "Mistral": f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {ARGUMENTS}}}]',
    "Mistral, new": f"[TOOL_CALLS]get_weather[ARGS]{ARGUMENTS}",
    "Granite": f'[{{"name": "get_weather", "arguments": {ARGUMENTS}}}]',
    "Granite, marked": f'<|tool_call|>[{{"name": "get_weather", "arguments": {ARGUMENTS}}}]',
    "DeepSeek": f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{ARGUMENTS}<｜tool▁call▁end｜>",
    "Kimi": f"<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|call_arguments|>{ARGUMENTS}",
    "Command R": f'<|START_ACTION|>[{{"tool_name": "get_weather", "parameters": {ARGUMENTS}}}]<|END_ACTION|>',
}  # fmt: skip
TEXTS = [
    "No call at all.", "a < b, [1] and {", '{"name": "Ann", "age": 3}', '{"answer": 42}', "[1, 2, 3]", "", " ",
    '{"name": "get_tim', "I write <tool_call> and nothing else", '{"name": "other", "arguments": {}}',
    "<function=get_weather", f'Say {{"name": "get_weather", "arguments": {ARGUMENTS}}} to call it.',
    '<tool_call>{"name": "get_weather", "arguments": {"city": 5}}</tool_call>',
]  # fmt: skip


async def reply_of(text: str, size: int):
    request = build_request(prompt="p", max_tokens=9, temperature=0, top_p=1, tools=[WEATHER], options={})

    async def batches():
        for at in range(0, len(text), size):
            yield [LLMChunk(content=text[at : at + size])]
        yield [LLMChunk(finish_reason="stop")]

    return join([batch async for batch in calls_of_text(batches(), request)])


@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize("family", CALLS)
async def test_the_formats_of_the_families(family: str, size: int):
    reply = await reply_of(CALLS[family], size)
    (call,) = reply.tool_calls
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("get_weather", {"city": "Paris"})
    assert (reply.content, reply.finish_reason) == ("", "tool_calls")


@pytest.mark.parametrize("size", [1, 5, 1000])
async def test_text_before_a_call_stays_and_parallel_calls_have_an_index_each(size: int):
    reply = await reply_of(f"I look. {CALLS['Hermes']}\n{CALLS['Hermes']}", size)
    assert reply.content.strip() == "I look."
    assert len(reply.tool_calls) == 2


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize("text", TEXTS)
async def test_other_text_stays_as_it_is(text: str, size: int):
    reply = await reply_of(text, size)
    assert (reply.content, reply.tool_calls, reply.finish_reason) == (text, None, "stop")


def test_calls_that_must_come_are_not_looked_for():
    given = {"prompt": "p", "max_tokens": 9, "temperature": 0, "top_p": 1}
    assert may_call(build_request(**given, tools=[WEATHER], options={}))
    assert not may_call(build_request(**given, options={}))
    for choice in ("none", "required", "get_weather"):
        assert not may_call(build_request(**given, tools=[WEATHER], tool_choice=choice, options={}))
    assert len(set(MARKERS)) == len(MARKERS)


async def test_a_server_whose_parser_is_for_another_family():
    events = [delta(content="Well. "), *(delta(content=piece) for piece in CALLS["Hermes"]), finish("stop")]
    async with StubServer(reply=[*events, usage_chunk(3, 9)]) as server, speaking_to("vllm", server) as service:
        reply = await service.chat_completion(MESSAGES, tools=[WEATHER])
        chunks = await read(service.stream(messages=MESSAGES, tools=[WEATHER]))
        plain = await service.chat_completion(MESSAGES)
    assert [call["function"]["name"] for call in reply.tool_calls] == ["get_weather"]
    assert chunks[0].content == "Well. "
    assert join([chunks]).tool_calls[0]["function"] == reply.tool_calls[0]["function"]
    assert plain.content == f"Well. {CALLS['Hermes']}"
