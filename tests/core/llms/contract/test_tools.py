"""Tools and calls on their way in and out."""

from __future__ import annotations

from typing import Any

import pytest

from miner.core.llms.contract.join import merge_tool_deltas
from miner.core.llms.contract.tools import arguments_parse, checked_tool_choice, checked_tools, chosen_tool, tool_names
from miner.errors import InvalidRequestError
from tests.core.services import ENGINES, MESSAGES, WEATHER, service_at


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": function}


WRONG: list[tuple[Any, str]] = [
    ("get_weather", "tools must be a list of tools"),
    (WEATHER, "tools must be a list of tools"),
    (5, "tools must be a list of tools"),
    ([WEATHER, "x"], 'tools[1] must be {"type": "function"'),
    ([{"type": "retrieval", "function": {"name": "f"}}], "tools[0] must be"),
    ([{"type": "function"}], "tools[0] must be"),
    ([{"type": "function", "function": "f"}], "tools[0] must be"),
    ([tool()], "tools[0].function.name is missing"),
    ([tool(name="")], "tools[0].function.name is missing"),
    ([tool(name=3)], "tools[0].function.name is missing"),
    ([WEATHER, WEATHER], "tools[1].function.name 'get_weather' is a duplicate"),
    ([tool(name="f", parameters="x")], "tools[0].function.parameters must be a JSON Schema"),
]


@pytest.mark.parametrize(("tools", "words"), WRONG)
def test_a_wrong_tool_is_refused_by_its_place(tools: Any, words: str):
    with pytest.raises(InvalidRequestError) as caught:
        checked_tools(tools)
    assert words in str(caught.value)
    assert (caught.value.param or "").startswith("tools")


@pytest.mark.parametrize("engine", ENGINES)
async def test_all_backends_check_tools_before_they_send_anything(engine: str):
    async with service_at(engine, "http://127.0.0.1:9") as service:
        for given in ({"tools": [5]}, {"tools": [WEATHER], "tool_choice": "get_wether"}, {"tool_choice": "required"}):
            with pytest.raises(InvalidRequestError):
                await service.chat_completion(MESSAGES, **given)
            with pytest.raises(InvalidRequestError):
                service.stream(messages=MESSAGES, **given)


def test_a_tools_type_may_be_left_out_and_the_callers_list_stays_as_it_is():
    given = [{"function": {"name": "f", "strict": False}}]
    assert checked_tools(given) == [tool(name="f", strict=False)]
    assert given == [{"function": {"name": "f", "strict": False}}]
    assert checked_tools(None) is None


def test_no_tools_and_nulls_in_a_tool_say_nothing():
    assert checked_tools([]) is None
    bare = tool(name="f", description=None, parameters=None, strict=None)
    assert checked_tools([{**bare, "type": None}]) == [tool(name="f")]
    for choice in ("auto", "none", None, {"type": "auto"}, {"type": "none"}):
        assert checked_tool_choice(choice, None) is None
    assert checked_tool_choice({"type": "required"}, [WEATHER]) == "required"


def test_tool_choice_in_every_form():
    tools = [WEATHER, tool(name="f")]
    named = {"type": "function", "function": {"name": "f"}}
    for choice in ("auto", "none", "required", None):
        assert checked_tool_choice(choice, tools) == choice
    for choice in ("f", named, {"name": "f"}):
        assert checked_tool_choice(choice, tools) == named
    assert chosen_tool(named) == "f"
    assert chosen_tool("required") is None
    assert tool_names(tools) == ["get_weather", "f"]
    assert checked_tool_choice("none", None) is None


@pytest.mark.parametrize("choice", ["get_wether", 5, {"function": {"name": "g"}}, {}, ["f"], True])
def test_a_choice_that_is_none_lists_the_tools(choice: Any):
    with pytest.raises(InvalidRequestError, match=r"the name of a tool \(get_weather, f\), not") as caught:
        checked_tool_choice(choice, [WEATHER, tool(name="f")])
    assert caught.value.param == "tool_choice"


def test_deltas_join_to_whole_calls_in_the_order_of_their_index():
    """Protocol notes, 1.4 and 2.6: id and name once, arguments in pieces; calls may interleave."""
    deltas: list[dict[str, Any]] = [
        {"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": "{"}},
        {"index": 0, "id": "a", "type": "function", "function": {"name": "f"}},
        {"index": 0, "function": {"arguments": '{"x": '}},
        {"index": 1, "function": {"arguments": "}"}},
        {"index": 0, "function": {"arguments": "1}"}},
    ]
    assert merge_tool_deltas(deltas) == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]
    assert merge_tool_deltas([]) == []


@pytest.mark.parametrize(
    ("arguments", "good"),
    [('{"a": 1}', True), ("", True), ("[1]", False), ('"x"', False), ('{"a":', False), ("[" * 100_000, False)],
)
def test_arguments_are_an_object_or_nothing(arguments: str, good: bool):
    assert arguments_parse(tool(name="f", arguments=arguments)) is good
