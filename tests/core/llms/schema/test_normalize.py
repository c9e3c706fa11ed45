"""What is no JSON Schema in a tool says nothing, or is named where the tool is strict; null is absent."""

from __future__ import annotations

from typing import Any

import pytest

from miner.core.llms.contract.structured import output_format
from miner.core.llms.contract.tools import checked_tools
from miner.core.llms.schema.support import check_llama
from miner.core.wire import ChatRequest
from miner.errors import InvalidRequestError, UnsupportedFeatureError

UNIT: dict[str, Any] = {"type": "number", "minimum": 0, "maximum": 1}


def tool(parameters: Any, **more: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": "f", "parameters": parameters, **more}}]


def taken(parameters: Any, **more: Any) -> Any:
    return (checked_tools(tool(parameters, **more)) or [])[0]["function"]["parameters"]


def of(a: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": a}}


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (of({"type": "any"}), of({})),
        (of({"type": "STRING"}), of({"type": "string"})),
        (of({"type": ["str", "none"]}), of({"type": ["string", "null"]})),
        (of({"type": ["str", "any"]}), of({})),
        ({"type": "OBJECT", "properties": {"a": {"type": "ARRAY", "items": {"type": "INTEGER"}}}},
         of({"type": "array", "items": {"type": "integer"}})),
        (of({"$ref": "#/properties/a"}), of({})),
        (of({"$ref": "#/$defs/nowhere", "description": "x"}), of({"description": "x"})),
        (of({"$ref": "https://example.org/a"}), of({})),
        (of("string"), of({})),
        (of({"required": True, "type": "string"}), of({"type": "string"})),
        (of({"items": [{"type": "int"}]}), of({"prefixItems": [{"type": "integer"}]})),
        ({"$schema": "http://127.0.0.1:1/x", "type": "object", "properties": []},
         {"$schema": "http://127.0.0.1:1/x", "type": "object"}),
        ({**of({"enum": None, "items": None, "format": None, "description": None}), "required": None}, of({})),
        (of({"default": None, "const": None, "enum": [None]}), of({"default": None, "const": None, "enum": [None]})),
        ({"properties": {"required": {"type": "null"}, "enum": None}},
         {"properties": {"required": {"type": "null"}, "enum": {}}}),
    ],
)  # fmt: skip
def test_a_tool_that_is_not_strict_is_read_as_far_as_it_is_a_schema(sent: Any, read: Any):
    assert taken(sent) == read


def test_a_schema_stays_as_it_is():
    schema = {**of({"$ref": "#/$defs/A"}), "$defs": {"A": {"$anchor": "x", "type": "integer"}}, "required": ["a"]}
    assert list(taken(schema)) == list(schema)
    assert taken(schema) == schema == taken(schema, strict=True)


def test_a_strict_tool_names_the_place():
    assert taken({**of({"type": "string", "format": None}), "required": None}, strict=True) == of({"type": "string"})
    with pytest.raises(InvalidRequestError, match="not 'any'") as caught:
        taken(of({"type": "any"}), strict=True)
    assert caught.value.param == "tools[0].function.parameters.properties.a.type"


def test_null_is_absent_in_a_format():
    given = {**of({"enum": None, "default": None, "items": {"format": None}}), "required": None}
    wanted = output_format({"type": "json_schema", "json_schema": {"schema": given}})
    assert wanted is not None
    assert wanted.schema == of({"default": None, "items": {}})


def asked(choice: Any, **more: Any) -> ChatRequest:
    return ChatRequest(
        messages=[], max_tokens=9, temperature=0, top_p=1, tools=checked_tools(tool(of(UNIT), strict=True)),
        tool_choice=choice, **more,
    )  # fmt: skip


async def test_bounds_of_a_strict_tool_hold_where_its_call_is_written_under_a_grammar():
    await check_llama(asked("required"), "llamacpp", bounds=True)
    await check_llama(asked(None, response_format=output_format({"type": "json_object"})), "llamacpp", bounds=True)
    for request, bounds in ((asked("auto"), True), (asked(None), True), (asked("required"), False)):
        with pytest.raises(UnsupportedFeatureError, match="cannot enforce minimum") as caught:
            await check_llama(request, "llamacpp", bounds=bounds)
        assert caught.value.param == "tools[0].function.parameters.properties.a.minimum"
