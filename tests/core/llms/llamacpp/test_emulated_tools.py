"""Tools for models whose template knows none."""

from __future__ import annotations

import json

import pytest

from miner.core.llms.contract.join import join
from miner.core.llms.contract.messages import checked_messages
from miner.core.llms.llamacpp.emulated_tools import calls_as_text, calls_in_text, tools_as_text
from miner.core.wire import LLMChunk

TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}


async def read(*pieces, names=("f",)):
    """The reply whose text comes in these pieces."""

    async def batches():
        for piece in pieces:
            yield [LLMChunk(content=piece)]
        yield [LLMChunk(finish_reason="stop")]

    return join([batch async for batch in calls_in_text(batches(), names)])


CALL = '<tool_call>\n{"name": "f", "arguments": {"a": [1, "</x>"]}}\n</tool_call>'


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
async def test_calls_are_read_wherever_the_text_is_cut(size):
    text = f"Let me see. {CALL}\n{CALL}"
    reply = await read(*(text[at : at + size] for at in range(0, len(text), size)))
    assert reply.content.strip() == "Let me see."
    assert [json.loads(call["function"]["arguments"]) for call in reply.tool_calls] == [{"a": [1, "</x>"]}] * 2
    assert len({call["id"] for call in reply.tool_calls}) == 2
    assert reply.finish_reason == "tool_calls"


@pytest.mark.parametrize(
    "text",
    [
        "No call at all.",
        "a < b and <tool",
        "<tool_call>not JSON</tool_call> and more",
        '<tool_call>{"name": "g", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
        '<tool_call>{"name": "f", "argum',
        "<tool_call>",
        "",
    ],
)
@pytest.mark.parametrize("size", [1, 4, 1000])
async def test_text_that_is_no_call_stays_as_it_is(text, size):
    reply = await read(*(text[at : at + size] for at in range(0, len(text), size)))
    assert reply.content == text
    assert not reply.tool_calls
    assert reply.finish_reason == "stop"


async def test_a_call_whose_end_is_missing_is_one():
    reply = await read('<tool_call>{"name": "f", "arguments": {"a": 1}}')
    assert reply.tool_calls[0]["function"]["arguments"] == '{"a":1}'
    assert reply.content == ""


def test_the_model_is_told_of_tools_calls_and_results():
    calls = [
        {"id": str(n), "type": "function", "function": {"name": "f", "arguments": f'{{"n": {n}}}'}} for n in (1, 2)
    ]
    given = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Go."},
        {"role": "assistant", "content": "Well.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "1", "content": "one"},
        {"role": "tool", "tool_call_id": "2", "content": "two"},
    ]
    first, second, third, fourth = tools_as_text(calls_as_text(checked_messages(given)), [TOOL])
    assert first.content.startswith("Be kind.\n\n")
    assert '"name":"f"' in first.content
    assert second.content == "Go."
    assert third.content.startswith("Well.\n<tool_call>")
    assert third.tool_calls is None
    assert '"arguments": {"n": 2}' in third.content
    assert fourth.role == "user"
    assert fourth.content.count("<tool_response>") == 2
    (alone, _) = tools_as_text(checked_messages(given[1:2]), [TOOL])
    assert alone.role == "system"


@pytest.mark.parametrize(
    "text",
    [
        CALL,
        f"I look.\n{CALL}",
        f"{CALL}\n{CALL}",
        '<tool_call>\n{"name": "f", "arguments": {"path": "größe.py", "all": true, "x": null}}\n</tool_call>',
        '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>',
    ],
)
@pytest.mark.parametrize("parsed", [False, True])
async def test_a_reply_with_calls_that_is_sent_back_is_the_text_that_was_generated(text, parsed):
    """Else the engine would read it again, and all that follows."""
    reply = await read(*text)
    calls = [dict(call) for call in reply.tool_calls]
    if parsed:  # Anthropic's and Ollama's clients return arguments as JSON values
        for call in calls:
            arguments = json.dumps(json.loads(call["function"]["arguments"]), separators=(",", ":"), ensure_ascii=False)
            call["function"] = {**call["function"], "arguments": arguments}
    back = {"role": "assistant", "content": reply.content or None, "tool_calls": calls}
    (message,) = calls_as_text(checked_messages([back]))
    assert message.content == text
