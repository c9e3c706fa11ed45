"""Calls that arrive as JSON text, in pieces."""

from __future__ import annotations

import json
from typing import Any

import pytest

from miner.core.llms.contract.join import join
from miner.core.llms.contract.request import build_request
from miner.core.llms.llamacpp.call_reader import CallReader, JSONScanner
from miner.core.llms.llamacpp.emulated_tools import calls_in_text
from miner.core.llms.llamacpp.forced_tools import as_calls
from miner.core.wire import LLMChunk


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}


async def batches(text: str, size: int, reason: Any = "stop"):
    for at in range(0, len(text), size):
        yield [LLMChunk(content=text[at : at + size])]
    yield [LLMChunk(finish_reason=reason)]


async def forced(text: str, *, size: int = 1, reason: Any = "stop", **arguments: Any) -> list[LLMChunk]:
    given: dict[str, Any] = {"tools": [tool("book"), tool("buy")], "tool_choice": "required", **arguments}
    choice = {name: given.pop(name) for name in ("tools", "tool_choice")}
    request = build_request(prompt="p", max_tokens=9, temperature=0, top_p=1, **choice, options=given)
    return [chunk async for batch in as_calls(batches(text, size, reason), request) for chunk in batch]


async def emulated(text: str, *, size: int = 1, reason: Any = "stop") -> list[LLMChunk]:
    return [chunk async for batch in calls_in_text(batches(text, size, reason), ["book", "buy"]) for chunk in batch]


ARGUMENTS = '{"city": "Pa\\"r}is", "nights": [1, {"a": "b c"}], "x": -1.5e3, "y": null}'
CALL = '{\n  "name": "book", "arguments": %s }\n'


@pytest.mark.parametrize("text", [ARGUMENTS, "[1, 2]", '"a } b"', "3.5", "true", " { } "])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_value_ends_where_it_ends_and_keeps_its_meaning(text: str, size: int):
    scanner, found, rest = JSONScanner(), "", ""
    for at in range(0, len(text) + 2, size):
        piece, after = scanner.feed(f"{text} }}"[at : at + size])
        found, rest = found + piece, rest + after
    assert scanner.ended
    assert json.loads(found) == json.loads(text)
    assert rest.strip() == "}"


def test_a_line_break_inside_of_a_string_becomes_its_escape():
    assert json.loads(JSONScanner().feed('{"a": "1\n2\t3"}')[0]) == {"a": "1\n2\t3"}


@pytest.mark.parametrize("path", [forced, emulated])
async def test_arguments_come_piece_by_piece_as_they_are_generated(path):
    text = CALL % ARGUMENTS
    chunks = await path(f"<tool_call>{text}</tool_call>" if path is emulated else text)
    pieces = [call for chunk in chunks for call in chunk.tool_calls or ()]
    assert len(pieces) > 20
    assert pieces[0]["function"] == {"name": "book", "arguments": ""}
    assert [call["index"] for call in pieces] == [0] * len(pieces)
    reply = join([chunks])
    assert reply.content == ""
    assert json.loads(reply.tool_calls[0]["function"]["arguments"]) == json.loads(ARGUMENTS)
    assert reply.finish_reason == "tool_calls"


@pytest.mark.parametrize("size", [1, 5, 1000])
async def test_parallel_calls_have_an_index_each_and_text_around_them_stays(size: int):
    first, second = '{"name": "book", "arguments": {"a": 1}}', '{"arguments": {"b": 2}, "name": "buy"}'
    written = f"Wait. <tool_call>\n{first}\n</tool_call>\n<tool_call>{second}</tool_call>\n<tool_call>{first}"
    reply = join([await emulated(written, size=size)])
    assert reply.content.strip() == "Wait."
    calls = [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in reply.tool_calls]
    assert calls == [("book", {"a": 1}), ("buy", {"b": 2}), ("book", {"a": 1})]
    assert len({call["id"] for call in reply.tool_calls}) == 3
    after = join([await emulated(f"<tool_call>{first}</tool_call> That is all.", size=size)])
    assert after.content.strip() == "That is all."
    forgotten = join([await emulated(f"<tool_call>{first} That is all.", size=size)])
    assert forgotten.content.strip() == "That is all."
    assert len(forgotten.tool_calls) == 1


@pytest.mark.parametrize("path", [forced, emulated])
@pytest.mark.parametrize("size", [1, 6, 1000])
async def test_a_reply_that_max_tokens_ended_is_the_call_so_far_wherever_it_ended(path, size):
    text = CALL % ARGUMENTS if path is forced else f"<tool_call>{CALL % ARGUMENTS}</tool_call>"
    for end in range(1, len(text)):
        reply = join([await path(text[:end], size=size, reason="length")])
        assert "{" not in reply.content, text[:end]
        assert reply.content in ("", "<", "<t", "<to", "<too", "<tool")
        if not reply.tool_calls:
            assert end < text.index("ok")
            assert reply.finish_reason == "length"
            continue
        (call,) = reply.tool_calls
        assert call["function"]["name"] == "book"
        try:
            whole = json.loads(call["function"]["arguments"]) == json.loads(ARGUMENTS)
        except ValueError:
            whole = False
        assert reply.finish_reason == ("tool_calls" if whole else "length")


JSON = {
    "type": "json_schema",
    "json_schema": {"schema": {"type": "object", "properties": {"nice": {"type": "string"}}}},
}
ANY = {"type": "json_object"}


@pytest.mark.parametrize(
    ("output", "text", "is_call", "streams"),
    [
        (JSON, '{"nice": "name arguments"}', False, True),
        (JSON, CALL % ARGUMENTS, True, True),
        (JSON, '{"name": "other"}', False, True),
        (ANY, '{"name": "book", "arguments": {}, "more": 1}', False, False),
        (ANY, CALL % ARGUMENTS, True, False),
        (ANY, '{"a": 1}', False, False),
    ],
)
async def test_a_call_or_json_is_told_apart_as_early_as_possible(output, text, is_call, streams):
    chunks = await forced(text, tool_choice="auto", response_format=output)
    reply = join([chunks])
    assert bool(reply.tool_calls) is is_call
    assert reply.content == ("" if is_call else text)
    assert (len(chunks) > 4) is streams


async def test_either_that_max_tokens_ended():
    for end, calls in ((2, 0), (4, 0), (12, 0), (16, 1), (40, 1)):
        reply = join(
            [await forced((CALL % ARGUMENTS)[:end], tool_choice="auto", response_format=JSON, reason="length")]
        )
        assert len(reply.tool_calls or ()) == calls, end
        assert reply.finish_reason == "length"
    cut = join([await forced((CALL % ARGUMENTS)[:60], tool_choice="auto", response_format=ANY, reason="length")])
    assert cut.tool_calls[0]["function"]["arguments"].startswith('{"city":"Pa')


def test_names_that_need_escapes_and_names_that_begin_alike():
    for name_text in (json.dumps("größe"), json.dumps("größe", ensure_ascii=False)):
        reader = CallReader(["größe", "große"])
        (begun, piece), rest = reader.feed(f'{{"name": {name_text}, "arguments": {{}}}}')
        assert (begun["function"]["name"], piece["function"]["arguments"], rest) == ("größe", "{}", "}")
    assert CallReader(["get", "get_all"]).truncated() is None
    reader = CallReader(["get", "get_all"])
    reader.feed('{"name": "get"')
    assert reader.truncated()["function"]["name"] == "get"  # type: ignore[index]
