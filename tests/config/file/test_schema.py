"""The published JSON Schema says of a file what reading it says, as far as a schema can."""

import functools
import tomllib

import jsonschema
import pytest

from miner.config.file.json_schema import allowed, child, published_schema, raw_schema
from tests.config.file.test_check import test_what_can_be
from tests.config.file.test_errors import MODEL, test_a_wrong_key_or_value_of_a_model, test_a_wrong_table

VALID = [
    *test_what_can_be.pytestmark[0].args[1],
    '[limits]\nmemory = "20GiB"\ngpu_memory = [1, "512 MiB"]\nkv_cache = 0\nqueue_timeout = "90s"',
    '[models.a]\nkeep_alive = "-1"\ntimeout = "1h30m"\nlora = ["a", { file = "b", scale = 0.5 }]\nmmproj = false',
    '[models."org/Model-7B:q4"]\nflags = { a = 1, b = true, c = "x", d = [1, "y"] }\nflash_attn = "${FA}"',
    '[backends.a]\nkind = "vllm"\nurl = "${URL}"\nstop_signal = "${SIGNAL}"\nmemory = "${SIZE}"',
]  # fmt: skip
ENVIRONMENT = {"FA": "on", "URL": "http://x", "SIGNAL": "SIGINT", "SIZE": "1GB"}
BEYOND = ("NO_SUCH", "nan", "llamcpp")
"""Parts of files of which a schema cannot know that they are invalid."""


@pytest.fixture(scope="module")
def validator():
    schema = published_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("text", VALID)
def test_a_valid_file_is_valid_for_the_schema(text, validator, parse):
    if "command" not in text and "stop_signal" not in text:
        parse(text, **ENVIRONMENT)
    assert [error.message for error in validator.iter_errors(tomllib.loads(text))] == []


@pytest.mark.parametrize(
    "text",
    [
        *(MODEL + line for line, _ in test_a_wrong_key_or_value_of_a_model.pytestmark[0].args[1]),
        *(text for text, _ in test_a_wrong_table.pytestmark[0].args[1]),
    ],
)
def test_an_invalid_file_is_invalid_for_the_schema(text, validator):
    valid = validator.is_valid(tomllib.loads(text))
    assert valid == any(part in text for part in BEYOND)


def nodes(node):
    if isinstance(node, dict):
        yield node
        for each in node.values():
            yield from nodes(each)
    elif isinstance(node, list):
        for each in node:
            yield from nodes(each)


def test_each_key_is_described_and_none_has_words_of_our_own():
    schema = published_schema()
    missing = [
        f"{name}.{key}"
        for name, table in {**schema["$defs"], "file": schema}.items()
        for key, node in table["properties"].items()
        if not node.get("description") and "$ref" not in node
    ]
    assert missing == []
    assert all(node.get("title") for node in schema["$defs"].values())
    assert [key for node in nodes(schema) for key in node if key.startswith("x-")] == []
    assert {"type": "null"} not in list(nodes(schema))
    assert "http" not in schema.get("$id", "")


def test_what_is_allowed_in_words():
    paths = {
        ("models", "a", "context"): "an integer of at least 256",
        ("models", "a", "mmproj"): "text in quotes or false",
        ("models", "a", "aliases"): "a list of texts in quotes",
        ("backends", "a", "ready"): "text in quotes that begins with /",
        ("backends", "a", "url"): 'text in quotes, such as "http://localhost:8000"',
        ("limits", "memory"): 'a number of bytes, or such as "6GiB" or "512MiB"',
        ("limits",): "a table",
    }

    def schema_at(path):
        return functools.reduce(child, path, raw_schema())

    assert {path: allowed(schema_at(path)) for path in paths} == paths
    assert schema_at(("models", "a", "no")) is None
    assert "null" not in str(raw_schema())
