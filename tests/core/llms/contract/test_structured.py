"""Structured output: the forms that may be asked for, and the check of what came."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, TypedDict

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.core.llms.contract.structured import check_output, output_format
from miner.core.wire import LLMResponse, OutputFormat, TokenUsage
from miner.errors import InvalidRequestError, OutputValidationError
from tests.servers.http import RawServer, ResponseWriter
from tests.servers.threaded import in_thread

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "population": {"type": "integer"}},
    "required": ["city", "population"],
}


class PydanticCity(pydantic.BaseModel):
    city: str
    population: int = pydantic.Field(ge=0)

    @pydantic.field_validator("city")
    @classmethod
    def not_nowhere(cls, value: str) -> str:
        if value == "Nowhere":
            raise ValueError("there is no such city")
        return value


class StructCity(msgspec.Struct):
    city: str
    population: int


@dataclasses.dataclass
class DataCity:
    city: str
    population: int


class TypedCity(TypedDict):
    city: str
    population: int


class Nested(msgspec.Struct):
    capital: StructCity
    others: list[StructCity] = []


class Tree(msgspec.Struct):
    name: str
    children: list[Tree] = []


def wanted(value: Any) -> OutputFormat:
    form = output_format(value)
    assert form is not None
    return form


@pytest.mark.parametrize(
    "form",
    [
        CITY,
        {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}},
        {"type": "json_schema", "schema": CITY},
        {"type": "json_object", "schema": CITY},
    ],
)
def test_a_schema_in_every_form(form: dict[str, Any]):
    parsed = wanted(form)
    assert (parsed.kind, parsed.schema) == ("json_schema", CITY)


def test_names_and_strictness_are_kept():
    inner = {"name": "city", "schema": CITY, "strict": False}
    parsed = wanted({"type": "json_schema", "json_schema": inner})
    assert (parsed.name, parsed.strict) == ("city", False)
    assert (wanted(CITY).name, wanted(CITY).strict) == ("output", None)


def test_the_other_forms():
    assert wanted({"type": "json_object"}).kind == "json_object"
    assert wanted({"type": "regex", "regex": "a+"}).pattern == "a+"
    assert wanted({"type": "regex", "pattern": "b"}).pattern == "b"
    assert wanted({"type": "grammar", "grammar": 'root ::= "a"'}).kind == "grammar"
    assert output_format({"type": "text"}) is None
    assert output_format(None) is None
    assert wanted({"enum": ["a", "b"]}).kind == "json_schema"


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("json", "response_format must be a JSON Schema, "),
        (5, "response_format must be a JSON Schema"),
        ({}, "response_format must be a JSON Schema"),
        ({"type": "regex"}, "response_format.regex is missing"),
        ({"type": "grammar", "grammar": ""}, "response_format.grammar is missing"),
        ({"type": "json_schema"}, "response_format.json_schema.schema is missing"),
        ({"type": "json_schema", "json_schema": {"schema": "x"}}, "response_format.json_schema.schema is missing"),
        ({"type": "bogus"}, "response_format.type must be one of text, json_object, "),
        ({"type": "object", "required": "city"}, "response_format: the JSON Schema is not valid: "),
        ({"$ref": "http://127.0.0.1:9/s.json"}, "refers outside the schema; only '#/...' is allowed"),
        (
            {"type": "object", "properties": {"a": {"items": [{"$ref": "file:///etc/passwd"}]}}},
            "refers outside the schema",
        ),
        ({"$schema": "http://127.0.0.1:9/meta", "type": "object"}, "response_format"),
        ({"$dynamicRef": "http://127.0.0.1:9/s.json", "type": "object"}, "refers outside the schema"),
        (int, "response_format must be a JSON Schema"),
        (list[int], "response_format must be a JSON Schema"),
    ],
)
def test_a_form_that_is_none_is_refused_by_name(form: Any, words: str):
    with pytest.raises(InvalidRequestError) as caught:
        output_format(form)
    assert words in str(caught.value)
    assert caught.value.param == (
        "response_format.type" if words.startswith("response_format.type") else "response_format"
    )


@pytest.mark.parametrize("word", ["$ref", "$schema", "$dynamicRef", "$recursiveRef", "$id"])
def test_a_schema_makes_nobody_fetch_an_address(word: str):
    """Whoever may send a schema could otherwise have this process ask any host that it reaches."""

    class Listening(RawServer):
        async def handle(self, writer: ResponseWriter) -> None:
            await writer.respond(200, {})

    with in_thread(Listening()) as server:
        schema = {"type": "object", word: f"{server.url}/schema", **({"$ref": "other"} if word == "$id" else {})}
        with pytest.raises(InvalidRequestError):
            output_format(schema)
        assert server.requests == []


def reply(content: str, **fields: Any) -> LLMResponse:
    return LLMResponse(content=content, **{"finish_reason": "stop", **fields})


def checked(form: Any, content: str, **fields: Any) -> Any:
    response = reply(content, **fields)
    check_output(wanted(form), response, {"backend": "vllm"})
    return response.parsed


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (PydanticCity, PydanticCity(city="Paris", population=2)),
        (StructCity, StructCity(city="Paris", population=2)),
        (DataCity, DataCity(city="Paris", population=2)),
        (TypedCity, {"city": "Paris", "population": 2}),
        (CITY, {"city": "Paris", "population": 2}),
        ({"type": "json_object"}, {"city": "Paris", "population": 2}),
    ],
)
def test_parsed_is_an_instance_of_what_was_asked_for(kind: Any, value: Any):
    assert checked(kind, ' {"city": "Paris", "population": 2}\n') == value


def test_nested_and_recursive_types():
    assert checked(Nested, '{"capital": {"city": "Rome", "population": 3}, "others": []}').capital.city == "Rome"
    assert checked(Tree, '{"name": "a", "children": [{"name": "b", "children": []}]}').children[0].name == "b"
    with pytest.raises(OutputValidationError, match="violates the schema at children/0"):
        checked(Tree, '{"name": "a", "children": [{"children": []}]}')


@pytest.mark.parametrize(
    ("form", "content", "words"),
    [
        (CITY, "Paris has two million", "The response of vllm is not JSON"),
        (CITY, "", "is not JSON"),
        (CITY, '```json\n{"city": "Paris", "population": 2}\n```', "is not JSON"),
        (CITY, '{"city": "Paris"}', "violates the schema at the top level"),
        (CITY, '{"city": "Paris", "population": "two"}', "violates the schema at population"),
        ({"type": "json_object"}, "[1]", "is JSON but not an object"),
        ({"type": "regex", "regex": "yes|no"}, "yes or no", "does not match 'yes|no'"),
        ({"type": "regex", "regex": "[0-9]+"}, "12a", "does not match"),
        ({"enum": ["a"]}, '"b"', "violates the schema"),
        (PydanticCity, '{"city": "Nowhere", "population": 2}', "matches the schema but is not a PydanticCity"),
        (CITY, "[" * 200_000, "is not JSON"),
    ],
)
def test_a_reply_that_breaks_the_format_is_no_success(form: Any, content: str, words: str):
    """Structured output is not a guarantee."""
    with pytest.raises(OutputValidationError) as caught:
        checked(form, content)
    assert words in str(caught.value)
    assert caught.value.response.content == content
    assert caught.value.backend == "vllm"


def test_a_regular_expression_must_match_the_whole_reply():
    assert checked({"type": "regex", "regex": "yes|no"}, "no") is None
    with pytest.raises(OutputValidationError):
        checked({"type": "regex", "regex": "no"}, "no\n")


@pytest.mark.parametrize(("exhausted", "cause"), [(False, "max_tokens was reached"), (True, "the context was full")])
@pytest.mark.parametrize("form", [CITY, {"type": "json_object"}, {"type": "regex", "regex": "a"},
                                  {"type": "grammar", "grammar": "g"}])  # fmt: skip
def test_a_reply_that_was_cut_short_says_so(form: Any, exhausted: bool, cause: str):
    usage = TokenUsage(3, 64, 67)
    with pytest.raises(OutputValidationError, match=cause) as caught:
        checked(form, '{"city": "Pa', finish_reason="length", context_exhausted=exhausted, usage=usage)
    assert "64 tokens" in str(caught.value)
    assert caught.value.hint


def test_a_reply_of_calls_is_not_held_against_the_format():
    assert checked(CITY, "", tool_calls=[{"id": "a"}], finish_reason="tool_calls") is None


@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8))  # fmt: skip
def test_any_json_value_comes_out_as_it_went_in(value: Any):
    assert checked({"anyOf": [{}]}, json.dumps(value)) == value
