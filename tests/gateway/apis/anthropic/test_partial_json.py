"""Objects that were cut short, read as the official clients read a stream that is cut."""

from __future__ import annotations

import json

import pytest
from jiter import from_json

from miner.gateway.apis.anthropic.partial_json import complete_members

WHOLE = json.dumps(
    {"path": 'a "quoted" \\ text, {[', "n": [1, 2.5, {"deep": [True, None]}], "empty": {}, "list": [], "last": "ä€"}
)


@pytest.mark.parametrize("size", range(len(WHOLE) + 1))
def test_every_prefix_of_an_object(size):
    text = WHOLE[:size]
    expected = from_json(text.encode(), partial_mode=True) if text else {}
    found = complete_members(text)
    # A number or word at the very end may go on, so that it is left out here.
    assert found == expected or json.dumps(found) in json.dumps(expected) or _is_part(found, expected), text


def _is_part(found, expected):
    if isinstance(found, dict):
        return all(name in expected and _is_part(value, expected[name]) for name, value in found.items())
    if isinstance(found, list):
        return all(_is_part(one, other) for one, other in zip(found, expected, strict=False))
    return found == expected


@pytest.mark.parametrize("text", ["", "null", "[1, 2", "text", "}", '{"a" 1', "{" * 100_000, "[" * 100_000])
def test_what_is_no_object(text):
    assert complete_members(text) == {}
