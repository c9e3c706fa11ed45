"""JSON Schema: each keyword is enforced, or refused by name before the first token."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from miner.conformance.contract import Contract, not_checked, supported_or_refused
from miner.core.wire import LLMChunk
from miner.errors import OutputValidationError, RequestError


def _object(**properties: Any) -> dict[str, Any]:
    """The schema of an object with exactly these properties."""
    return {
        "type": "object", "properties": properties, "required": list(properties), "additionalProperties": False,
    }  # fmt: skip


_STREET = _object(street={"$ref": "#/$defs/Street"})
SCHEMAS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "nested $defs": (
        ("$ref", "$defs"),
        {**_object(home={"$ref": "#/$defs/Address"}), "$defs": {"Address": _STREET, "Street": {"enum": ["A", "B"]}}},
    ),
    "$ref to the root": (
        ("$ref",), _object(name={"enum": ["a", "b"]}, next={"anyOf": [{"type": "null"}, {"$ref": "#"}]}),
    ),
    "true": (("true", "size"), _object(name={"enum": ["a", "b"]}, size=True)),
    "false": (("false", "size"), {**_object(name={"enum": ["a", "b"]}), "properties": {
        "name": {"enum": ["a", "b"]}, "size": False}}),
    "items false": (("items",), _object(sizes={
        "type": "array", "prefixItems": [{"enum": [1, 2]}], "items": False, "minItems": 1})),
    "bounds of integers": (("minimum", "maximum"), _object(age={"type": "integer", "minimum": 37, "maximum": 41})),
    "bounds of numbers": (
        ("minimum", "exclusiveMaximum"), _object(share={"type": "number", "minimum": 2.5, "exclusiveMaximum": 3}),
    ),
    "\\d": (("pattern", "\\d"), _object(code={"type": "string", "pattern": "^\\d{3}$"})),
    "\\w": (("pattern", "\\w"), _object(code={"type": "string", "pattern": "^\\w{2}-\\w{2}$"})),
    "multipleOf": (("multipleOf",), _object(count={"type": "integer", "multipleOf": 7})),
    "contains": (("contains",), _object(tags={
        "type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2, "contains": {"const": "b"}})),
    "dependentRequired": (("dependentRequired",), {
        "type": "object", "properties": {"a": {"enum": [1]}, "b": {"enum": [2]}}, "additionalProperties": False,
        "required": ["a"], "dependentRequired": {"a": ["b"]}}),
}  # fmt: skip
"""Each schema with keywords; an error must name one of them."""


@pytest.mark.miner_capability("json_schema")
@pytest.mark.parametrize(("words", "schema"), SCHEMAS.values(), ids=SCHEMAS)
def test_schema_is_enforced_or_refused(
    contract: Contract, request: pytest.FixtureRequest, words: tuple[str, ...], schema: dict[str, Any]
) -> None:
    """No request error after the first token, which clients would retry, and no invalid JSON with `stop`."""

    def send() -> Any:
        return contract.chat("Give an example as JSON.", response_format=schema, max_tokens=48)

    if not supported_or_refused(contract, request, "json_schema", send, param="response_format"):
        return
    chunks: list[LLMChunk] = []
    failure: RequestError | OutputValidationError | None = None

    async def read() -> None:
        async for chunk in contract.stream("Give an example as JSON.", response_format=schema, max_tokens=48):
            chunks.append(chunk)  # noqa: PERF401  (chunks before an error count)

    try:
        contract.run(read())
    except (RequestError, OutputValidationError) as error:
        failure = error
    if failure is None:
        _check(schema, "".join(chunk.content or "" for chunk in chunks))
    elif isinstance(failure, RequestError):
        assert not chunks, "the request was refused after its first chunk"
        assert any(word in str(failure) for word in words), f"the error names none of {', '.join(words)}: {failure}"
        with pytest.raises(RequestError):
            send()
    else:
        reasons = [chunk.finish_reason for chunk in chunks if chunk.finish_reason]
        assert reasons == ["length"], f"the response ended with {reasons} and does not match the schema: {failure}"
        not_checked(request, "the response was cut by max_tokens")


def _check(schema: dict[str, Any], text: str) -> None:
    import jsonschema_rs

    failure = next(jsonschema_rs.validator_for(schema).iter_errors(msgspec.json.decode(text)), None)
    assert failure is None, f"{text} does not match the schema: {failure}"
