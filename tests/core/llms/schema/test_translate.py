"""JSON Schemas for llama.cpp: what its grammar lets through is valid, what it cannot enforce is told by its place."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from miner.core.llms.schema.gbnf import grammar_of
from miner.core.llms.schema.keywords import NEVER
from miner.core.llms.schema.pattern import PatternError, translate_pattern
from miner.core.llms.schema.translate import Translator
from tests.core.llms.schema.gbnf import Grammar

PERSON = {
    "type": "object", "properties": {"x": {"type": "integer"}, "next": {"$ref": "#/$defs/P"}}, "required": ["x"],
}  # fmt: skip
DRAFT_7 = "http://json-schema.org/draft-07/schema#"

SCHEMAS: list[Any] = [
    True,
    {},
    {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}, "required": ["b"]},
    {"$defs": {"P": PERSON}, "type": "object", "properties": {"at": {"$ref": "#/$defs/P"}}, "required": ["at"]},
    {"definitions": {"P": {"enum": [1]}}, "type": "array", "items": {"$ref": "#/definitions/P"}, "minItems": 1},
    {"type": "object", "properties": {"extra": True, "no": False, "z": {}}, "required": ["extra"]},
    {"type": "object", "properties": {"name": {"type": "string"}, "kids": {"type": "array", "items": {"$ref": "#"}}},
     "required": ["name"]},
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"$ref": "#/properties/a"}}, "required": ["b"]},
    {"$defs": {"a/b ~": {"const": 7}}, "type": "object", "properties": {"k": {"$ref": "#/$defs/a~1b%20~0"}},
     "required": ["k"]},
    {"$defs": {"A": {"$anchor": "here", "type": "null"}}, "$ref": "#here"},
    {"$defs": {"A": {"anyOf": [{"$ref": "#/$defs/A"}, {"type": "integer"}]}}, "$ref": "#/$defs/A"},
    {"$ref": "#/$defs/A", "$defs": {"A": {"type": "integer"}}, "minimum": 3, "maximum": 5},
    # Numbers
    {"type": "number", "minimum": 0, "maximum": 1},
    {"type": "number", "exclusiveMinimum": -0.25, "exclusiveMaximum": 12.5},
    {"type": "number", "minimum": 3.75},
    {"type": "number", "maximum": -3.75},
    {"type": "number", "exclusiveMaximum": 100},
    {"type": "number", "exclusiveMinimum": 0},
    {"type": "number", "minimum": 0.5, "maximum": 0.5},
    {"type": "number", "minimum": 1.25, "exclusiveMaximum": 1.26},
    {"type": "number", "minimum": -10, "maximum": -9.5},
    {"minimum": 5},
    {"type": "integer", "exclusiveMinimum": -3, "exclusiveMaximum": 3},
    {"type": "integer", "minimum": 25},
    {"type": "integer", "maximum": -1000},
    {"type": "integer", "minimum": 1700000000000},
    {"type": "integer", "minimum": 0.5, "maximum": 7.5},
    {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100},
    {"type": "number", "multipleOf": 0.05, "minimum": 0, "maximum": 1},
    {"type": "number", "multipleOf": 1, "minimum": -2, "maximum": 2},
    # Arrays
    {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": False},
    {"type": "array", "prefixItems": [{"type": "string"}], "items": {"type": "null"}, "minItems": 3},
    {"type": "array", "prefixItems": [{"type": "string"}, False]},
    {"type": "array", "items": False},
    {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 3},
    {"type": "array", "items": [{"const": 1}, {"const": "b"}], "$schema": DRAFT_7},
    {"type": "array", "uniqueItems": True, "maxItems": 1},
    # Texts
    {"type": "string", "pattern": r"^\d{3}-\w+$"},
    {"type": "string", "pattern": r"\d"},
    {"type": "string", "pattern": r'^[^x]*"\s\\$'},
    {"type": "string", "pattern": "^a|b$"},
    {"type": "string", "pattern": "^(?:ab){2,}$", "minLength": 4},
    {"type": "string", "minLength": 2, "maxLength": 5},
    {"type": "string", "maxLength": 5000},
    *({"type": "string", "format": form} for form in ("date", "time", "date-time", "uuid", "email", "ipv4", "uri")),
    # Several at once
    {"type": "object", "allOf": [{"properties": {"a": {"type": "integer", "minimum": 3}}, "required": ["a"]},
                                 {"properties": {"a": {"maximum": 9}, "b": {"type": "null"}}}]},
    {"oneOf": [{"type": "object", "properties": {"kind": {"const": "cat"}, "m": {"type": "integer"}}},
               {"type": "object", "properties": {"kind": {"const": "dog"}}}]},
    {"oneOf": [{"type": "string"}, {"type": "integer"}]},
    {"type": "object", "properties": {"a": {"type": "integer"}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
    {"type": ["string", "null"], "enum": ["a", None, 3]},
    {"enum": [1, 2, "x", {"a": [1]}, 'q"\\\n']},
    {"enum": [1, 2, 3, 4, 5], "not": {"enum": [2]}, "minimum": 2},
    {"type": "object", "additionalProperties": {"type": "boolean"}},
    {"type": "object", "required": ["k"]},
    {"type": "object", "properties": {"ab": {"type": "integer"}, "a": {"type": "integer"}, "b c": {"type": "integer"}},
     "additionalProperties": {"type": "string"}, "required": ["ab"]},
    {"type": "object", "propertyNames": {"enum": ["p", "q"]}, "additionalProperties": {"type": "integer"}},
    {"type": "object", "patternProperties": {"^x": {"type": "integer"}}, "required": ["x1"],
     "properties": {"x1": {"minimum": 3}, "y": {"type": "string"}}},
    {"type": "object", "properties": {"a": {}, "b": {}}, "required": ["a"], "minProperties": 1,
     "dependentRequired": {"b": ["a"]}},
]  # fmt: skip


def samples(schema: Any, seed: int, count: int) -> list[str]:
    """Texts that llama.cpp may write under the grammar of a schema."""
    translator = Translator(number_bounds=True)
    made = translator.translate(schema)
    if made is NEVER:
        return []
    assert translator.unenforced == []
    grammar = Grammar(grammar_of(made, translator.definitions))
    chance, texts = random.Random(seed), []
    for _ in range(count):
        try:
            texts.append(grammar.sample(chance))
        except RecursionError:
            continue
    return texts


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:60])
def test_what_the_grammar_lets_through_is_valid(schema: Any):
    valid = jsonschema_rs.validator_for(schema)
    texts = samples(schema, 1, 80)
    assert texts
    for text in texts:
        assert valid.is_valid(json.loads(text)), text


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.booleans(), st.booleans(), st.sampled_from(["number", "integer"]))
@settings(max_examples=60)
@example(524288.793824, 600000.0, True, False, "number")  # 524288.7938240001 would be read as the bound itself
@example(0.1, 0.3, True, True, "number")
@example(-123456.789012, -123456.789, True, True, "number")
def test_any_bounds_of_numbers_hold(one: float, other: float, low_open: bool, high_open: bool, kind: str):
    low, high = sorted((round(one, 6), round(other, 3)))
    schema = {
        "type": kind, "exclusiveMinimum" if low_open else "minimum": low,
        "exclusiveMaximum" if high_open else "maximum": high,
    }  # fmt: skip
    valid = jsonschema_rs.validator_for(schema)
    for text in samples(schema, 2, 30):
        assert valid.is_valid(json.loads(text)), text


@pytest.mark.parametrize(
    ("schema", "paths"),
    [
        ({"type": "array", "uniqueItems": True}, [".uniqueItems"]),
        ({"type": "array", "contains": {"type": "string"}}, [".contains"]),
        ({"type": "object", "properties": {"n": {"type": "number", "multipleOf": 0.1}}}, [".properties.n.multipleOf"]),
        ({"properties": {"a": {}, "b": {}}, "dependentRequired": {"a": ["b"]}}, [".dependentRequired"]),
        ({"type": "object", "if": {"required": ["a"]}, "then": {"required": ["b"]}}, [".if"]),
        ({"type": "string", "not": {"const": "a"}}, [".not"]),
        ({"type": "string", "pattern": "^(?=.*[A-Z]).+$"}, [".pattern"]),
        ({"type": "string", "pattern": "^a*$", "maxLength": 3}, [".maxLength"]),
        ({"type": "object", "patternProperties": {"^x": {}}}, [".patternProperties"]),
        ({"type": "object", "minProperties": 2}, [".minProperties"]),
        ({"type": "object", "propertyNames": {"pattern": "^a"}}, [".propertyNames"]),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, [".oneOf"]),
        ({"type": "array", "items": {"$ref": "#/$defs/U"}, "$defs": {"U": {"type": "array", "uniqueItems": True}}},
         [".$defs.U.uniqueItems"]),
    ],
)  # fmt: skip
def test_what_no_grammar_enforces_is_told_by_its_place(schema: dict[str, Any], paths: list[str]):
    translator = Translator(number_bounds=True)
    translator.translate(schema)
    assert [item.path for item in translator.unenforced] == paths


def test_bounds_of_numbers_need_a_grammar():
    translator = Translator()
    made = translator.translate({"type": "object", "properties": {"n": {"type": "number", "minimum": 1}}})
    assert made == {"type": "object", "properties": {"n": {"type": "number"}}}
    assert [item.path for item in translator.unenforced] == [".properties.n.minimum"]


@pytest.mark.parametrize(
    "schema",
    [False, {"allOf": [{"type": "string"}, {"type": "integer"}]}, {"enum": ["a"], "type": "integer"},
     {"type": "object", "properties": {"a": False}, "required": ["a"]}, {"$ref": "#"},
     {"type": "integer", "minimum": 3, "maximum": 2}, {"type": "array", "items": False, "minItems": 1}],
)  # fmt: skip
def test_a_schema_under_which_nothing_is_valid(schema: Any):
    assert Translator().translate(schema) is NEVER


@pytest.mark.parametrize(
    ("schema", "words"),
    [({"$ref": "#/$defs/A"}, "points to nothing"), ({"$ref": "#here"}, "points to nothing"),
     ({"$defs": {"A": {"allOf": [{"$ref": "#/$defs/A"}]}}, "allOf": [{"$ref": "#/$defs/A"}]}, "without end")],
)  # fmt: skip
def test_references_to_nothing(schema: Any, words: str):
    with pytest.raises(ValueError, match=words):
        Translator().translate(schema)


@pytest.mark.parametrize("pattern", ["(?=a)", r"\bword\b", r"(a)\1", r"\p{L}", "a$b", "(^a$)b", "a{2000}", "[b-", "*a"])
def test_a_pattern_that_cannot_be_said(pattern: str):
    with pytest.raises(PatternError):
        translate_pattern(pattern)


PARTS = st.sampled_from(
    ["a", "b", "[ab]", r"\d", r"\w", r"\s", ".", "[^a]", r"\.", '"', r"\\", "é", "-", " ", r"\u0041", r"\S", "x{2}",
     "(?:ab|c)", "(a|)", "(b)*", "c+?", "a?", "[a-f0-9]{1,3}", "[-_.]", r"[\]\\]"]
)  # fmt: skip


@given(st.lists(PARTS, max_size=5), st.booleans(), st.booleans(), st.booleans())
@settings(max_examples=120)
def test_what_a_pattern_lets_through_fits_it(parts: list[str], start: bool, end: bool, either: bool):
    pattern = ("^" if start else "") + ("|" if either else "").join(parts) + ("$" if end else "")
    valid = jsonschema_rs.validator_for({"type": "string", "pattern": pattern})
    for text in samples({"type": "string", "pattern": pattern}, 3, 15):
        assert valid.is_valid(json.loads(text)), text


def test_definitions_of_several_schemas_do_not_meet():
    translator = Translator()
    made = [
        translator.translate({"$defs": {"P": {"const": number}}, "$ref": "#/$defs/P"}) for number in (1, 2)
    ]  # fmt: skip
    assert [one["$ref"] for one in made] == ["#/$defs/P", "#/$defs/P-2"]
    assert translator.definitions == {"P": {"const": 1}, "P-2": {"const": 2}}


def test_what_needs_no_translation_stays_as_it_is():
    schema = {
        "type": "object", "description": "A city.", "required": ["name"], "additionalProperties": False,
        "properties": {"name": {"type": "string", "title": "Name"}, "size": {"type": "integer", "minimum": 0},
                       "kind": {"enum": ["a", "b"]}, "at": {"$ref": "#/$defs/P"}, "tags": {"type": "array",
                       "items": {"type": "string"}}, "more": {"anyOf": [{"type": "string"}, {"const": 1}]}},
    }  # fmt: skip
    translator = Translator()
    assert translator.translate({**schema, "$defs": {"P": {"type": "object", "properties": {}}}}) == schema


def test_a_wide_schema_is_translated_fast_enough_and_a_huge_one_is_refused():
    wide = {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(3000)}}
    assert len(Translator().translate(wide)["properties"]) == 3000
    with pytest.raises(ValueError, match="grows beyond bounds"):
        Translator().translate({"properties": {f"p{number}": {} for number in range(30_000)}})


def test_names_of_rules_are_those_of_a_grammar():
    translator = Translator(number_bounds=True)
    made = translator.translate({"$defs": {"Größe [m]": {"type": "number", "minimum": 1}}, "$ref": "#/$defs/Größe [m]"})
    text = grammar_of(made, translator.definitions)
    assert re.search(r"[^\x00-\x7f]", text) is None
    Grammar(text)


def test_flags_of_a_pattern_are_called_so():
    with pytest.raises(PatternError, match=r"\(\?i: flags"):
        translate_pattern("(?i)^abc$")
